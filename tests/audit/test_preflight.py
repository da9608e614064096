import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipmem_core.auditing.run.console import check_request
from clipmem_core.cli import main
from clipmem_core.config import preset_config
from clipmem_core.utils.io import InputError

TINY = preset_config("tiny")
Captured = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("source", "name", "epochs", "message"),
    [
        ("scenes", "a/b", 1, "name 'a/b' must be"),
        ("  ", "a", 1, "no data set is named"),
        ("scenes", "a", 0, "--epochs must be greater than or equal to 1"),
    ],
)
def test_what_is_wrong_at_first_sight_is_refused(
    source: str, name: str, epochs: int, message: str, data: Path
) -> None:
    with pytest.raises(InputError, match=message):
        check_request(source, name, dataclasses.replace(TINY, epochs=epochs))


HOSTILE = "[bold]shout[/bold] :smile: [/] {x} \\"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A CSV of eight rows: five pictures, one of them twice, one broken, one missing, one without a
    caption."""
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


def test_inspect_shows_what_is_there_and_what_is_broken(
    table: Path, data: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    before = sorted(table.parent.rglob("*"))
    assert main(["inspect", str(table)]) == 0
    printed = capsys.readouterr().out
    facts = {line[:24].strip(): line[25:] for line in printed.splitlines()}
    assert (facts["rows"], facts["pairs that can be used"], facts["captions"]) == ("8", "4", "5")
    assert facts["pictures"] == "30 to 33 × 20 to 20 pixels"
    for part in ("caption is empty", "captions.csv:8", "4[red].png", HOSTILE, "3[red].png"):
        assert part in printed
    assert sorted(table.parent.rglob("*")) == before
    assert not data.exists()
