"""Every page of the sidebar with an audit, with none and with a broken one; what pages read, with every broken file."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

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
from clipmem_core.config import InputError
from clipmem_core.dashboard.compare import compared, finished_audits, partners
from clipmem_core.dashboard.decisions import count_decisions
from clipmem_core.dashboard.page import PAGES, PICKER
from clipmem_core.dashboard.plain import read_noise
from clipmem_core.review import score_breakdown
from clipmem_core.review.cards import cards
from clipmem_core.review.decisions import open_review
from clipmem_core.review.overview import load_overview, load_score_map
from clipmem_core.review.rows import find_rows, labels, planted_kinds
from clipmem_core.review.search import nearest
from clipmem_core.review.selection import Selection
from tests.dashboard.test_pages import address, open_page, texts, titles
from tests.fixtures import Copy
from tests.review.embedded import embed

TABLES = (MEMBERSHIP, PAIRS, QUARANTINE, SCORES, UTILITY)
JSON = (CONFIG, MANIFEST, VERDICT)
MAIN = {  # the page that reads a file first
    MEMBERSHIP: "pages/pair.py",
    PAIRS: "pages/browse.py",
    QUARANTINE: "pages/overview.py",
    SCORES: "pages/encoders.py",
    UTILITY: "pages/overview.py",
    CONFIG: "pages/embeddings.py",
    MANIFEST: "pages/compare.py",
    VERDICT: "pages/overview.py",
}
READERS: dict[str, Callable[[Audit], Any]] = {
    "overview": load_overview,
    "cards": lambda audit: cards(audit, find_rows(audit, Selection(), page=1, size=12), Selection()),
    "labels": lambda audit: (labels(audit), planted_kinds(audit)),
    "map of scores": load_score_map,
    "members": lambda audit: audit.record.members,
    "means": lambda audit: score_breakdown.mean_terms(audit, 0),
    "terms": lambda audit: score_breakdown.member_terms(audit, 0),
    "choices": lambda audit: score_breakdown.suggested_captions(audit, 0),
    "nearest": lambda audit: nearest(audit, 0, by="image", member="r0-f0", k=3),
    "noise": read_noise,
    "decisions": count_decisions,
    "partners": lambda audit: partners(audit, finished_audits()),
    "comparison": lambda audit: compared(audit, audit, "clipmem"),
}
NONSENSE = ("", "\0", "-1", "9" * 40, "<script>", "[x](javascript:alert(1))", "../../etc/passwd", "{}")
every_page = pytest.mark.parametrize("page", PAGES)


def said(app: AppTest) -> str:
    """Return all that a page says outside its widgets."""
    messages = [each.value for kind in ("error", "warning", "info", "caption", "markdown") for each in app.get(kind)]
    return " ".join([*texts(app), *messages, titles(app)])


@every_page
def test_a_page_opens_with_an_audit_with_none_and_with_nonsense_in_its_address(
    copy: Copy, data: Path, page: str
) -> None:
    none = open_page(page)
    offered = said(none) + " ".join(each.value for each in none.code) + " ".join(each.label for each in none.button)
    assert any(word in offered for word in ("clipmem_core audit", "clipmem_core study", "Check", "Audits"))
    for protocol in ("ensemble", "paper"):
        audit = copy(protocol, name=protocol)
        embed(audit)
        open_review(audit).decide(audit.pairs["pair_id"][:3], "remove", note="<b>", audit=audit.name)
        app = open_page(page, audit=protocol)
        assert not [*app.error, *none.error], said(app)
        assert titles(app)
    names = "page size layout pair order view format outline map ranges check colour group label planted decision"
    names += " meaning like by member a b first second study setting figure memorization utility paper"
    for shift in (0, 3):  # each parameter twice, with another nonsense
        nonsense = {name: NONSENSE[(place + shift) % len(NONSENSE)] for place, name in enumerate(names.split())}
        open_page(page, audit="paper", **nonsense)


@every_page
def test_every_page_has_the_audit_picker(copy: Copy, page: str) -> None:
    copy(name="one")
    copy("paper", name="two")
    app = open_page(page, audit="one")
    assert app.selectbox(key=PICKER).options == open_page("pages/overview.py").selectbox(key=PICKER).options
    app.selectbox(key=PICKER).select("two").run()
    assert not app.exception
    assert address(app)["audit"] == "two"
    assert app.selectbox(key=PICKER).value == "two"
    open_page(page)  # and without one in the address


def test_the_picker_of_compare_changes_its_first_audit(copy: Copy) -> None:
    for name in ("one", "two", "three"):
        copy(name=name)
    app = open_page("pages/compare.py", audit="one", one="one", other="two")
    app.selectbox(key=PICKER).select("three").run()
    assert app.selectbox(key="compare-one").value == "three"


def damages(audit: Audit, file: str) -> Iterator[tuple[Callable[[], object], bool]]:
    """The ways in which a file is damaged, and whether it only has too few rows, which then may be told of another."""
    path = audit.folder / file
    table = getattr(audit, Path(file).stem) if file in TABLES else None
    yield path.unlink, False
    for text in (b"", b"\x00\xff\xfe garbage", *([b"[]", b"null", b'{"a": '] if table is None else [])):
        yield partial(path.write_bytes, text), False
    if table is not None:
        yield partial(write_table, path, table.iloc[:, :1].rename(columns=lambda name: f"other {name}")), False
        for rows in (0, 7):
            yield partial(write_table, path, table.head(rows)), True


def fault(read: Callable[[Audit], Any], audit: Audit) -> str:
    """What a reading function says is wrong, in one line; nothing where it reads."""
    try:
        read(audit)
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("file", MAIN)
def test_a_damaged_file_is_told_in_one_line_that_names_it(copy: Copy, file: str) -> None:
    audit = copy()
    embed(audit)
    content = (audit.folder / file).read_bytes()
    for damage, few in damages(audit, file):
        damage()
        for name, read in READERS.items():
            told = fault(read, audit)
            assert not told or file in told or (few and str(audit.folder) in told), f"{name}: {told}"
            assert "\n" not in told
            if few and told:
                break  # a page is ended there
        (audit.folder / file).write_bytes(content)
    (audit.folder / file).write_bytes(b"\x00\xff\xfe garbage")
    app = open_page(MAIN[file], audit="made")
    assert all("\n" not in error.value for error in app.error)
    if app.error:
        assert file in said(app)
        assert all(len(text.splitlines()) == 1 for text in texts(app))


@every_page
def test_an_odd_audit_is_survived(copy: Copy, page: str) -> None:
    """Scores that are no numbers, in another order, no pictures, decisions on other pairs, no such members."""
    audit = copy()
    open_review(audit).decide(["absent", "also absent"], "keep", audit="other")
    config, scores = audit.record.values, audit.scores.iloc[::-1].reset_index(drop=True)
    write_table(audit.folder / SCORES, scores)
    odd = {"root": "/nowhere/at/all", "members": ["absent"], "dataset_fingerprint": "../../x"}
    write_json(audit.folder / CONFIG, config | odd)
    open_page(page, audit="made")
    numbers = scores.select_dtypes("number").columns
    scores[numbers] = np.nan
    scores.loc[:2, "clipmem"] = [np.inf, -np.inf, 1e300]
    write_table(audit.folder / SCORES, scores)
    write_json(audit.folder / CONFIG, config | {"members": [None, 5], "dataset_fingerprint": None})
    open_page(page, audit="made")


@pytest.mark.parametrize("members", [[], ["absent"], "r0-f0", [None, 5], {"a": 1}])
def test_members_that_are_not_there_are_told(copy: Copy, members: object) -> None:
    audit = copy()
    config = audit.record.values
    for fingerprint in (5, "../../x", config["dataset_fingerprint"]):
        write_json(audit.folder / CONFIG, config | {"dataset_fingerprint": fingerprint, "members": members})
        for read in READERS.values():
            assert "\n" not in fault(read, audit)
