"""The explorers' JavaScript, put together: a widget and a page each take a single module."""

import base64
import re
import zlib
from functools import cache
from pathlib import Path

WEB = Path(__file__).with_name("web")
IMPORT = re.compile(r'^import \{([^}]*)\} from "\./(\w+)\.js";$', re.MULTILINE)
EXPORT = re.compile(r"^export (?:async )?(?:function|class|const) (\w+)", re.MULTILINE)

COMMENT = re.compile(r"^ *(?:/\*\*.*?\*/|//[^\n]*)\n", re.MULTILINE | re.DOTALL)

UNPACK = """\
const bytes = Uint8Array.from(atob("{packed}"), (letter) => letter.charCodeAt(0));
const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
const script = await new Response(stream).text();
const address = URL.createObjectURL(new Blob([script], {{ type: "text/javascript" }}));
const unpacked = await import(address);
URL.revokeObjectURL(address);
export default unpacked.default;
"""


@cache
def bundle(*names: str) -> str:
    """Return modules of `web` with all that they import, as one script without imports.

    Each module NAME becomes a constant NAMEModule that holds what it exports, so that names of one
    do not meet those of another. Comments on lines of their own stay behind: a quarter of the text.

    Args:
        names: The modules, without ".js".
    """
    found: list[str] = []
    for name in names:
        _add(name, found)
    return "\n".join(_as_constant(name) for name in found)


def packed(module: str) -> str:
    """Return a module that unpacks another one and exports what it exports by default.

    It has some 40% of the characters. All browsers unpack it since May 2023 (DecompressionStream).
    """
    data = zlib.compress(module.encode(), level=9)
    return UNPACK.format(packed=base64.b64encode(data).decode())


def _add(name: str, found: list[str]) -> None:
    """Add a module after those that it needs, each once."""
    if name in found:
        return
    for _, needed in IMPORT.findall(_source(name)):
        _add(needed, found)
    found.append(name)


def _source(name: str) -> str:
    return (WEB / f"{name}.js").read_text()


def _as_constant(name: str) -> str:
    source = _source(name)
    exported = ", ".join(EXPORT.findall(source))
    body = IMPORT.sub(r"const {\1} = \2Module;", COMMENT.sub("", source))
    body = re.sub(r"^export ", "", body, flags=re.MULTILINE)
    return f"const {name}Module = (() => {{\n{body}\nreturn {{ {exported} }};\n}})();"
