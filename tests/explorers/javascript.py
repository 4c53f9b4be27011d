"""The explorers' JavaScript in a browser, called from Python with numbers for arguments."""

import json
from contextlib import contextmanager

from arcvq.explorers.bundle import EXPORT, WEB, bundle
from tests.browser import lab


@contextmanager
def modules(*names):
    """A function `call(expression, **arguments)` that sees what modules of `web` export.

    A promise is waited for. Lists of numbers become Float64Array on the way in, and lists on the way out.
    """
    found = []
    for name in names:
        source = (WEB / f"{name}.js").read_text()
        found += EXPORT.findall(source)
    constants = ", ".join(f"{name}Module" for name in names)
    take = f"window.exported = Object.assign({{}}, {constants});"
    exported = ", ".join(found)
    with lab.browser() as browser:
        page = browser.new_page()
        page.set_content(f'<script type="module">\n{bundle(*names)}\n{take}\n</script>')
        page.wait_for_function(f"'{found[-1]}' in (window.exported ?? {{}})")

        def call(expression, **arguments):
            script = f"""async ({{ {", ".join(arguments)} }}) => {{
              const numbers = (value) => Array.isArray(value) ? Float64Array.from(value) : value;
              const lists = (key, value) => ArrayBuffer.isView(value) ? Array.from(value, strict) : strict(value);
              const strict = (value) => typeof value === "number" && !Number.isFinite(value) ? String(value) : value;
              const {{ {exported} }} = window.exported;
              {"".join(f"{key} = numbers({key});" for key in arguments)}
              return JSON.stringify(await ({expression}), lists);
            }}"""
            return json.loads(page.evaluate(script, arguments))

        yield call


def drawn(call, explorer, **values):
    """What an explorer draws on a page: its title, its summary, and the layers of its sphere.

    Its settings are those of the explorer, or `values`, as they may stand in an address.
    """
    found = """{
      title: view.panels.title.textContent,
      summary: view.panels.summary.textContent,
      layers: view.sphere.layers,
    }"""
    return opened(call, explorer, found, **values)


def opened(call, explorer, found, **values):
    """The value of the expression `found` of the explorer's `view`, once it is drawn on a page."""
    _, script = explorer.on_page()
    state = json.loads(script.partition("'), ")[2].removesuffix(");"))
    state["values"] |= values
    draw = f"""(() => {{
      let view;
      const place = document.body.appendChild(document.createElement("div"));
      page((el, host) => (view = mount(el, host)), place, state);
      return {found};
    }})()"""
    return call(draw, state=state)
