"""The page Decisions: list, history with undo, near-duplicates, exports, and the re-audit."""

import dataclasses
import shlex
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.auditing.folder.store import (
    CONFIG,
    PAIRS,
    Audit,
    Prepared,
    write_json,
    write_prepared,
)
from clipmem_core.cli import parse_command
from clipmem_core.export.formats import FORMATS
from clipmem_core.review.decisions import Review, open_review
from tests.dashboard.conftest import Started
from tests.dashboard.test_pages import links, open_page, press, texts, toasts
from tests.fixtures import Copy, decision_counts, rewrite

PAGE = "pages/decisions.py"


@pytest.fixture
def audit(copy: Copy) -> Audit:
    return copy()


@pytest.fixture
def review(audit: Audit) -> Review:
    """Two kept, one recaptioned, three removed, one with a note only: seven pairs in four
    events."""
    ids = audit.pairs["pair_id"].tolist()
    review = open_review(audit)
    review.decide(ids[:2], "keep", audit="made")
    review.decide(
        [ids[2]], "recaption", captions=["new one", "another"], note="wrong before", audit="made"
    )
    review.decide(ids[3:6], "remove", audit="made")
    review.decide([ids[6]], None, note="look again")
    return review


def open_view(view: str = "decisions", **parameters: str) -> AppTest:
    return open_page(PAGE, audit="made", view=view, **parameters)


def press_key(app: AppTest, key: str) -> AppTest:
    app.button(key=key).click().run()
    assert not app.exception, app.exception[0].message
    return app


def test_the_list_shows_the_last_decision_first_and_the_address_filters_it(
    audit: Audit, review: Review
) -> None:
    review.decide(["elsewhere.png"], "keep", audit="other")
    app = open_view()
    assert app.get("progress")[0].proto.text == "6 of 100 pairs decided"
    table = app.dataframe[0].value
    ids = audit.pairs["pair_id"].tolist()
    assert table["pair"].tolist() == ["elsewhere.png", ids[6], *ids[5:2:-1], *ids[2::-1]]
    assert table["decision"].tolist()[:3] == ["keep", "undecided", "remove"]
    assert table.iloc[0][["picture", "open"]].isna().all()
    app.segmented_control[1].select("remove").run()
    assert (app.query_params["decision"], "page" in app.query_params) == ("remove", False)


def test_the_history_undoes_an_event_and_redoes_it_unless_there_is_a_newer_decision(
    audit: Audit, review: Review
) -> None:
    app = press_key(open_view("history"), "undo-3")
    assert decision_counts(review)["remove"] == 0
    assert "undo of 3" in " ".join(texts(app))
    app = press_key(app, "undo-5")
    assert decision_counts(review)["remove"] == 3
    assert "Undone: 3 pairs." in toasts(app)
    app = open_view("history")
    review.decide(audit.pairs["pair_id"][3:6], "keep")
    assert "newer decision" in toasts(press_key(app, "undo-6"))
    assert decision_counts(review) == {"keep": 5, "remove": 0, "recaption": 1}


def test_one_near_duplicate_is_kept_and_the_others_removed_or_all_are_kept(audit: Audit) -> None:
    rows = np.arange(len(audit.pairs))
    clusters = rows.copy()
    clusters[[7, 9]] = 5
    write_prepared(audit.folder, Prepared(rows, clusters, clusters))
    ids = audit.pairs["pair_id"].iloc[[5, 7, 9]].tolist()
    review = open_review(audit)

    def decided() -> list[str | None]:
        rows = review.decisions(ids)
        return [rows[pair_id].decision for pair_id in ids]

    app = press_key(open_view("checks"), "keep-one-7")
    assert decided() == ["remove", "keep", "remove"]
    press(app, "Undo")
    assert decided() == [None] * 3
    press_key(app, "keep-all-5")
    assert decided() == ["keep"] * 3


def test_a_re_audit_is_started_by_one_button_once_there_are_decisions(
    audit: Audit, started: Started
) -> None:
    assert open_view("again").button(key="start-again").disabled
    open_review(audit).decide(audit.pairs["pair_id"][:3], "remove")
    app = press_key(open_view("again"), "start-again")
    assert started == [("made-again", ["reaudit", "made", "--name", "made-again"])]
    assert app.query_params["again"] in ("made-again", ["made-again"])


@pytest.mark.usefixtures("audit")
def test_a_finished_re_audit_is_shown(copy: Copy) -> None:
    second = copy(name="made-again")
    write_json(second.folder / CONFIG, dataclasses.replace(second.record, reaudit_of="made").values)
    app = open_view("again", again="made-again")
    assert "one=made&other=made-again" in dict(links(app))["Compare pair by pair"]


@pytest.fixture
def edited(audit: Audit, review: Review) -> None:
    """Without injected captions, which an export would have to take back."""
    rewrite(audit.folder / PAIRS, audit.pairs.assign(injected=None))


@pytest.mark.usefixtures("edited")
@pytest.mark.parametrize(
    ("format", "suffix"), [(name, about.suffixes[0]) for name, about in FORMATS.items()]
)
def test_every_export_is_a_job_with_the_command_that_is_shown(
    data: Path, started: Started, format: str, suffix: str
) -> None:
    app = press(open_view("export", format=format), "Export")
    ((_, arguments),) = started
    assert shlex.split(app.code[-1].value)[3:] == arguments
    command = parse_command(arguments)
    assert (command.name, command.format) == ("made", format)
    assert Path(command.out) == data / "exports" / "made" / f"made-{format}{suffix}"
