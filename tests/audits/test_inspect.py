from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipmem_core.commands import main

HOSTILE = "[bold]shout[/bold] :smile: [/] {x} \\"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A CSV of eight rows: five pictures, one of them twice, one broken, one missing, one without a caption."""
    for i in range(5):
        noise = np.random.default_rng(i).integers(0, 256, (20, 30 + i, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{i}[red].png")
    (tmp_path / "4[red].png").write_bytes(b"GIF89a")
    rows = [
        *(f"{i}[red].png,caption {i},{'a' if i % 2 else 'b'}" for i in range(5)),
        f'0[red].png,"{HOSTILE}",b',
        "gone.png,nobody,a",
        "1[red].png,,a",
    ]
    path = tmp_path / "captions.csv"
    path.write_text("\n".join(["filepath,caption,label", *rows]) + "\n", encoding="utf-8")
    return path


def listing(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.stat().st_mtime_ns) for path in folder.rglob("*"))


def test_a_dry_run_shows_what_is_there_and_what_is_broken(
    table: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["inspect", str(table)]) == 0
    printed = capsys.readouterr().out
    facts = {line[:24].strip(): line[25:] for line in printed.split("in quarantine  ")[0].splitlines()}
    assert facts["format"] == "csv"
    assert facts["rows"] == "8"
    assert facts["pairs that can be used"] == "4 (an audit needs 200)"
    assert facts["captions a pair"] == "1 to 2, 1.25 on average"
    assert facts["labels"] == "2 on 4 pairs"
    assert facts["picture widths"] == "30 to 33 pixels"
    assert facts["look-alikes"].startswith("0 pictures")
    assert "in quarantine            3 rows" in printed
    for reason in ("caption is empty", "captions.csv:8", "captions.csv:9", "4[red].png"):
        assert reason in printed


def test_hostile_captions_and_names_are_shown_as_they_are(
    table: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["inspect", str(table)]) == 0
    printed = capsys.readouterr().out
    assert HOSTILE in printed
    assert "3[red].png" in printed


def test_a_dry_run_changes_nothing(table: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = listing(table.parent)
    assert main(["inspect", str(table)]) == 0
    assert listing(table.parent) == before
    assert not data.exists()
