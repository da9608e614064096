import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipmem_core.auditing.folder.prepare import load_data_set
from clipmem_core.auditing.folder.settings import resolve
from clipmem_core.auditing.run.console import Request, check_request, find_check
from clipmem_core.cli import main
from clipmem_core.config import SourceOptions, preset_config
from clipmem_core.utils.io import InputError
from tests.audit.test_jobs import until

TINY = preset_config("tiny")
SMALL = dataclasses.replace(TINY, source=SourceOptions(scenes_pairs=220), threads=1, epochs=2)
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
        check_request(Request(source, name, dataclasses.replace(TINY, epochs=epochs)))


def test_a_check_finds_what_the_audit_will_have(data: Path) -> None:
    request = Request("scenes", "a", SMALL)
    request.check.start()
    until(lambda: not find_check(request).job.running, seconds=300)
    check = find_check(request)
    found = check.job.record.result
    assert check.error == ""
    data_set = load_data_set("scenes", resolve(SMALL))
    assert found["groups"] == {"scored": 170, "held-out": 50}  # ⌊220/11⌋ = 20, at least 50
    assert found["captions"] == 1100
    assert found["pairs"] == len(data_set.pairs) == 220
    assert found["near_duplicates"] == data_set.near_duplicates
    assert not (data / "audits").exists()


def test_what_is_wrong_is_one_line(data: Path, capsys: Captured) -> None:
    assert main(Request("scenes", "a", dataclasses.replace(SMALL, folds=300)).check.arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "folds must be at most 169" in line  # near-duplicates are one cluster


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
