import pytest

from clipmem_core.audit.console import RichScreen, show_verdict
from clipmem_core.audit.status import MemberProgress
from clipmem_core.audit.store import Audit

HOSTILE = "[bold]not bold[/bold] :smile: [link=x]y[/] \\[red] naïve 日本 👩‍👩‍👧 ends in \\"


def member(name: str, stage: str, **more: float) -> MemberProgress:
    return MemberProgress(name, stage, steps=100, **more)


def test_a_pipe_gets_foreign_text_as_it_is_and_one_line_per_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with RichScreen(64) as screen:
        screen.say(HOSTILE)
        for step in (1, 2):
            screen.members([member("f-0", "training", step=step, loss=3.0), member("g-0", "waiting")])
        screen.members([member("f-0", "finished", step=100, loss=1.0), member("g-0", "training", step=1, loss=3.0)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == HOSTILE
    assert lines[1:4] == ["member f-0: training", "member f-0: finished", "member g-0: training"]


def test_the_verdict_is_printed_with_its_tables(audit: Audit, capsys: pytest.CaptureFixture[str]) -> None:
    show_verdict(audit)
    printed = capsys.readouterr().out
    sentences = [check["sentence"] for check in audit.verdict["checks"]]
    for part in ("clipmem by group", "external", "utility", audit.verdict["sentence"], str(audit.folder), *sentences):
        assert part in printed
    assert ("detector accuracy on injected errors" in printed) == bool(audit.verdict["detection"])
