import io
import sys

import pytest
from rich.console import Console

from clipmem_core.audits.console import RichScreen, plain, show_verdict
from clipmem_core.audits.status import MemberProgress
from clipmem_core.audits.store import Audit

HOSTILE = "[bold]not bold[/bold] :smile: [link=x]y[/] \\[red] ends in \\"


def shown(text: str) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(plain(text), soft_wrap=True)
    return console.file.getvalue().removesuffix("\n")


@pytest.mark.parametrize("text", [HOSTILE, "[/]", "naïve 日本 👩‍👩‍👧", "a\\", ""])
def test_text_of_others_is_shown_as_it_is(text: str) -> None:
    assert shown(text) == text


def member(name: str, stage: str, **more: float) -> MemberProgress:
    return MemberProgress(name, stage, steps=100, **more)


def test_on_a_pipe_each_stage_of_a_member_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with RichScreen(64) as screen:
        screen.say(HOSTILE)
        screen.members([member("f-0", "training", step=1, loss=3.0), member("g-0", "waiting")])
        screen.members([member("f-0", "training", step=2, loss=3.0), member("g-0", "waiting")])
        screen.members([member("f-0", "finished", step=100, loss=1.0), member("g-0", "training", step=1, loss=3.0)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == HOSTILE
    assert lines[1:4] == ["member f-0: training", "member f-0: done", "member g-0: training"]


def test_a_loss_that_stays_at_chance_is_warned_of_once(capsys: pytest.CaptureFixture[str]) -> None:
    with RichScreen(64) as screen:
        for step in (10, 20, 30):
            screen.members([member("f-0", "training", step=step, loss=4.159, log_probability=-4.159)])
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert warnings == [
        "warning: member f-0 still guesses (loss 4.16): try another --lr, a smaller --batch-size or more --epochs"
    ]


def test_a_terminal_gets_bars_with_pace_and_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    with RichScreen(64) as screen:
        screen.pictures(5, 10)
        screen.members([member("f-0", "training", step=50, loss=2.5, samples_per_second=1234.0)])
    for part in ("pictures", "5/10", "member f-0", "50/100", "loss 2.500  1,234 samples/s"):
        assert part in terminal.getvalue()


def test_the_verdict_is_printed_with_its_tables(audit: Audit, capsys: pytest.CaptureFixture[str]) -> None:
    show_verdict(audit)
    printed = capsys.readouterr().out
    for part in ("clipmem by group", "external", "utility", audit.verdict["sentence"]):
        assert part in printed
    assert ("finding planted mis-captions" in printed) == bool(audit.verdict["detection"])
    for check in audit.verdict["checks"]:
        assert check["sentence"] in printed
    assert str(audit.folder) in printed
    doubted = any(check["good"] is False for check in audit.verdict["checks"])
    assert ("captions that are probably wrong" in printed) is not doubted
