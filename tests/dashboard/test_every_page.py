"""Every page of the sidebar with an audit, with none, and with audits that are broken in every way a file can be.

A page that is added to `PAGES` is covered by itself.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.audits.store import (
    CONFIG,
    MANIFEST,
    MEMBERSHIP,
    PAIRS,
    QUARANTINE,
    SCORES,
    UTILITY,
    VERDICT,
    Audit,
    write_json,
    write_table,
)
from clipmem_core.dashboard.frame import PAGES
from clipmem_core.review.decisions import open_review
from tests.dashboard.test_pages import open_page, texts, titles
from tests.review.embedded import embed

Copy = Callable[..., Audit]
TABLES = (MEMBERSHIP, PAIRS, QUARANTINE, SCORES, UTILITY)
FILES = (CONFIG, MANIFEST, VERDICT, *TABLES)
BYTES = (b"", b"\x00\xff\xfe garbage")
GARBAGE = [(file, garbage) for file in FILES for garbage in BYTES]
GARBAGE += [(file, garbage) for file in (CONFIG, MANIFEST, VERDICT) for garbage in (b"[]", b"null", b'{"a": ')]
ABOUT_NO_AUDIT = ("pages/audits.py", "pages/compare.py", "pages/mitigations.py")
every_page = pytest.mark.parametrize("page", PAGES)


def said(app: AppTest) -> str:
    """Return all that a page says outside its widgets."""
    messages = [each.value for kind in ("error", "warning", "info", "caption", "markdown") for each in app.get(kind)]
    return " ".join([*texts(app), *messages, titles(app)])


@every_page
@pytest.mark.parametrize("protocol", ["ensemble", "paper"])
def test_a_page_opens_with_an_audit(copy: Copy, page: str, protocol: str) -> None:
    audit = copy(protocol)
    embed(audit)
    open_review(audit).decide(audit.pairs["pair_id"][:3], "remove", note="<b>", audit=audit.name)
    app = open_page(page, audit="made")
    assert not app.error, said(app)
    assert titles(app)


@every_page
def test_a_page_without_an_audit_says_how_to_get_one(data: Path, page: str) -> None:
    app = open_page(page)
    assert not app.error
    offered = said(app) + " ".join(each.value for each in app.code) + " ".join(button.label for button in app.button)
    assert any(word in offered for word in ("clipmem_core audit", "clipmem_core study", "Check", "Audits"))


@every_page
@pytest.mark.parametrize("file", FILES)
def test_a_file_that_is_missing_is_told(copy: Copy, page: str, file: str) -> None:
    audit = copy()
    embed(audit)
    (audit.folder / file).unlink()
    _check_told(open_page(page, audit="made"), page, file)


@every_page
@pytest.mark.parametrize(("file", "garbage"), GARBAGE)
def test_a_file_of_garbage_is_told(copy: Copy, page: str, file: str, garbage: bytes) -> None:
    audit = copy()
    embed(audit)
    (audit.folder / file).write_bytes(garbage)
    _check_told(open_page(page, audit="made"), page, file)


def _check_told(app: AppTest, page: str, file: str) -> None:
    """A page that cannot be drawn says in one line which file is at fault; one that can is drawn without it."""
    for error in app.error:
        assert "\n" not in error.value
    if app.error and page not in ABOUT_NO_AUDIT:
        assert file in said(app)
        assert all(len(text.splitlines()) == 1 for text in texts(app))


@every_page
@pytest.mark.parametrize("file", TABLES)
def test_a_table_without_its_columns_is_told(copy: Copy, page: str, file: str) -> None:
    audit = copy()
    embed(audit)
    table = getattr(audit, Path(file).stem)
    write_table(audit.folder / file, table.iloc[:, :1].rename(columns=lambda name: f"other {name}"))
    _check_told(open_page(page, audit="made"), page, file)


@every_page
@pytest.mark.parametrize("file", TABLES)
@pytest.mark.parametrize("rows", [0, 7])
def test_a_table_with_other_rows_is_told(copy: Copy, page: str, file: str, rows: int) -> None:
    audit = copy()
    embed(audit)
    write_table(audit.folder / file, getattr(audit, Path(file).stem).head(rows))
    open_page(page, audit="made")


@every_page
def test_scores_in_another_order_than_the_pairs_are_survived(copy: Copy, page: str) -> None:
    audit = copy()
    write_table(audit.folder / SCORES, audit.scores.iloc[::-1].reset_index(drop=True))
    open_page(page, audit="made")


@every_page
def test_scores_that_are_no_numbers_are_survived(copy: Copy, page: str) -> None:
    audit = copy()
    scores = audit.scores
    numbers = scores.select_dtypes("number").columns
    scores[numbers] = np.nan
    scores.loc[:2, "clipmem"] = [np.inf, -np.inf, 1e300]
    write_table(audit.folder / SCORES, scores)
    open_page(page, audit="made")


@every_page
def test_an_audit_of_another_data_set_under_the_same_decisions_is_survived(copy: Copy, page: str) -> None:
    """Decisions of pairs that the audit does not have, and a fingerprint that no data set has."""
    audit = copy()
    open_review(audit).decide(["absent", "also absent"], "keep", audit="other")
    open_page(page, audit="made")
    config = audit.record.values
    for fingerprint in (5, "", "../../x", None):
        write_json(audit.folder / CONFIG, config | {"dataset_fingerprint": fingerprint})
        open_page(page, audit="made")


@every_page
@pytest.mark.parametrize("members", [[], ["absent"], "r0-f0", [None, 5], {"a": 1}])
def test_members_that_are_not_there_are_survived(copy: Copy, page: str, members: object) -> None:
    audit = copy()
    write_json(audit.folder / CONFIG, audit.record.values | {"members": members})
    open_page(page, audit="made")


@every_page
def test_pictures_that_are_gone_are_survived(copy: Copy, page: str) -> None:
    audit = copy()
    write_json(audit.folder / CONFIG, audit.record.values | {"root": "/nowhere/at/all"})
    open_page(page, audit="made")


@every_page
def test_nonsense_in_the_address_is_survived(copy: Copy, page: str) -> None:
    copy()
    names = ("page", "size", "layout", "pair", "order", "view", "format", "outline", "map", "ranges", "check", "colour")
    names += ("group", "label", "planted", "decision", "meaning", "like", "by", "member", "a", "b", "first", "second")
    names += ("study", "setting", "figure", "memorization", "utility", "paper")
    for nonsense in ("", "\0", "-1", "9" * 40, "<script>", "[x](javascript:alert(1))", "../../etc/passwd", "{}"):
        open_page(page, audit="made", **dict.fromkeys(names, nonsense))
