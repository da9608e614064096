"""Reads the pictures and alt texts of HTML pages: one page, or a saved site."""

import os
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from clipmem_core.config import SourceOptions
from clipmem_core.dataset import containers
from clipmem_core.dataset.records import Row, Rows, in_image_folder
from clipmem_core.utils import columns as c
from clipmem_core.utils.io import InputError

HTML_SUFFIXES = (".html", ".htm")


@dataclass
class _Image:
    line: int
    address: str
    text: str  # its alt, or the text of its figcaption


class _Page(HTMLParser):
    """Collects the pictures of a page; one without alt has the figcaption of its figure."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[_Image] = []
        self._figures: list[tuple[list[_Image], list[str]]] = []  # open: pictures, figcaption
        self._in_caption = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            values = dict(attrs)
            address = values.get("src") or ""
            if not address or address.startswith("data:"):  # until the browser shows it
                address = values.get("data-src") or address
            text = " ".join((values.get("alt") or "").split())
            self.images.append(_Image(self.getpos()[0], address.strip(), text))
            if self._figures:
                self._figures[-1][0].append(self.images[-1])
        elif tag == "figure":
            self._figures.append(([], []))
        self._in_caption |= tag == "figcaption"

    def handle_endtag(self, tag: str) -> None:
        if tag == "figcaption":
            self._in_caption = False
        elif tag == "figure" and self._figures:
            self._in_caption = False
            images, texts = self._figures.pop()
            text = " ".join("".join(texts).split())
            images = [image for image in images if not image.text]
            for image in images:
                image.text = text
            if self._figures and not text:
                self._figures[-1][0].extend(images)

    def handle_data(self, data: str) -> None:
        if self._in_caption and self._figures:
            self._figures[-1][1].append(data)

    def close(self) -> None:
        super().close()
        while self._figures:
            self.handle_endtag("figure")


def html_files(folder: Path) -> list[Path]:
    """List the HTML pages below a folder that are not hidden."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in HTML_SUFFIXES)
    return [
        path
        for path in files
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    ]


def read_page(path: Path, options: SourceOptions) -> Rows:
    """Read the pictures of a page, whose references are relative to it."""
    return read_pages(path.parent, [path], options)


def read_pages(root: Path, pages: Sequence[Path], options: SourceOptions) -> Rows:
    """Read the pictures of a site's pages: a reference that starts with / is relative to its
    folder."""

    def rows() -> Iterator[Row]:
        for path in pages:
            name = path.relative_to(root).as_posix()
            try:
                containers.check_inside(root, path, "page")
                page = _Page()
                page.feed(containers.decode_text(containers.read_file(path)))
                page.close()
            except (InputError, OSError) as error:
                yield Row(name, reason=containers.reading_fault(error, "page"))
                continue
            for image in page.images:
                yield _row(name, image)

    return in_image_folder(Rows(root, "html", rows()), options.image_folder, pages[0])


def _row(page: str, image: _Image) -> Row:
    source = f"{page}:{image.line}"
    if image.address.startswith("data:"):
        return Row(source, kind=c.BAD_PICTURE, reason="picture is inside the page, not a file")
    try:
        address = urlsplit(image.address, scheme="file")
    except ValueError:
        return Row(source, kind=c.BAD_PICTURE, reason="image address is not valid")
    reference = image.address
    if address.netloc:  # also of //host/path
        reference = f"https://{address.netloc}{address.path}"
    elif address.path:
        path = unquote(address.path)
        folder = "" if path.startswith("/") else os.path.dirname(page)
        reference = posixpath.normpath(posixpath.join(folder, path.lstrip("/")))
    if image.text:
        return Row(source, reference, image.text)
    reason = "picture has no alt text and no figcaption: it may be decorative"
    return Row(source, reference, kind=c.BAD_CAPTION, reason=reason)
