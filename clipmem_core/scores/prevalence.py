"""How many captions are wrong: from the scores alone, from a review, and for a set that pairs were
sampled from.

From scores: a mixture of captions that fit and of captions swapped at random (`swapped_csls`), the
known positives of positive-unlabelled learning (Elkan & Noto, KDD 2008). In general only an upper
bound of their share is identified (Blanchard, Lee & Scott, JMLR 2010; Scott, AISTATS 2015). Here
the assumed shape of the others identifies it: a two-piece Student t with one peak (Fernández &
Steel, JASA 93, 1998).

From a review: two strata, the most suspicious pairs, which are all reviewed and counted, and the
rest, estimated from a simple random sample (Horvitz & Thompson, JASA 1952; Cochran, Sampling
Techniques, chapter 5), so the interval does not depend on the scores.

`fit` is larger where a caption fits better, [n_pairs], NaN for pairs without a score; `swapped` is
the same of pairs with a caption swapped at random, [n_swapped]; `suspicion` is larger where a pair
is reviewed first, [n_pairs].
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import scipy

FEWEST = 100  # pairs, and swapped pairs, below which there is no count
# The share of wrong pairs from which a second round leaves them out, by the setting `rounds`.
# Members hardly improve below a hundredth; a second round finds clearly more from a tenth on.
SECOND_ROUND_FROM = {"2": 0.01, "auto": 0.1}
CHECKED = 50  # pairs that a person reviews at least: scores miss small errors
FEWEST_CHECKED = 10  # random spot checks, below which a review gives no estimate
_TAIL = 0.025
_CELLS = 200
_SHARES = 12  # shares that are tried at once
_POWER = 0.5  # of the likelihood
_MODEL_ERROR = 0.1  # of the estimate, for shapes of scores that no member of the family has
_KIND_SHARES = (
    0.5,
    0.75,
    1.0,
)  # of the first of two kinds of swapped captions among the wrong ones
_DROP = 18.0  # of log-likelihood, beyond which a share is ignored
_FLOOR = 1e-9
_SLOPE = 1e-3  # of the log-odds of the posterior, per standard deviation of the scores
_QUANTILES = np.arange(1, 10) / 10  # of the swapped pairs
_LIMITS = (
    (-4.0, 4.0),
    (-3.0, 2.0),
    (-3.0, 2.0),
    (0.7, 4.6),
)  # peak, log width left and right, log degrees of freedom
_START = (0.0, 0.0, 0.0, 3.0)
# the review goes on while this share of the next pairs is expected to be wrong
_NEXT = 20
_WORTH = 0.1
_RANDOM_SHARE = 0.1  # of the places of a review
# random streams: which places of the review are random, and the random order
_SLOT_DRAW = 11
_ORDER_DRAW = 12


Curve: TypeAlias = tuple[Sequence[float] | np.ndarray, Sequence[float] | np.ndarray]


@dataclass(frozen=True)
class WrongCount:
    """How many captions are wrong; all None, with the reason in `missing`, where that is
    unknown."""

    estimate: float | None
    low: float | None  # of a 95 % interval
    high: float | None
    posterior: np.ndarray = field(
        repr=False, default_factory=lambda: np.empty(0)
    )  # probability that each caption is wrong; NaN if unknown
    missing: str = ""
    # the posterior as a function: scores in ascending order, and its log-odds, which descend, [n]
    # each
    curve: Curve = field(repr=False, default=((0.0,), (-np.inf,)))


def estimate_wrong(fit: np.ndarray, *swapped: np.ndarray) -> WrongCount:
    """Estimate how many captions are wrong, from the scores of captions and of the same with
    swapped captions.

    The likelihood of the scores, in cells, is maximised over the shape of the captions that fit for
    each share of wrong ones (profile likelihood); share and count are averaged over it, with
    Jeffreys' prior on the share. With two kinds of swapped captions they are also averaged over the
    shares of both kinds among the wrong ones. No shape is exact: the square root of the likelihood
    is used, and the error contains a tenth of the count. The interval's upper end is no lower than
    `most_wrong`, which needs no shape.

    Returns:
        The count among the captions with a score, its 95 % interval, and each caption's
        probability, in [0, 1].
    """
    scored = np.isfinite(fit)
    kinds = [values[np.isfinite(values)] for values in swapped]
    values = fit[scored]
    reference = np.concatenate(kinds)
    posterior = np.full(len(fit), np.nan)
    if min(len(values), *map(len, kinds)) < FEWEST:
        few = (
            f"a count needs {FEWEST} pairs and swapped pairs with a score, not {len(values)} "
            f"and {len(reference)}"
        )
        return WrongCount(None, None, None, posterior, few)
    middle = np.median(values)
    spread = np.percentile(values, 84) - np.percentile(values, 16)
    if not spread > 0 or not reference.std() > 0:
        return WrongCount(
            None, None, None, posterior, "the pairs do not differ in how well captions fit"
        )
    standard, *references = ((part - middle) / (spread / 2) for part in (values, *kinds))
    # Counted in cells, so that the time does not depend on the number of pairs
    ends = [
        function([function(part) for part in (standard, *references)])
        for function in (np.min, np.max)
    ]
    edges = np.linspace(ends[0] - 1e-9, ends[1] + 1e-9, _CELLS + 1)
    place = np.clip(np.searchsorted(edges, standard, side="right") - 1, 0, _CELLS - 1)
    counts = np.bincount(place, minlength=_CELLS).astype(float)
    middles = (edges[1:] + edges[:-1]) / 2
    densities = [
        scipy.stats.gaussian_kde(part[:: max(1, len(part) // 5_000)])(middles) + _FLOOR
        for part in references
    ]
    shares = [(share, 1 - share) for share in _KIND_SHARES] if len(kinds) > 1 else [(1.0,)]
    fitted = []
    for weights in shares:
        density = sum(
            weight * part / part.sum() for weight, part in zip(weights, densities, strict=True)
        )
        fitted.append(_profile(*(cells.tobytes() for cells in (middles, counts, density))))
    heights, wrong = (np.concatenate(parts) for parts in zip(*fitted, strict=True))
    weights = np.exp(heights - heights.max())
    weights /= weights.sum()
    mean = (counts * wrong).sum(axis=1)
    spread_of_count = np.maximum(np.sqrt((counts * wrong * (1 - wrong)).sum(axis=1)), 1e-6)
    # A fit that is worse never has a lower probability; the slope keeps the order of scores where
    # it is constant.
    descending = scipy.optimize.isotonic_regression(
        weights @ wrong, weights=counts + 1e-6, increasing=False
    ).x
    log_odds = scipy.special.logit(np.clip(descending, 1e-12, 1 - 1e-12)) - _SLOPE * middles
    curve = (middle + middles * spread / 2, log_odds)
    posterior[scored] = posterior_at(curve, values)
    low, high = (_quantile(q, weights, mean, spread_of_count) for q in (_TAIL, 1 - _TAIL))
    estimate = float(weights @ mean)
    # The scores of swapped captions are a sample too, which matters where as many captions are
    # wrong.
    wider = float(np.sqrt(1 + estimate / len(reference)))
    low = estimate - np.hypot(wider * (estimate - low), _MODEL_ERROR * estimate)
    high = estimate + np.hypot(wider * (high - estimate), _MODEL_ERROR * estimate)
    high = min(max(high, most_wrong(values, reference)), len(values))
    return WrongCount(
        estimate, min(max(low, 0.0), estimate), max(high, estimate), posterior, curve=curve
    )


def posterior_at(curve: Curve, fit: np.ndarray) -> np.ndarray:
    """Return the probability that captions with such scores are wrong, by the curve of a
    `WrongCount`."""
    return scipy.special.expit(np.interp(fit, *curve))


def most_wrong(fit: np.ndarray, swapped: np.ndarray) -> float:
    """Return an upper 97.5 % bound on how many pairs are like the swapped ones, for any scores of
    the others.

    Of W wrong captions a share q scores below the quantile q of the swapped ones, so W q is at most
    the number of pairs below it, up to the noise of both (Blanchard, Lee & Scott, JMLR 2010,
    theorem 11, with normal approximations). The lowest bound of nine quantiles, each at the level
    that holds for all of them.

    Example:
        >>> round(most_wrong(np.concatenate([np.full(900, 9.0), np.arange(100) / 100]),
        np.arange(1000) / 1000)) 113
    """
    z = scipy.special.ndtri(1 - 0.025 / len(_QUANTILES))
    below = np.searchsorted(np.sort(fit), np.quantile(swapped, _QUANTILES), side="right")
    least = _QUANTILES - z * np.sqrt(_QUANTILES * (1 - _QUANTILES) / len(swapped))
    least = np.maximum(least, 1e-9)  # a quantile of few swapped pairs bounds nothing
    noise = z * np.sqrt(_QUANTILES * (1 - _QUANTILES))
    # The largest W with W q − z √(W q (1 − q)) ≤ number below.
    root = (noise + np.sqrt(noise**2 + 4 * least * below)) / (2 * least)
    return float((root**2).min())


@functools.lru_cache(maxsize=64)  # the verdict's count and p_wrong are of the same scores
def _profile(*cells: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return the log of the weight of each share of wrong captions tried, and each cell's
    probability of wrong by it.

    Args: the middle of each cell, its number of pairs, and the probability of a swapped pair in it,
    float64 [n_cells].
    """
    middles, counts, swapped = map(np.frombuffer, cells)
    filled = counts > 0
    total = counts.sum()

    def loss(shape: np.ndarray, share: float) -> tuple[float, np.ndarray]:
        chance, slopes = _two_piece_t(middles, shape)
        both = (share * swapped + (1 - share) * chance)[filled]
        slope = slopes[:, filled] @ (counts[filled] * (1 - share) / both)
        return -float(counts[filled] @ np.log(both)) / total, -slope / total

    options = {"ftol": 1e-10, "gtol": 1e-6}
    ends = (np.log(0.05 / total), np.log(0.95 / 0.05))
    shape = np.array(_START)
    for _ in range(3):  # narrow the range of likely shares
        logits = np.linspace(*ends, _SHARES)
        shares = 1 / (1 + np.exp(-logits))
        fitted = [
            scipy.optimize.minimize(
                loss, shape, (share,), jac=True, method="L-BFGS-B", bounds=_LIMITS, options=options
            )
            for share in shares
        ]
        heights = np.array([-total * solution.fun for solution in fitted])  # log-likelihoods
        shape = fitted[int(heights.argmax())].x
        likely = np.flatnonzero(heights > heights.max() - _DROP)
        ends = logits[max(likely[0] - 1, 0)], logits[min(likely[-1] + 1, _SHARES - 1)]
    # Jeffreys' prior of a share, by its logit; shares are closer to each other where fewer are
    # likely.
    weights = _POWER * heights + np.log(shares * (1 - shares)) / 2 + np.log(logits[1] - logits[0])
    fits = np.stack([_two_piece_t(middles, solution.x)[0] for solution in fitted])
    wrong = shares[:, None] * swapped
    return weights, wrong / (wrong + (1 - shares[:, None]) * fits)


def _two_piece_t(values: np.ndarray, shape: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability of each cell under a two-piece Student t, and its gradient by the
    shape, [4, n_cells]."""
    centre, left, right, log_df = shape
    below = values < centre
    df = np.exp(log_df)
    narrow = np.exp(-np.where(below, left, right))
    z = (values - centre) * narrow
    reach = 1 + z**2 / df
    density = reach ** (-(df + 1) / 2)
    pull = density * (df + 1) / df * z / reach
    by_df = density * ((df + 1) / 2 * (z**2 / df) / reach - df / 2 * np.log(reach))
    slopes = np.stack([pull * narrow, pull * z * below, pull * z * ~below, by_df])
    density += _FLOOR
    total = density.sum()
    chance = density / total
    return chance, (slopes - chance * slopes.sum(axis=1, keepdims=True)) / total


def _quantile(q: float, weights: np.ndarray, mean: np.ndarray, spread: np.ndarray) -> float:
    """Return a quantile of the count: a normal about each share's mean, mixed by the weights."""
    ends = (mean - 8 * spread).min() - 1, (mean + 8 * spread).max() + 1
    return float(
        scipy.optimize.brentq(
            lambda count: weights @ scipy.special.ndtr((count - mean) / spread) - q, *ends
        )
    )


def likely_wrong(
    suspicion: np.ndarray, fit: np.ndarray, swapped: np.ndarray, *, least: float
) -> np.ndarray:
    """Return the pairs that a second round of training leaves out: the most suspicious, as many as
    are likely wrong.

    Sample selection between rounds of training, as by trimmed loss (Shen & Sanghavi, ICML 2019),
    here by members that never saw the pair.

    Args: `least` is a share of the pairs with a score; if fewer are wrong, nothing is left out.
    """
    count = round(estimate_wrong(fit, swapped).estimate or 0.0)
    left_out = np.zeros(len(fit), dtype=bool)
    if count >= least * np.isfinite(fit).sum():
        order = np.argsort(-np.where(np.isfinite(suspicion), suspicion, -np.inf), kind="stable")
        left_out[order[:count]] = True
    return left_out


def suggest_stop(probabilities: np.ndarray) -> int:
    """Return the number of pairs, in the order of review, after which fewer than one in ten of the
    next is wrong.

    Args: the probability that a pair has a wrong caption, in the order of review, [n].
    """
    ahead = np.concatenate([[0.0], np.cumsum(probabilities)])
    window = min(_NEXT, len(probabilities))
    few = np.flatnonzero((ahead[window:] - ahead[: -window or None]) / max(window, 1) < _WORTH)
    if not len(few):
        return len(probabilities)
    worth = np.flatnonzero(probabilities[: few[0] + window] >= _WORTH)
    return int(worth[-1]) + 1 if len(worth) else 0


def left_after(
    probabilities: np.ndarray, counts: Iterable[WrongCount | Mapping[str, float]]
) -> tuple[float, float, float]:
    """Return how many pairs with a wrong caption are probably among pairs not reviewed, and a 95 %
    interval.

    `probabilities` are of these pairs; `counts` of wrong pairs, captions and words of all pairs,
    whose relative errors are added in quadrature.
    """
    left = float(np.nansum(probabilities))
    sampling = 1.96 * float(np.sqrt(np.nansum(probabilities * (1 - probabilities))))
    ends = [count if isinstance(count, Mapping) else vars(count) for count in counts]
    share = left / max(sum(end["estimate"] for end in ends), 1e-9)
    below = share * float(np.linalg.norm([end["estimate"] - end["low"] for end in ends]))
    above = share * float(np.linalg.norm([end["high"] - end["estimate"] for end in ends]))
    return left, max(0.0, left - np.hypot(below, sampling)), left + np.hypot(above, sampling)


def adjusted(probabilities: np.ndarray, decided: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Return the probabilities in the light of a review: multiplied by the errors found over those
    expected.

    No pair gets a higher probability than the share found so far, unless it had one before.

    Args: the probability that each pair has a wrong caption, which pairs are reviewed, and which of
    them are wrong, [n_pairs] each.

    Example:
        >>> decided = np.arange(100) < 50
        >>> wrong = np.arange(100) < 17
        >>> adjusted(np.full(100, 0.02), decided, wrong)[-1].round(2)
        np.float64(0.18)
    """
    if not decided.any():
        return probabilities
    found = int(wrong[decided].sum())
    factor = (found + 1) / (float(np.nansum(probabilities[decided])) + 1)
    return np.minimum(probabilities * factor, np.maximum(probabilities, found / decided.sum()))


@dataclass(frozen=True, eq=False)
class Review:
    """The order in which a person reviews pairs."""

    ranked: np.ndarray  # rows of the pairs with a suspicion, the most suspicious first
    drawn: np.ndarray  # the same rows in random order
    order: np.ndarray  # the same rows in the order of the review
    at_random: np.ndarray  # true where the place in the order is one of the random share


def plan_review(suspicion: np.ndarray, *, place: np.ndarray | None = None, seed: int = 0) -> Review:
    """Order pairs for a review: the most suspicious first, mixed with a tenth that is drawn at
    random.

    Args:
        suspicion: NaN for pairs that are not reviewed, [n_pairs].
        place: of each pair in the order where it is stored, as `review_place` returns it,
            [n_pairs].
        seed: start of both draws.
    """
    rows = np.flatnonzero(np.isfinite(suspicion))
    ranked = rows[np.argsort(-suspicion[rows], kind="stable")]
    drawn = np.random.default_rng([seed, _ORDER_DRAW]).permutation(rows)
    at_random = np.random.default_rng([seed, _SLOT_DRAW]).random(len(rows)) < _RANDOM_SHARE
    if place is not None:
        return Review(ranked, drawn, rows[np.argsort(place[rows], kind="stable")], at_random)
    order = np.empty_like(rows)
    taken = np.zeros(len(suspicion), dtype=bool)
    queues = {False: iter(ranked), True: iter(drawn)}
    for slot, random in enumerate(at_random.tolist()):
        row = next(row for row in queues[random] if not taken[row])
        order[slot] = row
        taken[row] = True
    return Review(ranked, drawn, order, at_random)


def review_place(suspicion: np.ndarray) -> np.ndarray:
    """Return each pair's place in the review, from 1; NaN for pairs that have no suspicion."""
    order = plan_review(suspicion).order
    place = np.full(len(suspicion), np.nan)
    place[order] = np.arange(1, len(order) + 1)
    return place


def plan_stop(
    suspicion: np.ndarray, probabilities: np.ndarray, counts: Iterable[WrongCount]
) -> tuple[int, tuple[float, float, float]]:
    """Return the number of pairs to review, at least 50, and how many wrong ones are left then,
    with an interval."""
    order = plan_review(suspicion).order
    stop = min(max(suggest_stop(np.nan_to_num(probabilities[order])), CHECKED), len(order))
    return stop, left_after(probabilities[order[stop:]], counts)


def count_reviewed(review: Review, wrong: np.ndarray, decided: np.ndarray) -> WrongCount:
    """Count wrong captions from the decisions so far, with a 95 % interval that does not depend on
    the scores.

    Args:
        review: the order of the review.
        wrong: true where the caption was found wrong, [n_pairs].
        decided: true for reviewed pairs, [n_pairs].

    Returns:
        The count among all pairs with a score. While no random pair of the rest is reviewed, the
        interval runs from the wrong captions found to all that are not known to be right.
    """
    reviewed = decided[review.ranked]
    top = len(reviewed) if reviewed.all() else int(reviewed.argmin())
    rest = np.zeros(len(decided), dtype=bool)
    rest[review.ranked[top:]] = True
    drawn = review.drawn[rest[review.drawn]]
    checked = decided[drawn]
    sample = drawn[: len(drawn) if checked.all() else int(checked.argmin())]
    counted = int(wrong[review.ranked[:top]].sum())
    wrong_elsewhere = int((wrong & decided & rest).sum())
    right = int((~wrong & decided & rest).sum())
    wrong_in_sample = int(wrong[sample].sum())
    low, high = count_of_sample(wrong_in_sample, len(sample), len(drawn))
    enough = len(sample) >= min(FEWEST_CHECKED, len(drawn))
    estimate = (
        counted + max(len(drawn) * wrong_in_sample / max(len(sample), 1), wrong_elsewhere)
        if enough
        else None
    )
    return WrongCount(
        estimate,
        float(counted + max(low, wrong_elsewhere)),
        float(counted + min(high, len(drawn) - right)),
        missing="" if enough else f"fewer than {FEWEST_CHECKED} pairs were checked at random",
    )


def count_of_sample(found: int, drawn: int, pairs: int) -> tuple[int, int]:
    """Return a 95 % interval for the number of wrong captions, from a simple random sample.

    The middle 95 % of the posterior with Jeffreys' prior on the share: a beta-binomial number among
    the pairs that were not drawn; from 0 where none was found, and to all where none was right. It
    covers 95 % on average over shares (Brown, Cai & DasGupta, Statistical Science 2001).

    Args:
        found: wrong captions in the sample.
        drawn: pairs in the sample.
        pairs: in all.

    Example:
        >>> count_of_sample(0, 0, 50), count_of_sample(5, 10, 10), count_of_sample(0, 30, 1000)
        ((0, 50), (5, 5), (0, 78))
    """
    if drawn == 0:
        return 0, pairs
    rest = pairs - drawn
    # betabinom.pmf without scipy.stats, slow to import
    wrong = np.arange(rest + 1)
    betaln = scipy.special.betaln
    log_ways = -np.log(rest + 1) - betaln(rest - wrong + 1, wrong + 1)
    ends = found + 0.5, drawn - found + 0.5
    below = np.cumsum(
        np.exp(log_ways + betaln(wrong + ends[0], rest - wrong + ends[1]) - betaln(*ends))
    )
    low, high = (min(int(np.searchsorted(below, q)), rest) for q in (_TAIL, 1 - _TAIL))
    return found + (low if found else 0), found + (high if found < drawn else rest)


def whole_count(
    found: float, drawn: int, total: int, *, low: float | None = None, high: float | None = None
) -> tuple[float, float, float]:
    """Estimate how many pairs of a set are of a kind, from a random sample without replacement.

    The limits are the numbers under which the count found, or a larger one, and it, or a smaller
    one, still have a probability of 2.5 % each by the hypergeometric distribution (Cochran,
    Sampling Techniques, 3rd ed. 1977, chapter 3). Where the count in the sample is an estimate
    itself, its error and that of sampling are independent: their distances from the estimate are
    added in quadrature (Zou & Donner, Statistics in Medicine 27, 2008).

    Args:
        found: pairs of the kind in the sample; a fraction where it was estimated.
        drawn: pairs in the sample, at least 1.
        total: pairs in the set, at least as many.
        low: of a 95 % interval of the count in the sample; None where it was counted.
        high: the other end.

    Returns:
        Estimate, and low and high of a 95 % interval.
    """
    if not 0 <= found <= drawn <= total or drawn < 1:
        raise ValueError(
            f"found, drawn and total must ascend from 0, not {found}, {drawn}, {total}"
        )
    scale = total / drawn
    estimate = found * scale
    below = int(np.floor(found))
    above = int(np.ceil(found))
    least = _first(
        lambda kind: scipy.stats.hypergeom.sf(below - 1, total, kind, drawn) > _TAIL, below, total
    )
    most = (
        _first(
            lambda kind: scipy.stats.hypergeom.cdf(above, total, kind, drawn) <= _TAIL,
            above,
            total + 1,
        )
        - 1
    )
    most = min(most, total - (drawn - above))
    model = (
        scale * (found - (found if low is None else low)),
        scale * ((found if high is None else high) - found),
    )
    ends = (
        estimate - np.hypot(estimate - least, model[0]),
        estimate + np.hypot(most - estimate, model[1]),
    )
    return float(estimate), float(max(ends[0], 0.0)), float(min(ends[1], total))


def _first(holds: Callable[[int], bool], start: int, stop: int) -> int:
    """Return the first number for which `holds` is true, or `stop`, by bisection."""
    while start < stop:
        middle = (start + stop) // 2
        start, stop = (start, middle) if holds(middle) else (middle + 1, stop)
    return start
