import numpy as np
import pytest
import torch

from arcvq.analysis import projections
from arcvq.explorers import placing
from arcvq.explorers.placing import place_codes


@pytest.fixture(autouse=True)
def few_and_quick(monkeypatch):
    monkeypatch.setattr(placing, "PLACED", 10)
    monkeypatch.setattr(projections, "umap_angles", projections.stereographic)


def test_umap_places_the_most_used_codes_and_says_so():
    usage = torch.arange(30) % 15
    seen = place_codes(torch.randn(30, 4), "UMAP", lambda: usage)
    placed = np.flatnonzero(np.isfinite(seen.points).all(axis=1))
    assert len(placed) == 10
    assert usage[placed].min() >= usage[np.setdiff1d(np.arange(30), placed)].max()
    assert "10 of 30 codes are placed, the most used first" in seen.trust


@pytest.mark.parametrize(("method", "count"), [("UMAP", 10), ("PCA", 30)])
def test_what_is_quick_is_placed_whole_and_counts_nothing(method, count):
    seen = place_codes(torch.randn(count, 4), method, lambda: pytest.fail("usage was counted"))
    assert np.isfinite(seen.points).all()
    assert "are placed" not in seen.trust
