"""FSDP2 divides the codebook among processes; here one process, two in test_distributed.py."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from arcvq.priors import PixelCNN, Prior
from arcvq.quantizers import EMAQuantizer, Quantizer, SphericalQuantizer
from arcvq.runtime.distributed import assign_, whole
from arcvq.samp import SAMP
from arcvq.schedules import Constant
from arcvq.vqvae import VQVAE
from tests.kinds import KINDS, REVIVING, every_kind

pytestmark = [
    pytest.mark.skipif(
        not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo"
    ),
    # Of PyTorch itself, where it registers its hooks.
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:torch"),
]


@pytest.fixture(scope="module")
def mesh():
    """A group of one process."""
    from torch.distributed.device_mesh import init_device_mesh

    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def shard(model, mesh, parts):
    from torch.distributed.fsdp import fully_shard

    if parts:
        for part in (model.encoder, model.quantizer, model.decoder):
            fully_shard(part, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def autoencoder(make, **options):
    torch.manual_seed(3)
    return VQVAE(1, make(7, 4, **options), hidden=8, residual_hidden=4)


def train(model, steps=4):
    """All that the steps leave behind, put together from all processes."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    torch.manual_seed(5)
    for _ in range(steps):
        images = torch.rand(6, 1, 8, 8)
        output = model(images)
        optimizer.zero_grad()
        loss = (output.reconstruction - images).square().mean() + output.quantized.loss
        loss.backward()
        optimizer.step()
        model.quantizer.after_step()
    state = {name: whole(value) for name, value in model.state_dict().items()}
    return {name: value.clone() for name, value in state.items()}


def assert_close(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.allclose(value.double(), other[name].double(), atol=1e-6), name


@every_kind
def test_every_kind_trains_as_the_plain_module_does(make, mesh):
    divided = train(shard(autoencoder(make), mesh, parts=True))
    assert_close(divided, train(autoencoder(make)))


@pytest.mark.parametrize("kind", ["ema", "samp"])
def test_a_quantizer_that_is_no_part_of_its_own_trains_as_well(kind, mesh):
    divided = train(shard(autoencoder(KINDS[kind]), mesh, parts=False))
    assert_close(divided, train(autoencoder(KINDS[kind])))


@pytest.mark.parametrize("make", REVIVING.values(), ids=REVIVING)
def test_codes_are_revived(make, mesh):
    divided = train(shard(autoencoder(make, revive_after=1), mesh, parts=True))
    assert_close(divided, train(autoencoder(make, revive_after=1)))


@every_kind
def test_freezing_evaluation_loading_and_setting_work(make, mesh):
    model = shard(autoencoder(make), mesh, parts=True)
    train(model, 2)
    quantizer = model.quantizer
    quantizer.freeze()
    before = whole(quantizer.codebook).clone()
    train(model, 2)
    assert torch.equal(whole(quantizer.codebook), before)

    latents = torch.randn(5, 4)
    indices = quantizer.encode(latents)
    assert torch.equal(quantizer.lookup(indices), before[indices])
    quantizer.eval()
    assert torch.equal(quantizer(latents).indices, indices)

    codes = torch.randn(7, 4)
    quantizer.set_codebook(codes)
    assert torch.equal(whole(quantizer.codebook), codes)
    model.load_state_dict(model.state_dict())
    assert torch.equal(whole(quantizer.codebook), codes)
    with torch.no_grad():
        assign_(quantizer.codebook, torch.full((7, 4), torch.nan))
    with pytest.raises(ValueError, match="28 of 28 values of the codebook are NaN or infinite"):
        quantizer(latents)


def test_codes_from_outside_are_not_shortened(mesh):
    model = shard(autoencoder(SphericalQuantizer), mesh, parts=True)
    quantizer = model.quantizer
    quantizer.samp = SAMP(radius=Constant(1.0))
    codes = 30 * torch.randn(7, 4)
    quantizer.set_codebook(codes)
    quantizer(torch.randn(20, 4, requires_grad=True)).codes.sum().backward()
    quantizer.after_step()
    assert torch.allclose(whole(quantizer.codebook), codes)


def test_averages_stay_in_float32_where_the_policy_computes_in_bfloat16(mesh):
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    model = fully_shard(autoencoder(EMAQuantizer), mesh=mesh, mp_policy=policy)
    state = train(model)
    assert state["quantizer.codebook"].dtype == torch.float32
    assert state["quantizer.sums"].dtype == torch.float32
    sizes = state["quantizer.sizes"][:, None]
    quotients = state["quantizer.sums"] / sizes
    assert torch.allclose(state["quantizer.codebook"], quotients, rtol=1e-3)


def test_a_quantizer_that_is_divided_first_keeps_its_codes_in_float32(mesh):
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    model = autoencoder(EMAQuantizer).eval()
    # In bfloat16 all of these are the same, and the first one would be taken.
    model.quantizer.set_codebook(1 + 1e-4 * torch.linspace(1, -1, 7)[:, None].expand(7, 4))
    fully_shard(model.quantizer, mesh=mesh)
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    output = model(torch.rand(64, 1, 8, 8))
    indices = output.quantized.indices
    assert indices.any()
    assert torch.equal(indices, model.quantizer.encode(output.latents))


@pytest.mark.parametrize("kind", KINDS)
def test_the_config_of_a_divided_quantizer_is_that_of_its_kind(kind, mesh):
    quantizer = KINDS[kind](7, 4)
    config = quantizer.config()
    kinds = set(Quantizer.kinds)
    from torch.distributed.fsdp import fully_shard

    fully_shard(quantizer, mesh=mesh)
    assert quantizer.config() == config
    assert set(Quantizer.kinds) == kinds


def test_the_config_of_a_divided_prior_is_that_of_its_kind(mesh):
    prior = PixelCNN(5, (3, 4), width=8, layers=1)
    config = prior.config()
    kinds = set(Prior.kinds)
    from torch.distributed.fsdp import fully_shard

    fully_shard(prior, mesh=mesh)
    assert prior.config() == config
    assert set(Prior.kinds) == kinds


def test_the_config_of_a_parametrized_quantizer_is_that_of_its_kind():
    quantizer = EMAQuantizer(7, 4)
    config = quantizer.config()
    nn.utils.parametrize.register_parametrization(quantizer, "codebook", nn.Identity())
    assert quantizer.config() == config
