"""The log of decisions as a file: broken files, append-only tables, and processes that write at
once or are killed."""

import json
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipmem_core.review import log
from clipmem_core.review.decisions import CHOICES, KEEP, REMOVE, Review
from clipmem_core.utils.io import InputError
from tests.fixtures import NO_PAIRS, decision_counts
from tests.forked import Server


@pytest.fixture
def empty(data: Path) -> Review:
    """The log of made audits."""
    return Review(data / "review" / "fedcba9876543210.sqlite", NO_PAIRS)


@pytest.fixture
def review(empty: Review) -> Review:
    """A log with three pairs decided on."""
    empty.decide(["a", "b", "c"], KEEP)
    return empty


def query(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def refused(review: Review) -> str:
    """Return why a decision is refused: one line that names the file."""
    with pytest.raises(InputError) as error:
        review.decide(["a"], REMOVE)
    assert str(review.path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_another_file_is_refused_and_not_changed(review: Review) -> None:
    changes = {
        "PRAGMA user_version = 4": "of version 6",
        "DROP TABLE standing": "no such table",
        "": "not a database",
    }
    for change, why in changes.items():
        content = review.path.read_bytes()
        if change:
            query(review.path, change)
        else:
            review.path.write_bytes(b"these are notes\n" * 100)
        before = review.path.read_bytes()
        assert why in refused(review)
        with pytest.raises(InputError, match="move it away"):
            review.table()
        assert review.path.read_bytes() == before
        review.path.write_bytes(content)
    review.path.write_bytes(b"")
    assert "is not a log of decisions" in refused(review)
    review.path.unlink()
    review.path.mkdir()
    assert "unable to open database file" in refused(review)


def test_a_locked_log_is_one_line_and_readable(
    review: Review, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "LOCK_TIMEOUT", 0)
    with closing(sqlite3.connect(review.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert "another process is writing: try again" in refused(review)
        assert decision_counts(review)[KEEP] == 3  # reading never waits
    assert review.decide(["a"], REMOVE).pairs == 1


@pytest.mark.parametrize("change", ["DELETE FROM entry", "UPDATE event SET id = id + 1"])
def test_the_log_is_append_only(review: Review, change: str) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="the log only grows"):
        query(review.path, change)
    assert review.position() == 3


def test_an_error_rolls_back_and_a_deleted_log_leaves_nothing_in_the_next_one(
    review: Review,
) -> None:
    with pytest.raises(InputError, match="half a character"):
        review.decide(["d", "e", "\ud800", "f"], REMOVE)
    assert (review.position(), len(review.history())) == (3, 1)
    assert review.decide(["d"], REMOVE).event == 2
    with closing(sqlite3.connect(review.path, isolation_level=None)) as other:
        # while it is open, what is new stays beside the file
        other.execute("SELECT count(*) FROM entry").fetchone()
        review.decide(["z"], REMOVE)
        left = Path(f"{review.path}-wal").read_bytes()
    assert left
    review.path.unlink()
    Path(f"{review.path}-wal").write_bytes(left)
    assert review.decide(["a"], KEEP).event == 1
    assert list(review.table()["pair_id"]) == ["a"]


START = """
import json, os, sqlite3, sys, time
from pathlib import Path
from clipmem_core.review.decisions import CHOICES, KEEP, RECAPTION, REMOVE, Review
from clipmem_core.review.log import Choice
from tests.fixtures import NO_PAIRS
review, name = Review(Path(os.environ["LOG"]), NO_PAIRS), os.environ["NAME"]
gate, rounds = Path(os.environ["CLIPMEM_DATA"]), iter("012")
def wait():
    own = next(rounds)
    (gate / f"{name}.{own}").touch()
    while not (gate / own).exists():
        time.sleep(.001)
wait()
"""
END = """
sys.stdout.flush()
os._exit(0)
"""
ROUNDS = """
review.decide(["a", "b"], KEEP, note=name)
wait()
undone = review.undo(4).pairs
wait()
for number in range(5):
    review.decide([f"{name} {number}", "everyone's"], CHOICES[number % 2], note=name)
print(json.dumps(undone))
"""
DIE_AT_EACH_STATEMENT = """
connect = sqlite3.connect

def dying(last):
    left = iter(range(last - 1, -1, -1))

    def traced(*where, **how):
        connection = connect(*where, **how)
        connection.set_trace_callback(lambda _: next(left) or os.kill(os.getpid(), 9))
        return connection

    return traced

for last in range(1, 1000):
    child = os.fork()
    if not child:
        sqlite3.connect = dying(last)
        choices = Choice(REMOVE), Choice(RECAPTION, ("a fox",))
        review.decide_each(dict(zip((f"{last} a", f"{last} b"), choices)))
        os._exit(0)
    if not os.waitpid(child, 0)[1]:
        print(json.dumps(last))
        break
"""


Run = Callable[..., list[Any]]


@pytest.fixture
def run(forks: Server, empty: Review, data: Path) -> Run:
    """Runs a process for each script, which go on at the same moment in each round, and returns
    what each printed."""

    def run_all(*scripts: str, rounds: int = 1) -> list[Any]:
        started = [
            forks.start(data=data, before=START + script + END, NAME=f"p{at}", LOG=str(empty.path))
            for at, script in enumerate(scripts)
        ]
        for number in range(rounds):
            while len(list(data.glob(f"p*.{number}"))) < len(scripts):
                time.sleep(0.001)
            (data / str(number)).touch()
        ended = [(*process.communicate(), process.returncode) for process in started]
        assert [(errors, code) for _, errors, code in ended] == [("", 0)] * len(scripts)
        return [json.loads(printed or "null") for printed, *_ in ended]

    return run_all


def ask(review: Review, query: str) -> list[tuple]:
    with closing(sqlite3.connect(review.path)) as connection:
        return connection.execute(query).fetchall()


def assert_consistent(review: Review) -> None:
    """Every event has its consecutive entries, and the current entry of each pair is its last."""
    assert ask(review, "PRAGMA integrity_check") == [("ok",)]
    counted = dict(ask(review, "SELECT event, count(*) FROM entry GROUP BY event"))
    events = ask(review, "SELECT id, first_entry, pairs FROM event ORDER BY id")
    assert [number for number, _, _ in events] == list(range(1, len(events) + 1))
    assert counted == {number: pairs for number, _, pairs in events}
    ends = np.cumsum([pairs for *_, pairs in events])
    assert [first for _, first, _ in events] == [1, *(ends[:-1] + 1)]
    last = ask(review, "SELECT pair_id, max(id) FROM entry GROUP BY pair_id ORDER BY pair_id")
    assert last == ask(review, "SELECT pair_id, entry FROM standing ORDER BY pair_id")


def test_concurrent_processes_lose_nothing(empty: Review, run: Run) -> None:
    undone = run(*[ROUNDS] * 4, rounds=3)
    order = [note for (note,) in ask(empty, "SELECT note FROM event ORDER BY id LIMIT 4")]
    assert sorted(order) == ["p0", "p1", "p2", "p3"]
    assert sorted(undone) == [0, 0, 0, 2]
    entries = empty.entries_after(10)
    assert len(entries) == 4 * 5 * 2
    for process in range(4):
        pairs = [pair for pair, *_ in entries if pair.startswith(f"p{process} ")]
        assert pairs == [f"p{process} {number}" for number in range(5)]
    decisions = empty.decisions()
    for process, number in np.ndindex(4, 5):
        made = decisions[f"p{process} {number}"]
        assert (made.decision, made.note) == (CHOICES[number % 2], f"p{process}")
    chain = ask(empty, "SELECT id, previous FROM entry WHERE pair_id = 'everyone''s' ORDER BY id")
    assert [previous for _, previous in chain] == [0, *(entry for entry, _ in chain[:-1])]
    assert_consistent(empty)


def test_a_killed_process_leaves_all_of_its_event_or_nothing(empty: Review, run: Run) -> None:
    (survivor,) = run(DIE_AT_EACH_STATEMENT)
    assert survivor > 15  # those before it died, at one statement more each
    assert ask(empty, "SELECT pairs FROM event") == [(2,)]
    assert empty.current(f"{survivor} b").captions == ("a fox",)
    assert_consistent(empty)
    assert empty.decide(["a"], KEEP).event == 2
