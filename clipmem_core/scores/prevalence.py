"""How many captions are wrong, from the scores alone: a mixture of captions that fit and of captions swapped at random.

What swapped captions score is known, from pairs that were swapped for this (`canaries`): the known positives of
positive-unlabelled learning (Elkan & Noto, KDD 2008). Without more, only an upper bound of their share is identified
(Blanchard, Lee & Scott, JMLR 2010; Scott, AISTATS 2015): the captions that fit could score just so. What
identifies it here is the shape of the others: one peak with a width on either side and tails from normal to heavy, the
two-piece Student t of Fernández & Steel (JASA 93, 1998).
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import brentq, minimize
from scipy.special import ndtr, ndtri
from scipy.stats import gaussian_kde

FEWEST = 100  # pairs, and canaries, below which no count is given
ASSUMPTION = (
    "The count is of captions that fit no better than captions swapped at random. It assumes that the scores of the "
    "right captions have one peak and regular tails. The upper bound with captions taken from similar pictures needs "
    "no such assumption, but scores cannot tell those captions from right ones."
)
_CELLS = 200
_SHARES = 12  # shares that are tried at once
_DROP = 9.0  # of log-likelihood, beyond which a share is not looked at
_LEVEL = 0.95
_FLOOR = 1e-9
_QUANTILES = np.arange(1, 10) / 10  # of the canaries
# The share of the pairs from which a second round leaves them out, by the setting `rounds`. Members hardly learn from
# fewer than a hundredth; a second round finds clearly more from a tenth on.
SECOND_ROUND_FROM = {"2": 0.01, "auto": 0.1}
_NEXT, _WORTH = 20, 0.1  # looking goes on while this share of the next pairs is expected to be wrong
CHECKED = 50  # pairs that a person reviews at least, and the size of a random check: scores miss small errors
_LIMITS = ((-4.0, 4.0), (-3.0, 2.0), (-3.0, 2.0), (0.7, 4.6))  # peak, log width left and right, log degrees of freedom
_START = (0.0, 0.0, 0.0, 3.0)


@dataclass(frozen=True)
class WrongCount:
    """How many captions are wrong; all None, with the reason in `missing`, where that cannot be told."""

    estimate: float | None
    low: float | None  # of a 95 % interval
    high: float | None
    posterior: np.ndarray = field(repr=False)  # probability that a pair's caption is wrong, [n_pairs]; NaN if unknown
    method: str = "scores"
    assumptions: str = ASSUMPTION
    missing: str = ""


def estimate_wrong(fit: np.ndarray, canaries: np.ndarray) -> WrongCount:
    """Estimate how many captions are wrong, from the scores of pairs and of pairs that were swapped for this.

    The likelihood of the scores, in cells, is maximised over the shape of the captions that fit for each share of wrong
    ones (profile likelihood); share and count are averaged over it, with Jeffreys' prior on the share. The interval's
    upper end is no lower than `most_wrong`, which needs no shape.

    Args:
        fit: of every pair how well its caption fits, larger is better, [n_pairs]; NaN for pairs that are not judged.
        canaries: the same of pairs with a caption swapped at random, [n_canaries]; NaN is passed over.

    Returns:
        The count among the judged pairs, its 95 % interval, and each pair's probability, in [0, 1].

    Example:
        >>> rng = np.random.default_rng(1)
        >>> fit = np.concatenate([rng.normal(4, 1, 950), rng.normal(0, 1, 50)])
        >>> found = estimate_wrong(fit, rng.normal(0, 1, 1000))
        >>> found.low < 50 < found.high, round(found.estimate, -1)
        (True, 50.0)
    """
    judged, known = np.isfinite(fit), canaries[np.isfinite(canaries)]
    posterior = np.full(len(fit), np.nan)
    if min(judged.sum(), len(known)) < FEWEST:
        few = f"a count needs {FEWEST} pairs and swapped pairs with a score, not {judged.sum()} and {len(known)}"
        return WrongCount(None, None, None, posterior, missing=few)
    values = fit[judged]
    middle, spread = np.median(values), np.percentile(values, 84) - np.percentile(values, 16)
    if not spread > 0 or not known.std() > 0:
        return WrongCount(None, None, None, posterior, missing="the pairs do not differ in how well captions fit")
    cells = _Cells.of((values - middle) / (spread / 2), (known - middle) / (spread / 2))
    weights, wrong = _profile(cells)
    mean = (cells.counts * wrong).sum(axis=1)
    spread_of_count = np.sqrt((cells.counts * wrong * (1 - wrong)).sum(axis=1))
    posterior[judged] = (weights @ wrong)[cells.place]
    low, high = (_quantile(q, weights, mean, spread_of_count) for q in ((1 - _LEVEL) / 2, (1 + _LEVEL) / 2))
    estimate = float(weights @ mean)
    # What swapped captions score is known from a sample itself, which matters where the wrong ones are as many.
    wider = float(np.sqrt(1 + estimate / len(known)))
    low, high = (estimate + wider * (end - estimate) for end in (low, high))
    high = min(max(high, most_wrong(values, known)), len(values))
    return WrongCount(estimate, min(max(low, 0.0), estimate), max(high, estimate), posterior)


def most_wrong(fit: np.ndarray, canaries: np.ndarray) -> float:
    """Return an upper 97.5 % bound on how many pairs are like the canaries, whatever the scores of the others are.

    Of W wrong captions a share q scores below a quantile q of the canaries, and no more than all pairs that do: W q is
    at most their number, up to the noise of both (Blanchard, Lee & Scott, JMLR 2010, theorem 11, with normal
    approximations). The lowest bound of nine quantiles is taken, each at the level that holds for all of them.

    Args:
        fit: of every pair how well its caption fits, [n_pairs].
        canaries: the same of pairs with a caption swapped at random, [n_canaries].

    Example:
        >>> round(most_wrong(np.concatenate([np.full(900, 9.0), np.arange(100) / 100]), np.arange(1000) / 1000))
        113
    """
    z = ndtri(1 - 0.025 / len(_QUANTILES))
    below = np.searchsorted(np.sort(fit), np.quantile(canaries, _QUANTILES), side="right")
    least = _QUANTILES - z * np.sqrt(_QUANTILES * (1 - _QUANTILES) / len(canaries))
    noise = z * np.sqrt(_QUANTILES * (1 - _QUANTILES))
    # The largest W with W q − z √(W q (1 − q)) ≤ number below.
    root = (noise + np.sqrt(noise**2 + 4 * least * below)) / (2 * least)
    return float((root**2)[least > 0].min())


@dataclass(frozen=True, eq=False)
class _Cells:
    """Standardised scores counted in cells: sums over cells take no longer for a million pairs."""

    middles: np.ndarray  # [n_cells]
    counts: np.ndarray  # pairs, [n_cells]
    swapped: np.ndarray  # probability of a swapped pair, [n_cells]
    place: np.ndarray  # each pair's cell

    @classmethod
    def of(cls, values: np.ndarray, canaries: np.ndarray) -> "_Cells":
        ends = min(values.min(), canaries.min()), max(values.max(), canaries.max())
        edges = np.linspace(ends[0] - 1e-9, ends[1] + 1e-9, _CELLS + 1)
        place = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, _CELLS - 1)
        middles = (edges[1:] + edges[:-1]) / 2
        thinned = canaries[:: max(1, len(canaries) // 5_000)]
        density = gaussian_kde(thinned)(middles) + _FLOOR
        return cls(middles, np.bincount(place, minlength=_CELLS).astype(float), density / density.sum(), place)


def _profile(cells: _Cells) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights of the shares of wrong captions that were tried, and by each a cell's probability of wrong."""
    ends = np.log(0.05 / cells.counts.sum()), np.log(0.95 / 0.05)
    shape = np.array(_START)
    for _ in range(3):  # twice closer to the shares that the scores allow
        logits = np.linspace(*ends, _SHARES)
        tried = [_fitted(cells, 1 / (1 + np.exp(-logit)), shape) for logit in logits]
        heights = np.array([own.height for own in tried])
        shape = tried[int(heights.argmax())].shape
        near = np.flatnonzero(heights > heights.max() - _DROP)
        ends = logits[max(near[0] - 1, 0)], logits[min(near[-1] + 1, _SHARES - 1)]
    shares = 1 / (1 + np.exp(-logits))
    # Jeffreys' prior of a share, by its logit.
    weights = np.exp(heights - heights.max()) * np.sqrt(shares * (1 - shares))
    return weights / weights.sum(), np.stack([own.wrong for own in tried])


@dataclass(frozen=True, eq=False)
class _Fitted:
    """The captions that fit, by a share of wrong ones: their shape, its log-likelihood, and who is wrong by it."""

    shape: np.ndarray
    height: float
    wrong: np.ndarray  # probability in each cell


def _fitted(cells: _Cells, share: float, start: np.ndarray) -> _Fitted:
    """Return the shape of the captions that fit under which the scores are most likely."""
    filled = cells.counts > 0
    counts, total = cells.counts[filled], cells.counts.sum()
    swapped = share * cells.swapped

    def loss(shape: np.ndarray) -> tuple[float, np.ndarray]:
        chance, slopes = _two_piece_t(cells.middles, shape)
        both = swapped + (1 - share) * chance
        slope = slopes[:, filled] @ (counts * (1 - share) / both[filled])
        return -float(counts @ np.log(both[filled])) / total, -slope / total

    options = {"ftol": 1e-10, "gtol": 1e-6}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=_LIMITS, options=options)
    fits = (1 - share) * _two_piece_t(cells.middles, found.x)[0]
    return _Fitted(found.x, -float(found.fun) * total, swapped / (swapped + fits))


def _two_piece_t(values: np.ndarray, shape: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability of each cell under a Student t with a width of its own on either side of its peak.

    With it come its slopes by the four numbers of the shape, [4, n_cells].
    """
    centre, left, right, log_df = shape
    below, df = values < centre, np.exp(log_df)
    narrow = np.exp(-np.where(below, left, right))
    z = (values - centre) * narrow
    reach = 1 + z**2 / df
    density = reach ** (-(df + 1) / 2)
    pull = density * (df + 1) / df * z / reach
    by_df = density * ((df + 1) / 2 * (z**2 / df) / reach - df / 2 * np.log(reach))
    slopes = np.stack([pull * narrow, pull * z * below, pull * z * ~below, by_df])
    density += _FLOOR
    whole = density.sum()
    chance = density / whole
    return chance, (slopes - chance * slopes.sum(axis=1, keepdims=True)) / whole


def _quantile(q: float, weights: np.ndarray, mean: np.ndarray, spread: np.ndarray) -> float:
    """Return a quantile of the count: a normal about each share's mean, mixed by the weights."""
    spread = np.maximum(spread, 1e-6)

    def excess(count: float) -> float:
        return float(weights @ ndtr((count - mean) / spread)) - q

    ends = (mean - 8 * spread).min() - 1, (mean + 8 * spread).max() + 1
    return float(brentq(excess, *ends))


def p_wrong(fit: np.ndarray, canaries: np.ndarray) -> np.ndarray:
    """Return each pair's probability of a wrong caption, the posterior of `estimate_wrong`; NaN without a fit."""
    return estimate_wrong(fit, canaries).posterior


def likely_wrong(suspicion: np.ndarray, fit: np.ndarray, canaries: np.ndarray, *, least: float) -> np.ndarray:
    """Return the pairs that a second round of training leaves out: the most suspicious, as many as are likely wrong.

    Members that train without them align the others better, so that they tell better which captions do not fit: the
    selection of samples between rounds of training, as by trimmed loss (Shen & Sanghavi, ICML 2019), here by members
    that never saw the pair, and as many as `estimate_wrong` counts.

    Args:
        suspicion: the order that pairs are looked at in, the highest first, [n_pairs]; NaN for pairs not judged.
        fit: of every pair how well its caption fits, larger is better, [n_pairs]; NaN for pairs not judged.
        canaries: the same of pairs with a caption swapped at random, [n_canaries].
        least: share of the judged pairs; if fewer are wrong, nothing is left out.

    Returns:
        True for pairs to leave out, [n_pairs]; none where the number of wrong captions is not known or too small.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> fit = np.concatenate([rng.normal(4, 1, 950), rng.normal(0, 1, 50)])
        >>> out = likely_wrong(-fit, fit, rng.normal(0, 1, 1000), least=0.01)
        >>> bool(40 < out.sum() < 60), bool(out[950:].mean() > 0.9)
        (True, True)
    """
    count = round(estimate_wrong(fit, canaries).estimate or 0.0)
    left_out = np.zeros(len(fit), dtype=bool)
    if count >= least * np.isfinite(fit).sum():
        order = np.argsort(-np.where(np.isfinite(suspicion), suspicion, -np.inf), kind="stable")
        left_out[order[:count]] = True
    return left_out


def suggest_stop(posterior: np.ndarray, suspicion: np.ndarray) -> int:
    """Return after how many pairs, the most suspicious first, hardly one in ten of the next is expected to be wrong.

    Args:
        posterior: each pair's probability of a wrong caption, [n_pairs]; NaN is passed over.
        suspicion: the order that pairs are looked at in, the highest first, [n_pairs].

    Example:
        >>> suggest_stop(np.array([0.9] * 30 + [0.0] * 100), -np.arange(130.0))
        30
    """
    known = np.flatnonzero(np.isfinite(posterior))
    ordered = posterior[known[np.argsort(-suspicion[known], kind="stable")]]
    ahead = np.concatenate([[0.0], np.cumsum(ordered)])
    window = min(_NEXT, len(ordered))
    expected = (ahead[window:] - ahead[:-window]) / max(window, 1)
    few = np.flatnonzero(expected < _WORTH)
    if not len(few):
        return len(ordered)
    worth = np.flatnonzero(ordered[: few[0] + window] >= _WORTH)
    return int(worth[-1]) + 1 if len(worth) else 0


def left_after(count: WrongCount, looked_at: np.ndarray) -> tuple[float, float, float]:
    """Return how many wrong captions are probably left among the other pairs, and a 95 % interval.

    Args:
        count: of all pairs.
        looked_at: true for pairs whose captions somebody looked at, [n_pairs].
    """
    assert count.estimate is not None
    assert count.low is not None
    assert count.high is not None
    others = np.nan_to_num(count.posterior[~looked_at])
    left, own = float(others.sum()), 1.96 * float(np.sqrt((others * (1 - others)).sum()))
    share = left / max(count.estimate, 1e-9)
    low, high = ((count.estimate - end) * share for end in (count.low, count.high))
    return left, max(0.0, left - np.hypot(low, own)), left + np.hypot(high, own)


def told_count(fit: np.ndarray, swapped: np.ndarray, near: np.ndarray, suspicion: np.ndarray) -> dict[str, Any]:
    """Return what an audit's verdict says of the number of wrong captions.

    Args:
        fit: of every pair how well its caption fits, [n_pairs]; NaN for pairs that are not judged.
        swapped: the same with a caption drawn at random, [n_pairs].
        near: the same with the caption most like its own, [n_pairs].
        suspicion: the order that pairs are looked at in, the highest first, [n_pairs].

    Returns:
        estimate, low, high, method, assumptions and missing as of `WrongCount`; `stop`, after how many pairs to stop
        looking, at least 50, and `left`, how many are left then, with its interval; `near`, the same count where
        canaries have the most alike caption of another pair: of these three the last, an upper bound, holds for wrong
        captions that are so near; the others take right ones for them.
    """
    count, if_near = estimate_wrong(fit, swapped), estimate_wrong(fit, near)
    told: dict[str, Any] = {
        "estimate": count.estimate,
        "low": count.low,
        "high": count.high,
        "near": [if_near.estimate, if_near.low, if_near.high],
        "method": count.method,
        "assumptions": count.assumptions,
        "missing": count.missing or None,
    }
    if count.missing:
        return told
    stop = min(max(suggest_stop(count.posterior, suspicion), CHECKED), int(np.isfinite(fit).sum()))
    looked_at = np.zeros(len(fit), dtype=bool)
    looked_at[np.argsort(-np.where(np.isfinite(fit), suspicion, -np.inf), kind="stable")[:stop]] = True
    return told | {"stop": stop, "left": list(left_after(count, looked_at))}
