"""The kernel that JupyterLab starts for a notebook, which need not be this Python."""

import subprocess
import sys
from pathlib import Path

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

KERNEL = "python3"  # the kernel that the notebooks name
WHICH = "import sys; print(sys.prefix)"


def kernel_of_jupyterlab() -> tuple[str, str]:
    """Find out which Python JupyterLab would start for the kernel "python3".

    A kernel of that name in JUPYTER_PATH, or one that the user has installed, comes before that of
    this Python. `arcvq run` starts this Python in any case.

    Returns:
        The Python and the file that names it; and what to do if it is not this Python, else empty.
    """
    folder = Path(KernelSpecManager().find_kernel_specs()[KERNEL])
    remedy = f"remove or rename the folder {folder}, which JupyterLab finds first"
    try:
        python = KernelManager(kernel_name=KERNEL).format_kernel_cmd()[0]
    except Exception as error:  # whatever a damaged file leads to
        return f"{folder / 'kernel.json'} cannot be read ({error})", remedy
    found = f"{python} (by {folder / 'kernel.json'})"
    if _prefix(python) != sys.prefix:
        return f"{found} is not this Python", remedy
    return found, ""


def _prefix(python: str) -> str:
    """The environment of a Python, or nothing if the command is no Python or does not start."""
    try:
        answer = subprocess.run([python, "-c", WHICH], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip()
