"""Every test runs with the shapes and types of arcvq's signatures checked at each call."""

import signal

import jaxtyping
import pytest

# A shell that runs the tests in the background has them ignore Ctrl-C, nohup the end of a terminal,
# and their children too.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

jaxtyping.install_import_hook("arcvq", "beartype.beartype")

import torch  # noqa: E402

torch.set_num_threads(
    1
)  # the tests run side by side; threads of several processes only wait for each other

# Files that take long come first: whichever process began one last would finish it alone.
LONG = ("tests/browser/", "notebooks/", "tests/experiments/", "tests/runs/", "tests/ops/")
# A notebook that `make test` runs at a smaller size than readers, `arcvq run` and `make notebooks` do.
SMALLER = {"12_speed_and_scale.ipynb": "\nbatch_size = 64"}


def place(item):
    """The number of the folder in `LONG` that a test lies in; behind all of them where in none."""
    for number, folder in enumerate(LONG):
        if item.nodeid.startswith(folder):
            return number
    return len(LONG)


def pytest_collection_modifyitems(items):
    items.sort(key=place)
    for item in items:
        if "parameters" in getattr(item, "cell", {}).get("metadata", {}).get("tags", []):
            item.cell.source += SMALLER.get(item.path.name, "")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """The tests of a file stay in one process, and all of the browser, which is started once."""
    from xdist.scheduler import LoadFileScheduling

    class OneBrowser(LoadFileScheduling):
        def _split_scope(self, nodeid):
            browser = LONG[0]
            return browser if nodeid.startswith(browser) else super()._split_scope(nodeid)

    return OneBrowser(config, log)


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


@pytest.fixture
def unchecked():
    """Switches the shape check off, so that a test sees the error that a user sees."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
