"""Real processes that decide on one data set at the same moment, and some that are killed."""

import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from clipmem_core.review.decisions import CHOICES, KEEP, Review
from tests.forked import Server

START = """
import json, os, sqlite3, sys, time
from pathlib import Path
from clipmem_core.review.decisions import CHOICES, KEEP, REMOVE, Review
review, name, gate, rounds = Review(Path(os.environ["LOG"])), os.environ["NAME"], Path(os.environ["GATE"]), iter("012")
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
outcome = review.decide(["a", "b"], KEEP, note=name, seen=0)
told = outcome.overtaken and outcome.overtaken.note
wait()
outcome = review.undo(4)
undone = outcome and outcome.pairs
wait()
for number in range(30):
    review.decide([f"{name} {number}", "everyone's"], CHOICES[number % 2], note=name)
print(json.dumps([told, undone]))
"""
DECIDE_ALL = """
for number in range(8):
    review.decide([str(pair) for pair in range(2000)], CHOICES[number % 2])
"""
WATCH = """
seen = [review.counts() for _ in range(150)]
print(json.dumps([list(counts.values()) for counts in seen]))
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
        review.decide([f"{last} {pair}" for pair in range(5)], REMOVE, note=str(last))
        os._exit(0)
    if not os.waitpid(child, 0)[1]:
        print(json.dumps(last))
        break
"""


def until(done: Callable[[], bool]) -> None:
    while not done():
        time.sleep(0.001)


class Processes:
    """Processes with a script each, which all go on at the same moment."""

    def __init__(self, forks: Server, path: Path, scripts: Sequence[str]) -> None:
        self.gate, self.rounds = path.parents[1] / f"gate-{uuid4()}", 0
        self.gate.mkdir()
        own = {"LOG": str(path), "GATE": str(self.gate)}
        names = [f"p{at}" for at in range(len(scripts))]
        self.started = [
            forks.start(data=path.parent, before=START + script + END, NAME=name, **own)
            for name, script in zip(names, scripts, strict=True)
        ]
        self.go()

    def go(self) -> None:
        until(lambda: len(list(self.gate.glob(f"p*.{self.rounds}"))) == len(self.started))
        (self.gate / str(self.rounds)).touch()
        self.rounds += 1


Run = Callable[..., list[Any]]


@pytest.fixture
def review(tmp_path: Path) -> Review:
    return Review(tmp_path / "review" / "set.sqlite")


@pytest.fixture
def run(forks: Server, review: Review) -> Run:
    """Runs a process for each script, all at once, and returns what each printed."""

    def run_all(*scripts: str, rounds: int = 1) -> list[Any]:
        processes = Processes(forks, review.path, scripts)
        for _ in range(rounds - 1):
            processes.go()
        ended = [(*process.communicate(), process.returncode) for process in processes.started]
        assert [(errors, code) for _, errors, code in ended] == [("", 0)] * len(scripts)
        return [json.loads(printed or "null") for printed, *_ in ended]

    return run_all


def ask(review: Review, query: str) -> list[tuple]:
    with closing(sqlite3.connect(review.path)) as connection:
        return connection.execute(query).fetchall()


def assert_whole(review: Review) -> None:
    """Every event has the entries that it says, in one run of numbers, and what stands is each pair's last."""
    assert ask(review, "PRAGMA integrity_check") == [("ok",)]
    counted = dict(ask(review, "SELECT event, count(*) FROM entry GROUP BY event"))
    events = ask(review, "SELECT id, first_entry, pairs FROM event ORDER BY id")
    assert [number for number, _, _ in events] == list(range(1, len(events) + 1))
    assert counted == {number: pairs for number, _, pairs in events}
    assert [first for _, first, _ in events] == [1 + sum(e[2] for e in events[:at]) for at in range(len(events))]
    last = ask(review, "SELECT pair_id, max(id) FROM entry GROUP BY pair_id ORDER BY pair_id")
    assert last == ask(review, "SELECT pair_id, entry FROM standing ORDER BY pair_id")


def test_processes_that_decide_and_undo_at_once_lose_nothing(review: Review, run: Run) -> None:
    told, undone = zip(*run(*[ROUNDS] * 4, rounds=3), strict=True)
    order = [note for (note,) in ask(review, "SELECT note FROM event ORDER BY id LIMIT 4")]
    assert sorted(order) == ["p0", "p1", "p2", "p3"]
    assert [told[int(name[1])] for name in order] == [None, *order[:-1]]  # all but the first overtook somebody
    assert sorted(undone, key=str) == [2, None, None, None]
    entries = review.entries_after(10)
    assert len(entries) == 4 * 30 * 2
    for process in range(4):
        own = [pair for pair, *_ in entries if pair.startswith(f"p{process} ")]
        assert own == [f"p{process} {number}" for number in range(30)]
    found = review.decisions([f"p{process} {number}" for process in range(4) for number in range(30)])
    assert {pair: (d.decision, d.note) for pair, d in found.items()} == {
        f"p{process} {number}": (CHOICES[number % 2], f"p{process}") for process in range(4) for number in range(30)
    }
    chain = ask(review, "SELECT id, previous FROM entry WHERE pair_id = 'everyone''s' ORDER BY id")
    assert [previous for _, previous in chain] == [0, *(entry for entry, _ in chain[:-1])]
    assert_whole(review)


def test_nobody_sees_half_of_an_event(review: Review, run: Run) -> None:
    watched, *_ = run(WATCH, DECIDE_ALL, DECIDE_ALL)
    assert {tuple(counts) for counts in watched} <= {(0, 0, 0), (2000, 0, 0), (0, 2000, 0)}
    assert review.position() == 16 * 2000
    assert_whole(review)


@pytest.mark.parametrize("there", [True, False])
def test_a_process_that_is_killed_before_any_statement_leaves_its_whole_event_or_nothing(
    review: Review, run: Run, there: bool
) -> None:
    events = [review.decide(["a"], KEEP, note="before")] if there else []
    (survivor,) = run(DIE_AT_EACH_STATEMENT)
    assert survivor > 15  # those before it died, at one statement more each
    assert ask(review, "SELECT note, pairs FROM event") == [("before", 1)] * len(events) + [(str(survivor), 5)]
    assert_whole(review)
    assert review.decide(["a"], KEEP).event == len(events) + 2
