"""Closes the loop: the data set as it was cleaned is audited again by the same members, and both audits are compared.

<data>/sets/<name>/             captions.csv: the cleaned data set as it was when the second audit began;
                                captions_images/ where pictures lie in archives; cleaned.json: of which audit it is,
                                at which entry of the log of decisions
<data>/audits/<name>/again.json what came out
"""

import dataclasses
from pathlib import Path

from typing_extensions import TypedDict

from clipmem_core.audits.again_measured import Change, Measured, measure
from clipmem_core.audits.jobs import Task, audit_task, list_job_names
from clipmem_core.audits.run import Screen, run_audit
from clipmem_core.audits.store import CONFIG, Audit, audits_folder, check_name, list_audits, write_json
from clipmem_core.config import SETS, AuditConfig, InputError, SourceOptions, data_folder
from clipmem_core.exports.cleaned import check_root, clean, images_folder, is_planted
from clipmem_core.exports.formats import write_csv
from clipmem_core.files import read_json
from clipmem_core.review.decisions import open_review

AGAIN, CLEANED, CAPTIONS = "again.json", "cleaned.json", "captions.csv"
MEND = "delete it and repeat the command; what was trained stays"
TOO_FEW = "Fewer than ten external pairs are in both audits with the same captions: nothing can be compared."


class CleanedFile(TypedDict):
    """The fields of cleaned.json."""

    of: str
    position: int  # of the log of decisions, when the data set was written


class AgainFile(TypedDict):
    """The fields of again.json; `found` is null where too few pairs are in both audits."""

    found: Measured | None


def has_cleaned(name: str) -> bool:
    """Tell whether a data set lies where the cleaned one of an audit of this name would."""
    return _set_folder(name).exists()


def usual_name(audit: Audit) -> str:
    """Return what the audit of a cleaned data set is called where nobody says."""
    return f"{audit.name}-again"


def audit_again(audit: Audit, name: str, screen: Screen) -> Audit:
    """Write an audit's cleaned data set, audit it with the same settings and members, and compare the two.

    The same call goes on where it stopped, or does nothing.

    Args:
        audit: a finished one.
        name: of the second audit.
        screen: where progress goes.

    Raises:
        InputError: there is nothing to clean, the audit cannot be repeated, or the name is another audit's.
    """
    config = check_repeatable(audit)
    second, table = Audit(audits_folder() / check_name(name)), _set_folder(name) / CAPTIONS
    _check_free(audit, second)
    if not table.is_file():
        _write_cleaned(audit, table, screen)
    elif outdated(audit, name):
        screen.say(f"note: something was decided since {name!r} began: another --name takes it in")
    pictures = images_folder(table)
    folder = pictures.absolute() if pictures.is_dir() else audit.record.pictures
    source = SourceOptions(image_folder=str(folder))
    run_audit(str(table), dataclasses.replace(config, source=source), name=name, screen=screen, again=audit)
    if not (second.folder / AGAIN).is_file():
        found = measure(audit, second, screen)
        write_json(second.folder / AGAIN, {"found": found and dataclasses.asdict(found)})
    return second


def check_repeatable(audit: Audit) -> AuditConfig:
    """Return the config with which the same members can be trained on an audit's cleaned data set.

    Raises:
        InputError: they cannot, or its pictures are gone.
    """
    if not audit.finished:
        raise InputError(f"audit {audit.name!r} is not finished: run it again, it goes on where it stopped")
    record = audit.record
    config = record.config
    if is_planted(audit):
        raise InputError(
            f"audit {audit.name!r} planted wrong captions, and its cleaned data set has none, whatever was decided: "
            "audit the data set without --plant-miscaptions, and clean that"
        )
    if config.features or audit.member_record(record.members[0]).checkpoint:
        what = "features that were computed elsewhere" if config.features else "checkpoints that were trained elsewhere"
        raise InputError(f"audit {audit.name!r} is of {what}: they cannot be made again without the removed pairs")
    check_root(record.pictures)
    config = dataclasses.replace(config, sample=0)  # its pairs are all there are
    if record.protocol == "paper":
        return config
    return dataclasses.replace(config, members=len(record.members), stable=0.0)


def _check_free(audit: Audit, second: Audit) -> None:
    """Refuse a name under which another audit or another data set lies."""
    begun, known = (second.folder / CONFIG).is_file(), _set_folder(second.name) / CLEANED
    other = begun and second.record.again != audit.name
    if known.is_file():
        other = other or read_json(known, CleanedFile, mend=MEND)["of"] != audit.name
    elif known.parent.exists() or begun:
        other = True
    if other:
        raise InputError(f"{second.name!r} is another audit or data set already: take another --name")


def _set_folder(name: str) -> Path:
    return data_folder() / SETS / name


def _write_cleaned(audit: Audit, table: Path, screen: Screen) -> None:
    """Write the cleaned data set; its table comes last."""
    screen.say(f"writing the cleaned data set to {table}")
    position, cleaned = open_review(audit).position(), clean(audit)
    if not cleaned.removed + cleaned.recaptioned:
        raise InputError(f"no pair of audit {audit.name!r} was removed or given another caption: nothing would change")
    try:
        table.parent.mkdir(parents=True, exist_ok=True)
        write_json(table.with_name(CLEANED), {"of": audit.name, "position": position})
        write_csv(cleaned, table, progress=screen.pictures)
    except OSError as error:
        raise InputError(f"{table} cannot be written: {error.strerror or error}") from error


def outdated(audit: Audit, name: str) -> bool:
    """Tell whether something was decided since the cleaned data set of a second audit was written."""
    path = _set_folder(name) / CLEANED
    return path.is_file() and read_json(path, CleanedFile, mend=MEND)["position"] != open_review(audit).position()


def again_task(audit: Audit, name: str) -> Task:
    """Return the task of auditing what an audit cleaned, which is followed as an audit."""
    return Task(audit_task(name).folder, ["again", audit.name, "--name", name])


def audited_again(audit: Audit) -> list[str]:
    """Return the names of the audits of what an audit cleaned, those that wait or run included, the newest first."""
    begun = [each.name for each in list_audits() if _is_of(each, audit)]
    jobs = [name for name in list_job_names() if name not in begun and _is_job_of(name, audit)]
    return [*jobs, *begun]


def _is_of(second: Audit, audit: Audit) -> bool:
    try:
        return second.record.again == audit.name
    except InputError:  # a broken one says so where it is looked at
        return False


def _is_job_of(name: str, audit: Audit) -> bool:
    task = again_task(audit, name)
    job = task.find()
    return job is not None and job.arguments == tuple(task.arguments)


def read_again(second: Audit) -> tuple[Measured | None, bool]:
    """Return what came of a second audit, and whether it was compared at all.

    Raises:
        InputError: its file is broken.
    """
    path = second.folder / AGAIN
    if not path.is_file():
        return None, False
    return read_json(path, AgainFile, mend=MEND)["found"], True


def headline(found: Measured) -> str:
    """Return in a line what became of retrieval and of memorization."""
    return f"Retrieval {change_words(found.retrieval)}, memorization {change_words(found.clipmem)}."


def change_words(change: Change) -> str:
    """Return a difference with its interval.

    Example:
        >>> change_words(Change(0.5, 0.6, 0.1, 0.05, 0.15, "members"))
        '+0.100 [+0.050, +0.150]'
    """
    ends = "" if change.low is None else f" [{change.low:+.3f}, {change.high:+.3f}]"
    return f"{change.difference:+.3f}{ends}".replace("-", "−")


def told(found: Measured | None) -> list[str]:
    """Return what came out, what it was measured on, what the intervals are over, and what cannot be told."""
    if found is None:
        return [TOO_FEW]
    retrieval, clipmem, auroc = found.retrieval, found.clipmem, found.auroc
    lines = [
        headline(found),
        f"Retrieval (mean of the recalls at 1, 5 and 10, both ways) went from {retrieval.then:.3f} to "
        f"{retrieval.now:.3f}, on the {found.external:,} of {found.external_then:,} pairs that no member of either "
        f"audit trained on and whose captions stayed{_nothing(retrieval)}",
        f"Memorization (mean clipmem) went from {clipmem.then:.3f} to {clipmem.now:.3f}, on the {found.scored:,} "
        f"scored pairs that are in both with the same captions{_nothing(clipmem)}",
    ]
    if auroc is not None:
        lines.append(
            f"On these, how well a member's alignment tells what it trained on (AUROC, .5 is not at all) went from "
            f"{auroc.then:.3f} to {auroc.now:.3f}: {change_words(auroc)} over {auroc.over}."
        )
    before, after = found.whole
    lines += [
        f"Of all pairs that each audit scored, those included that were removed or got another caption, mean clipmem "
        f"went from {before:.3f} to {after:.3f}.".replace("-", "−"),
        f"In brackets: 95 % intervals over {clipmem.over} ({found.members} members, in both audits with the same seeds "
        "and the same pairs but those removed); they hold for other members and pairs of the same data, not for other "
        "data sets.",
        f"What this does not tell: a member has {found.trained_less:.1%} fewer pairs to train on than before, and "
        "pairs removed at random would change something too (study removal compares the two). The removed pairs were "
        "chosen by scores of the first audit, so part of the fall over all pairs is chance. External pairs may have "
        "wrong captions too.",
    ]
    return lines


def _nothing(change: Change) -> str:
    if change.low is None:
        return "; too few to say more."
    return "." if change.told else "; a change cannot be told from none."
