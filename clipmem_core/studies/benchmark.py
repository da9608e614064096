"""Run a benchmark of detectors on a data set: prepare it, and run the injections without a result."""

import dataclasses
import functools
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from clipmem_core.audit import settings
from clipmem_core.audit.executor import Executor, Task, local_processes, program_of
from clipmem_core.audit.pipeline import Screen
from clipmem_core.audit.prepare import load_data_set
from clipmem_core.audit.setup import differing_fields
from clipmem_core.audit.store import PAIRS, acquire_lock, write_json, write_prepared, write_table
from clipmem_core.config import FIELDS, AuditConfig, InputError, affecting, as_dict, data_folder, switched_on
from clipmem_core.dataset.injected_errors import ERROR_KINDS
from clipmem_core.studies.benchmark_results import BENCHMARK, Benchmark, Piece, benchmark_of


def run_benchmark(
    source: str,
    config: AuditConfig,
    *,
    name: str,
    injections: int,
    kinds: Sequence[str] = (),
    shares: Sequence[float] = (),
    screen: Screen,
    executor: Executor | None = None,
) -> Benchmark:
    """Run a benchmark, or continue it: a number of injections of each kind of error and share of the scored pairs.

    The first injection has the config's seed. By default all `kinds` and `shares` run, in processes of this machine.
    """
    benchmark = benchmark_of(name)
    _check_request(injections, kinds, shares, config)
    config = settings.resolve(dataclasses.replace(config, threads=config.threads or 1))
    with acquire_lock(benchmark.folder, what="benchmark"):
        if benchmark.begun:
            _check_same(benchmark, source, config)
            screen.say(f"resuming benchmark {name!r}")
        else:
            _prepare(benchmark, source, config, screen)
        pending = [
            piece
            for number in range(injections)
            for kind in kinds or ERROR_KINDS
            for share in (shares if shares and len(ERROR_KINDS[kind].shares) > 1 else ERROR_KINDS[kind].shares)
            if not benchmark.result(piece := Piece(kind, share, config.seed + number)).is_file()
        ]
        if pending:
            _run_pieces(benchmark, pending, screen, executor)
    return benchmark


def _check_request(injections: int, kinds: Sequence[str], shares: Sequence[float], config: AuditConfig) -> None:
    if unknown := [kind for kind in kinds if kind not in ERROR_KINDS]:
        raise InputError(f"kind {unknown[0]!r} of error is unknown: choose from {', '.join(ERROR_KINDS)}")
    if injections < 1:
        raise InputError(f"--injections must be at least 1, not {injections}: intervals need 3")
    if wrong := [share for share in shares if not 0 < share < 1]:
        raise InputError(f"--shares must be above 0 and below 1, not {wrong[0]:g}")
    if config.protocol != "ensemble" or config.stable:
        raise InputError("a benchmark needs --protocol ensemble without --stable")
    if config.features:
        raise InputError("a benchmark embeds changed captions: it cannot use --features")
    if config.inject_miscaptions:
        raise InputError("a benchmark injects its own errors: use --kinds and --shares, not --inject-miscaptions")
    if mitigating := switched_on(as_dict(config)):
        raise InputError(f"a benchmark trains members without mitigations: remove {', '.join(mitigating)}")


def _check_same(benchmark: Benchmark, source: str, config: AuditConfig) -> None:
    before = benchmark.request["config"]
    differ = differing_fields(benchmark.request["source"], before, source, config)
    for name in affecting("members"):  # an audit may get more of them, a benchmark not
        then, now = getattr(before, name), getattr(config, name)
        if then != now:
            differ.append(f"{FIELDS[name].flag} is {then} there and {now} here")
    if differ:
        raise InputError(
            f"benchmark {benchmark.name!r} exists with another config: {'; '.join(differ)}. Choose another --name"
        )


def _prepare(benchmark: Benchmark, source: str, config: AuditConfig, screen: Screen) -> None:
    """Read the data set and store it; benchmark.json is written last."""
    screen.say(f"reading {source}")
    data_set = load_data_set(source, config, progress=screen.pictures, say=screen.say)
    pixels, folder = data_set.pixels, benchmark.folder
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / PAIRS, data_set.pairs)
    stored = pixels.folder.relative_to(data_folder()).as_posix()
    write_prepared(folder, cache_rows=pixels.rows, clusters=data_set.clusters, pixels=stored)
    request = {
        "source": source,
        "root": str(data_set.raw.root.resolve()),
        "config": as_dict(config),
        "dataset_fingerprint": data_set.fingerprint,
        "machine": settings.machine(),
    }
    write_json(folder / BENCHMARK, request)


def _run_pieces(benchmark: Benchmark, pending: Sequence[Piece], screen: Screen, executor: Executor | None) -> None:
    """Run injections, some side by side."""
    config: AuditConfig = benchmark.request["config"]
    if settings.opens_towers(config):
        from clipmem_core.audit.member import features_of, shards_by

        screen.say("computing features with the locked towers")
        features_of(
            settings.checked_towers(config),
            benchmark.pairs,
            Path(benchmark.request["root"]),
            compute=shards_by(executor, config.threads),
            pictures=screen.pictures,
            captions=screen.captions,
            say=screen.say,
        )
    at_once = len(pending) if executor else min(len(pending), settings.side_by_side(config))
    screen.say(f"{len(pending)} injections of {config.members} members to run")
    tasks = []
    for first in range(at_once):
        folder = benchmark.folder / f".process-{first}"  # for its error output
        folder.mkdir(parents=True, exist_ok=True)
        program = program_of("clipmem_core.studies.benchmark_injection:run_pieces", benchmark.folder)
        names = tuple(piece.name for piece in pending[first::at_once])
        tasks.append(Task((folder,), program, names, config.threads, "injection"))
    finished, run = 0, executor or functools.partial(local_processes, at_once=at_once)
    with closing(run(tasks)) as polls:
        for _ in polls:
            done = sum(benchmark.result(piece).is_file() for piece in pending)
            if done > finished:
                screen.say(f"{done} of {len(pending)} injections finished")
            finished = done
