"""web/model.js against PyTorch: the same latents, tokens and images, from weights in half precision."""

import numpy as np
import pytest
import torch

import arcvq
from arcvq.explorers.tokens import plan, weights
from tests.explorers.javascript import modules

RUN = "new Model(plan, fromHalf(weights))"


@pytest.fixture(scope="module")
def javascript():
    with modules("model") as call:
        yield call


def model_of(quantizer, **sizes):
    torch.manual_seed(0)
    model = arcvq.VQVAE(1, quantizer, **{"hidden": 16, "residual_hidden": 4} | sizes).eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()  # what the page has
    return model


def given(model, images):
    bits = weights(model).view(np.uint16).tolist()
    return {"plan": plan(model, images), "weights": bits}


IMAGES = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(1)) * 2 - 1
QUANTIZERS = {
    "cosine": arcvq.SphericalQuantizer(32, 3),
    "euclidean": arcvq.EuclideanQuantizer(32, 5),
}


@pytest.mark.parametrize("downsample", [2, 4, 8])
@pytest.mark.parametrize("metric", QUANTIZERS)
def test_latents_tokens_and_decoded_images_are_those_of_pytorch(javascript, metric, downsample):
    images = IMAGES[..., :24, :16]
    model = model_of(QUANTIZERS[metric], downsample=downsample)
    expected = model.latents(images)[0].permute(1, 2, 0).flatten()
    latents = javascript(f"{RUN}.latents(image)", **given(model, images), image=flat(images[0]))
    assert torch.tensor(latents) == pytest.approx(expected, abs=1e-4)
    tokens = javascript(f"{RUN}.tokens(latents)", **given(model, images), latents=expected.tolist())
    assert tokens == model.encode(images)[0].flatten().tolist()
    image = javascript(f"{RUN}.decode(tokens)", **given(model, images), tokens=tokens)
    assert torch.tensor(image) == pytest.approx(model.reconstruct(images)[0].flatten(), abs=1e-4)


def flat(tensor):
    return tensor.flatten().tolist()


def test_half_precision_is_read_bit_by_bit(javascript):
    halves = np.array([0, 1, -1, 0.1, 65504, 6e-8, -6e-5, 1 / 3], np.float16)
    numbers = javascript("fromHalf(bits)", bits=halves.view(np.uint16).tolist())
    assert numbers == halves.astype(float).tolist()


def test_a_layer_sees_nothing_but_zeros_beyond_the_edge(javascript):
    layer = torch.nn.Conv2d(2, 3, 4, stride=2, padding=1)
    image = torch.randn(1, 2, 6, 10, generator=torch.Generator().manual_seed(2))
    found = javascript(
        "convolve(featureMap(6, 10, 2, image),"
        " { size: 4, stride: 2, padding: 1, channels: 3, weights, bias }).values",
        image=flat(image[0].permute(1, 2, 0)),
        weights=flat(layer.weight.permute(2, 3, 1, 0)),
        bias=flat(layer.bias),
    )
    expected = layer(image)[0].permute(1, 2, 0).flatten().detach()
    assert torch.tensor(found) == pytest.approx(expected, abs=1e-5)
