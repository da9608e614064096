"""The view that audits a cleaned data set again: what can be started, how it is followed, and what came out."""

import dataclasses

import pytest

from clipmem_core.audits.jobs import Job, Task
from clipmem_core.audits.reaudit import Change, Measured
from clipmem_core.audits.store import CONFIG, Audit, MemberRecord, write_json
from clipmem_core.exports.reaudit import AGAIN, reaudit_task
from clipmem_core.review.decisions import open_review
from tests.dashboard.test_deciding import press
from tests.dashboard.test_pages import captions, links, open_page, texts, titles
from tests.fixtures import Copy, leave_job

PAGE = "pages/decisions.py"
LESS = Change(0.3, 0.25, -0.05, -0.06, -0.04, "members and pairs")
FOUND = Measured(
    "made", 3, 1, 4, 18, 20, 77, 0.04, dataclasses.replace(LESS, low=-0.1, high=0.1), LESS, None, (0.3, 0.2)
)


@pytest.fixture
def audit(copy: Copy) -> Audit:
    audit = copy()
    for name in audit.record.members:
        audit.member(name).mkdir(parents=True)
        own = MemberRecord(name, 0, audit.record.fingerprint, "tiny", 48, {})
        write_json(audit.member(name) / CONFIG, own.values)
    return audit


def second_of(audit: Audit, copy: Copy, found: Measured | None = None, *, compared: bool = True) -> Audit:
    second = copy(name="made-again")
    write_json(second.folder / CONFIG, dataclasses.replace(second.record, again=audit.name).values)
    if compared:
        write_json(second.folder / AGAIN, {"found": found and dataclasses.asdict(found)})
    return second


def test_without_decisions_nothing_would_change_and_with_some_it_is_started_by_one_button(
    audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = open_page(PAGE, audit="made", view="again")
    assert "nothing would change" in " ".join(texts(app))
    assert [button.disabled for button in app.button if "Audit again" in button.label] == [True]
    open_review(audit).decide(audit.pairs["pair_id"][:3], "remove")
    started: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(Task, "start", lambda task: started.append((task.folder.name, list(task.arguments))))
    app = press(open_page(PAGE, audit="made", view="again"), "Audit again, 3 pairs removed or with changed captions")
    assert started == [("made-again", ["again", "made", "--name", "made-again"])]
    assert app.query_params["again"] in ("made-again", ["made-again"])


@pytest.mark.parametrize("changes", [{"plant_miscaptions": 2}, {"features": "elsewhere.npz"}, {"root": "/gone"}, {}])
def test_what_cannot_be_repeated_is_told_beside_a_disabled_button(audit: Audit, changes: dict[str, object]) -> None:
    ids = audit.pairs["pair_id"]
    open_review(audit).decide(ids[:3] if changes else ids, "remove")
    values = audit.record.values
    config = values["config"] | {name: value for name, value in changes.items() if name in values["config"]}
    write_json(audit.folder / CONFIG, values | {"root": changes.get("root", values["root"]), "config": config})
    app = open_page(PAGE, audit="made", view="again")
    (button,) = [button for button in app.button if "Audit again" in button.label]
    assert button.disabled
    said = " ".join(texts(app))
    assert any(word in said for word in ("planted", "computed elsewhere", "is gone", "Every pair"))


def test_one_that_waits_is_followed_as_an_audit_is(audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    task = reaudit_task(audit, "later")
    leave_job(task.folder, said="reading scenes\n")
    job = task.find()
    assert job is not None
    write_json(task.folder / "job.json", {"pid": job.pid, "started": "1", "arguments": list(task.arguments)})
    monkeypatch.setattr(Job, "running", True)
    app = open_page(PAGE, audit="made", view="again", again="later")
    assert app.selectbox(key="again-second").options == ["later"]
    assert "reading scenes" in texts(app)


def test_what_came_out_is_read_again_with_each_page(audit: Audit, copy: Copy) -> None:
    second_of(audit, copy, FOUND)
    for _ in range(2):
        app = open_page(PAGE, audit="made", view="again")
        assert "Retrieval −0.050 [−0.100, +0.100], memorization −0.050 [−0.060, −0.040]." in titles(app)
        assert any(text.endswith("a change cannot be told from none.") for text in texts(app))
        assert "What this does not tell" in " ".join(texts(app))
        assert "one=made&other=made-again" in dict(links(app))["Compare pair by pair"]


def test_one_that_was_not_compared_offers_it_and_too_few_pairs_are_told(
    audit: Audit, copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = second_of(audit, copy, compared=False)
    app = open_page(PAGE, audit="made", view="again")
    assert "not compared yet" in captions(app)
    assert "Compare" in [button.label for button in app.button]
    write_json(second.folder / AGAIN, {"found": None})
    assert "Fewer than ten external pairs are in both" in titles(open_page(PAGE, audit="made", view="again"))
