"""What became of retrieval and memorization when a cleaned data set was audited again, by the same members on the pairs
that both audits have."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from clipmem_core import columns as c
from clipmem_core.audits.prepare import membership_of
from clipmem_core.audits.run import Screen, ensure_features, ensure_pixels
from clipmem_core.audits.store import Audit, read_embeddings
from clipmem_core.scores.alignment import pair_terms
from clipmem_core.scores.membership import Membership, Sides, replicate_clipmem, side_means
from clipmem_core.scores.seeds import MIN_REPLICATES, crossed_mean, paired_difference
from clipmem_core.scores.utility import retrieval_ranks

KS = (1, 5, 10)
FEWEST = 10  # external pairs of both audits, below which nothing is measured
JUDGED = [c.CANDIDATE, c.SCORED]
OVER_MEMBERS = "members"


@dataclass(frozen=True)
class Change:
    """A mean in the first audit and in the second, the difference with its 95 % interval, and what that is over."""

    then: float
    now: float
    difference: float
    low: float | None
    high: float | None
    over: str

    @property
    def told(self) -> bool:
        """Tell whether the interval leaves out 0."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


@dataclass(frozen=True)
class Measured:
    """What came of an audit of a cleaned data set, beside the audit that it was cleaned by: the fields of again.json.

    Everything is measured on pairs that both audits have with the same picture and captions, by members that train on
    the same of them: retrieval and the centre of alignments on `external` ones, the rest on `scored` ones.
    """

    of: str  # the first audit
    removed: int
    recaptioned: int
    members: int
    external: int
    external_then: int
    scored: int
    trained_less: float  # the share of its pairs that a member has no more, in [0, 1]
    retrieval: Change  # mean of the recalls at 1, 5 and 10, both ways, in [0, 1]
    clipmem: Change
    auroc: Change | None  # membership; None where no member leaves out a scored pair
    whole: tuple[float, float]  # mean clipmem of all pairs that each audit scores, the removed ones in the first


@dataclass(frozen=True, eq=False)
class _Common:
    """The pairs that two audits share with the same captions: their rows in each, and who trains on them."""

    rows: np.ndarray
    rows_again: np.ndarray
    membership: Membership

    @property
    def external(self) -> np.ndarray:
        return self.membership.group == c.EXTERNAL


def measure(audit: Audit, again: Audit, screen: Screen) -> Measured | None:
    """Compare an audit with that of its cleaned data set.

    Returns:
        None where fewer than ten external pairs are in both with the same captions.
    """
    pairs, pairs_again = audit.pairs.set_index(c.PAIR_ID), again.pairs.set_index(c.PAIR_ID)
    common = _common(pairs, pairs_again, membership_of(again.membership))
    if common.external.sum() < FEWEST:
        return None
    screen.say("comparing both audits on the pairs they share")
    before, after = (np.stack(list(_alignments(*each))) for each in _each(audit, again, common))
    hits, hits_again = (_hits(each, rows[common.external], screen) for each, rows, _ in _each(audit, again, common))
    trained, trained_again = (membership_of(each.membership).trained for each in (audit, again))
    recaptioned = int(pairs.index.isin(pairs_again.index).sum()) - len(common.rows)
    return Measured(
        of=audit.name,
        removed=len(pairs) - int(pairs.index.isin(pairs_again.index).sum()),
        recaptioned=recaptioned,
        members=len(common.membership.members),
        external=int(common.external.sum()),
        external_then=int((membership_of(audit.membership).group == c.EXTERNAL).sum()),
        scored=int(np.isin(common.membership.group, JUDGED).sum()),
        trained_less=float(1 - trained_again.sum() / trained.sum()),
        retrieval=_change(hits, hits_again),
        clipmem=_clipmem(before, after, common.membership, again),
        auroc=_auroc(before, after, common.membership),
        whole=(_mean_clipmem(audit), _mean_clipmem(again)),
    )


def _common(pairs: pd.DataFrame, pairs_again: pd.DataFrame, membership: Membership) -> _Common:
    """Find the pairs of both audits that have the same picture and captions in both."""
    place = pairs.index.get_indexer(pairs_again.index)
    then = pairs.iloc[place]
    same = [
        at >= 0 and picture == picture_then and list(texts) == list(texts_then)
        for at, picture, picture_then, texts, texts_then in zip(
            place, pairs_again[c.SHA256], then[c.SHA256], pairs_again[c.CAPTIONS], then[c.CAPTIONS], strict=True
        )
    ]
    rows = np.flatnonzero(np.array(same, dtype=bool))
    kept = Membership(membership.group[rows], membership.members, membership.trained[:, rows])
    return _Common(place[rows], rows, kept)


def _each(audit: Audit, again: Audit, common: _Common) -> tuple[tuple[Audit, np.ndarray, np.ndarray], ...]:
    return (audit, common.rows, common.external), (again, common.rows_again, common.external)


def _alignments(audit: Audit, rows: np.ndarray, external: np.ndarray) -> Iterator[np.ndarray]:
    """Yield each member's alignment of some pairs, centred by the external ones among them, [n] each."""
    for name in audit.record.members:
        image, text = read_embeddings(audit.member(name))
        yield pair_terms(image[rows], text[rows], external)[c.ALIGNMENT]


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
        to_text, to_image = (
            np.mean([ranks[way] < k for k in KS], axis=0) for way in ("image_to_text", "text_to_image")
        )
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
        found = crossed_mean(weighed(after - before, inside))
    over = found.over.replace("members", "seeds") if record.protocol == "paper" else found.over
    return Change(then, now, found.mean, found.low, found.high, over)


def weighed(values: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return values so weighed that their mean is that of in minus out: each member's part of a mean of clipmem.

    Args:
        values: one a member and pair, [n_members, n_pairs].
        inside: true where the member is on the `in` side, [n_members, n_pairs]; every pair has members on both.

    Example:
        >>> weighed(np.array([[3.0, 1.0], [1.0, 2.0]]), np.array([[True, False], [False, True]]))
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
    return Change(float(np.mean(then)), float(np.mean(now)), found.mean, low, high, OVER_MEMBERS)


def _mean_clipmem(audit: Audit) -> float:
    scores = audit.scores
    return float(scores.loc[scores[c.GROUP].isin(JUDGED), c.CLIPMEM].mean())
