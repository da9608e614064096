"""Audits the cleaned data set with the same members, and compares both audits.

<data>/sets/<name>/             captions.csv: the cleaned data set when the second audit began; captions_images/ if
                                pictures lie in archives; cleaned.json: its audit, and the entry of the log of decisions
<data>/audits/<name>/again.json the comparison
"""

import dataclasses
from pathlib import Path

from typing_extensions import TypedDict

from clipmem_core.audits.jobs import Task, audit_task, list_job_names
from clipmem_core.audits.reaudit import Change, Measured, measure
from clipmem_core.audits.run import Screen, run_audit
from clipmem_core.audits.store import CONFIG, Audit, audits_folder, check_name, list_audits, write_json
from clipmem_core.config import SETS, AuditConfig, InputError, SourceOptions, data_folder
from clipmem_core.exports.cleaned import check_root, clean, images_folder, is_planted
from clipmem_core.exports.formats import write_csv
from clipmem_core.io import read_json
from clipmem_core.review.decisions import open_review

AGAIN, CLEANED, CAPTIONS = "again.json", "cleaned.json", "captions.csv"
ADVICE = "delete it and repeat the command; what was trained stays"


class CleanedFile(TypedDict):
    """The fields of cleaned.json."""

    of: str
    position: int  # of the log of decisions, when the data set was written


class AgainFile(TypedDict):
    """The fields of again.json; `found` is null if too few pairs are in both audits."""

    found: Measured | None


def cleaned_folder(name: str) -> Path:
    """Return the folder of the cleaned data set of a second audit of this name."""
    return data_folder() / SETS / name


def default_name(audit: Audit) -> str:
    """Return the default name of the second audit."""
    return f"{audit.name}-again"


def reaudit(audit: Audit, name: str, screen: Screen) -> Audit:
    """Write a finished audit's cleaned data set, audit it with the same settings and members, and compare the two.

    The same call resumes a stopped one, and does nothing for a finished one.
    """
    config = check_repeatable(audit)
    second, table = Audit(audits_folder() / check_name(name)), cleaned_folder(name) / CAPTIONS
    begun, note = (second.folder / CONFIG).is_file(), table.with_name(CLEANED)
    fresh = not begun and not table.parent.exists()
    ours = read_json(note, CleanedFile, repair=ADVICE)["of"] == audit.name if note.is_file() else fresh
    if not ours or (begun and second.record.again != audit.name):
        raise InputError(f"{name!r} is another audit or data set already: take another --name")
    if not table.is_file():
        screen.say(f"writing the cleaned data set to {table}")
        position, cleaned = open_review(audit).position(), clean(audit)
        if not cleaned.removed + cleaned.recaptioned:
            raise InputError(f"no pair of audit {audit.name!r} was removed or recaptioned: nothing would change")
        try:
            table.parent.mkdir(parents=True, exist_ok=True)
            write_json(note, {"of": audit.name, "position": position})
            write_csv(cleaned, table, screen.pictures)
        except OSError as error:
            raise InputError(f"{table} cannot be written: {error.strerror or error}") from error
    elif is_outdated(audit, name):
        screen.say(f"note: something was decided since {name!r} began: another --name takes it in")
    pictures = images_folder(table)
    source = SourceOptions(image_folder=str(pictures.absolute() if pictures.is_dir() else audit.record.pictures))
    run_audit(str(table), dataclasses.replace(config, source=source), name=name, screen=screen, again=audit)
    if not (second.folder / AGAIN).is_file():
        found = measure(audit, second, screen)
        write_json(second.folder / AGAIN, {"found": found and dataclasses.asdict(found)})
    return second


def check_repeatable(audit: Audit) -> AuditConfig:
    """Return the config that trains the same members on an audit's cleaned data set."""
    if not audit.finished:
        raise InputError(f"audit {audit.name!r} is not finished: run it again to resume it")
    record, config = audit.record, audit.record.config
    if is_planted(audit):
        raise InputError(
            f"audit {audit.name!r} injected wrong captions: audit the data set without --plant-miscaptions, clean that"
        )
    if config.features or audit.member_record(record.members[0]).checkpoint:
        what = "features that were computed elsewhere" if config.features else "checkpoints that were trained elsewhere"
        raise InputError(f"audit {audit.name!r} is of {what}: they cannot be made again without the removed pairs")
    check_root(record.pictures)
    config = dataclasses.replace(config, sample=0)  # its pairs are all there are
    if record.protocol == "paper":
        return config
    return dataclasses.replace(config, members=len(record.members), stable=0.0)


def is_outdated(audit: Audit, name: str) -> bool:
    """Whether something was decided since the cleaned data set of a second audit was written."""
    path = cleaned_folder(name) / CLEANED
    return path.is_file() and read_json(path, CleanedFile, repair=ADVICE)["position"] != open_review(audit).position()


def reaudit_task(audit: Audit, name: str) -> Task:
    """Return the task of a second audit."""
    return Task(audit_task(name).folder, ["reaudit", audit.name, "--name", name])


def list_reaudits(audit: Audit) -> list[str]:
    """Return the names of an audit's second audits, those that wait or run included, the newest first."""
    begun, jobs = [], []
    for second in list_audits():
        try:
            begun += [second.name] if second.record.again == audit.name else []
        except InputError:  # a broken one is reported on its page
            continue
    for name in (name for name in list_job_names() if name not in begun):
        task = reaudit_task(audit, name)
        job = task.find()
        jobs += [name] if job is not None and job.arguments == tuple(task.arguments) else []
    return jobs + begun


def read_comparison(second: Audit) -> tuple[Measured | None, bool]:
    """Return the comparison of a second audit, and whether it has been made."""
    path = second.folder / AGAIN
    if not path.is_file():
        return None, False
    return read_json(path, AgainFile, repair=ADVICE)["found"], True


def comparison_lines(found: Measured | None) -> list[str]:
    """Return the comparison in sentences: the changes, their data, the intervals, and the limits."""
    if found is None:
        return ["Fewer than ten external pairs are in both audits with the same captions: nothing can be compared."]
    retrieval, clipmem, auroc, (before, after) = found.retrieval, found.clipmem, found.auroc, found.whole
    lines = [
        f"Retrieval {_change(retrieval)}, memorization {_change(clipmem)}.",
        f"Retrieval (mean of the recalls at 1, 5 and 10, both ways) went from {retrieval.then:.3f} to "
        f"{retrieval.now:.3f}, on the {found.external:,} of {found.external_then:,} pairs that no member of either "
        f"audit trained on and whose captions stayed{_significance(retrieval)}",
        f"Memorization (mean clipmem) went from {clipmem.then:.3f} to {clipmem.now:.3f}, on the {found.scored:,} "
        f"scored pairs that are in both with the same captions{_significance(clipmem)}",
    ]
    if auroc is not None:
        lines.append(
            "On these, the AUROC of membership (a member's alignment tells what it trained on; .5 is chance) went from "
            f"{auroc.then:.3f} to {auroc.now:.3f}: {_change(auroc)} over {auroc.over}."
        )
    return [
        *lines,
        "Of all pairs that each audit scored, including those that were removed or got another caption, mean clipmem "
        f"went from {before:.3f} to {after:.3f}.".replace("-", "−"),
        f"In brackets: 95 % intervals over {clipmem.over} ({found.members} members, in both audits with the same seeds "
        "and pairs); they hold for other members and pairs of the same data, not for other data sets.",
        f"Limits: a member has {found.trained_less:.1%} fewer pairs to train on, and pairs removed at random would "
        "change something too (study removal compares the two). The removed pairs were chosen by scores of the first "
        "audit, so part of the fall over all pairs is chance. External pairs may have wrong captions too.",
    ]


def _change(change: Change) -> str:
    ends = "" if change.low is None else f" [{change.low:+.3f}, {change.high:+.3f}]"
    return f"{change.difference:+.3f}{ends}".replace("-", "−")


def _significance(change: Change) -> str:
    if change.low is None:
        return "; too few to say more."
    return "." if change.told else "; a change cannot be told from none."
