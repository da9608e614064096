"""The commands, each a function whose signature defines its flags. Wrong input is one line and exit
code 2."""

import argparse
import dataclasses
import functools
import inspect
import logging
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal, NoReturn, get_args, get_origin

from clipmem_core import __version__, open_audit
from clipmem_core.auditing.folder.jobs import run_job
from clipmem_core.auditing.folder.settings import audit_name
from clipmem_core.auditing.run.console import (
    RichScreen,
    inspect_source,
    make_table,
    show_verdict,
)
from clipmem_core.auditing.run.executor import Executor, import_ray, processes, ray_tasks
from clipmem_core.auditing.tables.maps import make_map
from clipmem_core.config import (
    DEFAULT_PRESET,
    FIELDS,
    SETTING_FIELDS,
    AuditConfig,
    SourceOptions,
    as_dict,
    configured,
    did_you_mean,
    flat,
    preset_config,
)
from clipmem_core.export.formats import FORMATS, export_audit
from clipmem_core.export.reaudit import reaudit
from clipmem_core.lab import encoders, experiment, mitigated
from clipmem_core.lab.setting import (
    BASELINE,
    DECISIONS,
    DEFAULTS,
    NEAR_DUPLICATES,
    REMOVAL,
    STUDIES,
    Decided,
    Setting,
    control_of,
    parse_removal,
    parse_setting,
)
from clipmem_core.review import progress_and_repair as incidents
from clipmem_core.review.decisions import count_decisions, open_review
from clipmem_core.review.progress_and_repair import wrong_lines
from clipmem_core.utils.io import (
    SUFFIXES,
    InputError,
    check_suffix,
    path_fault,
    shortage,
    write_frame,
)

_FAILED = 1
_WRONG_INPUT = 2
_INTERRUPTED = 130

# A parameter annotated with a text is a flag; one annotated with a text and a name is positional.
Source = Annotated[str, "a path, a URL, a hub name, or `scenes`", "SOURCE"]
AuditName = Annotated[str, "the audit", "NAME"]
Engine = Annotated[
    Literal["local", "ray"], "what runs the work: this machine, or the Ray cluster of RAY_ADDRESS"
]
TableFile = Annotated[str, "a CSV file for the table, with this command, machine and seeds"]
Texts = tuple[str, ...]
LOCKED = preset_config(DEFAULT_PRESET)


def _executor(engine: str, config: AuditConfig) -> Executor | None:
    if engine == "local":
        processes()  # they import libraries while this process does
        return None
    import_ray()
    return functools.partial(ray_tasks, gpus=int(config.device == "cuda"))


def _file_to_write(out: str) -> Path:
    path = Path(out).expanduser()
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"{path} must be the name of a file in a folder that exists")
    return path


def _command_line() -> str:
    return shlex.join(["python", "-m", "clipmem_core", *sys.argv[1:]])


def _inspect(source: Source, options: SourceOptions = SourceOptions()) -> None:  # noqa: B008
    """Print the content of a data set and its errors; changes nothing."""
    inspect_source(source, options)


def _audit(
    source: Source,
    name: Annotated[str, "the audit's folder; empty names it after the source"] = "",
    engine: Engine = "local",
    config: AuditConfig = LOCKED,
) -> None:
    """Train members with and without parts of a data set and score how strongly each pair is
    memorized."""
    executor = _executor(engine, config)
    from clipmem_core.auditing.run.pipeline import run_audit

    name = name or audit_name(source, config)
    with RichScreen() as screen:
        finished = run_audit(source, config, name=name, screen=screen, executor=executor)
    show_verdict(finished)


def _check(
    source: Source,
    name: Annotated[str, "the audit's folder; empty names it after the source"] = "",
    out: Annotated[
        str, "the HTML file to write, and a CSV file beside it; empty: NAME-check.html here"
    ] = "",
    fail_above: Annotated[
        float, "end with exit code 1 if a larger share of the pairs has a wrong caption"
    ] = 1.0,
    config: AuditConfig = LOCKED,
) -> int:
    """Find the wrong captions of a data set, and write a report with every pair."""
    executor = _executor("local", config)
    from clipmem_core.auditing.run.pipeline import run_audit
    from clipmem_core.export import check_report

    name = name or audit_name(source, config)
    path = _file_to_write(out or f"{name}-check.html")
    check_report.check_target(path, source)
    with RichScreen() as screen:
        audit = run_audit(source, config, name=name, screen=screen, executor=executor)
        found = check_report.write_check(audit, path, screen.pictures)
        screen.progress.console.print(make_table("the worst captions", found.worst, found.head))
        for line in found.lines:
            screen.say(line)
        screen.say(f"{path}: every pair; {path.with_suffix('.csv')}: the same as a table")
        failed = fail_above < 1 and not found.wrong <= fail_above
        if failed:
            screen.say(f"failed: {found.share} wrong, more than --fail-above {fail_above:.1%}")
    return _FAILED if failed else 0


def _study(
    study: Annotated[str, " | ".join(STUDIES), "STUDY"],
    source: Source,
    name: Annotated[str, "the study's folder"],
    splits: Annotated[
        int,
        "of the pairs; each has an audit of its own, whose members train again with every setting",
    ] = 5,
    also: Annotated[Texts, 'one more setting, such as "text_mask=0.3 decisions"'] = (),
    out: TableFile = "",
    engine: Engine = "local",
    config: AuditConfig = AuditConfig(),  # noqa: B008 encoders that are trained
) -> None:
    """Compare settings over several splits of the pairs: memorization, utility and price."""
    from clipmem_core.lab.study import Request, run_study, show_differences, write_study_results

    path = _file_to_write(out) if out else None
    executor = _executor(engine, config)
    settings = [parse_setting(text) for text in also]
    with RichScreen() as screen:
        request = Request(source, config, name, screen, executor)
        finished = run_study(request, study, splits=splits, also=settings)
    rows = finished.rows
    show_differences(rows, experiment.titles_of(rows))
    print(finished.folder)
    if path:
        write_study_results(finished, path, command=_command_line())


def _mitigate(
    name: AuditName,
    removal: Annotated[
        str, "leave pairs out of training, by a ranking and a percentage: clipmem:5, p_wrong:5"
    ] = "",
    near_duplicates: Annotated[bool, "train on the first of near-duplicate pictures only"] = False,
    decisions: Annotated[
        bool, "train without the pairs that were removed in review, and with changed captions"
    ] = False,
    engine: Engine = "local",
    **overrides: Any,
) -> None:
    """Train an audit's members again with mitigations, and compare memorization and utility."""
    audit = open_audit(name)
    if removal:
        overrides[REMOVAL] = parse_removal(removal)
    if near_duplicates:
        overrides[NEAR_DUPLICATES] = True
    if decisions:
        overrides[DECISIONS] = True
    decided = open_review(audit).changes() if decisions else Decided()
    begun = mitigated.begin(audit, Setting(overrides, decided))
    if begun.name == BASELINE:
        raise InputError("no mitigation is set: add one, such as --text-noise 0.15")
    compared = [begun]
    if control := control_of(begun):
        compared.append(mitigated.begin(audit, control))
    from clipmem_core.lab.study import Run, run_settings, show_differences  # torch

    with RichScreen() as screen:
        executor = _executor(engine, audit.record.config)
        run_settings(Run(audit, screen, executor=executor), [each.name for each in compared])
    titles = {each.name: each.title for each in compared}
    show_differences(mitigated.lab_table(audit, [*titles, BASELINE]), titles)
    if control:
        experiment.store_effect(audit, begun)


def _benchmark(
    source: Source,
    name: Annotated[str, "the benchmark's folder; empty names it after the source"] = "",
    injections: Annotated[
        int, "of each kind and share, each with another split, other pairs and other members"
    ] = 5,
    kinds: Annotated[
        Texts,
        "random nearest one-caption one-word one-word-all mixed pipeline vague duplicates; "
        "empty: all",
    ] = (),
    shares: Annotated[
        tuple[float, ...], "of the scored pairs, for swaps; .05 .2 .4 if none is named"
    ] = (),
    out: TableFile = "",
    engine: Engine = "local",
    config: AuditConfig = LOCKED,
) -> None:
    """Inject errors into a data set, train members on it, and compare how well each score finds
    them."""
    from clipmem_core.lab.benchmark import (  # torch
        Request,
        run_benchmark,
        show_benchmark,
        write_benchmark_results,
    )

    path = _file_to_write(out) if out else None
    executor = _executor(engine, config)
    with RichScreen() as screen:
        name = name or audit_name(source, config)
        request = Request(source, config, name, screen, executor)
        finished = run_benchmark(request, injections=injections, kinds=kinds, shares=shares)
    show_benchmark(finished)
    if path:
        write_benchmark_results(finished, path, command=_command_line())


def _units(name: AuditName) -> None:
    """Measure UnitMem: which pair activates each unit of an audit's members most, and by how
    much."""
    from clipmem_core.lab.unitmem import run_units, show_units

    with RichScreen() as screen:
        audit = open_audit(name)
        run_units(audit, screen)
        show_units(audit)


def _encoders(
    name: AuditName,
    sample: Annotated[int, "pairs of the audit that encoders are trained on; fewer: all"] = 2000,
) -> None:
    """Train the last blocks of an audit's locked towers, and compare text and image encoder."""
    from clipmem_core.auditing.run.pipeline import run_audit
    from clipmem_core.lab.unitmem import run_units

    audit = open_audit(name)
    audit.check_finished()
    config = encoders.encoders_config(audit, sample)
    second_name = encoders.encoders_name(audit)
    with RichScreen() as screen:
        source = audit.record.source
        second = run_audit(source, config, name=second_name, screen=screen, pairs_of=audit)
        run_units(second, screen)
        for each in (audit, second):
            encoders.compare_encoders(each, screen)
        screen.result({"audit": second_name})
        encoders.say_encoders(audit, second, screen)


def _export(
    name: AuditName,
    format: Annotated[str, " | ".join(FORMATS)],
    out: Annotated[str, "the file or folder to write"],
    overwrite: Annotated[bool, "replace an existing file or folder"] = False,
) -> None:
    """Write an audit's cleaned data set, decisions or report in a format of other tools."""
    audit = open_audit(name)
    target = Path(out).expanduser()
    with RichScreen() as screen:
        summary = export_audit(audit, format, target, overwrite=overwrite, progress=screen.pictures)
        screen.say(f"{target}: {summary.line}")
        for note in summary.notes:
            screen.say(f"note: {note}")
        if summary.command:
            screen.say(f"audit it: {summary.command}")
        screen.result(summary._asdict())


def _reaudit(
    audit: AuditName,
    name: Annotated[str, "the second audit's folder; empty adds -again to the first one's"] = "",
) -> None:
    """Audit an audit's cleaned data set with the same members."""
    first = open_audit(audit)
    with RichScreen() as screen:
        second = reaudit(first, name or f"{first.name}-again", screen)
    show_verdict(second)
    print(f"What your decisions change: python -m clipmem_core mitigate {first.name} --decisions")


def _judge(
    name: AuditName,
    source: Annotated[
        str, "what `audit` reads, or a CSV, JSON Lines or Parquet file: caption, pair_id", "SOURCE"
    ],
    out: Annotated[str, "the file to write; empty adds -judged to the name of SOURCE"] = "",
    all_captions: Annotated[bool, "write the captions that the pairs have too"] = False,
    fail_above: Annotated[
        float, "end with exit code 1 if a larger share of the captions is wrong"
    ] = 1.0,
    allow_unjudged: Annotated[
        float, "share of the captions that --fail-above lets pass without a judgement"
    ] = 0.0,
    summary: Annotated[str, "a Markdown file for the counts and the ten worst captions"] = "",
    options: SourceOptions = SourceOptions(),  # noqa: B008
) -> int:
    """Give new pairs, or captions from elsewhere, the probability that they are wrong."""
    from clipmem_core.review import judge

    path, text = (_file_to_write(each) if each else None for each in (out, summary))
    audit = open_audit(name)
    judge.check_judges(audit)
    given = Path(source).expanduser()
    if path is None and given.suffix.lower() in SUFFIXES:
        path = given.with_stem(f"{given.stem}-judged")
    path = path or Path(f"{audit_name(source, audit.record.config)}-judged.csv")
    check_suffix(path)
    with RichScreen() as screen:
        candidates = judge.read_candidates(audit, source, options, screen)
        table = judge.judge_captions(audit, candidates, screen.captions, all_captions=all_captions)
        write_frame(table, path)
        found = judge.summarize(candidates, table)
        title = "captions, the likeliest wrong first"
        shown = make_table(title, found.worst.to_dict("records"), [*found.worst])
        screen.progress.console.print(shown)
        for line in (*found.causes, found.count, f"{path}: {found.numbers}"):
            screen.say(line)
        if text:
            text.write_text(found.as_markdown(), encoding="utf-8")
        wrong, unjudged = found.wrong, found.not_judged
        failures = []
        if wrong > fail_above:
            failures.append(f"{wrong:.1%} are wrong, more than --fail-above {fail_above:.1%}")
        if fail_above < 1 and unjudged > allow_unjudged:
            failures.append(
                f"{unjudged:.1%} of the captions could not be judged, for the reasons above; "
                f"--allow-unjudged admits {allow_unjudged:.1%}"
            )
        for failure in failures:
            screen.say(f"failed: {failure}")
    return _FAILED if failures else 0


def _decisions(
    name: AuditName,
    file: Annotated[
        str, "a CSV, JSON Lines or Parquet file: pair_id, decision, captions, note", "FILE"
    ] = "",
) -> None:
    """Store decisions of a file, and count the pairs of each decision."""
    audit = open_audit(name)
    if file:
        result = audit.decide(Path(file).expanduser())
        for row, pair_id, reason in result.refused.itertuples(index=False):
            print(f"refused: row {row}, {pair_id!r}: {reason}")
        if not result.stored:
            raise InputError(f"no decision of {file} could be stored")
        print(f"{result.stored:,} decisions stored, {len(result.refused):,} refused")
    print(", ".join(f"{count:,} {choice}" for choice, count in count_decisions(audit).items()))
    print(*wrong_lines(audit), sep="\n")


def _incidents(
    name: AuditName,
    repair: Annotated[tuple[int, ...], "repair the undecided pairs of these incidents"] = (),
    remove: Annotated[
        tuple[int, ...], "remove the captions of these incidents, and pairs without another caption"
    ] = (),
    keep: Annotated[tuple[int, ...], "keep the pairs of these incidents: they are no fault"] = (),
) -> None:
    """Print the faults of the pipeline that an audit found, and decide on their pairs."""
    audit = open_audit(name)
    for action, numbers in zip(incidents.ACTIONS, (repair, remove, keep), strict=True):
        if numbers:
            outcome = incidents.decide_incidents(audit, numbers, action)
            print(f"{action}: {outcome.pairs:,} pairs")
    states = incidents.incident_states(audit)
    for state in states.itertuples():
        described = f"{state.kind}, {state.pairs:,} pairs, {state.first:,} to {state.last:,}"
        print(f"{state.Index}  {described}: {state.cause} {incidents.state_words(state)}")
    print(incidents.incidents_line(audit) or "No open fault of the pipeline.")


def _map(audit: AuditName, side: Annotated[str, "pictures or captions", "SIDE"]) -> None:
    """Draw a map of an audit, which the page Map shows."""
    print(make_map(open_audit(audit), side))


def _job(folder: str, *arguments: str) -> int:
    return run_job(Path(folder), arguments, main)


COMMANDS: dict[str, Callable[..., int | None]] = {
    command.__name__.removeprefix("_"): command
    for command in (
        _check,
        _inspect,
        _audit,
        _mitigate,
        _study,
        _benchmark,
        _encoders,
        _units,
        _judge,
        _decisions,
        _incidents,
        _map,
        _export,
        _reaudit,
    )
}


class _Parser(argparse.ArgumentParser):
    """A parser of one command, whose errors are input errors."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (`{self.prog} --help` lists every flag)")

    def add(self, name: str, kind: Any, default: Any, help: Any, metavar: str = "") -> None:
        """Add a positional argument if it has a metavar, else a flag."""
        text = help.replace("%", "%%")
        required = default is inspect.Parameter.empty
        if metavar:
            self.add_argument(name, help=text, metavar=metavar, nargs=None if required else "?")
            self.usage = f"{self.usage} {metavar if required else f'[{metavar}]'}"
            return
        options: dict[str, Any] = {"type": kind}
        if kind is bool:
            options = {"action": argparse.BooleanOptionalAction}
        elif get_origin(kind) is Literal:
            options = {"choices": get_args(kind)}
        elif get_origin(kind) is tuple:
            options = {"type": get_args(kind)[0], "nargs": "*", "action": "extend"}
        if not required and default not in ("", ()) and default is not False:
            text += f" (default: {default})"
        flag = name.replace("_", "-")
        self.add_argument(f"--{flag}", help=text, required=required, **options)


def parse_command(arguments: Sequence[str]) -> SimpleNamespace:
    """Return a command and its arguments; the first mistake is an input error."""
    name, *words = arguments
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS)
        raise InputError(f"command {name!r} is unknown: choose one of {', '.join(COMMANDS)}{hint}")
    changes = DEFAULTS if name == "study" else {}  # defaults that differ from the preset's
    command = COMMANDS[name]
    parser = _Parser(
        prog=f"python -m clipmem_core {name}",
        usage="%(prog)s [options]",
        description=command.__doc__,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parameters = inspect.signature(command).parameters
    fields: dict[str, Any] = {}  # of the config that are flags of the command, with their defaults
    for parameter in parameters.values():
        default = parameter.default
        if parameter.kind is parameter.VAR_KEYWORD:
            fields = dict.fromkeys(SETTING_FIELDS, "")
        elif dataclasses.is_dataclass(default):
            fields = flat(as_dict(default)) | changes  # type: ignore[arg-type]
        else:
            kind, help, *metavar = get_args(parameter.annotation)
            parser.add(parameter.name, kind, default, help, *metavar)
    for field, default in fields.items():
        parser.add(field, type(FIELDS[field].default), default, FIELDS[field].help)
    namespace, unknown = parser.parse_known_args(words)
    for word in unknown:
        if word.startswith("-"):  # the words after it may be its value, or right
            flag = word.partition("=")[0]
            hint = did_you_mean(flag, parser._option_string_actions)
            parser.error(f"option {flag} is unknown{hint}")
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    flags = vars(namespace)
    values: dict[str, Any] = {name: flags.pop(name) for name in parameters if name in flags}
    if "config" in parameters:
        preset = flags.pop("preset", parameters["config"].default.preset)
        values["config"] = configured(preset, changes | flags)
    elif "options" in parameters:
        values["options"] = SourceOptions(**flags)
    else:
        values |= flags
    return SimpleNamespace(command=command, **values)


def main(arguments: Sequence[str]) -> int:
    """Run a command, or the work of a detached process, and return its exit code."""
    logging.getLogger().setLevel(logging.ERROR)
    try:
        if arguments and arguments[0] == "job":  # of a detached process, not typed
            return _job(*arguments[1:])
        if not arguments or arguments[0] in ("-h", "--help"):
            print("usage: python -m clipmem_core COMMAND …\n")
            for name, command in COMMANDS.items():
                print(f"  {name:9} {(command.__doc__ or '').splitlines()[0]}")
            print("\nCOMMAND --help lists every flag.")
            return 0 if arguments else _WRONG_INPUT
        if arguments[0] == "--version":
            print(f"clipmem {__version__}")
            return 0
        values = vars(parse_command(arguments))
        return values.pop("command")(**values) or 0
    except KeyboardInterrupt:
        print("interrupted: the same command resumes it", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:  # of `… | head`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return 0
    except (InputError, OSError, RuntimeError, MemoryError) as error:
        message = " ".join(str(error).splitlines())
        short = shortage(error)
        fault = path_fault(error)
        if short:
            message = f"{short}, and the same command resumes it ({message})"
        print(f"error: {fault or message}", file=sys.stderr)
        is_input = isinstance(error, InputError) or short or fault
        return _WRONG_INPUT if is_input else _FAILED
