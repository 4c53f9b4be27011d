"""The JavaScript of the explorers, put together without a build step."""

import pytest

from arcvq.explorers.bundle import WEB, bundle, packed
from tests.browser import lab

MODULES = sorted(path.stem for path in WEB.glob("*.js"))


@pytest.mark.parametrize("name", MODULES)
def test_a_bundle_has_no_import_no_export_and_no_comment_block_left(name):
    lines = bundle(name).splitlines()
    left = ("import ", "export ", "/**", "//")
    assert [line for line in lines if line.strip().startswith(left)] == []


def test_a_module_that_several_need_is_there_once_and_before_them():
    script = bundle("widget", "page", "margin")
    assert script.count("const themeModule =") == 1
    assert script.index("const themeModule =") < script.index("const widgetModule =")


def test_all_modules_run_together_in_a_browser():
    constants = ", ".join(f"{name}Module" for name in MODULES)
    script = f"{bundle(*MODULES)}\nwindow.modules = {{ {constants} }};"
    with lab.browser() as browser:
        page = browser.new_page()
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.set_content(f'<script type="module">{script}</script>')
        found = page.evaluate("Object.keys(window.modules ?? {}).length")
    assert errors == []
    assert found == len(MODULES)


def test_a_packed_module_is_short_and_exports_the_same():
    lines = [f"const line{number} = 'a line like others, θ';" for number in range(200)]
    module = "\n".join([*lines, "export default { found: line7 };"])
    short = packed(module)
    assert len(short) < len(module) / 2
    script = """async (text) => {
      const address = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
      return (await import(address)).default.found;
    }"""
    with lab.browser() as browser:
        assert browser.new_page().evaluate(script, short) == "a line like others, θ"
