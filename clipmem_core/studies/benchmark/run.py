"""A benchmark of detectors on one's own data set: which plantings are wanted, and what brings them to their end."""

import dataclasses
import functools
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audits import settings
from clipmem_core.audits.executor import Executor, Task, local_processes, program_of
from clipmem_core.audits.prepare import draw_membership, load_data_set
from clipmem_core.audits.setup import differing_fields
from clipmem_core.audits.store import PAIRS, acquire_lock, write_json, write_prepared, write_table
from clipmem_core.config import FIELDS, AuditConfig, InputError, affecting, as_dict, data_folder, switched_on
from clipmem_core.pairs.errors import ERROR_KINDS, inject_errors
from clipmem_core.scores.membership import Membership
from clipmem_core.scores.registry import MISFIT_FORMULA
from clipmem_core.studies.benchmark.results import BENCHMARK, Benchmark, Piece, benchmark_of

PROCESSES = ".process"


class Screen(Protocol):
    """What shows a benchmark's progress."""

    def say(self, text: str) -> None:
        """Show a line."""

    def pictures(self, done: int, total: int) -> None:
        """Show how many pictures have been looked at."""

    def captions(self, done: int, total: int) -> None:
        """Show how many captions are finished."""

    def plantings(self, done: int, total: int) -> None:
        """Show how many plantings have their result."""


def run_benchmark(
    source: str,
    config: AuditConfig,
    *,
    name: str,
    plantings: int,
    kinds: Sequence[str] = (),
    shares: Sequence[float] = (),
    screen: Screen,
    executor: Executor | None = None,
) -> Benchmark:
    """Run a benchmark, or go on with it: what is done is not done again.

    Args:
        source: a path, a hub name or `scenes`.
        config: what members are trained by; its seed is that of the first planting.
        name: the benchmark's folder.
        plantings: of each kind and share, each with another split, other pairs and members of its own.
        kinds: of mistakes; all if none is named.
        shares: of the scored pairs, for swaps; .05, .2 and .4 if none is named.
        screen: where progress goes.
        executor: what runs the plantings; processes of this machine unless it is given.

    Raises:
        InputError: something a person can mend.
    """
    benchmark = benchmark_of(name)
    _check_asked(plantings, kinds, shares, config)
    config = settings.resolve(dataclasses.replace(config, threads=config.threads or 1))
    with acquire_lock(benchmark.folder, what="benchmark"):
        if benchmark.begun:
            _check_same(benchmark, source, config)
            screen.say(f"going on with benchmark {name!r}")
        else:
            _prepare(benchmark, source, config, screen)
        wanted = pieces(benchmark, plantings=plantings, kinds=kinds, shares=shares)
        left = [piece for piece in wanted if not benchmark.result(piece).is_file()]
        if left:
            _bring(benchmark, wanted, left, screen, executor)
    return benchmark


def pieces(
    benchmark: Benchmark, *, plantings: int, kinds: Sequence[str] = (), shares: Sequence[float] = ()
) -> list[Piece]:
    """Return the plantings that are wanted, every kind and share of a seed before the next seed.

    Raises:
        InputError: the data set has room for none of them.
    """
    asked = benchmark.asked
    first, without = asked["config"].seed, asked["left_out"]
    chosen = [kind for kind in kinds or ERROR_KINDS if kind not in without]
    if not chosen:
        raise InputError(
            f"no kind of mistake can be planted: {'; '.join(without[kind] for kind in kinds or ERROR_KINDS)}"
        )
    swaps = {kind for kind in chosen if len(ERROR_KINDS[kind].shares) > 1}
    by_kind = {kind: shares if kind in swaps and shares else ERROR_KINDS[kind].shares for kind in chosen}
    return [
        Piece(kind, share, first + number) for number in range(plantings) for kind in chosen for share in by_kind[kind]
    ]


def _check_asked(plantings: int, kinds: Sequence[str], shares: Sequence[float], config: AuditConfig) -> None:
    unknown = [kind for kind in kinds if kind not in ERROR_KINDS]
    if unknown:
        raise InputError(f"kind {unknown[0]!r} of mistake is unknown: choose of {', '.join(ERROR_KINDS)}")
    if plantings < 1:
        raise InputError(f"--plantings must be at least 1, not {plantings}: from 3 on there are intervals")
    wrong = [share for share in shares if not 0 < share < 1]
    if wrong:
        raise InputError(f"--shares must be above 0 and below 1, not {wrong[0]:g}")
    if config.protocol != "ensemble" or config.stable:
        raise InputError("a benchmark has members of --protocol ensemble, as many each time: no --stable")
    if config.features:
        raise InputError("a benchmark embeds captions that it changes: --features has no tower that could")
    if config.plant_miscaptions:
        raise InputError("--plant-miscaptions is what a benchmark does by itself: name --kinds and --shares")
    mitigating = switched_on(as_dict(config))
    if mitigating:
        raise InputError(f"a benchmark trains members without mitigations: leave out {', '.join(mitigating)}")


def _check_same(benchmark: Benchmark, source: str, config: AuditConfig) -> None:
    asked = benchmark.asked
    differ = differing_fields(asked["source"], asked["config"], source, config)
    for name in affecting("members"):  # which an audit may go on with more of
        then, now = (getattr(one, name) for one in (asked["config"], config))
        if then != now:
            differ.append(f"{FIELDS[name].flag} is {then} there and {now} here")
    if benchmark.misfit != MISFIT_FORMULA:
        differ.append(f"misfit is {benchmark.misfit} there and {MISFIT_FORMULA} here")
    if differ:
        raise InputError(
            f"benchmark {benchmark.name!r} exists with another config: {'; '.join(differ)}. Take another --name"
        )


def _prepare(benchmark: Benchmark, source: str, config: AuditConfig, screen: Screen) -> None:
    """Read the data set and freeze it; benchmark.json comes last and makes the folder a benchmark."""
    screen.say(f"reading {source}")
    data_set = load_data_set(source, config, progress=screen.pictures, say=screen.say)
    membership = draw_membership(data_set.clusters, config)
    captions = int(data_set.pairs[c.CAPTIONS].map(len).sum())
    screen.say(f"{len(data_set.pairs):,} pairs with {captions:,} captions; {data_set.lookalikes:,} look-alikes")
    folder, pixels = benchmark.folder, data_set.pixels
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / PAIRS, data_set.pairs)
    stored = pixels.folder.relative_to(data_folder()).as_posix()
    write_prepared(folder, cache_rows=pixels.rows, clusters=data_set.clusters, pixels=stored)
    asked = {
        "source": source,
        "root": str(data_set.raw.root.resolve()),
        "config": as_dict(config),
        "dataset_fingerprint": data_set.fingerprint,
        "pairs": len(data_set.pairs),
        "captions": captions,
        "left_out": left_out(data_set.pairs, membership, config, screen),
        "towers": _tower_names(config),
        "machine": settings.machine(),
        "versions": settings.versions(),
        "misfit": MISFIT_FORMULA,
    }
    write_json(folder / BENCHMARK, asked)


def left_out(pairs: pd.DataFrame, membership: Membership, config: AuditConfig, screen: Screen) -> dict[str, str]:
    """Return the kinds of mistakes that a data set has no room for, with the reason, and say so."""
    from clipmem_core.studies.benchmark.planting import scored_rows  # torch, which nothing else here needs

    rows, without = scored_rows(pairs, membership), {}
    for name, kind in ERROR_KINDS.items():
        try:
            inject_errors(name, pairs, rows, share=max(kind.shares), seed=config.seed)
        except InputError as error:
            without[name] = str(error)
            screen.say(f"note: kind {name!r} is left out: {error}")
    return without


def _tower_names(config: AuditConfig) -> list[str]:
    if not settings.opens_towers(config):
        return []
    from clipmem_core.audits.settings import towers_of

    return [record["name"] for record in towers_of(config).records.values()]


def _bring(
    benchmark: Benchmark, wanted: Sequence[Piece], left: Sequence[Piece], screen: Screen, executor: Executor | None
) -> None:
    """Bring the plantings that are left to their results, some side by side."""
    asked = benchmark.asked
    config: AuditConfig = asked["config"]
    if settings.opens_towers(config):
        from clipmem_core.audits.locked import elsewhere, features_of
        from clipmem_core.audits.settings import checked_towers

        screen.say("computing features with the locked towers")
        how: dict[str, Any] = {"pictures": screen.pictures, "captions": screen.captions, "say": screen.say}
        how["elsewhere"] = elsewhere(executor, config.threads)
        features_of(checked_towers(config), benchmark.pairs, Path(asked["root"]), **how)
    at_once = len(left) if executor else min(len(left), settings.side_by_side(config))
    beside = "" if executor else f", {at_once} side by side"
    screen.say(f"{len(left)} of {len(wanted)} plantings of {config.members} members are left{beside}")
    tasks = [_task(benchmark, left[first::at_once], first, config.threads) for first in range(at_once)]
    run = executor or functools.partial(local_processes, at_once=at_once)
    with closing(run(tasks)) as looks:
        for _ in looks:
            done = sum(benchmark.result(piece).is_file() for piece in wanted)
            screen.plantings(done, len(wanted))


def _task(benchmark: Benchmark, own: Sequence[Piece], number: int, threads: int) -> Task:
    """Return the task that brings some plantings to their results in a process of its own."""
    folder = benchmark.folder / f"{PROCESSES}-{number}"  # what it says of an error
    folder.mkdir(parents=True, exist_ok=True)
    program = program_of("clipmem_core.studies.benchmark.planting:run_pieces", benchmark.folder)
    return Task((folder,), program, tuple(piece.name for piece in own), threads, "planting")
