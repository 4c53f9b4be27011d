"""What a notebook's page takes from files beside the notebook: pictures, and links to notebooks."""

import base64
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from bs4 import BeautifulSoup, Tag

NEWER_PICTURES = {".avif": "image/avif", ".webp": "image/webp"}  # not known to every Python


@dataclass(frozen=True)
class LocalFiles:
    """Files that addresses in a notebook name, where its page cannot reach them.

    Attributes:
        folder: The folder of the notebook, where relative addresses start.
        pages: Names of the pages of a report, by the files of their notebooks.
    """

    folder: Path
    pages: Mapping[Path, str]

    def bring(self, html: BeautifulSoup) -> None:
        """Put pictures into the page, lead links to pages of the report, and leave no dead ones."""
        for picture in html.find_all("img", src=True):
            self._embed(picture)
        for link in html.find_all("a", href=True):
            self._redirect(link)

    def _embed(self, picture: Tag) -> None:
        """Put a picture from a file into the page, or say that there is none."""
        file = self._file(str(picture["src"]))
        if file is None:
            return
        suffix = file.suffix.lower()
        kind = NEWER_PICTURES.get(suffix) or mimetypes.guess_type(file.name)[0] or ""
        if kind.startswith("image/") and file.is_file():
            content = base64.b64encode(file.read_bytes()).decode()
            picture["src"] = f"data:{kind};base64,{content}"
            return
        picture.name = "em"
        picture.string = f"{picture.get('alt', '')} (there is no picture {file.name})".strip()
        picture.attrs = {}

    def _redirect(self, link: Tag) -> None:
        """Lead a link to the page of a notebook; without one, keep its text and say what it is."""
        address = str(link["href"])
        file = self._file(address)
        if file is None:
            return
        page = self.pages.get(file.resolve())
        if page is not None:
            fragment = urlsplit(address).fragment
            link["href"] = f"{quote(page)}.html" + (f"#{fragment}" if fragment else "")
            return
        link.name = "span"
        link.attrs = {"class": "elsewhere", "title": f"{file.name} is not part of this report"}

    def _file(self, address: str) -> Path | None:
        """The local file that an address names, whether or not it is there; else None."""
        try:
            parts = urlsplit(address.strip())
        except ValueError:  # such as a broken IPv6 host
            return None
        if parts.scheme not in ("", "file") or parts.netloc or not parts.path:
            return None
        return self.folder / unquote(parts.path)
