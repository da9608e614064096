import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from clipmem_core import cli
from clipmem_core.auditing.folder.settings import resume_arguments
from clipmem_core.cli import main, parse_command
from clipmem_core.config import preset_config
from clipmem_core.utils.io import InputError

Captured = pytest.CaptureFixture[str]

LONG = "a" * 300
WRONG = [
    ("nosuch", "command 'nosuch' is unknown: choose one of check, inspect, audit"),
    ("audit", "the following arguments are required: SOURCE"),
    ("audit scenes extra", "unrecognized arguments: extra"),
    ("inspect scenes --epochs 3", "option --epochs is unknown ("),
    ("audit scenes --lr fast", "argument --lr: invalid float value"),
    ("audit --smaple 100 scenes", "option --smaple is unknown; did you mean '--sample'?"),
    ("audit scenes --preset lokced", "preset 'lokced' is unknown: choose one of locked, tuned"),
    ("audit scenes --protocol loo", "--protocol must be 'ensemble' or 'paper', not 'loo'"),
    ("audit scenes --name a/b", "name 'a/b' must be"),
    ("audit nowhere.csv", "there is no 'nowhere.csv': give a CSV"),
    ("export x --format csv --out x.csv", "there is no audit 'x' in"),
    ("benchmark scenes --out /nowhere/x.csv", "/nowhere/x.csv must be the name of a file"),
    (f"audit {LONG} --name x", f"{LONG} cannot be read: File name too long"),
]


def line_of(captured: Captured) -> str:
    lines = captured.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(("typed", "message"), WRONG, ids=[typed[:40] for typed, _ in WRONG])
def test_wrong_input_is_one_line_and_exit_code_2(
    typed: str, message: str, data: Path, capsys: Captured
) -> None:
    assert main(typed.split()) == 2
    assert line_of(capsys).startswith(f"error: {message}")
    assert not list(data.glob("audits/[!.]*"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x89PNG\r\n\x1a\n and no more", "no usable pair among 3 rows"),
        (b"", "an audit needs at least 10 usable pairs, found 3"),
    ],
)
def test_an_audit_that_cannot_start_leaves_no_folder(
    tmp_path: Path, data: Path, capsys: Captured, content: bytes, message: str
) -> None:
    (tmp_path / "set").mkdir()
    for i in range(3):
        Image.effect_noise((8, 8), 50 + i).save(tmp_path / "set" / f"{i}.png")
        (tmp_path / "set" / f"{i}.txt").write_text(f"noise number {i}")
        if content:
            (tmp_path / "set" / f"{i}.png").write_bytes(content)
    assert main(["audit", str(tmp_path / "set")]) == 2
    assert message in line_of(capsys)
    assert not list(data.glob("audits/[!.]*"))


def test_a_data_folder_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path / "file"))
    assert main(["audit", "scenes"]) == 2
    assert str(tmp_path / "file") in line_of(capsys)


def test_the_preset_of_a_command() -> None:
    audit = parse_command(shlex.split("audit set.csv --lr 0.5")).config
    assert audit == replace(preset_config("locked"), lr=0.5)
    study = parse_command(shlex.split("study combined set.csv --name x")).config
    assert study.preset == "small"


def test_a_switch_of_a_preset_can_be_turned_off() -> None:
    config = replace(preset_config("locked"), lock_text=False, text_tower="", model="small")
    words = resume_arguments("x", "set.csv", config)
    assert {"--no-lock-text", "--text-tower="} <= set(words)
    assert parse_command(["audit", *words]).config == config


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (InputError("first line\nsecond line"), 2, "error: first line second line"),
        (RuntimeError("member f-0 failed"), 1, "error: member f-0 failed"),
        (PermissionError(13, "Permission denied", "/x"), 2, "error: /x may not be used"),
        (OSError(28, "No space left on device", "/x/y.npz"), 2, "error: the disk is full"),
        (MemoryError("picture 'a.png'"), 2, "error: memory ran out: close other programs"),
        (KeyboardInterrupt(), 130, "interrupted: the same command resumes it"),
    ],
)
def test_exit_codes(
    raised: BaseException,
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    def fail(name: cli.AuditName) -> None:
        raise raised

    monkeypatch.setitem(cli.COMMANDS, "units", fail)
    assert main(["units", "x"]) == code
    assert line_of(capsys).startswith(message)


ROOT = Path(__file__).parents[1]
READMES = [ROOT / name for name in ("README.md", "data/README.md", "clipmem_core/EXTENDING.md")]
READMES += [*(ROOT / "clipmem_core/auditing").glob("*.md"), *(ROOT / "data/results").glob("*.md")]
# In a code block a command ends with its line or comment; within a sentence it ends with the quote.
COMMAND = re.compile(
    r"`python -m clipmem_core ([^`]+)`|^    python -m clipmem_core ([^#\n]+)", re.MULTILINE
)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
FILE = re.compile(r"`(data/results/[\w.-]+\.csv)`")


@pytest.mark.parametrize("page", READMES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_quoted_commands_and_links_of_documents(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for words in COMMAND.findall(text):
        parse_command(shlex.split("".join(words)))
    missing = [name for name in LINK.findall(text) if not (page.parent / name).exists()]
    assert not missing + [name for name in FILE.findall(text) if not (ROOT / name).exists()]
