"""Every page of the sidebar with an audit, with none, with a broken one, and with nonsense in its
address."""

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.auditing.folder import store
from clipmem_core.dashboard.page import PAGES
from clipmem_core.lab.mitigated import RECALLS
from clipmem_core.review.decisions import open_review
from tests.dashboard.test_pages import open_page, texts, titles
from tests.fixtures import Copy, embed

MAIN = {  # file → the page that reads it first
    store.MEMBERSHIP: "pages/pair.py",
    store.PAIRS: "pages/browse.py",
    store.QUARANTINE: "pages/overview.py",
    store.SCORES: "pages/encoders.py",
    store.UTILITY: "pages/overview.py",
    store.CONFIG: "pages/embeddings.py",
    store.MANIFEST: "pages/compare.py",
    store.VERDICT: "pages/overview.py",
}
NONSENSE = ("", "\0", "-1", "9" * 40, "[x](javascript:alert(1))", "../../etc/passwd")
NAMES = (
    "page size layout pair order view format outline map range check colour group label "
    "injected decision meaning"
)
NAMES += " incident like by member one other study setting figure memorization utility paper"
every_page = pytest.mark.parametrize("page", PAGES)


def said(app: AppTest) -> str:
    """Return all that a page says outside its widgets."""
    messages = [
        each.value
        for kind in ("error", "warning", "info", "caption", "markdown")
        for each in app.get(kind)
    ]
    return " ".join([*texts(app), *messages, titles(app)])


@every_page
def test_a_page_opens_with_an_audit_with_none_and_with_nonsense_in_its_address(
    copy: Copy, data: Path, page: str
) -> None:
    none = open_page(page)
    assert [*none.button, *none.code]  # how to start an audit
    for protocol in ("ensemble", "paper"):
        audit = copy(protocol, name=protocol)
        embed(audit)
        for name in audit.record.members:
            store.write_json(audit.member(name) / "utility.json", dict.fromkeys(RECALLS, 0.5))
        open_review(audit).decide(
            audit.pairs["pair_id"][:3], "remove", note="<b>", audit=audit.name
        )
        app = open_page(page, audit=protocol)
        assert not [*app.error, *none.error], said(app)
        assert titles(app)
    for shift in (0, 3):  # each parameter twice, with another nonsense
        nonsense = {
            name: NONSENSE[(place + shift) % len(NONSENSE)]
            for place, name in enumerate(NAMES.split())
        }
        open_page(page, audit="paper", **nonsense)


@pytest.mark.parametrize("file", MAIN)
def test_a_damaged_file_is_one_line_that_names_it(copy: Copy, file: str) -> None:
    audit = copy()
    embed(audit)
    for content in (None, b"\x00\xff\xfe garbage"):
        (audit.folder / file).unlink()
        if content is not None:
            (audit.folder / file).write_bytes(content)
        app = open_page(MAIN[file], audit="made")
        if app.error:
            assert file in said(app)
            assert all(
                "\n" not in text for text in (*texts(app), *(error.value for error in app.error))
            )
        (audit.folder / file).write_bytes(b"")
