import os
from pathlib import Path

import pytest

from clipmem_core.audits.jobs import WAITS
from clipmem_core.audits.store import Audit, broken_files, write_json
from clipmem_core.commands import parse
from tests.dashboard.audits_page import PAGE, button, labels, table, unfinish
from tests.dashboard.test_pages import open_page, texts, titles
from tests.fixtures import Copy, leave_job


def test_all_audits_are_in_the_table_and_the_address_chooses_one(copy: Copy) -> None:
    copy("ensemble", name="one")
    copy("paper", name="two")
    app = open_page(PAGE, audit="two")
    rows = table(app, "size").set_index("name")
    assert rows.loc["one", "protocol"] == "ensemble"
    assert rows.loc["two", "members"] == 6
    assert rows["state"].tolist() == ["finished", "finished"]
    assert rows.loc["two", "size"] > 10_000
    assert "two" in titles(app)
    assert app.main.get("page_link")
    app = open_page(PAGE)
    assert "Choose a row" in app.caption[-1].value
    assert "Delete for good" not in labels(app)


def test_a_renamed_audit_is_shown_under_its_new_name(copy: Copy, data: Path) -> None:
    copy()
    app = open_page(PAGE, audit="made")
    assert button(app, "Rename").disabled
    app.text_input(key="new-name-of-made").set_value("better").run()
    app.button(key="rename-now-made").click().run()
    assert not app.exception
    assert app.query_params["audit"] == "better"
    assert "Renamed." in app.success[0].value
    assert table(app, "size")["name"].tolist() == ["better"]
    renamed = Audit(data / "audits" / "better")
    assert renamed.finished
    assert broken_files(renamed.folder) == []


@pytest.mark.parametrize("name", ["a/b", "other", "[x](javascript:alert(1))"])
def test_a_name_that_cannot_be_had_is_one_line(copy: Copy, name: str) -> None:
    copy()
    copy(name="other")
    app = open_page(PAGE, audit="made")
    app.text_input(key="new-name-of-made").set_value(name).run()
    app.button(key="rename-now-made").click().run()
    assert app.error[0].value == "The audit was not renamed."
    assert [text for text in texts(app) if repr(name) in text]


def test_deleting_is_asked_twice(copy: Copy, data: Path) -> None:
    copy()
    copy(name="other")
    app = open_page(PAGE, audit="made")
    for typed in ("", "mad", "other"):
        app.text_input(key="confirm-made").set_value(typed).run()
        assert button(app, "Delete for good").disabled
    app.text_input(key="confirm-made").set_value("made").run()
    button(app, "Delete for good").click().run()
    assert not app.exception
    assert app.success[0].value.startswith("Deleted; ")
    assert table(app, "size")["name"].tolist() == ["other"]
    assert not (data / "audits" / "made").exists()
    assert "audit" not in app.query_params


def test_folders_with_odd_names_are_named_as_text_and_not_listed(copy: Copy) -> None:
    copy()
    copy(name="[x](javascript:alert(1))")
    app = open_page(PAGE)
    assert table(app, "size")["name"].tolist() == ["made"]
    assert "not shown, since no audit can have such a name: '[x](javascript:alert(1))'" in texts(app)


@pytest.mark.parametrize("content", ["{", "[]", "null"])
def test_a_broken_audit_is_told_and_can_be_deleted(copy: Copy, data: Path, content: str) -> None:
    audit = copy()
    (audit.folder / "manifest.json").unlink()
    (audit.folder / "config.json").write_text(content)
    os.utime(audit.folder / "config.json", (1, 1))
    app = open_page(PAGE, audit="made")
    assert table(app, "size")["state"].tolist() == ["broken"]
    assert [text for text in texts(app) if str(audit.folder / "config.json") in text]
    assert "Delete for good" in labels(app)


def test_a_running_audit_shows_members_losses_and_output_and_can_be_cancelled(
    copy: Copy, data: Path, calls: list[tuple[str, object]]
) -> None:
    unfinish(copy())
    leave_job(data / "jobs" / "made", running=True, said="member r0-f0: training\n")
    app = open_page(PAGE, audit="made")
    work = table(app, "at work")
    assert work["state"].tolist() == ["training"]
    assert work["progress"].tolist() == [pytest.approx((0.5 + 0.25) / 4)]
    assert work["training left"].tolist() == ["50 s"]  # 10 s, 30 s, and 30 s for each that waits, two at once
    assert table(app, "member")["stage"].tolist() == ["training", "training", "waiting", "waiting"]
    assert app.get("plotly_chart")
    assert "member r0-f0: training" in texts(app)
    assert not app.main.get("page_link")
    assert "Delete for good" not in labels(app)
    button(app, "Cancel").click().run()
    assert calls == [("cancel", "made")]


def test_one_that_waits_says_so(copy: Copy, data: Path) -> None:
    unfinish(copy())
    leave_job(data / "jobs" / "made", running=True, said=f"{WAITS}\n")
    app = open_page(PAGE, audit="made")
    assert table(app, "at work")["state"].tolist() == ["waiting"]
    assert "Queued" in app.info[0].value
    assert "Cancel" in labels(app)


def test_a_cancelled_audit_can_be_resumed(copy: Copy, data: Path, calls: list[tuple[str, object]]) -> None:
    audit = unfinish(copy())
    leave_job(data / "jobs" / "made", exit_code=130, said="interrupted\n")
    app = open_page(PAGE, audit="made")
    assert "Cancelled" in app.info[0].value
    assert not any("samples/s" in bar.proto.text for bar in app.get("progress"))
    button(app, "Resume").click().run()
    ((kind, (name, words)),) = calls
    command = parse(["audit", *words])
    assert (kind, name, command.source, command.config) == ("audit", "made", "scenes", audit.record.config)


@pytest.mark.parametrize(("exit_code", "words"), [(2, "with exit code 2"), (None, "it was killed")])
def test_a_stopped_audit_says_how_and_with_what_words(
    data: Path, calls: list[tuple[str, object]], exit_code: int | None, words: str
) -> None:
    leave_job(data / "jobs" / "refused", exit_code=exit_code, said="error: <b>nothing</b> is left\n")
    app = open_page(PAGE, audit="refused")
    assert words in app.error[0].value
    assert "error: <b>nothing</b> is left" in texts(app)
    assert table(app, "size")["state"].tolist() == ["stopped"]
    button(app, "Try again").click().run()
    assert calls == [("job", ("refused", ["once", "more"]))]


def test_an_audit_that_ends_brings_the_page_up_to_date(copy: Copy, data: Path) -> None:
    audit = unfinish(copy())
    leave_job(data / "jobs" / "made", running=True)
    app = open_page(PAGE, audit="made")
    write_json(audit.folder / "manifest.json", {"files": {}, "sizes": {}})
    app.run()
    assert table(app, "size")["state"].tolist() == ["finished"]
    assert app.main.get("page_link")
