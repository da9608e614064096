"""A second audit of the cleaned data set with the same members, and its comparison with the first
audit.

<data>/sets/<name>/             captions.csv, the cleaned data set; captions_images/, pictures
                                extracted from archives; cleaned.json, the first audit and its
                                position in the log of decisions
<data>/audits/<name>/again.json the comparison
"""

import dataclasses
from pathlib import Path
from typing import Any

from clipmem_core.audit.jobs import Task, audit_task, list_job_names
from clipmem_core.audit.reaudit_effect import Change, Measured, measure
from clipmem_core.audit.status import Screen
from clipmem_core.audit.store import (
    Audit,
    acquire_lock,
    audits_folder,
    check_name,
    list_audits,
    write_json,
)
from clipmem_core.config import SETS, AuditConfig, SourceOptions, data_folder
from clipmem_core.export.cleaned import CLEANED, IMAGES, beside, check_root, clean
from clipmem_core.export.formats import write_open_clip
from clipmem_core.io import InputError, read_json
from clipmem_core.review.decisions import open_review

COMPARISON = "again.json"
_CAPTIONS = "captions.csv"
_REPAIR = "delete it and repeat the command; what was trained stays"


def cleaned_folder(name: str) -> Path:
    """Return the folder of the cleaned data set of a second audit."""
    return data_folder() / SETS / name


def reaudit(audit: Audit, name: str, screen: Screen) -> Audit:
    """Audit an audit's cleaned data set with the same settings and members, and compare both; call
    again to resume."""
    # imports scikit-learn, which the page Decisions does without
    from clipmem_core.audit.pipeline import run_audit

    config = check_repeatable(audit)
    second = Audit(audits_folder() / check_name(name))
    table = cleaned_folder(name) / _CAPTIONS
    note = table.with_name(CLEANED)
    is_free = not second.begun and not table.parent.exists()
    if note.is_file():
        is_free = read_json(note, dict[str, Any], repair=_REPAIR)["of"] == audit.name
    if not is_free or (second.begun and second.record.again != audit.name):
        raise InputError(f"{name!r} is another audit or data set already: choose another --name")
    if not table.is_file():
        screen.say(f"writing the cleaned data set to {table}")
        position = open_review(audit).position()
        cleaned = clean(audit)
        if cleaned.removed.empty and not cleaned.recaptioned:
            raise InputError(
                f"no pair of audit {audit.name!r} was removed or recaptioned: nothing would change"
            )
        with acquire_lock(second.folder, what="audit"):
            table.parent.mkdir(parents=True, exist_ok=True)
            write_json(note, {"of": audit.name, "position": position})
            write_open_clip(cleaned, table, screen.pictures)
    elif is_outdated(audit, name):
        screen.say(
            f"note: {name!r} does not include newer decisions: choose another --name to "
            "include them"
        )
    extracted = beside(table, IMAGES).absolute()
    pictures = extracted if extracted.is_dir() else audit.record.pictures
    config = dataclasses.replace(config, source=SourceOptions(image_folder=str(pictures)))
    run_audit(str(table), config, name=name, screen=screen, again=audit)
    if not (second.folder / COMPARISON).is_file():
        measured = measure(audit, second, screen)
        write_json(
            second.folder / COMPARISON, {"measured": measured and dataclasses.asdict(measured)}
        )
    return second


def check_repeatable(audit: Audit) -> AuditConfig:
    """Check that a second audit is possible, and return its config."""
    audit.check_finished()
    record = audit.record
    config = audit.record.config
    if config.inject_miscaptions:
        raise InputError(
            f"audit {audit.name!r} injected wrong captions: repeat one without --inject-miscaptions"
        )
    if config.features or audit.member_record(record.members[0]).checkpoint:
        what = "features" if config.features else "checkpoints"
        raise InputError(
            f"audit {audit.name!r} uses your {what}, which cannot be trained again without "
            "removed pairs"
        )
    check_root(record.pictures)
    # the cleaned data set has only the sampled pairs
    config = dataclasses.replace(config, sample=0)
    if record.protocol == "paper":
        return config
    return dataclasses.replace(config, members=len(record.members), stable=0.0)


def is_outdated(audit: Audit, name: str) -> bool:
    """Whether there are decisions after the cleaned data set of a second audit was written."""
    path = cleaned_folder(name) / CLEANED
    stored = read_json(path, dict[str, Any], repair=_REPAIR) if path.is_file() else None
    return stored is not None and stored["position"] != open_review(audit).position()


def reaudit_task(audit: Audit, name: str) -> Task:
    """Return the task of a second audit."""
    return Task(audit_task(name).folder, ["reaudit", audit.name, "--name", name])


def list_reaudits(audit: Audit) -> list[str]:
    """Return the names of an audit's second audits, with those that wait or run, the newest
    first."""
    started = []
    jobs = []
    for second in list_audits():
        try:
            started += [second.name] if second.record.again == audit.name else []
        except InputError:  # its page reports the broken file
            continue
    for name in (name for name in list_job_names() if name not in started):
        task = reaudit_task(audit, name)
        job = task.find()
        jobs += [name] if job is not None and job.arguments == tuple(task.arguments) else []
    return jobs + started


def read_comparison(second: Audit) -> tuple[Measured | None, bool]:
    """Return the comparison of a second audit (None: too few pairs), and whether it is finished."""
    path = second.folder / COMPARISON
    if not path.is_file():
        return None, False
    return read_json(path, dict[str, Measured | None], repair=_REPAIR)["measured"], True


def comparison_lines(measured: Measured | None) -> list[str]:
    """Return the comparison in sentences: the changes with intervals, and the limits."""
    if measured is None:
        return [
            "Fewer than ten external pairs are in both audits with the same captions: nothing "
            "can be compared."
        ]
    retrieval = measured.retrieval
    clipmem = measured.clipmem
    auroc = measured.auroc
    before, after = measured.whole
    lines = [
        f"Retrieval {_change(retrieval)}, memorization {_change(clipmem)}.",
        f"Retrieval (mean of the recalls at 1, 5 and 10, both ways) went {_from_to(retrieval)}, on "
        f"the {measured.external:,} of {measured.external_then:,} pairs that no member of either "
        f"audit trained on and whose captions stayed{_significance(retrieval)}",
        f"Memorization (mean clipmem) went {_from_to(clipmem)}, on the {measured.scored:,} scored "
        f"pairs that are in both with the same captions{_significance(clipmem)}",
    ]
    if auroc is not None:
        lines.append(
            "On these, the AUROC of membership inference by alignment (.5 is chance) went "
            f"{_from_to(auroc)}: {_change(auroc)} over {auroc.over}."
        )
    return [
        *lines,
        f"Over all scored pairs of each audit, mean clipmem went from {before:.3f} to "
        f"{after:.3f}.".replace("-", "−"),
        f"In brackets: 95 % intervals over {clipmem.over} ({measured.members} members with the "
        "same seeds and pairs).",
        f"Limits: a member trains on {measured.trained_less:.1%} fewer pairs, and removing random "
        "pairs changes the scores too (study removal compares the two). The removed pairs were "
        "chosen by scores of the first audit, so part of the decrease over all pairs is chance. "
        "External pairs may have wrong captions too.",
    ]


def _from_to(change: Change) -> str:
    return f"from {change.then:.3f} to {change.now:.3f}"


def _change(change: Change) -> str:
    interval = "" if change.low is None else f" [{change.low:+.3f}, {change.high:+.3f}]"
    return f"{change.difference:+.3f}{interval}".replace("-", "−")


def _significance(change: Change) -> str:
    if change.low is None or change.high is None:
        return "; too few for an interval."
    return "; the change is not significant." if change.low <= 0 <= change.high else "."
