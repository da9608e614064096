"""A second audit of the cleaned data set with the same members.

<data>/sets/<name>/             captions.csv, the cleaned data set; captions_images/, pictures
                                extracted from archives; cleaned.json, the first audit and its
                                position in the log of decisions
"""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from clipmem_core.auditing.folder.jobs import JobRequest, Screen, audit_request, list_job_names
from clipmem_core.auditing.folder.store import Audit, acquire_lock, write_json
from clipmem_core.config import SETS, AuditConfig, SourceOptions, data_folder
from clipmem_core.export.cleaned import CLEANED, check_root, clean, images_folder
from clipmem_core.export.formats import write_open_clip
from clipmem_core.review.decisions import open_review
from clipmem_core.utils.io import InputError, read_json

_CAPTIONS = "captions.csv"
_REPAIR = "delete it and repeat the command; what was trained stays"


def cleaned_folder(name: str) -> Path:
    """Return the folder of the cleaned data set of a second audit."""
    return data_folder() / SETS / name


def reaudit(audit: Audit, name: str, screen: Screen) -> Audit:
    """Audit an audit's cleaned data set with the same settings and members; call again to
    resume."""
    # imports scikit-learn, which the page Decisions does without
    from clipmem_core.auditing.run.pipeline import run_audit

    config = check_repeatable(audit)
    second = Audit.of(name)
    table = cleaned_folder(name) / _CAPTIONS
    note = table.with_name(CLEANED)
    is_free = not second.begun and not table.parent.exists()
    if note.is_file():
        is_free = read_json(note, dict[str, Any], repair=_REPAIR)["of"] == audit.name
    if not is_free or (second.begun and second.record.reaudit_of != audit.name):
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
    extracted = images_folder(table)
    pictures = extracted if extracted.is_dir() else audit.record.pictures
    config = replace(config, source=SourceOptions(image_folder=str(pictures)))
    return run_audit(str(table), config, name=name, screen=screen, reaudit_of=audit)


def check_repeatable(audit: Audit) -> AuditConfig:
    """Check that a second audit is possible, and return its config."""
    audit.check_finished()
    record = audit.record
    config = record.config
    if config.inject_miscaptions:
        raise InputError(
            f"audit {audit.name!r} injected wrong captions: repeat one without --inject-miscaptions"
        )
    if config.features:
        raise InputError(
            f"audit {audit.name!r} uses your features, which cannot be computed again without "
            "removed pairs"
        )
    check_root(record.pictures)
    # the cleaned data set has only the sampled pairs
    config = replace(config, sample=0)
    if record.protocol == "paper":
        return config
    return replace(config, members=len(record.members))


def is_outdated(audit: Audit, name: str) -> bool:
    """Whether there are decisions after the cleaned data set of a second audit was written."""
    path = cleaned_folder(name) / CLEANED
    if not path.is_file():
        return False
    stored = read_json(path, dict[str, Any], repair=_REPAIR)
    return stored["position"] != open_review(audit).position()


def reaudit_request(audit: Audit, name: str) -> JobRequest:
    """Return the task of a second audit."""
    return JobRequest(audit_request(name).folder, ["reaudit", audit.name, "--name", name])


def list_reaudits(audit: Audit) -> list[str]:
    """Return the names of an audit's second audits, with those that wait or run."""
    names = []
    for second in Audit.every():
        with suppress(InputError):  # its page reports the broken file
            if second.record.reaudit_of == audit.name:
                names.append(second.name)
    for name in list_job_names():
        task = reaudit_request(audit, name)
        job = task.find()
        if job and job.arguments == tuple(task.arguments):
            names.append(name)
    return list(dict.fromkeys(names))
