"""The commands: what can be typed after each, and what each does. Wrong input is one line on stderr and exit code 2."""

import functools
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from clipmem_core import __version__
from clipmem_core.arguments import flag, parse_command, positional
from clipmem_core.audits.console import RichScreen, show_audits, show_verdict, write_results
from clipmem_core.audits.jobs import run_job
from clipmem_core.audits.settings import audit_name
from clipmem_core.audits.status import list_states
from clipmem_core.audits.store import open_audit
from clipmem_core.config import (
    DEFAULT_PRESET,
    AuditConfig,
    InputError,
    SourceOptions,
    data_folder,
    meant,
    preset_config,
)
from clipmem_core.shortage import shortage

if TYPE_CHECKING:  # a command starts sooner without what it does not use
    from clipmem_core.audits.executor import Executor

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130
AUDIT_IT = "audit it: "  # begins the line with the command that audits an export

SOURCE = "SOURCE", "a path, a URL, a hub name, or `scenes`"
NAME = "NAME", "the audit"
Engine = Literal["local", "ray"]
RUNS = "what runs the members: this machine, or the Ray cluster of RAY_ADDRESS"


def _executor(engine: Engine, config: AuditConfig) -> "Executor | None":
    """Return what runs members and shards of features where that is not this machine."""
    if engine == "local":
        return None
    from clipmem_core.audits.cluster import imported, ray_tasks

    imported()
    return functools.partial(ray_tasks, gpus=int(config.device == "cuda"))


@dataclass(frozen=True)
class Inspect:
    """Say what is in a data set and what is broken; changes nothing."""

    source: str = positional(*SOURCE)
    options: SourceOptions = field(default_factory=SourceOptions)

    def run(self) -> None:
        from clipmem_core.audits.preflight import inspect_source

        inspect_source(self.source, self.options)


@dataclass(frozen=True)
class Fetch:
    """Fetch a data set from Debian's archive into the data folder."""

    name: str = positional("SET", "openclipart | tuxpaint")

    def run(self) -> None:
        from clipmem_core.pairs.debian import fetch

        with RichScreen() as screen:
            folder = fetch(self.name, data=data_folder(), report=screen.say)
            screen.say(f"next: python -m clipmem_core audit {folder} --name {self.name}")


@dataclass(frozen=True)
class Audit:
    """Train members with and without parts of a data set and score how strongly each pair is memorized."""

    source: str = positional(*SOURCE)
    name: str = flag("the audit's folder; empty names it after the source", "")
    engine: Engine = flag(RUNS, "local")
    config: AuditConfig = field(default_factory=lambda: preset_config(DEFAULT_PRESET))

    def run(self) -> None:
        from clipmem_core.audits.run import run_audit

        executor = _executor(self.engine, self.config)
        with RichScreen(self.config.batch_size) as screen:
            name = self.name or audit_name(self.source, self.config)
            finished = run_audit(self.source, self.config, name=name, screen=screen, executor=executor)
        show_verdict(finished)


@dataclass(frozen=True)
class Score:
    """Score existing checkpoints: no training."""

    source: str = positional(*SOURCE)
    name: str = flag("the audit's folder")
    checkpoints: tuple[str, ...] = flag(
        "open_clip checkpoints, in the order of the member columns; without --membership a target and a reference"
    )
    membership: str = flag("CSV or Parquet: pair_id, one true/false column a member, and optionally group", "")
    config: AuditConfig = field(default_factory=AuditConfig)

    def run(self) -> None:
        from clipmem_core.audits.checkpoints import DIFFERENCE_CLAIM, compare_checkpoints, score_checkpoints

        given: dict[str, Any] = {"name": self.name, "checkpoints": self.checkpoints}
        if not self.membership:
            with RichScreen() as screen:
                table = compare_checkpoints(self.source, self.config, **given, screen=screen)
                screen.say(f"{table}: one row a pair")
            print(DIFFERENCE_CLAIM)
            return
        with RichScreen() as screen:
            given["membership"] = self.membership
            finished = score_checkpoints(self.source, self.config, **given, screen=screen)
        show_verdict(finished)


def _studies() -> str:
    from clipmem_core.studies.plan import STUDIES  # takes a second

    return " | ".join(STUDIES)


@dataclass(frozen=True)
class Study:
    """Compare settings over several seeds, each with its f and its g: memorization, utility and price."""

    study: str = positional("STUDY", _studies)
    source: str = positional(*SOURCE)
    name: str = flag("the study's folder")
    also: tuple[str, ...] = flag('one more arm, such as "text_mask=0.3 decisions"', (), repeated=True)
    only: tuple[str, ...] = flag("train only this arm now, and the one all are compared with", (), repeated=True)
    seeds_per_split: int = flag(
        "seeds that train on one split of the pairs before another is drawn; 0: all share one", 1
    )
    engine: Engine = flag(RUNS, "local")
    # Not the preset of an audit: the paper's claims are about encoders that are trained.
    config: AuditConfig = field(default_factory=AuditConfig)

    def run(self) -> None:
        from clipmem_core.review.decisions import decided_of
        from clipmem_core.studies.arm import parse_setting
        from clipmem_core.studies.results import show_study
        from clipmem_core.studies.run import run_study

        also = [parse_setting(text) for text in self.also]
        more: dict[str, Any] = {"also": also, "only": self.only, "seeds_per_split": self.seeds_per_split}
        more |= {"executor": _executor(self.engine, self.config)}
        with RichScreen(self.config.batch_size) as screen:
            more |= {"screen": screen, "decisions": decided_of}
            done = run_study(self.study, self.source, self.config, name=self.name, **more)
        show_study(done)


@dataclass(frozen=True)
class Benchmark:
    """Plant mistakes in a data set, train members on it, and compare how well each score finds them."""

    source: str = positional(*SOURCE)
    name: str = flag("the benchmark's folder; empty names it after the source", "")
    plantings: int = flag("of each kind and share, each with another split, other pairs and members of its own", 5)
    kinds: tuple[str, ...] = flag("random | label | nearest | partly | vague | duplicates; all if none is named", ())
    shares: tuple[float, ...] = flag("of the scored pairs, for swaps; .05 .2 .4 if none is named", ())
    out: str = flag("a CSV file for the table", "")
    engine: Engine = flag(RUNS.replace("members", "plantings"), "local")
    config: AuditConfig = field(default_factory=lambda: preset_config(DEFAULT_PRESET))

    def run(self) -> None:
        from clipmem_core.studies.benchmark.results import show_benchmark, write_results
        from clipmem_core.studies.benchmark.run import run_benchmark

        name = self.name or audit_name(self.source, self.config)
        more: dict[str, Any] = {"plantings": self.plantings, "kinds": self.kinds, "shares": self.shares}
        more |= {"executor": _executor(self.engine, self.config)}
        with RichScreen() as screen:
            done = run_benchmark(self.source, self.config, name=name, **more, screen=screen)
        show_benchmark(done)
        if self.out:
            write_results(done, Path(self.out))


@dataclass(frozen=True)
class Units:
    """Measure UnitMem: which pair sets each unit of an audit's members off, and how far it stands out."""

    name: str = positional(*NAME)
    members: tuple[str, ...] = flag("which members; all if none is named", ())
    sample: int = flag("pairs of a member that are looked at; 0 means all that it was trained on", 0)

    def run(self) -> None:
        from clipmem_core.audits.unitmem import run_units, say_units

        with RichScreen() as screen:
            audit = open_audit(self.name)
            run_units(audit, members=self.members, sample=self.sample, screen=screen)
            say_units(audit, sample=self.sample, screen=screen)


@dataclass(frozen=True)
class Paradigms:
    """Teach an audit's image encoder by captions, by labels and by itself, and compare UnitMem by layer."""

    name: str = positional(*NAME)
    seeds: int = flag("runs of each of the three", 3)
    epochs: int = flag("of each run; 0 means the audit's", 0)

    def run(self) -> None:
        from clipmem_core.audits.paradigms import run_paradigms, say_paradigms

        with RichScreen() as screen:
            audit = open_audit(self.name)
            say_paradigms(run_paradigms(audit, seeds=self.seeds, epochs=self.epochs, screen=screen), screen)


@dataclass(frozen=True)
class Export:
    """Write an audit's cleaned data set, decisions or report in a format of other tools."""

    name: str = positional(*NAME)
    format: str = flag("csv | coco | folder | imagefolder | wds | datacomp | html | decisions")
    out: str = flag("the file to write, or the folder, or a URL of one")
    overwrite: bool = flag("replace what is there", False)

    def run(self) -> None:
        from clipmem_core.exports import write
        from clipmem_core.pairs.readers.files import is_url

        audit, out = open_audit(self.name), self.out if is_url(self.out) else Path(self.out).expanduser()
        with RichScreen() as screen:
            summary = write(audit, self.format, out, overwrite=self.overwrite, progress=screen.pictures)
            screen.say(f"{out}: {summary.line}")
            for note in summary.notes:
                screen.say(f"note: {note}")
            if summary.command:
                screen.say(f"{AUDIT_IT}{summary.command}")


@dataclass(frozen=True)
class Again:
    """Audit an audit's cleaned data set with the same members, and say what became of retrieval and memorization."""

    audit: str = positional(*NAME)
    name: str = flag("the second audit's folder; empty adds -again to the first one's", "")

    def run(self) -> None:
        from clipmem_core.exports.reaudit import comparison_lines, default_name, read_comparison, reaudit

        audit = open_audit(self.audit)
        with RichScreen(audit.record.config.batch_size) as screen:
            second = reaudit(audit, self.name or default_name(audit), screen)
        print(*comparison_lines(read_comparison(second)[0]), sep="\n")


@dataclass(frozen=True)
class Results:
    """Write the results of an audit or a study as a small CSV that says how it was made."""

    name: str = positional(*NAME)
    out: str = positional("CSV", "the file to write")
    study: bool = flag("NAME is that of a study", False)

    def run(self) -> None:
        from clipmem_core.studies import results as study_results
        from clipmem_core.studies.store import open_study

        if self.study:
            study_results.write_results(open_study(self.name), Path(self.out))
            return
        audit = open_audit(self.name)
        if not audit.finished:
            raise InputError(f"audit {audit.name!r} is not finished: run it again, it goes on where it stopped")
        write_results(audit, Path(self.out))


@dataclass(frozen=True)
class List:
    """List the audits and studies there are."""

    def run(self) -> None:
        from clipmem_core.studies.store import list_studies

        show_audits(list_states(), [study.name for study in list_studies()])


def _job(folder: str, *arguments: str) -> int:
    return run_job(Path(folder), arguments, main)


def _check(request: str) -> None:
    from clipmem_core.audits.preflight import check, read_request

    check(read_request(Path(request)))


def _map(audit: str, name: str) -> None:
    from clipmem_core.review.maps import make_map

    make_map(open_audit(audit), name, say=lambda line: print(line, flush=True))


TYPED = (Inspect, Fetch, Audit, Score, Study, Benchmark, Units, Paradigms, Export, Again, Results, List)
COMMANDS: dict[str, type] = {kind.__name__.lower(): kind for kind in TYPED}
# What detached processes run: it takes words as they come, and nobody types it.
PROCESSES: dict[str, Callable[..., int | None]] = {process.__name__[1:]: process for process in (_job, _check, _map)}


def parse(arguments: Sequence[str]) -> Any:
    """Parse what was typed."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview(), file=sys.stdout if arguments else sys.stderr)
        raise SystemExit(DONE if arguments else WRONG_INPUT)
    if arguments[0] == "--version":
        print(f"clipmem {__version__}")
        raise SystemExit(DONE)
    if arguments[0] not in COMMANDS:
        raise InputError(
            f"command {arguments[0]!r} is unknown: choose one of {', '.join(COMMANDS)}{meant(arguments[0], COMMANDS)}"
        )
    kind, changes = COMMANDS[arguments[0]], {}
    if kind is Study:
        from clipmem_core.studies.plan import STUDIES, defaults_of

        changes = defaults_of(next((word for word in arguments[1:] if word in STUDIES), ""))
    return parse_command(kind, arguments[1:], program=f"python -m clipmem_core {arguments[0]}", changes=changes)


def _overview() -> str:
    lines = [f"  {name:9} {(kind.__doc__ or '').splitlines()[0]}" for name, kind in COMMANDS.items()]
    return "\n".join(["usage: python -m clipmem_core COMMAND …", "", *lines, "", "COMMAND --help lists every flag."])


def main(arguments: Sequence[str]) -> int:
    """Run one command, or what a detached process is to do, and return its exit code."""
    logging.getLogger().setLevel(logging.ERROR)
    try:
        if arguments and arguments[0] in PROCESSES:
            return PROCESSES[arguments[0]](*arguments[1:]) or DONE
        parse(arguments).run()
    except InputError as error:
        print(f"error: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return WRONG_INPUT
    except KeyboardInterrupt:
        print("interrupted: the same command goes on where it stopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `… | head` has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    except (OSError, RuntimeError, MemoryError) as error:
        said, short = " ".join(str(error).splitlines()), shortage(error)
        go_on = f"{short}, and the same command goes on where it stopped{f' ({said})' if said else ''}"
        print(f"error: {go_on if short else said}", file=sys.stderr)
        return WRONG_INPUT if short else FAILED
    return DONE
