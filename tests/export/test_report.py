import base64
import io
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from clipmem_core.auditing.folder.store import Audit
from clipmem_core.export.formats import export_audit
from clipmem_core.export.report import three_decimals
from clipmem_core.review.decisions import KEEP, RECAPTION, REMOVE, open_review
from clipmem_core.utils.columns import group_words
from tests.fixtures import HOSTILE, write_words

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """What a browser would find in a page: elements with their attributes, and text outside scripts
    and styles."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.data: dict[str, str] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        inside = self.open[-1] if self.open else ""
        if inside in ("script", "style"):
            self.data[self.elements[-1][1].get("id", inside)] = data
        elif data.strip():
            self.texts.append(data.strip())

    def attributes(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def audit(made: dict[str, Audit], tmp_path_factory: pytest.TempPathFactory) -> Audit:
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPMEM_DATA", str(folder))
        audit = Audit(Path(shutil.copytree(made["paper"].folder, folder / "audits" / "mine")))
        decide(audit)
        export_audit(audit, "html", folder / "report.html")
    return audit


def decide(audit: Audit) -> None:
    ids = audit.pairs["pair_id"].tolist()
    open_review(audit).decide([ids[1]], REMOVE, note="<script>alert(1)</script>")
    open_review(audit).decide([ids[2]], RECAPTION, captions=["<b>new</b>"])
    open_review(audit).decide([ids[audit.scores["suspicion"].idxmax()]], KEEP)
    write_words(audit)


@pytest.fixture
def page(audit: Audit) -> Page:
    return Page((audit.folder.parents[1] / "report.html").read_text(encoding="utf-8"))


def test_it_refers_to_nothing_outside_and_captions_and_notes_are_text(page: Page) -> None:
    outside = {"link", "iframe", "object", "embed", "base", "a", "form", "b"}
    assert not outside & {tag for tag, _ in page.elements}
    names = ("src", "href", "srcset", "style")
    references = [found[name] for _, found in page.elements for name in names if name in found]
    harmless = ("data:image/jpeg;base64,", "text-decoration: underline ")
    assert references
    assert all(value.startswith(harmless) for value in references)
    assert "url(" not in page.data["style"]
    assert "@import" not in page.data["style"]
    policy = next(result["content"] for result in page.attributes("meta") if "http-equiv" in result)
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "http" not in policy
    assert len(page.attributes("script")) == 3
    assert not any(name.startswith("on") for _, result in page.elements for name in result)
    assert HOSTILE[0] in page.texts
    assert "<script>alert(1)</script>" in page.texts
    assert {"<b>new</b>", "fox<b> 71 %"} <= set(page.texts)
    titles = {mark["title"].lower() for mark in page.attributes("u")}
    assert titles == {"unlikely: 0.3 %; likelier: fox<b> 71 %"}
    assert not page.open
    figure = json.loads(page.data["figure"])
    assert sum(trace.get("mode") == "markers" for trace in figure["data"]) >= 2
    assert "Plotly.react" in page.data["script"]


def test_it_has_the_verdict_the_tables_and_how_it_was_made(audit: Audit, page: Page) -> None:
    texts = {audit.verdict["sentence"], *(check["sentence"] for check in audit.verdict["checks"])}
    texts |= {"clipmem by group", "Utility of the members", "Most memorized", "Decisions"}
    assert texts | {audit.record.versions["torch"]} <= set(page.texts)
    for row in audit.verdict["groups"]:
        assert {
            group_words(row["group"]),
            three_decimals(row["mean"]),
            three_decimals(row["low"]),
        } <= set(page.texts)
    worst = audit.scores.dropna(subset="suspicion").nlargest(50, "suspicion")
    scored = len(worst)
    images = page.attributes("img")
    assert len(images) == 50 + scored
    for image in images:
        picture = Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2])))
        assert (picture.format, max(picture.size)) == ("JPEG", pytest.approx(110, abs=51))
        assert image["alt"].startswith("Picture: ")
    top = audit.scores.sort_values("clipmem", ascending=False)["pair_id"].tolist()[:50]
    shown = [text for text in page.texts if text.startswith("images/")]
    assert shown[:scored] == worst["pair_id"].tolist()
    assert shown[scored:][:50] == top
    first = page.texts.index(shown[0])
    assert KEEP in page.texts[first - 3 : first]
