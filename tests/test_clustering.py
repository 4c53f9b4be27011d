import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from arcvq.clustering import kmeans
from arcvq.quantizers import CosineQuantizer, EMAQuantizer, EuclideanQuantizer

pytest.importorskip("sklearn")


def blobs(count=40, dim=3, scale=10.0, spread=0.1):
    """Four tight clusters and their means, in float64."""
    corners = normalize(torch.randn(4, dim, dtype=torch.float64), dim=1) * scale
    clusters = corners[:, None] + spread * torch.randn(4, count, dim, dtype=torch.float64)
    return clusters.flatten(0, 1), clusters.mean(1)


def sorted_rows(rows):
    return torch.tensor(sorted(rows.tolist()))


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e25])
def test_codes_are_the_means_of_the_clusters(scale, offset):
    latents, means = blobs()
    codebook = kmeans((latents + offset) * scale, 4)
    assert torch.allclose(
        sorted_rows(codebook), sorted_rows((means + offset) * scale), rtol=1e-9, atol=0
    )


def test_by_angle_codes_are_the_mean_directions_on_the_unit_sphere():
    latents, _ = blobs()
    lengths = torch.rand(len(latents), 1, dtype=torch.float64) * 100 + 0.01
    codebook = kmeans(latents * lengths, 4, metric="cosine")
    means = normalize(latents, dim=1).view(4, 40, 3).mean(1)
    expected = normalize(means, dim=1)
    assert torch.allclose(sorted_rows(codebook), sorted_rows(expected), atol=1e-12)


def test_each_code_is_the_mean_of_the_latents_that_choose_it():
    latents = torch.randn(500, 4)
    codebook = kmeans(latents, 10).double()
    quantizer = EuclideanQuantizer(10, 4).double()
    quantizer.set_codebook(codebook)
    indices = quantizer.encode(latents.double())
    means = torch.stack([latents[indices == code].double().mean(0) for code in range(10)])
    assert torch.allclose(codebook, means, atol=0.02)  # it stops once the codes hardly move


@pytest.mark.parametrize("cls", [EuclideanQuantizer, EMAQuantizer, CosineQuantizer])
def test_a_quantizer_that_starts_from_it_has_a_smaller_error(cls):
    latents = 3 + torch.randn(600, 4)
    quantizer = cls(16, 4)

    def error():
        return (quantizer.replace(latents) - latents).square().mean().item()

    by_chance = error()
    quantizer.set_codebook(kmeans(latents, 16))
    assert error() < 0.5 * by_chance


def test_the_seed_decides():
    latents = torch.randn(300, 4)
    assert torch.equal(kmeans(latents, 20, seed=1), kmeans(latents, 20, seed=1))
    assert not torch.equal(kmeans(latents, 20, seed=1), kmeans(latents, 20, seed=2))


def test_the_random_numbers_of_the_caller_and_the_latents_stay_as_they_are():
    latents = torch.randn(50, 3, requires_grad=True)
    before = latents.detach().clone()
    generator = torch.get_rng_state()
    codebook = kmeans(latents, 5, metric="cosine")
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.equal(latents, before)
    assert not codebook.requires_grad


@settings(max_examples=40, deadline=None)
@given(
    num_codes=st.integers(1, 8),
    more=st.integers(0, 12),
    dim=st.integers(1, 5),
    metric=st.sampled_from(["euclidean", "cosine"]),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    seed=st.integers(0, 1000),
)
def test_codes_for_any_size_and_dtype(num_codes, more, dim, metric, dtype, seed):
    torch.manual_seed(seed)
    latents = torch.randn(num_codes + more, dim + 1, dtype=torch.float64)
    if metric == "euclidean":
        latents += 10 * torch.arange(len(latents))[:, None]  # far from the origin
    latents = latents.to(dtype)
    codebook = kmeans(latents, num_codes, metric=metric)
    assert codebook.shape == (num_codes, dim + 1)
    assert codebook.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert len(codebook.unique(dim=0)) == num_codes
    if metric == "cosine":
        norms = torch.linalg.vector_norm(codebook, dim=1)
        assert torch.allclose(norms, torch.ones_like(norms), atol=1e-6)
    else:
        assert (codebook.amin(0) >= latents.amin(0) - 1e-3).all()
        assert (codebook.amax(0) <= latents.amax(0) + 1e-3).all()


def test_as_many_codes_as_latents_are_the_latents():
    latents = torch.randn(6, 3)
    assert torch.allclose(sorted_rows(kmeans(latents, 6)), sorted_rows(latents))


def test_directions_that_cancel_out_still_give_a_code_on_the_sphere():
    latents = torch.tensor([[2.0, 0.0], [-3.0, 0.0]])
    codebook = kmeans(latents, 1, metric="cosine")
    assert codebook.abs().tolist() == [[1.0, 0.0]]


def test_latents_without_direction_are_left_out():
    latents = torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 3.0], [0.0, 0.0]])
    codebook = kmeans(latents, 2, metric="cosine")
    assert torch.equal(sorted_rows(codebook), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))


def nan_in(latents):
    return latents.masked_fill(torch.eye(*latents.shape, dtype=torch.bool), math.nan)


LATENTS = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
BAD = {
    "there are 30 different latents; for 31 codes there must be as many": lambda: kmeans(
        LATENTS, 31
    ),
    "there are 2 different latents; for 3 codes there must be as many": lambda: kmeans(
        LATENTS[:2].repeat(10, 1), 3
    ),
    "there are 0 different latents; for 1 codes": lambda: kmeans(LATENTS[:0], 1),
    "there are 1 different directions; for 2 codes there must be as many": lambda: kmeans(
        torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 0.0]]), 2, metric="cosine"
    ),
    "3 of 90 values of the latents are NaN or infinite": lambda: kmeans(nan_in(LATENTS), 4),
    r"latents have shape \(2, 3, 4\); they must be \(N, D\)": lambda: kmeans(
        torch.randn(2, 3, 4), 2
    ),
    r"latents have shape \(4, 0\); they must be \(N, D\)": lambda: kmeans(torch.randn(4, 0), 2),
    "latents are torch.int64; they must be floating point": lambda: kmeans(LATENTS.long(), 2),
    "metric 'manhattan' is unknown; use 'euclidean' or 'cosine'": lambda: kmeans(
        LATENTS, 2, metric="manhattan"
    ),
    "num_codes is 0; it must be a whole number from 1": lambda: kmeans(LATENTS, 0),
    "num_codes is 2.5; it must be a whole number from 1": lambda: kmeans(LATENTS, 2.5),
    "seed is -1; it must be a whole number from 0": lambda: kmeans(LATENTS, 2, seed=-1),
    "seed is 4294967296; it must be a whole number from 0 to 4,294,967,295": lambda: kmeans(
        LATENTS, 2, seed=2**32
    ),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("message", BAD)
def test_bad_input_gets_one_sentence(message):
    with pytest.raises(ValueError, match=message):
        BAD[message]()


def test_without_scikit_learn_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    monkeypatch.setattr("arcvq.runtime.extras.find_spec", lambda name: None)
    message = r"scikit-learn is not installed; it comes with pip install 'arcvq\[kit\]'"
    with pytest.raises(ModuleNotFoundError, match=message):
        kmeans(LATENTS, 2)
