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
    retrieval: MeanChange  # mean of the recalls at 1, 5 and 10, both ways, in [0, 1]
    clipmem: MeanChange
    auroc: MeanChange | None  # membership; None where no member leaves out a scored pair
    # mean clipmem of all pairs that each audit scores, the removed ones in the first
    whole: tuple[float, float]


def compare_with_reaudit(audit: Audit, reaudit: Audit, screen: Screen) -> ReauditEffect | None:
    """Compare an audit with that of its cleaned data set; None if fewer than ten external pairs are
    in both."""
    columns = [c.SHA256, c.CAPTIONS]
    pairs = audit.pairs.set_index(c.PAIR_ID)[columns]
    pairs_now = reaudit.pairs.set_index(c.PAIR_ID)[columns]
    row = pairs.index.get_indexer(pairs_now.index)
    before = pairs.iloc[row]
    same_captions = [
        list(a) == list(b) for a, b in zip(before[c.CAPTIONS], pairs_now[c.CAPTIONS], strict=True)
    ]
    same_picture = before[c.SHA256].to_numpy() == pairs_now[c.SHA256].to_numpy()
    rows_now = np.flatnonzero((row >= 0) & same_picture & same_captions)
    rows_then = row[rows_now]
    first = membership_of(audit.membership)
    second = membership_of(reaudit.membership)
    membership = Membership(second.group[rows_now], second.members, second.trained[:, rows_now])
    external = membership.group == c.EXTERNAL
    if external.sum() < MIN_EXTERNAL:
        return None
    screen.say("comparing both audits on the pairs they share")
    then = _alignments(audit, rows_then, external)
    now = _alignments(reaudit, rows_now, external)
    hits_then = _hits(audit, rows_then[external], screen)
    hits_now = _hits(reaudit, rows_now[external], screen)
    retrieval = crossed_mean(hits_now - hits_then)
    n_common = int((row >= 0).sum())
    return ReauditEffect(
        of=audit.name,
        removed=len(pairs) - n_common,
        recaptioned=n_common - len(rows_now),
        members=len(membership.members),
        external=int(external.sum()),
        external_then=int((first.group == c.EXTERNAL).sum()),
        scored=int(np.isin(membership.group, c.TARGET_GROUPS).sum()),
        trained_less=float(1 - second.trained.sum() / first.trained.sum()),
        retrieval=MeanChange(
            float(hits_then.mean()),
            float(hits_now.mean()),
            retrieval.mean,
            retrieval.low,
            retrieval.high,
            retrieval.over,
        ),
        clipmem=_clipmem(then, now, membership, reaudit),
        auroc=_auroc(then, now, membership),
        whole=(_mean_clipmem(audit), _mean_clipmem(reaudit)),
    )


def _alignments(audit: Audit, rows: np.ndarray, external: np.ndarray) -> np.ndarray:
    """Return each member's alignment of some pairs, [n_members, n]."""
    alignments = []
    for name in audit.record.members:
        image, text = read_embeddings(audit.member(name))
        alignments.append(pair_terms(image[rows], text[rows], external)[c.ALIGNMENT])
    return np.stack(alignments)


def _mean_clipmem(audit: Audit) -> float:
    scores = audit.scores
    return float(scores.loc[scores[c.GROUP].isin(c.TARGET_GROUPS), c.CLIPMEM].mean())


def _hits(audit: Audit, rows: np.ndarray, screen: Screen) -> np.ndarray:
    """Return each member's mean recall of a pair's partner, both ways, at k = 1, 5 and 10,
    [n_members, n]."""
    from clipmem_core.audit import member  # torch
    from clipmem_core.audit.pipeline import ensure_features, ensure_pixels
    from clipmem_core.scores.utility import retrieval_ranks

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
    paper = record.protocol == "paper"
    change = after - before
    values = (
        replicate_clipmem(list(change), sides.replicates, inside)
        if paper
        else weighted(change, inside)
    )
    difference = crossed_mean(values)
    over = difference.over.replace("members", "seeds") if paper else difference.over
    return MeanChange(then, now, difference.mean, difference.low, difference.high, over)


def weighted(values: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return values weighted so that their mean is the mean of in minus out, [n_members, n_pairs]
    each."""
    n_in = inside.sum(axis=0)
    return len(values) * np.where(inside, values / n_in, -values / (len(values) - n_in))


def _auroc(before: np.ndarray, after: np.ndarray, membership: Membership) -> MeanChange | None:
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
    return MeanChange(float(then.mean()), float(now.mean()), difference.mean, low, high, "members")
