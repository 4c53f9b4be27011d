"""How the package hangs together: its public surface, what it needs to be imported, and who uses whose names."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import arcvq

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "arcvq").rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# Everything that `pip install arcvq` alone does not bring, by the name under which it is imported.
EXTRAS = [
    "IPython",
    "PIL",
    "anywidget",
    "ipykernel",
    "ipywidgets",
    "jupyterlab",
    "kaleido",
    "latex2mathml",
    "nbclient",
    "nbconvert",
    "nbformat",
    "pandas",
    "papermill",
    "plotly",
    "pyarrow",
    "ray",
    "sklearn",
    "torchmetrics",
    "torchvision",
    "umap",
    "vector_quantize_pytorch",
]

WITHOUT_EXTRAS = f"""
import pkgutil
import sys

for name in {EXTRAS!r}:
    sys.modules[name] = None  # importing it raises ImportError

import torch
import arcvq

latents = torch.randn(4, 8, 2, 2, requires_grad=True)
for kind in arcvq.QUANTIZERS.values():
    quantizer = kind(16, 8)
    quantized = quantizer(latents)
    (quantized.codes.mean() + quantized.loss).backward()
    quantizer.after_step()
quantizer = arcvq.SphericalQuantizer(16, 8)
print(arcvq.describe(quantizer.codebook, quantizer.encode(latents.detach())).codes_used > 0)

images = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8)
split = arcvq.ImageSplit(images, torch.zeros(40, dtype=torch.int64))
data = arcvq.ImageData("noise", split, split, split, ("all",))
model = arcvq.VQVAE(1, quantizer, hidden=8, residual_hidden=4)
recording = arcvq.Recording(folder=sys.argv[1], progress=False)
run = arcvq.fit(model, data, steps=2, batch_size=8, recording=recording)
print(arcvq.VQVAE.from_pretrained(sys.argv[1]).encode(split.batch(torch.arange(2))).shape)
print(arcvq.RunSettings(steps=3).steps)

from arcvq.cli import main
from click.testing import CliRunner

print("device" in CliRunner().invoke(main, ["doctor"]).output)

for use in (lambda: run.history, lambda: arcvq.load_images("mnist"), lambda: arcvq.figures, lambda: arcvq.explorers):
    try:
        use()
    except ModuleNotFoundError as error:
        print(error)

print("modules that need an extra:")
for module in pkgutil.walk_packages(arcvq.__path__, "arcvq."):
    try:
        __import__(module.name)
    except ModuleNotFoundError as error:
        print(f"{{module.name}}: {{error}}")
"""

# The processor's time of this process alone: other work on the machine does not count.
COST_OF_IMPORT = """
import sys
from time import process_time

began = process_time()
import torch

torch_alone = process_time() - began
import arcvq

print((process_time() - began) / torch_alone, *sys.modules)
"""


def run(script, *arguments):
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_completion_shows_the_public_names_and_nothing_else():
    assert dir(arcvq) == sorted(arcvq.__all__)


@pytest.mark.parametrize("name", arcvq.__all__)
def test_every_public_name_is_there(name):
    assert getattr(arcvq, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'arcvq' has no attribute 'nothing'"):
        arcvq.nothing  # noqa: B018


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """What an installation without extras answers: first in use, then at imports."""
    shown = run(WITHOUT_EXTRAS, tmp_path_factory.mktemp("small"))
    used, _, imports = shown.partition("modules that need an extra:\n")
    return used.splitlines(), imports.splitlines()


def test_the_core_works_without_any_extra_and_says_what_is_missing(small):
    lines = small[0]
    assert lines[:4] == ["True", "torch.Size([2, 2, 2])", "3", "True"]
    for name, line in zip(
        ("pandas", "torchvision", "plotly", "ipywidgets"), lines[4:], strict=True
    ):
        assert line == f"{name} is not installed; it comes with pip install 'arcvq[kit]'"


def test_a_part_that_needs_an_extra_says_so_when_it_is_imported(small):
    answer = re.compile(
        r"arcvq\.(\w+): \S+ is not installed; it comes with pip install 'arcvq\[kit\]'"
    )
    parts = [answer.fullmatch(line) for line in small[1]]
    names = [part and part[1] for part in parts]
    assert names == ["analysis", "experiments", "explorers", "figures", "reports"]


@pytest.fixture(scope="module")
def imported():
    """What importing arcvq costs, in times of importing torch, and the modules loaded after it."""
    cost, *modules = run(COST_OF_IMPORT).split()
    return float(cost), modules


def test_importing_arcvq_loads_no_extra(imported):
    assert not set(EXTRAS) & set(imported[1])


def test_importing_arcvq_costs_little_more_than_importing_torch(imported):
    assert imported[0] < 1.4


def packages_needed(path):
    """What a module imports from other packages as soon as it is imported."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.partition(".")[0]


def test_whatever_importing_arcvq_imports_is_a_dependency(imported):
    """Not just a dependency of a dependency, which may do without it one day."""
    needed = set()
    for path in MODULES:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if name in imported[1]:
            needed.update(packages_needed(path))
    dependencies = {re.match(r"[\w-]+", line)[0] for line in PROJECT["project"]["dependencies"]}
    assert needed - sys.stdlib_module_names - {"arcvq"} <= dependencies


def names_of_others(path):
    """Private names that a module takes from other modules of the package."""
    tree = ast.parse(path.read_text())
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("arcvq"):
            modules |= {alias.asname or alias.name for alias in node.names}
            yield from (alias.name for alias in node.names if alias.name.startswith("_"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            private = node.attr.startswith("_") and not node.attr.startswith("__")
            if private and node.value.id in modules:
                yield f"{node.value.id}.{node.attr}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_uses_a_private_name_of_another(path):
    assert list(names_of_others(path)) == []


def test_every_part_of_the_package_is_in_the_contract_of_layers():
    contract = PROJECT["tool"]["importlinter"]["contracts"][0]
    layers = []
    for layer in contract["layers"]:
        layers += layer.split(" : ")
    parts = {path.stem for path in (ROOT / "arcvq").iterdir() if not path.name.startswith("__")}
    assert set(layers) == parts
    assert contract["exhaustive"]
