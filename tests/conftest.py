"""Every test runs with the shapes and types of arcvq's signatures checked at each call."""

import os

import jaxtyping
import pytest

os.environ.setdefault("ARCVQ_DATA", "")
jaxtyping.install_import_hook("arcvq", "beartype.beartype")

import torch  # noqa: E402


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


@pytest.fixture
def unchecked():
    """Switches the shape check off, so that a test sees the error that a user sees."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
