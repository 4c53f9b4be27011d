import pytest
import torch

from arcvq.ops import blockwise, loss_and_gradient, nearest_code, reference, whole
from tests.memory import LargestTensor
from tests.oracles import whole_matrix_loss


def random(count, dim):
    return torch.randn(count, dim, dtype=torch.float64)


def clustered(count, dim):
    centers = random(5, dim)[torch.arange(count) % 5]
    return centers + 0.05 * random(count, dim)


def compare(latents, codebook, margin, scale, top_k, gradient=True):
    """The loss in float32 against the formula in float64 of the very same rows."""
    latents = latents.float()
    codebook = codebook.float()
    exact = latents.double().requires_grad_()
    expected = whole_matrix_loss(exact, codebook.double(), margin, scale, top_k)
    (slope,) = torch.autograd.grad(expected, exact)
    loss, got = loss_and_gradient(latents, codebook, margin, scale, top_k)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5, abs=2e-7)
    if gradient:
        assert (got - slope).abs().max() <= 2e-5 * slope.abs().max() + 1e-9


@pytest.mark.parametrize("top_k", [1, 3, 64])
@pytest.mark.parametrize("margin", [0.0, 0.1, 0.5, 1.2])
@pytest.mark.parametrize("rows", [random, clustered])
@pytest.mark.parametrize("scale", [0.5, 5.0, 32.0])
def test_the_loss_and_its_gradient_equal_the_formula(rows, margin, top_k, scale):
    # 401 latents: whole chunks and a last one of 17
    compare(rows(401, 16), random(30, 16), margin, scale, top_k)


SIZES = [
    (1, 1, 1),
    (1, 7, 1),
    (3, 1, 3),
    (3, 5, 2),
    (64, 9, 64),
    (65, 9, 64),
    (128, 1, 3),
    (130, 4, 100),
    (1000, 2, 1),
]


@pytest.mark.parametrize(("count", "num_codes", "top_k"), SIZES)
def test_every_shape_around_a_chunk_equals_the_formula(count, num_codes, top_k):
    compare(random(count, 4), random(num_codes, 4), 0.1, 5.0, top_k)


@pytest.mark.parametrize("top_k", [1, 3, 64])
def test_duplicated_latents_and_codes_give_the_loss_of_the_formula(top_k):
    """Which of equal latents is chosen is free, and with it the gradient, but not the loss."""
    latents = random(60, 8).repeat(5, 1)
    codebook = random(6, 8).repeat(4, 1)
    compare(latents, codebook, 0.1, 5.0, top_k, gradient=False)
    compare(torch.cat([latents, codebook]), codebook, 0.0, 5.0, top_k, gradient=False)


@pytest.mark.parametrize("scale", [5.0, 32.0, 33.0, 300.0, 2000.0])
@pytest.mark.parametrize("margin", [0.0, 0.1, 1.2, 1.5])
def test_no_scale_over_or_underflows_in_float64(scale, margin):
    latents = clustered(200, 6)
    codebook = random(10, 6)
    expected = whole_matrix_loss(latents, codebook, margin, scale, 3)
    loss, _ = loss_and_gradient(latents, codebook, margin, scale, 3)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)


def test_the_gradient_is_that_of_finite_differences():
    latents = random(150, 3)
    codebook = random(4, 3)

    def loss_at(shifted):
        return loss_and_gradient(shifted, codebook, 0.3, 7.0, 2)[0].item()

    _, gradient = loss_and_gradient(latents, codebook, 0.3, 7.0, 2)
    for place in [(0, 0), (70, 1), (149, 2)]:
        step = torch.zeros_like(latents)
        step[place] = 1e-6
        difference = loss_at(latents + step) - loss_at(latents - step)
        assert gradient[place].item() == pytest.approx(difference / 2e-6, rel=1e-4, abs=1e-9)


def test_the_loss_is_the_same_whatever_the_blocks(monkeypatch):
    latents = random(500, 8)
    codebook = random(40, 8)
    loss, gradient = loss_and_gradient(latents, codebook, 0.1, 5.0, 3)
    for block, tile in [(500, 64), (5 * 500, 300), (1 << 22, 100)]:
        monkeypatch.setattr(blockwise, "BLOCK", block)
        monkeypatch.setattr(blockwise, "TILE", tile)
        again, slope = loss_and_gradient(latents, codebook, 0.1, 5.0, 3)
        assert torch.allclose(loss, again, rtol=1e-12)
        assert torch.allclose(gradient, slope, atol=1e-14)


def test_a_latent_without_direction_gets_no_gradient_and_moves_nothing_else():
    latents = random(80, 4)
    latents[7] = 0
    loss, gradient = loss_and_gradient(latents, random(5, 4), 0.1, 5.0, 3)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert not gradient[7].any()
    assert gradient[8].any()


@pytest.mark.parametrize("top_k", [1, 3, 6])
def test_rows_of_zeros_are_at_right_angles_to_all(top_k):
    latents = random(6, 3)
    codebook = random(4, 3)
    latents[:2] = 0
    codebook[1] = 0
    exact = latents.clone().requires_grad_()
    expected = whole_matrix_loss(exact, codebook, 0.1, 5.0, top_k)
    (slope,) = torch.autograd.grad(expected, exact)
    loss, gradient = loss_and_gradient(latents, codebook, 0.1, 5.0, top_k)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert torch.allclose(gradient[2:], slope[2:], atol=1e-12)
    for other in (whole.margin_loss, reference.margin_loss):
        assert other(latents, codebook, 0.1, 5.0, top_k).item() == pytest.approx(loss.item())


def test_without_gradient_the_loss_is_the_same():
    latents = random(80, 4)
    codebook = random(5, 4)
    expected, _ = loss_and_gradient(latents, codebook, 0.1, 5.0, 3)
    loss, gradient = loss_and_gradient(latents, codebook, 0.1, 5.0, 3, with_gradient=False)
    assert gradient.shape == (0, 4)
    assert loss == expected


@pytest.mark.parametrize(
    ("count", "num_codes", "top_k"), [(16_384, 2_048, 3), (300, 60_000, 3), (2_000, 9_000, 64)]
)
def test_neither_loss_nor_lookup_holds_codes_times_latents(count, num_codes, top_k):
    latents = torch.randn(count, 4)
    codebook = torch.randn(num_codes, 4)
    with LargestTensor() as largest:
        loss_and_gradient(latents, codebook, 0.1, 5.0, top_k)
        nearest_code(latents, codebook)
    assert largest.entries <= blockwise.BLOCK < num_codes * count


def nearest_by_loops(latents, codebook, metric):
    """The nearest code of each latent in float64, one pair at a time."""
    chosen = []
    for z in latents.double():
        scores = []
        for e in codebook.double():
            cosine = z @ e / (z.norm() * e.norm())
            scores.append(cosine if metric == "cosine" else -(z - e).norm())
        chosen.append(int(torch.stack(scores).argmax()))
    return torch.tensor(chosen)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_nearest_code_is_the_one_that_loops_find(metric, monkeypatch):
    latents = torch.randn(60, 5) * 3
    codebook = torch.randn(17, 5)
    expected = nearest_by_loops(latents, codebook, metric)
    assert torch.equal(nearest_code(latents, codebook, metric), expected)
    monkeypatch.setattr(blockwise, "TILE", 40)
    assert torch.equal(nearest_code(latents, codebook, metric), expected)


def test_the_nearest_latents_of_a_block_are_few_enough_too():
    with LargestTensor() as largest:
        loss_and_gradient(torch.randn(300, 128), torch.randn(60_000, 128), 0.1, 5.0, 8)
    assert largest.entries <= blockwise.BLOCK
