"""Compares retrieval and memorization of an audit and that of its cleaned data set, on the pairs both have."""

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import roc_auc_score

from clipmem_core import columns as c
from clipmem_core.audits.prepare import membership_of
from clipmem_core.audits.run import Screen, ensure_features, ensure_pixels
from clipmem_core.audits.store import Audit, read_embeddings
from clipmem_core.scores.alignment import pair_terms
from clipmem_core.scores.membership import Membership, Sides, replicate_clipmem, side_means
from clipmem_core.scores.seeds import MIN_REPLICATES, crossed_mean, paired_difference
from clipmem_core.scores.utility import retrieval_ranks

FEWEST = 10  # external pairs of both audits, below which nothing is measured
JUDGED = [c.CANDIDATE, c.SCORED]
WAYS = ("image_to_text", "text_to_image")


@dataclass(frozen=True)
class Change:
    """A mean in both audits, and their difference with a 95 % interval over members, seeds or pairs."""

    then: float
    now: float
    difference: float
    low: float | None
    high: float | None
    over: str

    @property
    def told(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


@dataclass(frozen=True)
class Measured:
    """The fields of again.json: an audit of a cleaned data set compared with the audit before.

    Everything is measured on pairs that both audits have with the same picture and captions: retrieval and the centre
    of alignments on `external` ones, the rest on `scored` ones.
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
    whole: tuple[float, float]  # mean clipmem of all pairs that each audit scores, the removed ones in the first


def measure(audit: Audit, again: Audit, screen: Screen) -> Measured | None:
    """Compare an audit with that of its cleaned data set; None if fewer than ten external pairs are in both."""
    pairs, pairs_again = (one.pairs.set_index(c.PAIR_ID)[[c.SHA256, c.CAPTIONS]] for one in (audit, again))
    place = pairs.index.get_indexer(pairs_again.index)
    before = pairs.iloc[place]
    same = (place >= 0) & (before[c.SHA256].to_numpy() == pairs_again[c.SHA256].to_numpy())
    same &= [list(a) == list(b) for a, b in zip(before[c.CAPTIONS], pairs_again[c.CAPTIONS], strict=True)]
    rows_again = np.flatnonzero(same)
    first, whole = membership_of(audit.membership), membership_of(again.membership)
    membership = Membership(whole.group[rows_again], whole.members, whole.trained[:, rows_again])
    external = membership.group == c.EXTERNAL
    if external.sum() < FEWEST:
        return None
    screen.say("comparing both audits on the pairs they share")
    both = (audit, place[rows_again]), (again, rows_again)
    alignments, hits = [], []
    for one, rows in both:
        embeddings = [read_embeddings(one.member(name)) for name in one.record.members]
        alignments.append(np.stack([pair_terms(i[rows], t[rows], external)[c.ALIGNMENT] for i, t in embeddings]))
        hits.append(_hits(one, rows[external], screen))
    kept = int((place >= 0).sum())
    return Measured(
        of=audit.name,
        removed=len(pairs) - kept,
        recaptioned=kept - len(rows_again),
        members=len(membership.members),
        external=int(external.sum()),
        external_then=int((first.group == c.EXTERNAL).sum()),
        scored=int(np.isin(membership.group, JUDGED).sum()),
        trained_less=float(1 - whole.trained.sum() / first.trained.sum()),
        retrieval=_change(*hits),
        clipmem=_clipmem(alignments[0], alignments[1], membership, again),
        auroc=_auroc(alignments[0], alignments[1], membership),
        whole=(_mean_clipmem(audit), _mean_clipmem(again)),
    )


def _hits(audit: Audit, rows: np.ndarray, screen: Screen) -> np.ndarray:
    """Return how well each member finds each pair's partners among these pairs alone, [n_members, n], in [0, 1].

    The mean over both ways and k of 1, 5 and 10 of whether the partner is among the k nearest.
    """
    from clipmem_core.audits.member import caption_embeddings, finished_model, open_member, open_shared  # torch

    ensure_pixels(audit, screen)
    ensure_features(audit, audit.record, screen)
    shared, found = open_shared(audit.folder), []
    for name in audit.record.members:
        run = open_member(audit.folder, name, shared)
        text, owner = caption_embeddings(run, finished_model(run), rows)
        ranks = retrieval_ranks(read_embeddings(audit.member(name))[0][rows], text, owner)
        to_text, to_image = (np.mean([ranks[way] < k for k in (1, 5, 10)], axis=0) for way in WAYS)
        found.append((to_text + np.bincount(owner, to_image) / np.bincount(owner)) / 2)
    return np.stack(found)


def _change(then: np.ndarray, now: np.ndarray) -> Change:
    """Return the change of a mean over members and pairs, [n_members, n_pairs] each."""
    found = crossed_mean(now - then)
    return Change(float(then.mean()), float(now.mean()), found.mean, found.low, found.high, found.over)


def _clipmem(before: np.ndarray, after: np.ndarray, membership: Membership, audit: Audit) -> Change:
    """Return the change of mean clipmem: of the paper's protocol over its seeds, of an ensemble over its members."""
    record, judged = audit.record, np.isin(membership.group, JUDGED)
    sides = Sides(membership, record.protocol, record.config.seed)
    inside = sides.inside[:, judged]
    before, after = before[:, judged], after[:, judged]
    then, now = (float((a - b).mean()) for a, b in (side_means(list(each), inside) for each in (before, after)))
    if record.protocol == "paper":
        found = crossed_mean(replicate_clipmem(list(after - before), sides.replicates, inside))
    else:
        found = crossed_mean(weighted(after - before, inside))
    over = found.over.replace("members", "seeds") if record.protocol == "paper" else found.over
    return Change(then, now, found.mean, found.low, found.high, over)


def weighted(values: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return values weighted so that their mean is the mean of in minus out, [n_members, n_pairs] each.

    Every pair has members `inside` and others.

    Example:
        >>> weighted(np.array([[3.0, 1.0], [1.0, 2.0]]), np.array([[True, False], [False, True]]))
        array([[ 6., -2.],
               [-2.,  4.]])
    """
    n_in = inside.sum(axis=0)
    return len(values) * np.where(inside, values / n_in, -values / (len(values) - n_in))


def _auroc(before: np.ndarray, after: np.ndarray, membership: Membership) -> Change | None:
    """Return the change of membership AUROC, paired by member."""
    judged = np.isin(membership.group, c.SCORED_GROUPS)
    trained = membership.trained[:, judged]
    known = [row for row in range(len(trained)) if 0 < trained[row].sum() < judged.sum()]
    if not known:
        return None
    then, now = ([float(roc_auc_score(trained[row], each[row, judged])) for row in known] for each in (before, after))
    found = paired_difference(now, then)
    low, high = (found.low, found.high) if found.n >= MIN_REPLICATES else (None, None)
    return Change(float(np.mean(then)), float(np.mean(now)), found.mean, low, high, "members")


def _mean_clipmem(audit: Audit) -> float:
    scores = audit.scores
    return float(scores.loc[scores[c.GROUP].isin(JUDGED), c.CLIPMEM].mean())
