"""The explorers' JavaScript, put together: a widget and a page each take a single module."""

import re
from functools import cache
from pathlib import Path

WEB = Path(__file__).with_name("web")
IMPORT = re.compile(r'^import \{([^}]*)\} from "\./(\w+)\.js";$', re.MULTILINE)
EXPORT = re.compile(r"^export (?:async )?(?:function|class|const) (\w+)", re.MULTILINE)


@cache
def bundle(name: str) -> str:
    """Return a module of `web` with all that it imports, as one module without imports.

    Each imported module becomes a function that runs once, so that names of one do not meet those
    of another.

    Args:
        name: The module, without ".js".
    """
    parts = [_as_constant(needed) for needed in _in_order(name)]
    return "\n".join([*parts, _with_constants(_source(name))])


def _source(name: str) -> str:
    return (WEB / f"{name}.js").read_text()


def _in_order(name: str) -> list[str]:
    """The modules that a module needs, each after those that it needs itself."""
    found: list[str] = []
    for _, needed in IMPORT.findall(_source(name)):
        for module in [*_in_order(needed), needed]:
            if module not in found:
                found.append(module)
    return found


def _as_constant(name: str) -> str:
    """A module as a constant of its name that holds what it exports."""
    source = _source(name)
    exported = ", ".join(EXPORT.findall(source))
    body = re.sub(r"^export ", "", _with_constants(source), flags=re.MULTILINE)
    return f"const {name}Module = (() => {{\n{body}\nreturn {{ {exported} }};\n}})();"


def _with_constants(source: str) -> str:
    """The source with its imports taken from the constants."""
    return IMPORT.sub(r"const {\1} = \2Module;", source)
