"""Every test runs with the shapes and types of arcvq's signatures checked at each call."""

import signal

import jaxtyping
import pytest

# A shell that runs the tests in the background has them ignore Ctrl-C, and their children too.
signal.signal(signal.SIGINT, signal.default_int_handler)

jaxtyping.install_import_hook("arcvq", "beartype.beartype")

import torch  # noqa: E402

torch.set_num_threads(
    1
)  # the tests run side by side; threads of several processes only wait for each other


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


@pytest.fixture
def unchecked():
    """Switches the shape check off, so that a test sees the error that a user sees."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
