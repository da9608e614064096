import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

import clipmem_core
from clipmem_core.audits.store import Audit
from clipmem_core.commands import main
from clipmem_core.config import InputError
from clipmem_core.review import log
from clipmem_core.review.decisions import KEEP, RECAPTION, REMOVE, Review, open_review

ROOT = Path(clipmem_core.__file__).parents[1]


@pytest.fixture
def review(tmp_path: Path) -> Review:
    """A log with three pairs decided on."""
    made = Review(tmp_path / "review" / "set.sqlite")
    made.decide(["a", "b", "c"], KEEP)
    return made


def query(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


CALLS: dict[str, Callable[[Review], object]] = {
    "decide": lambda review: review.decide(["a"], REMOVE),
    "undo": lambda review: review.undo(),
    "current": lambda review: review.current("a"),
    "decisions": lambda review: review.decisions(["b", "c"]),
    "undo 2": lambda review: review.undo(2) if review.count_events() > 1 else review.undo(1),
    "table": lambda review: review.table(),
    "counts": lambda review: review.counts(),
    "history": lambda review: review.history(page=1, size=10),
    "position": lambda review: review.position(),
    "entries": lambda review: review.entries_after(0),
}


def faults(review: Review, calls: list[str]) -> set[str]:
    """Return the fault of every call, which must be one line that names the file."""
    found = set()
    for name in calls:
        with pytest.raises(InputError) as refused:
            CALLS[name](review)
        assert str(review.path) in str(refused.value), name
        assert "\n" not in str(refused.value)
        found.add(str(refused.value).removeprefix(f"{review.path} "))
    return found


OTHER_VERSION = "is of version {} and this CLIPMem reads version 3: move it away, or use the CLIPMem that wrote it"
NOT_OURS = "is not a log of decisions: move it away, or put a copy of it back"


def test_a_file_that_is_no_log_of_ours_is_named_and_left_alone(review: Review) -> None:
    review.path.write_bytes(b"these are notes, not decisions\n" * 100)
    advice = "move it away, or put a copy of it back"
    assert faults(review, list(CALLS)) == {f"cannot be used (file is not a database): {advice}"}
    review.path.write_bytes(b"")
    assert faults(review, list(CALLS)) == {NOT_OURS}
    review.path.unlink()
    query(review.path, "CREATE TABLE event (id INTEGER PRIMARY KEY)")
    before = review.path.read_bytes()
    assert faults(review, list(CALLS)) == {NOT_OURS}
    assert review.path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "calls", "fault"),
    [
        ("PRAGMA user_version = 4", list(CALLS), OTHER_VERSION.format(4)),
        ("PRAGMA user_version = 2", list(CALLS), OTHER_VERSION.format(2)),
        (
            "DROP TABLE standing",
            ["decide", "undo", "current", "table", "counts"],
            "cannot be used (no such table: standing): move it away, or put a copy of it back",
        ),
    ],
)
def test_a_log_of_another_version_or_without_a_table_is_named_and_left_alone(
    review: Review, change: str, calls: list[str], fault: str
) -> None:
    query(review.path, change)
    before = review.path.read_bytes()
    assert faults(review, calls) == {fault}
    assert review.path.read_bytes() == before


def test_a_folder_or_file_in_the_place_of_another_is_named(tmp_path: Path) -> None:
    review = Review(tmp_path / "set.sqlite")
    review.path.mkdir()
    assert all("unable to open database file" in fault for fault in faults(review, list(CALLS)))
    (tmp_path / "review").write_text("")
    fault = faults(Review(tmp_path / "review" / "set.sqlite"), ["decide"])
    assert fault == {"cannot be made or read (File exists): choose another data folder"}


@pytest.fixture
def loose(review: Review) -> Review:
    """A log of every kind of event, whose tables take any value: what a damaged one may hold."""
    review.decide(["b"], REMOVE, note="a note", audit="one")
    review.decide(["c"], RECAPTION, captions=["a crow", "a black bird"])
    review.undo()
    query(
        review.path,
        "DROP TRIGGER event_unchanged",
        "DROP TRIGGER entry_unchanged",
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_schema SET sql = replace(sql, ' NOT NULL', '')",
        "PRAGMA writable_schema = RESET",
    )
    return review


WRONG = {  # column by table → SQL of values that it cannot have
    "event": {
        "time": ["NULL", "7", "'yesterday'", "x'ff'"],
        "audit": ["NULL", "x'ff'", "CAST(x'ff' AS TEXT)"],
        "decision": ["7", "'burn'", "x'ff'"],
        "captions": ["NULL", "7", "'a crow'", "'{}'", "'[1]'", "'[null]'", "x'ff'", "CAST(x'5bff5d' AS TEXT)"],
        "note": ["x'ff'"],
        "undoes": ["'first'", "x'ff'"],
        "first_entry": ["NULL", "'first'", "99"],
        "pairs": ["NULL", "'many'"],
    },
    "entry": {"pair_id": ["NULL", "x'ff'"], "decided": ["99", "'one'"], "judged": ["'x'", "NULL"]},
    "standing": {"decided": ["99", "'one'"], "judged": ["'x'"], "pair_id": ["x'ff'"], "entry": ["'x'"]},
}
CELLS = [
    (table, name, value) for table, columns in WRONG.items() for name, values in columns.items() for value in values
]


def outcomes(review: Review) -> list[str]:
    """Make every call, and return the faults; each must be one line that names the file and says what to do."""
    found = {name: fault for name, call in CALLS.items() if (fault := fault_of(call, review))}
    for name, fault in found.items():
        assert str(review.path) in fault, name
        assert "move it away, or put a copy of it back" in fault, name
        assert fault.isprintable(), name
    return list(found.values())


def fault_of(call: Callable[[Review], object], review: Review) -> str:
    """Make a call, and return what is said where it cannot be answered; any other error is one of ours."""
    try:
        call(review)
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("table", "column", "value"), CELLS)
def test_a_value_that_no_log_of_ours_has_is_named_with_its_column(
    loose: Review, table: str, column: str, value: str
) -> None:
    key = "WHERE pair_id = 'b'" if table == "standing" else "WHERE id = 2" if table == "event" else "WHERE id = 1"
    query(loose.path, f"UPDATE {table} SET {column} = {value} {key}")
    found = outcomes(loose)
    named = {"first_entry": "pair_id", "entry": "previous"}.get(column, column)
    assert any(f"column '{name}'" in fault for fault in found for name in (column, named, "decision")) or any(
        "event 99 is not there" in fault for fault in found
    )


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_whatever_becomes_of_a_byte_a_log_is_read_or_named(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        review = Review(Path(folder) / "set.sqlite")
        review.decide(["a", "b", "c"], KEEP, audit="one")
        review.decide(["b"], RECAPTION, captions=["a crow", "a black bird"], note="a note")
        review.undo()
        whole = bytearray(review.path.read_bytes())
        written = [at for at, byte in enumerate(whole) if byte]
        for _ in range(data.draw(st.integers(1, 4))):
            whole[data.draw(st.sampled_from(written))] = data.draw(st.integers(0, 255))
        review.path.write_bytes(whole[: data.draw(st.sampled_from([len(whole)] * 3 + list(range(0, len(whole), 512))))])
        faults_said = [fault for call in CALLS.values() if (fault := fault_of(call, review))]
        assert all(str(review.path) in fault and fault.isprintable() for fault in faults_said)


def test_a_damaged_log_is_one_line_and_exit_code_2_of_an_export(
    copy: Callable[..., Audit], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    audit = copy()
    review = open_review(audit)
    review.decide(audit.pairs["pair_id"].tolist()[:3], REMOVE)
    query(review.path, "DROP TRIGGER event_unchanged", "UPDATE event SET captions = 'a crow'")
    for format, name in (("csv", "it.csv"), ("decisions", "it.parquet"), ("html", "it.html")):
        assert main(["export", "made", "--format", format, "--out", str(tmp_path / name)]) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        assert f"{review.path} cannot be used (its column 'captions' holds 'a crow')" in told
        assert not (tmp_path / name).exists()


def test_a_log_that_somebody_else_makes_for_ever_is_told_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "LOCK_TIMEOUT", 0.1)
    with FileLock(tmp_path / ".set.sqlite.lock"):
        fault = faults(Review(tmp_path / "set.sqlite"), ["decide"])
    assert fault == {"cannot be used (it is locked): another process is writing: try again"}


def test_a_writer_that_waited_in_vain_is_told_to_try_again(review: Review, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 4 < log.LOCK_TIMEOUT < 15
    monkeypatch.setattr(log, "LOCK_TIMEOUT", 0)
    with closing(sqlite3.connect(review.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert faults(review, ["decide", "undo"]) == {
            "cannot be used (database is locked): another process is writing: try again"
        }
        assert review.counts()[KEEP] == 3  # reading never waits
    assert review.decide(["a"], REMOVE).pairs == 1


@pytest.mark.parametrize("table", ["event", "entry"])
@pytest.mark.parametrize("change", ["DELETE FROM {}", "UPDATE {} SET id = id + 1"])
def test_nobody_changes_what_is_in_the_log(review: Review, table: str, change: str) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="the log only grows"):
        query(review.path, change.format(table))
    assert review.position() == 3


def test_an_error_takes_everything_back_and_files_beside_a_deleted_log_are_not_read_into_the_next_one(
    review: Review,
) -> None:
    assert {path.name for path in review.path.parent.iterdir()} == {"set.sqlite", ".set.sqlite.lock"}
    with pytest.raises(InputError, match="half a character"):
        review.decide(["d", "e", "\ud800", "f"], REMOVE)
    assert (review.position(), review.count_events()) == (3, 1)
    assert review.decide(["d"], REMOVE).event == 2
    with closing(sqlite3.connect(review.path, isolation_level=None)) as other:
        other.execute("SELECT count(*) FROM entry").fetchone()  # while it is open, what is new stays beside the file
        review.decide(["z"], REMOVE)
        left = Path(f"{review.path}-wal").read_bytes()
    assert left
    review.path.unlink()
    Path(f"{review.path}-wal").write_bytes(left)
    assert review.decide(["a"], KEEP).event == 1
    assert list(review.table()["pair_id"]) == ["a"]


def test_the_data_folder_may_have_any_name_and_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a?mode=memory", "50% #1 &x=y", "ünïcödé 🐊", "' OR '", "%41"):
        review = Review(tmp_path / name / "set.sqlite")
        review.decide(["a"], KEEP)
        assert review.path.is_file()
        assert review.position() == 1
    monkeypatch.chdir(tmp_path)
    Review(Path("data") / "set.sqlite").decide(["a"], KEEP)
    assert Review(tmp_path / "data" / "set.sqlite").position() == 1


POOR = """
import os, sys
from pathlib import Path
from clipmem_core.config import InputError
from clipmem_core.review.decisions import KEEP, Review
if os.getuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
review = Review(Path(sys.argv[1]))
print(review.counts()[KEEP], review.position())
try:
    review.decide(["a"], KEEP)
except InputError as error:
    print(error)
"""


@pytest.fixture
def seen_by_all() -> Iterator[Path]:
    """A folder that other users may look into; pytest's own are closed to them."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
        for path in [Path(folder), *Path(folder).rglob("*")]:
            path.chmod(0o755)


def as_one_who_may_not_write(path: Path) -> list[str]:
    command = [sys.executable, "-c", POOR, str(path)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize(
    ("folder", "end"), [(0o555, "see that the disk has room and that you may write there"), (0o777, "there")]
)
def test_what_may_not_be_written_to_is_read_and_writing_is_refused(seen_by_all: Path, folder: int, end: str) -> None:
    review = Review(seen_by_all / "review" / "set.sqlite")
    review.decide(["a", "b", "c"], KEEP)
    review.path.chmod(0o444)
    review.path.parent.chmod(folder)
    counted, refused = as_one_who_may_not_write(review.path)
    assert counted == "3 3"
    assert refused.startswith(f"{review.path} cannot be used (")
    assert refused.endswith(end)
    assert folder == 0o555 or "readonly database" in refused


def test_where_no_folder_can_be_made_writing_is_refused(seen_by_all: Path) -> None:
    seen_by_all.chmod(0o555)
    counted, refused = as_one_who_may_not_write(seen_by_all / "review" / "set.sqlite")
    assert counted == "0 0"
    assert refused.endswith("cannot be made or read (Permission denied): choose another data folder")
