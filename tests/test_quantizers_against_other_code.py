"""Our quantizers beside the authors' update, written out, and beside vector-quantize-pytorch."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import mse_loss, normalize

from arcvq.quantizers import CosineQuantizer, EMAQuantizer, EuclideanQuantizer, SphericalQuantizer
from arcvq.samp import SAMP
from arcvq.schedules import Exponential
from tests.oracles import whole_matrix_loss

# The authors of ArcVQ-VAE


def authors_step(encoder, codebook, decoder, images, optimizer, step, settings):
    """One training step as the authors take it, in the precision of its arguments."""
    latents = encoder(images)
    cosines = normalize(latents, dim=1) @ normalize(codebook, dim=1).T
    codes = codebook[cosines.argmax(1)]
    codebook_loss = mse_loss(codes, latents.detach())
    commitment_loss = mse_loss(latents, codes.detach())
    margin_loss = whole_matrix_loss(
        latents, codebook.detach(), settings.margin, settings.scale, settings.top_k
    )
    weight = math.exp(-settings.decay * step)
    quantized = latents + (codes - latents).detach()
    loss = mse_loss(decoder(quantized), images)
    loss = loss + codebook_loss + 0.25 * commitment_loss + weight * margin_loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    # The ball.
    radius = math.exp(settings.growth * (step + 1))
    with torch.no_grad():
        norms = codebook.norm(dim=1, keepdim=True)
        codebook.copy_(torch.where(norms > radius, codebook * (radius / norms), codebook))
    return loss.item()


def our_step(encoder, quantizer, decoder, images, optimizer):
    quantized = quantizer(encoder(images))
    loss = mse_loss(decoder(quantized.codes), images) + quantized.loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    quantizer.after_step()
    return loss.item()


def test_training_follows_the_authors_for_300_steps_in_float64():
    growth = 3e-4  # as published, like the decay
    decay = 5e-4
    settings = SimpleNamespace(margin=0.1, scale=5.0, top_k=3, growth=growth, decay=decay)
    samp = SAMP(radius=Exponential(growth), weight=Exponential(-decay))
    quantizer = SphericalQuantizer(12, 6, samp).double()
    codebook = torch.nn.Parameter(quantizer.codebook.detach().clone())
    networks = [torch.nn.Linear(10, 6).double(), torch.nn.Linear(6, 10).double()]
    copies = [torch.nn.Linear(10, 6).double(), torch.nn.Linear(6, 10).double()]
    for network, copy in zip(networks, copies, strict=True):
        copy.load_state_dict(network.state_dict())
    ours = [*networks[0].parameters(), quantizer.codebook, *networks[1].parameters()]
    theirs = [*copies[0].parameters(), codebook, *copies[1].parameters()]
    optimizer = torch.optim.Adam(ours, lr=3e-3)
    their_optimizer = torch.optim.Adam(theirs, lr=3e-3)

    bound = 0
    for step in range(300):
        images = 2 * torch.randn(64, 10, dtype=torch.float64)
        loss = our_step(networks[0], quantizer, networks[1], images, optimizer)
        expected = authors_step(
            copies[0], codebook, copies[1], images, their_optimizer, step, settings
        )
        assert loss == pytest.approx(expected, rel=1e-12)
        bound += int((codebook.norm(dim=1) > math.exp(growth * (step + 1)) * (1 - 1e-9)).sum())
    assert bound > 100, "the ball has held codes"
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).norm() <= 1e-12 * other.norm()


# vector-quantize-pytorch


def their_quantizer(quantizer, **options):
    """The quantizer of the package with the same codes and settings."""
    package = pytest.importorskip("vector_quantize_pytorch")
    usual = {
        "commitment_weight": 0.25,
        "rotation_trick": False,
        "decay": 0.99,
        "kmeans_init": False,
        "threshold_ema_dead_code": 0,
    }
    theirs = package.VectorQuantize(quantizer.dim, quantizer.num_codes, **usual | options)
    theirs._codebook.embed.data.copy_(quantizer.codebook[None])
    theirs._codebook.embed_avg.data.copy_(quantizer.codebook[None])
    return theirs


def assert_same_codes(quantizer, theirs):
    assert (quantizer.codebook - theirs.codebook).norm() <= 1e-6 * quantizer.codebook.norm()


def assert_same_averages(quantizer, theirs):
    sizes = theirs._codebook.cluster_size[0]
    sums = theirs._codebook.embed_avg[0]
    assert (quantizer.sizes - sizes).norm() <= 1e-6 * sizes.norm()
    assert (quantizer.sums - sums).norm() <= 1e-6 * sums.norm()


def clusters(count, dim):
    """Latents near 10 centers, so that some codes are chosen often and some never."""
    centers = torch.randn(10, dim, generator=torch.Generator().manual_seed(7))
    return centers[torch.randint(10, (count,))] + 0.3 * torch.randn(count, dim)


def test_codes_indices_loss_and_gradient_are_theirs():
    quantizer = EMAQuantizer(32, 8, channel_last=True)
    quantizer.set_codebook(torch.randn(32, 8))
    theirs = their_quantizer(quantizer)
    latents = torch.randn(4, 25, 8, requires_grad=True)
    their_latents = latents.detach().clone().requires_grad_()
    weights = torch.randn(4, 25, 8)

    quantized = quantizer(latents)
    codes, indices, loss = theirs(their_latents)
    ((quantized.codes * weights).sum() + quantized.loss).backward()
    ((codes * weights).sum() + loss.sum()).backward()
    assert torch.equal(quantized.indices, indices)
    assert torch.allclose(quantized.codes, codes, atol=1e-6)
    assert quantized.loss.item() == pytest.approx(loss.item(), rel=1e-6)
    assert torch.allclose(latents.grad, their_latents.grad, atol=1e-6)


def test_images_are_quantized_as_they_do():
    quantizer = EMAQuantizer(32, 8)
    quantizer.set_codebook(torch.randn(32, 8))
    theirs = their_quantizer(quantizer, accept_image_fmap=True)
    latents = torch.randn(4, 8, 5, 6)
    codes, indices, _ = theirs(latents)
    quantized = quantizer(latents)
    assert torch.equal(quantized.indices, indices)
    assert torch.allclose(quantized.codes, codes, atol=1e-6)


def test_indices_by_angle_are_theirs():
    quantizer = CosineQuantizer(64, 8, channel_last=True)
    theirs = their_quantizer(quantizer, use_cosine_sim=True)
    for latents in (torch.randn(4, 100, 8), 30 * clusters(400, 8)[None]):
        assert torch.equal(quantizer.encode(latents), theirs(latents, freeze_codebook=True)[1])


def test_moving_averages_are_theirs_over_60_steps():
    quantizer = EMAQuantizer(32, 8, channel_last=True)
    theirs = their_quantizer(quantizer)
    for _ in range(60):
        latents = clusters(200, 8)[None]
        indices = quantizer(latents).indices
        quantizer.after_step()
        assert torch.equal(theirs(latents)[1], indices)
    assert_same_averages(quantizer, theirs)
    assert_same_codes(quantizer, theirs)


def test_moving_averages_are_theirs_over_60_steps_with_accumulation():
    """They add up what `accum_ema_update` marks and follow with the last micro-batch."""
    quantizer = EMAQuantizer(32, 8, channel_last=True)
    theirs = their_quantizer(quantizer)
    for _ in range(60):
        *first, last = clusters(200, 8)[None].split([40, 70, 10, 80], dim=1)
        for latents in first:
            indices = quantizer(latents).indices
            assert torch.equal(theirs(latents, accum_ema_update=True)[1], indices)
        quantizer(last)
        theirs(last)
        quantizer.after_step()
    assert_same_averages(quantizer, theirs)
    assert_same_codes(quantizer, theirs)


def test_masked_batches_are_theirs_over_60_steps():
    quantizer = EMAQuantizer(32, 8, channel_last=True)
    theirs = their_quantizer(quantizer)
    for _ in range(60):
        latents = clusters(200, 8).reshape(5, 40, 8).requires_grad_()
        their_latents = latents.detach().clone().requires_grad_()
        mask = torch.arange(40) < torch.randint(1, 41, (5, 1))
        quantized = quantizer(latents, mask=mask)
        codes, indices, loss = theirs(their_latents, mask=mask)
        assert torch.equal(quantized.indices, indices)
        assert torch.allclose(quantized.codes, codes, atol=1e-5)
        assert quantized.loss.item() == pytest.approx(loss.item(), rel=1e-5)
        (quantized.codes.square().sum() + quantized.loss).backward()
        (codes.square().sum() + loss.sum()).backward()
        assert torch.allclose(latents.grad, their_latents.grad, atol=1e-4)
        quantizer.after_step()
    assert_same_averages(quantizer, theirs)
    assert_same_codes(quantizer, theirs)


def test_a_codebook_that_learns_by_gradient_is_theirs():
    quantizer = EuclideanQuantizer(32, 8, channel_last=True)
    quantizer.set_codebook(torch.randn(32, 8))
    theirs = their_quantizer(quantizer, learnable_codebook=True, ema_update=False)
    latents = torch.randn(4, 25, 8)
    quantized = quantizer(latents)
    _, indices, loss = theirs(latents)
    assert torch.equal(quantized.indices, indices)
    # Their commitment loss has gradients to both sides; that to the codes is our codebook loss.
    (theirs_gradient,) = torch.autograd.grad(loss.sum(), theirs._codebook.embed)
    (gradient,) = torch.autograd.grad(quantized.loss, quantizer.codebook)
    assert torch.allclose(0.25 * gradient, theirs_gradient[0], atol=1e-7)
