import sys

import pytest

from arcvq.runtime.extras import extra_folder, extra_import


def test_a_package_that_is_there_is_imported():
    assert extra_import("pandas").DataFrame([1]).shape == (1, 1)
    assert extra_import("xml.dom").__name__ == "xml.dom"


@pytest.mark.parametrize(
    ("name", "extra", "message"),
    [
        ("pandas", "kit", r"^pandas is not installed; it comes with pip install 'arcvq\[kit\]'$"),
        ("sklearn", "kit", r"^scikit-learn is not installed"),
        ("ray", "ray", r"pip install 'arcvq\[ray\]'$"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(name, extra, message, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=message):
        extra_import(name, extra)


def test_what_a_package_lacks_itself_is_named(monkeypatch, tmp_path):
    (tmp_path / "broken_package.py").write_text("import package_that_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match=r"^package_that_nobody_has is not"):
        extra_import("broken_package")


def test_the_folder_of_a_package_is_found_without_importing_it(monkeypatch, tmp_path):
    (tmp_path / "package_with_data").mkdir()
    (tmp_path / "package_with_data" / "__init__.py").write_text("raise RuntimeError")
    monkeypatch.syspath_prepend(tmp_path)
    assert extra_folder("package_with_data") == tmp_path / "package_with_data"


def test_the_folder_of_a_missing_package_is_answered_with_the_extra_that_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ModuleNotFoundError, match=r"^scikit-learn is not installed; it comes with"):
        extra_folder("sklearn")
