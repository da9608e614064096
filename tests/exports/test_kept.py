import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clipmem_core.audits.jobs import Job, Task
from clipmem_core.audits.store import PAIRS, Audit, write_table
from clipmem_core.commands import Export, main, parse
from clipmem_core.config import InputError
from clipmem_core.exports import FORMATS, kept
from clipmem_core.exports.kept import KINDS, kept_exports, make, reading_code, share_done
from clipmem_core.review.decisions import open_review
from tests.made_fixtures import Copy


@pytest.fixture
def audit(copy: Copy) -> Audit:
    """An audit without planted captions, which an export would have to take back, and with three decisions."""
    audit = copy()
    pairs = audit.pairs
    pairs["planted"] = None
    write_table(audit.folder / PAIRS, pairs)
    ids = pairs["pair_id"].tolist()
    review = open_review(audit)
    review.decide(ids[:2], "remove")
    review.decide([ids[5]], "recaption", captions=["a new one"])
    return audit


@pytest.mark.parametrize("name", ["csv", "wds", "html", "decisions-parquet"])
def test_a_kind_is_made_listed_and_deleted(audit: Audit, name: str) -> None:
    kind = KINDS[name]
    summary = make(audit, kind)
    (found,) = kept_exports(audit)
    assert (summary.kept, summary.removed, summary.recaptioned) == (98, 2, 1)
    assert found.summary == summary
    assert (found.kind, found.file_bytes) == (kind, found.path.stat().st_size)
    assert found.position == open_review(audit).position() == 3
    beside = [path for path in found.path.parent.iterdir() if path.name not in (found.path.name, kept.SUMMARY)]
    assert found.beside_bytes == sum(path.stat().st_size for path in beside)
    assert bool(beside) is (name == "wds")
    kept.delete(audit, kind)
    assert kept_exports(audit) == []
    assert not found.path.parent.exists()
    kept.delete(audit, kind)  # what is gone can be deleted again


def test_the_code_shown_reads_each_export_back_or_audits_it(audit: Audit) -> None:
    for name in ("csv", "html", "decisions", "decisions-parquet", "datacomp"):
        make(audit, KINDS[name])
    code = {found.kind.name: reading_code(found) for found in kept_exports(audit)}
    command, language = code.pop("csv")
    assert language == "bash"
    assert command.startswith("python -m clipmem_core audit ")
    assert str(kept.export_path(audit, KINDS["csv"])) in command
    assert code.pop("html")[0] == ""
    read = {name: eval(lines, {"pandas": pd, "numpy": np}) for name, (lines, _) in code.items()}  # noqa: S307
    assert len(read["decisions"]) == len(read["decisions-parquet"]) == 3
    assert len(read["datacomp"]) == 98


def test_the_command_shown_makes_the_same_file(audit: Audit) -> None:
    for kind in KINDS.values():
        words = kept.typed_command(audit, kind).split()
        assert words[:3] == ["python", "-m", "clipmem_core"]
        command = parse(words[3:])
        assert isinstance(command, Export)
        assert Path(command.out) == kept.export_path(audit, kind)
        assert (command.name, command.format, command.overwrite) == ("made", kind.format, True)
    endings = [(name, ending) for name, about in FORMATS.items() for ending in about.suffixes]
    assert [(kind.format, kind.suffix) for kind in KINDS.values()] == endings
    assert {"csv", "html", "decisions", "decisions-parquet"} <= set(KINDS)


def test_without_its_note_or_with_that_of_another_file_an_export_is_listed_all_the_same(audit: Audit) -> None:
    make(audit, KINDS["csv"])
    path = kept.export_path(audit, KINDS["csv"])
    note, before = path.parent / kept.SUMMARY, (path.parent / kept.SUMMARY).read_bytes()
    assert json.loads(before)["position"] == 3
    assert json.loads(before)["summary"]["removed"] == 2
    for content in (b"{ nonsense", b'{"stamp": [1]}', b'{"stamp": 3}', b"[]"):
        note.write_bytes(content)
        assert [found.summary for found in kept_exports(audit)] == [None]
    note.unlink()
    assert [found.summary for found in kept_exports(audit)] == [None]
    note.write_bytes(before)
    path.write_text("filepath\ttitle\n")
    assert [found.summary for found in kept_exports(audit)] == [None]


def test_a_failure_leaves_the_older_export(audit: Audit) -> None:
    make(audit, KINDS["csv"])
    open_review(audit).decide(audit.pairs["pair_id"], "remove")
    with pytest.raises(InputError, match="nothing is left to export"):
        make(audit, KINDS["csv"])
    (found,) = kept_exports(audit)
    assert found.summary is not None
    assert found.summary.kept == 98


def test_a_folder_that_cannot_be_written_is_told(audit: Audit, data: Path) -> None:
    (data / "exports").write_text("a file")
    with pytest.raises(InputError, match=r"made-csv.csv cannot be written"):
        make(audit, KINDS["csv"])


def test_large_audits_and_reports_take_time(audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kept.takes_time(audit, KINDS["html"])
    assert not kept.takes_time(audit, KINDS["csv"])
    monkeypatch.setattr(kept, "LARGE", 99)
    assert kept.takes_time(audit, KINDS["csv"])
    make(audit, KINDS["csv"])
    monkeypatch.setattr(Job, "running", True)
    monkeypatch.setattr(Task, "find", lambda task: Job(task.folder, 1, "now", ()))
    with pytest.raises(InputError, match="is being made: cancel that first"):
        kept.delete(audit, KINDS["csv"])
    assert len(kept_exports(audit)) == 1


def test_the_process_makes_it_and_says_how_far_it_is(
    audit: Audit, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["keep", "made", "html"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    shares = [share_done(line) for line in lines]
    assert shares == sorted(share for share in shares if share is not None)
    assert shares[-1] == 1.0
    assert last == "98 pairs kept, 2 removed, 1 recaptioned"
    assert [share_done(line) for line in ("", "error: 1 of 2 pictures", "0 of 0 pictures", "3 of 2 pictures")] == [
        None,
        None,
        None,
        1.0,
    ]

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(kept, "write", interrupt)
    assert main(["keep", "made", "csv"]) == 130


def test_the_process_tells_what_is_wrong_in_a_line(copy: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    (copy().folder / PAIRS).unlink()
    assert main(["keep", "made", "csv"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "pairs.parquet is missing" in line


def test_the_command_of_the_process_is_there_and_needs_no_streamlit(audit: Audit, data: Path) -> None:
    task = kept.export_task(audit, KINDS["csv"])
    assert task.folder == data / "jobs" / ".exports" / "made" / "csv"
    code = (
        f"import sys; sys.modules['streamlit'] = None; from clipmem_core.commands import main; main({task.command[3:]})"
    )
    environment = {**os.environ, "CLIPMEM_DATA": str(data)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=Path(__file__).parents[2])
    assert len(kept_exports(audit)) == 1
