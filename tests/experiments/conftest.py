"""The images of these tests are random, so that their classifier has nothing to learn."""

import pytest

from arcvq.analysis import classifier


@pytest.fixture(scope="package", autouse=True)
def short_classifier():
    """Trains the classifier of the measures for four steps. That it learns is held by tests/analysis."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, "STEPS", 4)
        patch.setattr(classifier, "PASSES", 1)
        yield
