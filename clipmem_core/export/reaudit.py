"""A second audit of the cleaned data set with the same members, and its comparison with the first
audit.

<data>/sets/<name>/             captions.csv, the cleaned data set; captions_images/, pictures
                                extracted from archives; cleaned.json, the first audit and its
                                position in the log of decisions
<data>/audits/<name>/again.json the comparison
"""

from contextlib import suppress
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from clipmem_core.auditing.folder.jobs import JobRequest, Screen, audit_request, list_job_names
from clipmem_core.auditing.folder.prepare import membership_of
from clipmem_core.auditing.folder.store import (
    Audit,
    acquire_lock,
    read_embeddings,
    write_json,
)
from clipmem_core.config import SETS, AuditConfig, SourceOptions, data_folder
from clipmem_core.export.cleaned import CLEANED, IMAGES, beside, check_root, clean
from clipmem_core.export.formats import write_open_clip
from clipmem_core.review.decisions import open_review
from clipmem_core.scores.alignment import pair_terms
from clipmem_core.scores.membership import Membership, MemberSides, replicate_clipmem, side_means
from clipmem_core.scores.seeds import crossed_mean, interval_text
from clipmem_core.utils import columns as c
from clipmem_core.utils.io import InputError, read_json

MIN_HELD_OUT = 10  # held-out pairs of both audits, below which nothing is measured


@dataclass(frozen=True)
class MeanChange:
    """A mean in both audits, and their difference with a 95 % interval over members, seeds or
    pairs."""

    then: float
    now: float
    difference: float
    low: float | None
    high: float | None
    over: str


@dataclass(frozen=True)
class ReauditEffect:
    """The fields of again.json: an audit of a cleaned data set compared with the audit before.

    Everything is measured on pairs that both audits have with the same picture and captions:
    retrieval and the centre of alignments on `held-out` ones, the rest on `scored` ones.
    """

    of: str  # the first audit
    removed: int
    recaptioned: int
    members: int
    held_out: int
    held_out_then: int
    scored: int
    trained_less: float  # the share of a member's pairs that were removed, in [0, 1]
    retrieval: MeanChange  # mean of the recalls at 1, 5 and 10, both ways, in [0, 1]
    clipmem: MeanChange


def compare_with_reaudit(audit: Audit, reaudit: Audit, screen: Screen) -> ReauditEffect | None:
    """Compare an audit with that of its cleaned data set; None if fewer than ten held-out pairs are
    in both."""
    tables = [audit.pairs, reaudit.pairs]
    keys_then, keys_now = (
        zip(table[c.PAIR_ID], table[c.SHA256], map(tuple, table[c.CAPTIONS]), strict=True)
        for table in tables
    )
    row_of = {key: row for row, key in enumerate(keys_then)}
    rows = np.array([row_of.get(key, -1) for key in keys_now])
    rows_now = np.flatnonzero(rows >= 0)
    rows_then = rows[rows_now]
    first = membership_of(audit.membership)
    second = membership_of(reaudit.membership)
    membership = Membership(second.group[rows_now], second.members, second.trained[:, rows_now])
    held_out = membership.group == c.HELD_OUT
    if held_out.sum() < MIN_HELD_OUT:
        return None
    screen.say("comparing both audits on the pairs they share")
    then = _alignments(audit, rows_then, held_out)
    now = _alignments(reaudit, rows_now, held_out)
    hits_then = _hits(audit, rows_then[held_out], screen)
    hits_now = _hits(reaudit, rows_now[held_out], screen)
    retrieval = crossed_mean(hits_now - hits_then)
    n_common = int(tables[1][c.PAIR_ID].isin(tables[0][c.PAIR_ID]).sum())
    return ReauditEffect(
        of=audit.name,
        removed=len(tables[0]) - n_common,
        recaptioned=n_common - len(rows_now),
        members=len(membership.members),
        held_out=int(held_out.sum()),
        held_out_then=int((first.group == c.HELD_OUT).sum()),
        scored=int(np.isin(membership.group, c.TARGET_GROUPS).sum()),
        trained_less=float(1 - second.trained.sum() / first.trained.sum()),
        retrieval=MeanChange(float(hits_then.mean()), float(hits_now.mean()), *astuple(retrieval)),
        clipmem=_clipmem(then, now, membership, reaudit),
    )


def _alignments(audit: Audit, rows: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """Return each member's alignment of some pairs, [n_members, n]."""
    alignments = []
    for name in audit.record.members:
        image, text = read_embeddings(audit.member(name))
        alignments.append(pair_terms(image[rows], text[rows], held_out)[c.ALIGNMENT])
    return np.stack(alignments)


def _hits(audit: Audit, rows: np.ndarray, screen: Screen) -> np.ndarray:
    """Return each member's mean recall of a pair's partner, both ways, at k = 1, 5 and 10,
    [n_members, n]."""
    from clipmem_core.auditing.run import member  # torch
    from clipmem_core.auditing.run.pipeline import ensure_features, ensure_pixels
    from clipmem_core.scores.metrics import retrieval_ranks

    ensure_pixels(audit, screen)
    ensure_features(audit, screen)
    shared = member.open_shared(audit.folder)
    hits = []
    for name in audit.record.members:
        run = member.open_member(audit.folder, name, shared)
        text, owner = member.caption_embeddings(run, member.finished_model(run), rows)
        ranks = retrieval_ranks(read_embeddings(audit.member(name))[0][rows], text, owner)
        to_text, to_image = (
            np.mean([ranks[way] < k for k in (1, 5, 10)], axis=0)
            for way in ("image_to_text", "text_to_image")
        )
        hits.append((to_text + np.bincount(owner, to_image) / np.bincount(owner)) / 2)
    return np.stack(hits)


def _clipmem(
    before: np.ndarray, after: np.ndarray, membership: Membership, audit: Audit
) -> MeanChange:
    """Return the change of mean clipmem: over the seeds of the paper's protocol, over the members
    of an ensemble."""
    record = audit.record
    target = np.isin(membership.group, c.TARGET_GROUPS)
    sides = MemberSides(membership, record.config.seed)
    inside = sides.inside[:, target]
    before = before[:, target]
    after = after[:, target]
    then, now = (
        float((a - b).mean())
        for a, b in (side_means(list(each), inside) for each in (before, after))
    )
    change = after - before
    if record.protocol == "paper":
        difference = crossed_mean(replicate_clipmem(list(change), sides.replicates, inside))
        difference = replace(difference, over=difference.over.replace("members", "seeds"))
    else:  # weighted so that the mean is the mean of in minus out
        n_in = inside.sum(axis=0)
        weighted = np.where(inside, change / n_in, -change / (len(change) - n_in))
        difference = crossed_mean(len(change) * weighted)
    return MeanChange(then, now, *astuple(difference))


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
    extracted = beside(table, IMAGES).absolute()
    pictures = extracted if extracted.is_dir() else audit.record.pictures
    config = replace(config, source=SourceOptions(image_folder=str(pictures)))
    run_audit(str(table), config, name=name, screen=screen, reaudit_of=audit)
    if not (second.folder / COMPARISON).is_file():
        measured = compare_with_reaudit(audit, second, screen)
        write_json(second.folder / COMPARISON, {"measured": measured and asdict(measured)})
    return second


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


def read_comparison(second: Audit) -> ReauditEffect | None:
    """Return the comparison of a second audit; None if too few pairs are in both."""
    path = second.folder / COMPARISON
    return read_json(path, dict[str, ReauditEffect | None], repair=_REPAIR)["measured"]


def comparison_lines(second: Audit) -> list[str]:
    """Return the comparison of a second audit in sentences: the changes with intervals, and the
    limits; none before the audits were compared."""
    if not (second.folder / COMPARISON).is_file():
        return []
    measured = read_comparison(second)
    if measured is None:
        return [
            "Fewer than ten held-out pairs are in both audits with the same captions: nothing "
            "can be compared."
        ]
    retrieval = measured.retrieval
    clipmem = measured.clipmem
    return [
        f"Retrieval {_change(retrieval)}, memorization {_change(clipmem)}.",
        f"On the {measured.held_out:,} of {measured.held_out_then:,} held-out pairs with the same "
        "captions in both audits, retrieval (mean of the recalls at 1, 5 and 10, both ways) "
        f"{_went(retrieval)}",
        f"On the {measured.scored:,} scored pairs with the same captions in both audits, "
        f"memorization (mean clipmem) {_went(clipmem)}",
        f"In brackets: 95 % intervals over {clipmem.over} ({measured.members} members with the "
        "same seeds and pairs).",
        f"Limits: a member trains on {measured.trained_less:.1%} fewer pairs, and removing random "
        "pairs changes the scores too (study removal compares the two). The removed pairs were "
        "chosen by scores of the first audit. Held-out pairs may have wrong captions too.",
    ]


def _change(change: MeanChange) -> str:
    return interval_text(change.difference, change.low, change.high, "+.3f")


def _went(change: MeanChange) -> str:
    sure = "confirmed"
    if change.low is None or change.high is None:
        sure = "too few for an interval"
    elif change.low <= 0 <= change.high:
        sure = "no detectable change"
    return f"went from {change.then:.3f} to {change.now:.3f}: {sure}."
