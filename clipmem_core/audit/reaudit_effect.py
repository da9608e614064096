"""Compares retrieval and memorization of an audit and that of its cleaned data set, on the pairs
both have."""

from dataclasses import dataclass

import numpy as np

from clipmem_core import columns as c
from clipmem_core.audit.prepare import membership_of
from clipmem_core.audit.status import Screen
from clipmem_core.audit.store import Audit, read_embeddings
from clipmem_core.scores.alignment import pair_terms
from clipmem_core.scores.membership import Membership, MemberSides, replicate_clipmem, side_means
from clipmem_core.scores.seeds import MIN_REPLICATES, crossed_mean, paired_difference

MIN_EXTERNAL = 10  # external pairs of both audits, below which nothing is measured


@dataclass(frozen=True)
class Change:
    """A mean in both audits, and their difference with a 95 % interval over members, seeds or
    pairs."""

    then: float
    now: float
    difference: float
    low: float | None
    high: float | None
    over: str


@dataclass(frozen=True)
class Measured:
    """The fields of again.json: an audit of a cleaned data set compared with the audit before.

    Everything is measured on pairs that both audits have with the same picture and captions:
    retrieval and the centre of alignments on `external` ones, the rest on `scored` ones.
    """

    of: str  # the first audit
    removed: int
    recaptioned: int
    members: int
    external: int
    external_then: int
    scored: int
    trained_less: float  # the share of a member's pairs that were removed, in [0, 1]
    retrieval: Change  # mean of the recalls at 1, 5 and 10, both ways, in [0, 1]
    clipmem: Change
    auroc: Change | None  # membership; None where no member leaves out a scored pair
    whole: tuple[
        float, float
    ]  # mean clipmem of all pairs that each audit scores, the removed ones in the first


def measure(audit: Audit, again: Audit, screen: Screen) -> Measured | None:
    """Compare an audit with that of its cleaned data set; None if fewer than ten external pairs are
    in both."""
    pairs, pairs_again = (
        each.pairs.set_index(c.PAIR_ID)[[c.SHA256, c.CAPTIONS]] for each in (audit, again)
    )
    row = pairs.index.get_indexer(pairs_again.index)
    before = pairs.iloc[row]
    same = (row >= 0) & (before[c.SHA256].to_numpy() == pairs_again[c.SHA256].to_numpy())
    same &= [
        list(a) == list(b) for a, b in zip(before[c.CAPTIONS], pairs_again[c.CAPTIONS], strict=True)
    ]
    rows_again = np.flatnonzero(same)
    first = membership_of(audit.membership)
    second = membership_of(again.membership)
    membership = Membership(second.group[rows_again], second.members, second.trained[:, rows_again])
    external = membership.group == c.EXTERNAL
    if external.sum() < MIN_EXTERNAL:
        return None
    screen.say("comparing both audits on the pairs they share")
    alignments = []
    hits = []
    means = []
    for each, rows in ((audit, row[rows_again]), (again, rows_again)):
        embeddings = [read_embeddings(each.member(name)) for name in each.record.members]
        alignments.append(
            np.stack([pair_terms(i[rows], t[rows], external)[c.ALIGNMENT] for i, t in embeddings])
        )
        hits.append(_hits(each, rows[external], screen))
        scores = each.scores
        means.append(scores.loc[scores[c.GROUP].isin(c.TARGET_GROUPS), c.CLIPMEM].mean())
    n_common = int((row >= 0).sum())
    retrieval = crossed_mean(hits[1] - hits[0])
    (then, now) = (float(values.mean()) for values in hits)
    return Measured(
        of=audit.name,
        removed=len(pairs) - n_common,
        recaptioned=n_common - len(rows_again),
        members=len(membership.members),
        external=int(external.sum()),
        external_then=int((first.group == c.EXTERNAL).sum()),
        scored=int(np.isin(membership.group, c.TARGET_GROUPS).sum()),
        trained_less=float(1 - second.trained.sum() / first.trained.sum()),
        retrieval=Change(then, now, retrieval.mean, retrieval.low, retrieval.high, retrieval.over),
        clipmem=_clipmem(alignments[0], alignments[1], membership, again),
        auroc=_auroc(alignments[0], alignments[1], membership),
        whole=(float(means[0]), float(means[1])),
    )


def _hits(audit: Audit, rows: np.ndarray, screen: Screen) -> np.ndarray:
    """Return each member's mean recall of a pair's partner, both ways, at k = 1, 5 and 10,
    [n_members, n]."""
    from clipmem_core.audit.member import (
        caption_embeddings,
        finished_model,
        open_member,
        open_shared,
    )  # torch
    from clipmem_core.audit.pipeline import ensure_features, ensure_pixels
    from clipmem_core.scores.utility import retrieval_ranks

    ensure_pixels(audit, screen)
    ensure_features(audit, screen)
    shared = open_shared(audit.folder)
    hits = []
    for name in audit.record.members:
        run = open_member(audit.folder, name, shared)
        text, owner = caption_embeddings(run, finished_model(run), rows)
        ranks = retrieval_ranks(read_embeddings(audit.member(name))[0][rows], text, owner)
        to_text, to_image = (
            np.mean([ranks[way] < k for k in (1, 5, 10)], axis=0)
            for way in ("image_to_text", "text_to_image")
        )
        hits.append((to_text + np.bincount(owner, to_image) / np.bincount(owner)) / 2)
    return np.stack(hits)


def _clipmem(before: np.ndarray, after: np.ndarray, membership: Membership, audit: Audit) -> Change:
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
    paper = record.protocol == "paper"
    change = after - before
    values = (
        replicate_clipmem(list(change), sides.replicates, inside)
        if paper
        else weighted(change, inside)
    )
    difference = crossed_mean(values)
    over = difference.over.replace("members", "seeds") if paper else difference.over
    return Change(then, now, difference.mean, difference.low, difference.high, over)


def weighted(values: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return values weighted so that their mean is the mean of in minus out, [n_members, n_pairs]
    each."""
    n_in = inside.sum(axis=0)
    return len(values) * np.where(inside, values / n_in, -values / (len(values) - n_in))


def _auroc(before: np.ndarray, after: np.ndarray, membership: Membership) -> Change | None:
    from clipmem_core.scores.memorization import membership_auroc

    then, now = (membership_auroc(list(each), membership)[0] for each in (before, after))
    measured = ~np.isnan(then)  # members trained on some of the scored pairs
    if not measured.any():
        return None
    then = then[measured]
    now = now[measured]
    difference = paired_difference(now.tolist(), then.tolist())
    low, high = (
        (difference.low, difference.high) if difference.n >= MIN_REPLICATES else (None, None)
    )
    return Change(float(then.mean()), float(now.mean()), difference.mean, low, high, "members")
