"""Faults of a pipeline that explain many wrong captions at once: captions that are some rows off,
blocks that were exchanged, and runs in reverse or another order.

C[i, j] is how well the picture of pair i fits the captions of pair j: the mean cosine under the
members that trained on neither, less the mean cosines of both with their ten nearest (CSLS). Pairs
are in the order of the source. If the captions of a run are d rows lower, C is high where
j = i + d; if the run is reversed, where i + j is constant. The evidence of a row is the smaller of
two log-likelihood ratios,

    (C[i, j] − C[i, i]) g   "displaced" against "as it is"
    (C[i, j] − (m₁ + m₀) / 2) g   "belongs together" against "at random"

with g = (m₁ − m₀) / s², m₁ the median of C[i, i], m₀ the mean of random pairs and s their pooled
deviation, each clipped at ±6. A run is a segment of maximal sum (Ruzzo & Tompa, ISMB 1999).
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import scipy

from clipmem_core.errors.misfit import divide_or_nan
from clipmem_core.utils import draws
from clipmem_core.utils.embeddings import nearest_neighbours, unit

SHIFT = "shift"
EXCHANGE = "exchange"
REVERSAL = "reversal"
REORDERED = "reordered"
SWAP = "swap"
# data/results/constants.csv shows what half and double of each constant change.
# Sum of a run, and of one of 12 rows or more; the highest in sets without such faults: 20 and 10
THRESHOLD = 25.0
_LEAST = 16.0
_LONG = 12
_WEAK = 8.0  # sum of a further part of a run
_CLIP = 6.0
# Between two parts of a run: rows for each of both, and least mean evidence
_GAP = 0.35
_BROKEN = -2.0
_RIVAL = 0.8  # of a run's score: another line with as much explains the same rows
_NEIGHBOURS = 10
_SEARCHERS = 4  # members that search in a set of more than `_SEARCHED_BY_ALL` pairs
_SEARCHED_BY_ALL = 20_000
_RANDOM_PAIRS = 200_000
_VOTES = 4  # of near rows, that a diagonal is looked at from
_NEAR = 40  # rows
_AROUND = 60  # rows beside the votes that are looked at
_STRETCH = 20  # rows
_STRETCH_VOTES = 5  # of one stretch for another
_SPACE = 2 * _AROUND + _STRETCH + 1  # between the keys of two lines
_MOST_STRETCHES = 200  # pairs of stretches that are compared
_OVERLAP = 0.2  # share of a run that better runs may explain
LIKELY = 0.5  # probability from which a pair of a run has the captions of another
_SURE = 0.9  # probability of a repair by assignment
_SUSPECTED = 0.3  # probability of a wrong pair that may be a part of a swap
_FEWEST_REORDERED = 30
_MOST_REORDERED = 2_000
_REORDERED_SHARE = 0.2  # of the rows, with a sure repair
_PRIOR = 4.0  # log-odds that a row within a run is displaced
_BLOCK = 65_536


class DisplacedRun(NamedTuple):
    """A run of pairs whose captions belong to other pairs in order."""

    kind: str
    rows: np.ndarray  # ascending, [n]
    partners: np.ndarray  # the pair whose captions belong to each row, [n]
    probability: np.ndarray  # that they do, [n]
    score: float


class Fits:
    """How well pictures fit captions, by the members that trained on neither.

    Args:
        image, text: embeddings of each member, [n_pairs, dim].
        trained: true where the member trained on the pair, [n_members, n_pairs].
        seed: of the random pairs.

    Attributes:
        lengths: of the embeddings, [n_pairs] of each member, of pictures and of captions.
        hubs: mean cosine of pictures, and of captions, with their nearest, [2, n_pairs].
        votes: a picture and one of its nearest captions, [n, 2].
        own: C[i, i], [n_pairs]; NaN for pairs that every member trained on.
        middle: (m₁ + m₀) / 2.
        gain: g.
    """

    def __init__(
        self,
        image: Sequence[np.ndarray],
        text: Sequence[np.ndarray],
        trained: np.ndarray,
        *,
        seed: int,
    ) -> None:
        n = trained.shape[1]
        self.image, self.text, self.trained = image, text, trained
        self.hubs = np.zeros((2, n))
        counts = np.zeros(n)
        keys = []
        searchers = len(trained) if n <= _SEARCHED_BY_ALL else _SEARCHERS
        for a, b, in_training in zip(image[:searchers], text, trained, strict=False):
            rows = np.flatnonzero(~in_training)
            count = min(_NEIGHBOURS, len(rows))
            pictures, captions = (unit(np.asarray(part[rows], np.float32)) for part in (a, b))
            cosines, found = nearest_neighbours(captions, pictures, count)
            self.hubs[0, rows] += cosines.mean(axis=1)
            keys.append((rows[:, None] * n + rows[found])[found >= 0])
            cosines, _ = nearest_neighbours(pictures, captions, count)
            self.hubs[1, rows] += cosines.mean(axis=1)
            counts[rows] += 1
        self.hubs /= np.maximum(counts, 1)
        distinct, times = np.unique(np.concatenate(keys), return_counts=True)
        # The captions that most members name, ten of each picture
        ordered = distinct[np.lexsort((-times, distinct // n))]
        rank = np.arange(len(ordered)) - np.searchsorted(ordered // n, ordered // n)
        self.votes = np.column_stack(np.divmod(ordered[rank < _NEIGHBOURS], n))
        blocks = [slice(at, at + _BLOCK) for at in range(0, n, _BLOCK)]
        self.lengths = [
            [np.concatenate([np.linalg.norm(each[at], axis=1) for at in blocks]) for each in part]
            for part in (image, text)
        ]
        self.own = self.at(np.arange(n), np.arange(n))
        i, j = draws.rng(seed, "displaced").integers(0, n, (2, _RANDOM_PAIRS))
        at_random = self.at(i[i != j], j[i != j])
        right, chance = np.nanmedian(self.own), np.nanmean(at_random)
        deviation = 1.4826 * np.nanmedian(np.abs(self.own - right))
        variance = (deviation**2 + np.nanvar(at_random)) / 2
        self.middle = (right + chance) / 2
        self.gain = max(right - chance, 0.0) / variance

    def at(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Return C[i, j], [n]; NaN where every member trained on one of both."""
        total = np.zeros(len(i))
        count = np.zeros(len(i))
        members = zip(self.image, self.text, self.trained, *self.lengths, strict=True)
        for image, text, trained, image_length, text_length in members:
            chosen = np.flatnonzero(~(trained[i] | trained[j]))
            for at in range(0, len(chosen), _BLOCK):
                part = chosen[at : at + _BLOCK]
                rows, others = i[part], j[part]
                products = np.vecdot(image[rows], text[others])
                total[part] += products / (image_length[rows] * text_length[others])
            count[chosen] += 1
        return 2 * divide_or_nan(total, count) - self.hubs[0, i] - self.hubs[1, j]

    def evidence(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Return the log-likelihood ratio that picture i has the captions of pair j, [n]; 0 where
        it is unknown."""
        fit = self.at(i, j)
        ratio = np.minimum(fit - self.own[i], fit - self.middle) * self.gain
        return np.nan_to_num(np.clip(ratio, -_CLIP, _CLIP))


def find_runs(fits: Fits, stretches: Sequence[np.ndarray]) -> list[DisplacedRun]:
    """Return the shifts, exchanges and reversals in the order of the source, then the reordered
    runs, also without a sure repair where captions are in alphabetical order (`stretches`: the
    rows of each such part)."""
    found = []
    for rows, partners, is_voted in _lines(fits):
        for score, first, last in _runs(rows, fits.evidence(rows, partners)):
            part = slice(first, last + 1)
            back = 0.0
            if abs(partners[part] - rows[part]).min() > last - first:
                # Two exchanged blocks lie on the same diagonal, so their evidence is added.
                back = max(0.0, fits.evidence(partners[part], rows[part]).sum())
            if back >= _WEAK or is_voted:
                found.append((score + back, rows[part], partners[part]))
    found.sort(key=lambda each: -each[0])
    best = np.zeros((2, len(fits.own)))  # the highest scores that explain a row
    runs = []
    for score, rows, _ in found:
        rank = (best[0, rows] > 0).astype(int)
        best[rank, rows] = np.maximum(best[rank, rows], score)
    for score, rows, partners in found:
        first, second = best[:, rows]
        is_best = (first <= score).mean() >= 1 - _OVERLAP
        enough = THRESHOLD if len(first) < _LONG else _LEAST
        if score < enough or not is_best or (second >= _RIVAL * score).mean() >= 0.5:
            continue
        run = _complete(fits, rows, partners)
        if run.score >= _LEAST:  # also with the rows that do not fit
            runs.append(run)
    kept = list[DisplacedRun]()
    # Of two runs that are one exchange only the better is kept.
    for run in sorted(runs, key=lambda run: -run.score):
        if not any(np.isin(run.rows, each.rows).mean() > 1 - _OVERLAP for each in kept):
            kept.append(run)
    kept.sort(key=lambda run: int(run.rows[0]))
    return [*kept, *_reordered(fits, kept, stretches)]


def _complete(fits: Fits, rows: np.ndarray, partners: np.ndarray) -> DisplacedRun:
    """Return the run of some rows, with the rows that it implies: a reversal maps its rows onto
    each other, and so do two blocks that were exchanged."""
    step = partners - rows
    is_shift = bool((step == step[0]).all())
    evidence, back = fits.evidence(rows, partners), fits.evidence(partners, rows)
    is_exchange = is_shift and abs(step[0]) >= len(rows) and back.sum() >= _WEAK
    kind = EXCHANGE if is_exchange else SHIFT if is_shift else REVERSAL
    if kind != SHIFT:
        both, at = np.unique(np.concatenate([rows, partners]), return_index=True)
        partners = np.concatenate([partners, rows])[at]
        evidence = np.concatenate([evidence, back])[at]
        # A row and its partner say the same, so that both must speak for the outermost ones.
        joint = evidence + evidence[np.searchsorted(both, partners)]
        likely = np.flatnonzero(joint > 0)  # none: the run is empty, and its score 0
        inside = slice(likely.min(initial=len(joint)), likely.max(initial=-1) + 1)
        rows, partners, evidence = both[inside], partners[inside], evidence[inside]
    probability = scipy.special.expit(evidence + _PRIOR)
    return DisplacedRun(kind, rows, partners, probability, float(evidence.sum()))


def _keys(fits: Fits, line: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Return a number of each row of a line, int64. A line is j − i + n_pairs or i + j + 2 n_pairs;
    the numbers of two lines differ by more than rows that are looked at together."""
    return line * (len(fits.own) + _SPACE) + _AROUND + row


def _voted_keys(fits: Fits) -> np.ndarray:
    """Return the keys of the rows about those that vote for a line, where several near rows do,
    int64 [n], ascending."""
    n = len(fits.own)
    i, j = fits.votes[fits.votes[:, 0] != fits.votes[:, 1]].T
    keys = [np.empty(0, int)]
    for line in (j - i + n, i + j + 2 * n):
        voters = np.sort(_keys(fits, line, i))
        first, last = voters[: len(voters) - _VOTES + 1], voters[_VOTES - 1 :]
        near = np.flatnonzero(last - first <= _NEAR)
        keys += map(np.arange, first[near] - _AROUND, last[near] + _AROUND + 1)
    return np.unique(np.concatenate(keys))


def _stretch_keys(fits: Fits) -> np.ndarray:
    """Return the rows of all lines between two stretches of rows if many captions of the first,
    which do not fit, are near pictures of the second: as `_voted_keys`.

    Among pictures that look similar no single line has several votes.
    """
    n = len(fits.own)
    misfits = fits.votes[fits.own[fits.votes[:, 0]] < fits.middle]
    stretches, counts = np.unique(misfits // _STRETCH, axis=0, return_counts=True)
    often = np.argsort(-counts, kind="stable")[:_MOST_STRETCHES]
    often = often[counts[often] >= _STRETCH_VOTES]
    offsets = np.arange(1 - _STRETCH, _STRETCH)
    keys = [np.empty(0, int)]
    for first, second in stretches[often].tolist():
        steps = (second - first) * _STRETCH + offsets
        sums = (first + second + 1) * _STRETCH - 1 + offsets
        lines = np.concatenate([steps + n, sums + 2 * n])
        rows = np.arange(first * _STRETCH - _AROUND, (first + 1) * _STRETCH + _AROUND)
        keys.append(_keys(fits, lines[:, None], rows).ravel())
    return np.unique(np.concatenate(keys))


def _lines(fits: Fits) -> Iterator[tuple[np.ndarray, np.ndarray, bool]]:
    """Yield the rows and partners of each connected part of a line, and whether near rows vote for
    it."""
    n = len(fits.own)
    voted = _voted_keys(fits)
    keys = np.union1d(voted, _stretch_keys(fits))
    for part in np.split(keys, np.flatnonzero(np.diff(keys) > 1) + 1):
        line, rows = np.divmod(part, n + _SPACE)
        rows -= _AROUND
        partners = np.where(line < 2 * n, rows + line - n, line - 2 * n - rows)
        inside = (rows >= 0) & (rows < n) & (partners >= 0) & (partners < n) & (partners != rows)
        if inside.any():
            first, end = np.searchsorted(voted, [part[0], part[-1] + 1])
            yield rows[inside], partners[inside], bool(first < end)


def _runs(rows: np.ndarray, evidence: np.ndarray) -> list[tuple[float, int, int]]:
    """Return sum, first and last position of each run of a line; parts with a short gap are one."""
    runs = list[tuple[float, int, int]]()
    for score, first, last in maximal_segments(evidence, _WEAK):
        if runs:
            total, start, end = runs[-1]
            gap = evidence[end + 1 : first]
            most = max(5, _GAP * (end - start + last - first))
            if rows[first] - rows[end] - 1 == len(gap) <= most and gap.mean() > _BROKEN:
                runs[-1] = (total + score, start, last)
                continue
        runs.append((score, first, last))
    return runs


def maximal_segments(values: np.ndarray, least: float) -> list[tuple[float, int, int]]:
    """Return sum, first and last position of all maximal segments with a sum of `least` or more, in
    order.

    Ruzzo & Tompa, ISMB 1999: the segment of highest sum, and those of the values before and after
    it.

    Example:
        >>> maximal_segments(np.array([4.0, -5.0, 3.0, -1.0, 2.0]), 1.0)
        [(4.0, 0, 0), (4.0, 2, 4)]
    """
    found = []
    parts = [(0, len(values))]
    while parts:
        start, stop = parts.pop()
        sums = np.append(0, np.cumsum(values[start:stop]))
        rise = sums - np.minimum.accumulate(sums)
        end = int(rise.argmax())
        if rise[end] >= least:
            first = end - 1 - int(sums[:end][::-1].argmin())
            found.append((float(rise[end]), start + first, start + end - 1))
            parts += [(start, start + first), (start + end, stop)]
    return sorted(found, key=lambda segment: segment[1])


def _reordered(
    fits: Fits, runs: Sequence[DisplacedRun], stretches: Sequence[np.ndarray]
) -> Iterator[DisplacedRun]:
    """Yield stretches in alphabetical order with far more misfits than the other rows, and runs of
    rows in which nearly all captions belong elsewhere in the run, without a line."""
    explained = np.zeros(len(fits.own), bool)
    for run in runs:
        explained[run.rows] = True
    ratio = np.nan_to_num(np.clip((fits.middle - fits.own) * fits.gain, -_CLIP, _CLIP))
    is_misfit = ratio > 0
    share = np.clip(is_misfit.mean(), 0.01, 0.5)
    # How much likelier a row of misfits is than one of the data set
    evidence = ratio - np.logaddexp(np.log(share) + ratio, np.log1p(-share))
    for rows in stretches:
        outside = ~explained
        outside[rows] = False
        if explained[rows].any() or len(rows) > _MOST_REORDERED or not outside.any():
            continue
        found = np.count_nonzero(is_misfit[rows])
        usual = max(is_misfit[outside].mean(), 0.01)
        score = -float(scipy.stats.binom.logsf(found - 1, len(rows), usual))
        if score >= THRESHOLD:
            explained[rows] = True
            yield DisplacedRun(REORDERED, rows, *assign(fits, rows), score)
    evidence[explained] = -_CLIP
    for score, first, last in maximal_segments(evidence, THRESHOLD):
        rows = np.arange(first, last + 1)
        if not _FEWEST_REORDERED <= len(rows) <= _MOST_REORDERED:
            continue
        run = DisplacedRun(REORDERED, rows, *assign(fits, rows), score)
        if (run.probability > 0).mean() >= _REORDERED_SHARE:
            yield run


def displaced_probability(runs: Sequence[DisplacedRun], n_pairs: int) -> np.ndarray:
    """Return the probability that runs explain each pair, [n_pairs]; 0 where that is unlikely."""
    probability = np.zeros(n_pairs)
    for run in runs:
        likely = run.probability >= LIKELY
        probability[run.rows[likely]] = run.probability[likely]
    return probability


def find_swaps(fits: Fits, probability: np.ndarray) -> DisplacedRun:
    """Return pairs whose captions surely belong to each other's pictures, without any order.

    Args: the probability that all captions of a pair belong elsewhere, [n_pairs]; 0 for pairs that
    a run explains.
    """
    likeliest = np.argsort(-probability, kind="stable")[:_MOST_REORDERED]
    suspects = np.sort(likeliest[probability[likeliest] > _SUSPECTED])
    partners, probability = assign(fits, suspects)
    sure = probability > 0
    return DisplacedRun(SWAP, suspects[sure], partners[sure], probability[sure], 0.0)


def assign(fits: Fits, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give each of some pictures the captions of one of the same pairs, so that the total fit is
    highest (Hungarian method).

    Returns: the pair whose captions belong to each picture, and the probability of the repair, [n]
    each: the smaller of those among all captions and among all pictures; 0 where it is not sure, or
    nothing is to be repaired.
    """
    n = len(rows)
    if n < 2:
        return rows, np.zeros(n)
    fit = fits.at(np.repeat(rows, n), np.tile(rows, n)).reshape(n, n)
    logits = np.nan_to_num(fit * fits.gain, nan=-1e3)  # NaN: every member trained on one of both
    chosen = scipy.optimize.linear_sum_assignment(logits, maximize=True)[1]
    by_picture, by_caption = (
        scipy.special.softmax(logits, axis=axis)[np.arange(n), chosen] for axis in (1, 0)
    )
    probability = np.minimum(by_picture, by_caption)
    is_sure = (probability >= _SURE) & (chosen != np.arange(n))
    return rows[chosen], np.where(is_sure, probability, 0.0)
