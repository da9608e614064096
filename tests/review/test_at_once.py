"""Real processes that decide on one data set at the same moment, and some that are killed."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

import clipmem_core
from clipmem_core.review.decisions import CHOICES, KEEP, REMOVE, Review

ROOT = Path(clipmem_core.__file__).parents[1]
START = """
import json, os, sqlite3, sys
from pathlib import Path
from clipmem_core.review.decisions import CHOICES, KEEP, REMOVE, Review
review, name = Review(Path(sys.argv[1])), sys.argv[2]
def wait():
    print("ready", flush=True)
    sys.stdin.readline()
wait()
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
DECIDE_FOR_EVER = """
for number in range(10**9):
    review.decide([f"{number} {pair}" for pair in range(3000)], KEEP, note=str(number))
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


def start(path: Path, *scripts: str) -> list[subprocess.Popen[str]]:
    """Start a process for each script, and let them all go at the same moment."""
    commands = [[sys.executable, "-c", START + text, str(path), f"p{at}"] for at, text in enumerate(scripts)]
    pipe = subprocess.PIPE
    started = [subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) for command in commands]
    go(started)
    return started


def go(started: list[subprocess.Popen[str]]) -> None:
    for process in started:
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()


def run(path: Path, *scripts: str, rounds: int = 1) -> list[object]:
    """Run a process for each script, all at once, and return what each printed."""
    printed, started = [], start(path, *scripts)
    for _ in range(rounds - 1):
        go(started)
    for process in started:
        output, _ = process.communicate()
        assert process.returncode == 0
        printed.append(json.loads(output or "null"))
    return printed


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


def test_processes_that_decide_and_undo_at_once_lose_nothing(tmp_path: Path) -> None:
    review = Review(tmp_path / "review" / "set.sqlite")
    told, undone = zip(*run(review.path, *[ROUNDS] * 4, rounds=3), strict=True)
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


def test_nobody_sees_half_of_an_event(tmp_path: Path) -> None:
    review = Review(tmp_path / "review" / "set.sqlite")
    watched, *_ = run(review.path, WATCH, DECIDE_ALL, DECIDE_ALL)
    assert {tuple(counts) for counts in watched} <= {(0, 0, 0), (2000, 0, 0), (0, 2000, 0)}
    assert review.position() == 16 * 2000
    assert_whole(review)


@pytest.mark.parametrize("there", [True, False])
def test_a_process_that_is_killed_before_any_statement_leaves_its_whole_event_or_nothing(
    tmp_path: Path, there: bool
) -> None:
    review = Review(tmp_path / "review" / "set.sqlite")
    events = [review.decide(["a"], KEEP, note="before")] if there else []
    (survivor,) = run(review.path, DIE_AT_EACH_STATEMENT)
    assert survivor > 15  # those before it died, at one statement more each
    assert ask(review, "SELECT note, pairs FROM event") == [("before", 1)] * len(events) + [(str(survivor), 5)]
    assert_whole(review)
    assert review.decide(["a"], KEEP).event == len(events) + 2


def until(done: Callable[[], bool]) -> None:
    while not done():
        pass


def test_a_process_that_is_killed_at_any_moment_leaves_whole_events(tmp_path: Path) -> None:
    review = Review(tmp_path / "review" / "set.sqlite")
    for _ in range(3):
        before = review.count_events()
        (writer,) = start(review.path, DECIDE_FOR_EVER)
        until(lambda before=before: review.count_events() > before + 2)
        os.kill(writer.pid, signal.SIGKILL)
        writer.communicate()
        assert_whole(review)
        assert review.counts()[KEEP] == len(review.table()) == len(ask(review, "SELECT * FROM standing"))
    assert review.decide(["a"], REMOVE).pairs == 1
