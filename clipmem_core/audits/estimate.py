"""How long an audit takes: by a few real steps, in as many processes side by side as it has members at a time."""

import contextlib
import dataclasses
import logging
import math
import multiprocessing
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np

from clipmem_core import columns as c
from clipmem_core.audits.executor import KEEP_MEMORY
from clipmem_core.audits.settings import shares_process, side_by_side
from clipmem_core.config import AuditConfig, InputError
from clipmem_core.pairs.table import RawPairs
from clipmem_core.scores.membership import Membership

# Reading vectors, aligning and ranking them; measured once, since it is a hundredth of an audit.
SCORING = 2e-5  # seconds a pair and member
CAPTIONS_TRIED = 1024
EPOCHS = 1000  # of the sample: more than is ever run
SECONDS_TO_WARM_UP = 600.0  # of the slowest process; then its neighbours give up


@dataclass(frozen=True)
class Pace:
    """Seconds of one member while its neighbours run too, and nothing else does."""

    warm_up: float  # the steps before it was measured
    waited: float  # for a core that something else had, until it was warm
    step: float
    picture: float  # one view of one picture, embedded
    caption: float  # one caption, embedded
    busy: float  # how many times longer the steps took, since something else ran too; at least 1


@dataclass(frozen=True)
class MemberSeconds:
    """What one member takes while its neighbours run too, and nothing else does."""

    training: float
    embedding: float


def steps_of(config: AuditConfig, membership: Membership) -> int:
    """Return the steps that a member trains for."""
    return config.trained_epochs * math.ceil(trained_pairs(membership) / config.batch_size)


def trained_pairs(membership: Membership) -> int:
    """Return the pairs that a member trains on."""
    return round(float(membership.trained.sum(axis=1).mean()))


def member_seconds(pace: Pace, config: AuditConfig, membership: Membership, *, captions: int) -> MemberSeconds:
    """Return what one member takes, of a pace that was measured.

    Args:
        pace: of one member while as many train as will.
        config: a resolved one.
        membership: who trains on what.
        captions: of all pairs together.
    """
    views = len(membership.group) * (1 if config.lock_image else config.views)  # features are of one view
    return MemberSeconds(steps_of(config, membership) * pace.step, views * pace.picture + captions * pace.caption)


def audit_seconds(member: MemberSeconds, config: AuditConfig, *, starting: float, pairs: int) -> dict[str, float]:
    """Return how long the members and the scores of an audit take when nothing else runs, by what it is spent on.

    Args:
        member: of each.
        config: a resolved one.
        starting: until a member's process makes its first step.
        pairs: that are scored.

    Example:
        >>> config = AuditConfig(members=4, device="cpu", threads=10_000)
        >>> audit_seconds(MemberSeconds(15.0, 2.0), config, starting=3.0, pairs=0)  # one after the other
        {'starting': 12.0, 'training': 60.0, 'embedding': 8.0, 'scoring': 0.0}
    """
    turns = math.ceil(config.members / side_by_side(config))
    once = {
        "starting": starting if shares_process(config) else turns * starting,
        "training": turns * member.training,
        "embedding": turns * member.embedding,
    }
    second = {"second round": sum(once.values())} if config.rounds == "2" else {}
    return once | second | {"scoring": pairs * config.members * SCORING}


def waited() -> float:
    """Return the seconds this thread was ready to run and had no core, since it began; 0 where that is not known."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def undisturbed() -> float:
    """Return a clock, in seconds, that stands still while this thread waits for a core."""
    return time.monotonic() - waited()


def measure_pace(
    config: AuditConfig, raw: RawPairs, membership: Membership, readable: Sequence[str]
) -> tuple[Pace, float]:
    """Train a little, as many processes side by side as the audit will: their mean pace, and the seconds they start in.

    Args:
        config: a resolved one.
        raw: the data set's pairs.
        membership: who trains on what.
        readable: references of pictures that open; some are decoded at every use where an audit would do so.

    Raises:
        InputError: the model cannot be built or trained.
        RuntimeError: a process died.
    """
    trained = max(1, trained_pairs(membership))
    batch = math.ceil(trained / math.ceil(trained / config.batch_size))
    drawn = raw.pairs[c.CAPTIONS].sample(min(CAPTIONS_TRIED, len(raw.pairs)), random_state=config.seed)
    rows = range(max(1, min(3, len(drawn) // batch)) * batch)
    tokens = _tokens(config, [drawn.iloc[row % len(drawn)][0] for row in rows])
    streams = readable and len(raw.pairs) * config.cache_size**2 * 3 > config.cache_gb * 2**30
    images = [readable[row % len(readable)] for row in rows] if streams else []
    sample = (dataclasses.replace(config, epochs=EPOCHS, batch_size=batch), tokens, raw.root, images)
    began = time.monotonic()
    found = _side_by_side(sample, side_by_side(config), threads=str(config.threads))
    mean = Pace(*np.mean([dataclasses.astuple(pace) for pace, _ in found], axis=0).tolist())
    starting = max(warm for _, warm in found) - began
    return mean, max(0.0, starting - mean.waited - mean.warm_up)


def _tokens(config: AuditConfig, captions: list[str]) -> np.ndarray:
    """Return the tokens of captions; of a locked text tower, whose features are noise here, nothing."""
    if config.lock_text:
        return np.empty((len(captions), 0), np.int32)
    from clipmem_core.training.model import tokenize  # brings torch along, which most that estimate do without

    return tokenize(config.model, captions)


def _side_by_side(sample: tuple[Any, ...], count: int, *, threads: str) -> list[tuple[Pace, float]]:
    """Return what each of some processes measured, and when it was warm."""
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(count)
    running: dict[Any, Any] = {}
    try:
        with _environment(KEEP_MEMORY | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}):
            for _ in range(count):
                link, end = context.Pipe(duplex=False)
                running[link] = context.Process(target=_take_part, args=(end, together, sample), daemon=True)
                running[link].start()
                end.close()
        found: dict[Any, tuple[Pace, float]] = {}
        while len(found) < count:
            for heard in connection.wait(running.keys() - found.keys()):
                found[heard] = _answer(heard, running[heard])
    finally:
        for process in running.values():
            process.kill()
            process.join()
    return list(found.values())


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Give the processes that start meanwhile some variables."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _answer(link: Any, process: Any) -> tuple[Pace, float]:
    try:
        answer = link.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"the process that measures the steps ended with exit code {process.exitcode}") from None
    if isinstance(answer, InputError):
        raise answer
    return answer


def _take_part(link: Any, together: Barrier, sample: tuple[Any, ...]) -> None:
    """Warm up, wait for the others, and send what is measured and when it was warm, or what is wrong."""
    from clipmem_core.audits.throughput import measure

    logging.getLogger().setLevel(logging.ERROR)
    moments: list[float] = []

    def ready() -> None:
        moments.append(time.monotonic())
        together.wait(SECONDS_TO_WARM_UP)

    try:
        link.send((measure(*sample, ready=ready), moments[0]))
    except InputError as error:
        link.send(error)
