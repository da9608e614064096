"""Likelihood-ratio membership inference. Each member is the target once; the others are shadow
models.

The pair's alignment under the target is compared with its alignments under shadows that were
trained on the pair, and under those that were not, each less the mean of the external pairs. On
each side a pair has one shadow fewer than it has members, whichever side the target is on;
otherwise their number would leak that side. The shadow left out opposite the target is of the
target's repeat or seed where possible.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy  # scipy.stats is loaded when it is used

from clipmem_core.columns import SCORED_GROUPS
from clipmem_core.scores.membership import Sides
from clipmem_core.scores.seeds import seed_interval

ALIGNMENT = "alignment"
BAVARIA = "bavaria"
LIRA = "lira"
RMIA = "rmia"
ATTACKS = (BAVARIA, LIRA, RMIA, ALIGNMENT)
AUROC = "auroc"
RATES = {"TPR@0.01": 0.01, "TPR@0.001": 0.001}  # true-positive rate by false-positive rate
MEASURES = (AUROC, *RATES)
COLUMNS = [
    "attack",
    "measure",
    "value",
    "members_low",
    "members_high",
    "pairs_low",
    "pairs_high",
    "targets",
    "missing",
]
OWN_VARIANCE = (
    64  # shadows of a pair, from which LiRA uses the variance of the pair alone (its section VI)
)
FEWEST = 3  # members: a target, and a shadow on either side
_MOST_SHAPE = 50.0  # of the prior of the variance
_FLAT = 1e-3  # the least variance of the prior of the mean, as a share of that of one alignment
_BLOCK = 1_000_000  # weights of pairs in memory at a time
# random streams
_KEY_DRAW = 5
_RESAMPLE_DRAW = 6


@dataclass(frozen=True, eq=False)
class Shadows:
    """Members that are each other's shadows; arrays are true in [n_members, n_pairs]."""

    trained: np.ndarray  # on the pair
    attacked: np.ndarray
    external: np.ndarray  # pairs that the member's alignments are centred on
    replicate: np.ndarray  # number of the repeat or seed of each member, [n_members]
    seed: int


def shadows_of(sides: Sides) -> Shadows:
    """Return the members of an audit as each other's shadows, on its candidate, independent and
    scored pairs."""
    trained = sides.membership.trained
    group = sides.membership.group
    replicate = np.zeros(len(trained), dtype=np.int64)
    for number, rows in enumerate(sides.replicates):
        replicate[rows] = number
    attacked = np.broadcast_to(np.isin(group, SCORED_GROUPS), trained.shape)
    external = np.broadcast_to(sides.external, trained.shape)
    return Shadows(trained, attacked, external, replicate, sides.seed)


@dataclass(frozen=True, eq=False)
class Side:
    """The alignments of the shadows on one side: their number, mean, and sum of squared deviations,
    [n] each."""

    count: np.ndarray
    mean: np.ndarray
    squares: np.ndarray


@dataclass(frozen=True, eq=False)
class Attacked:
    """One target: the pairs it is attacked on, whether it was trained on them, and each attack's
    scores, [n] each."""

    rows: np.ndarray  # which of all pairs these are
    trained: np.ndarray
    scores: dict[str, np.ndarray]


def attack(
    alignments: Sequence[np.ndarray], shadows: Shadows, *, attacks: Sequence[str] = ATTACKS
) -> list[Attacked]:
    """Attack every member with the others; NaN where an attack needs a shadow on either side and a
    pair has none.

    A score is high where the attack predicts that the target was trained on the pair: of `bavaria`
    and `lira` the log likelihood ratio, of `rmia` and `alignment` in cosine units. Scores compare
    within one target.

    Args:
        alignments: one array a member, [n_pairs] each, of at least `FEWEST` members.
        shadows: who was trained on what.
        attacks: which of `ATTACKS`.
    """
    columns = shadows.attacked.any(axis=0)
    places = np.flatnonzero(columns)
    values = np.stack([np.asarray(alignment)[columns] for alignment in alignments]).astype(
        np.float64
    )
    outside = np.array(
        [
            np.mean(alignment[where])
            for alignment, where in zip(alignments, shadows.external, strict=True)
        ]
    )
    centred = values - outside[:, None]
    trained = shadows.trained[:, columns]
    key = np.random.default_rng([shadows.seed, _KEY_DRAW]).random(trained.shape, dtype=np.float32)
    noise = float("nan")
    external = shadows.external.all(axis=0)
    if external.any():
        beyond = np.stack(
            [np.asarray(alignment, dtype=np.float64)[external] for alignment in alignments]
        )
        noise = float((beyond - outside[:, None]).var(axis=0, ddof=1).mean())

    def one(target: int) -> Attacked:
        rows = np.flatnonzero(shadows.attacked[target, columns])
        in_target = trained[:, rows]
        used = _used(in_target, target, shadows.replicate, key[:, rows])
        inside, outer = (_side(centred[:, rows], used & side) for side in (in_target, ~in_target))
        scores = {
            name: values[target, rows]
            if name == ALIGNMENT
            else _SCORES[name](centred[target, rows], inside, outer, noise)
            for name in attacks
        }
        return Attacked(places[rows], in_target[target], scores)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, range(len(alignments))))


def bavaria(values: np.ndarray, inside: Side, outside: Side, noise: float) -> np.ndarray:
    """Return log p(value | trained on) − log p(value | not) by Student's t predictives (BaVarIA-t),
    [n].

    Brännvall, "Exponential-Family Membership Inference: From LiRA and RMIA to BaVarIA", arXiv
    2603.11799, 2026: the mean and the variance of each side have a normal–inverse-gamma prior.
    Where we depart from it: the prior is fitted to the shadows of all pairs, and the prior mean of
    a side is a straight line of the pair's mean on the other side, as in RMIA's offline attack.
    Without a shadow on a side only the prior is used; NaN where all pairs lack one. A prior of no
    weight on the mean and of a known variance gives `lira`.

    Args:
        values: the target's alignments, [n].
        inside, outside: the shadows that were trained on the pair, and the others.
        noise: variance of an alignment between members, used where no side has two shadows of a
            pair.
    """
    if not (inside.count.any() and outside.count.any()):
        return np.full(len(values), np.nan)
    return _predictive(values, inside, outside, noise) - _predictive(values, outside, inside, noise)


def lira(values: np.ndarray, inside: Side, outside: Side, noise: float) -> np.ndarray:
    """Return the log-likelihood ratio of two Gaussians (Carlini et al., "Membership Inference
    Attacks From First Principles", IEEE S&P 2022): the pair's means, and variances pooled over
    pairs where its shadows are few.

    Args: as for `bavaria`. NaN for a pair without a shadow on either side.
    """
    ratio = np.zeros(len(values))
    for sign, side in ((1, inside), (-1, outside)):
        sample_variance = side.squares / np.maximum(side.count - 1, 1)
        variance = np.where(side.count >= OWN_VARIANCE, sample_variance, _pooled(side, noise))
        ratio += sign * scipy.stats.norm.logpdf(values, _known_mean(side), np.sqrt(variance))
    return ratio


def rmia(values: np.ndarray, inside: Side, outside: Side, noise: float) -> np.ndarray:
    """Return how far a pair lies above its mean under shadows, with equal weight of those with and
    without it.

    Zarifzadeh, Liu and Shokri, "Low-Cost High-Power Membership Inference Attacks", ICML 2024: the
    likelihood of the pair under the target over its mean under shadows, compared with the same of
    population pairs. The share of population pairs that it exceeds rises with this ratio, so that
    for one target the ROC is the same, but for ties. We use alignment as the log-likelihood, in
    units so large that the log of its mean is the mean.

    Args: as for `bavaria`; `noise` is not used. In cosine units; NaN for a pair without a shadow on
    either side.
    """
    return values - (_known_mean(inside) + _known_mean(outside)) / 2


_SCORES = {BAVARIA: bavaria, LIRA: lira, RMIA: rmia}


def _used(trained: np.ndarray, target: int, replicate: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Return which members are shadows of each pair: all but the target and one that is opposite to
    it."""
    opposite = trained != trained[target]
    preference = np.where(opposite, key + (replicate == replicate[target])[:, None], -1.0)
    used = np.ones(trained.shape, dtype=bool)
    left_out = preference.argmax(axis=0)
    some = opposite.any(axis=0)
    used[left_out[some], np.flatnonzero(some)] = False
    used[target] = False
    return used


def _side(values: np.ndarray, used: np.ndarray) -> Side:
    count = used.sum(axis=0)
    mean = np.sum(values, axis=0, where=used) / np.maximum(count, 1)
    return Side(count, mean, np.sum((values - mean) ** 2, axis=0, where=used))


def _pooled(side: Side, noise: float) -> float:
    """Return the variance of one alignment, pooled over pairs."""
    freedom = np.maximum(side.count - 1, 0).sum()
    return float(side.squares.sum() / freedom) if freedom else noise


def _shape(side: Side) -> float:
    """Return the shape of the inverse-gamma prior of the variance, by its moments, above 2.

    With d degrees of freedom s² has E[s⁴] = E[σ⁴] (1 + 2/d), and E[σ⁴] / E[σ²]² = (shape − 1) /
    (shape − 2).
    """
    freedom = side.count - 1
    several = freedom > 0
    if not several.any():
        return _MOST_SHAPE
    squares = side.squares[several] / freedom[several]
    mean = squares.mean()
    ratio = (squares**2 / (1 + 2 / freedom[several])).mean() / mean**2 if mean > 0 else 1.0
    return float(min(2 + 1 / (ratio - 1), _MOST_SHAPE)) if ratio > 1 else _MOST_SHAPE


def _line(side: Side, other: Side) -> np.ndarray:
    """Return a side's prior mean of each pair: the mean of all, or a line of the pair's mean on the
    other side, [n]."""
    present = side.count > 0
    both = (side.count > 0) & (other.count > 0)
    if both.sum() < 3 or np.ptp(other.mean[both]) == 0:
        return np.full(len(present), side.mean[present].mean())
    line = np.polynomial.Polynomial.fit(other.mean[both], side.mean[both], 1)
    return np.where(other.count > 0, line(other.mean), side.mean[present].mean())


def _predictive(values: np.ndarray, side: Side, other: Side, noise: float) -> np.ndarray:
    """Return the log density of values under the Student's t predictive of a side's shadows and the
    prior, [n]."""
    variance = _pooled(side, noise)
    shape = _shape(side)
    line = _line(side, other)
    present = side.count > 0
    # Means scatter about the line by the differences between pairs, and by the remaining noise of
    # single members
    between = np.mean((side.mean - line)[present] ** 2) - variance * np.mean(
        1 / side.count[present]
    )
    weight = variance / max(between, _FLAT * variance)  # of the prior mean, in shadows
    n = weight + side.count
    mean = (weight * line + side.count * side.mean) / n
    a = shape + side.count / 2
    b = (
        variance * (shape - 1)
        + side.squares / 2
        + weight * side.count * (side.mean - line) ** 2 / (2 * n)
    )
    return scipy.stats.t.logpdf(values, 2 * a, mean, np.sqrt(b * (n + 1) / (a * n)))


def _known_mean(side: Side) -> np.ndarray:
    return np.where(side.count > 0, side.mean, np.nan)


def roc(attacked: Attacked, attack: str) -> dict[str, float]:
    """Measure how well an attack separates the pairs that its target was trained on from the
    others.

    `auroc`, in [0, 1], ties counting half, and the true-positive rate at the lowest threshold with
    a false-positive rate of at most 1 and .1 %. NaN where a side is empty, a score is missing, or
    the rate is below one false positive.
    """
    scores = attacked.scores[attack]
    others = int((~attacked.trained).sum())
    if np.isnan(scores).any() or others in (0, len(scores)):
        return dict.fromkeys(MEASURES, float("nan"))
    rates = _rates(np.ones((1, attacked.rows[-1] + 1)), *_ranked(attacked, attack))
    return {
        name: float("nan") if RATES.get(name, 1) * others < 1 else float(value[0])
        for name, value in rates.items()
    }


def attack_table(attacked: Sequence[Attacked], *, n_boot: int, seed: int) -> pd.DataFrame:
    """Summarise each attack over all targets, one row an attack and measure.

    Args:
        attacked: the result of `attack`.
        n_boot, seed: bootstrap resamples of pairs, the same for all targets.

    Returns:
        attack, measure, value (the mean over targets), members_low and members_high (Student's t
        over targets, which are shadows of each other and so not independent; from three on),
        pairs_low and pairs_high (95 % percentile bootstrap over pairs; of the default attack and of
        alignment), targets, and missing: why there is no value.
    """

    def summarize(name: str) -> list[list[Any]]:
        values = pd.DataFrame([roc(target, name) for target in attacked])
        rows = []
        unknown = (float("nan"),) * 2
        measured = [
            target for target, known in zip(attacked, values[AUROC].notna(), strict=True) if known
        ]
        resampled = measured and name in (BAVARIA, ALIGNMENT)
        over_pairs = _resampled(measured, name, n_boot=n_boot, seed=seed) if resampled else {}
        for measure in MEASURES:
            finite = values[measure].dropna().to_numpy()
            mean = float(finite.mean()) if len(finite) else float("nan")
            ends = over_pairs.get(measure, unknown) if len(finite) else unknown
            missing = "" if len(finite) else _missing(attacked, name, measure)
            rows.append([name, measure, mean, *seed_interval(finite), *ends, len(finite), missing])
        return rows

    with ThreadPoolExecutor(2) as pool:
        rows = [row for part in pool.map(summarize, attacked[0].scores) for row in part]
    return pd.DataFrame(rows, columns=COLUMNS)


def _missing(attacked: Sequence[Attacked], name: str, measure: str) -> str:
    others = max(int((~target.trained).sum()) for target in attacked)
    if any(np.isnan(target.scores[name]).any() for target in attacked):
        return "some pair has no shadow on one side"
    if measure in RATES and others * RATES[measure] < 1:
        return (
            f"needs {round(1 / RATES[measure]):,} pairs that a member was not trained on, "
            f"and there are {others:,}"
        )
    return "no member has pairs that it was trained on beside pairs that it was not"


def _resampled(
    attacked: Sequence[Attacked], name: str, *, n_boot: int, seed: int
) -> dict[str, tuple[float, float]]:
    """Return the 2.5 and 97.5 percentiles of the mean over targets, over resamples of pairs."""
    pairs = np.unique(np.concatenate([target.rows for target in attacked]))
    ranked = [_ranked(target, name) for target in attacked]
    rng = np.random.default_rng([seed, _RESAMPLE_DRAW])
    at_once = max(1, _BLOCK // len(pairs))
    means = []
    for size in np.diff([*range(0, n_boot, at_once), n_boot]).tolist():
        weights = np.zeros((size, pairs[-1] + 1))
        for drawn in weights:
            drawn[pairs] = np.bincount(
                rng.integers(len(pairs), size=len(pairs)), minlength=len(pairs)
            )
        means.append(
            np.mean([list(_rates(weights, *target).values()) for target in ranked], axis=0)
        )
    low, high = np.nanpercentile(np.hstack(means), (2.5, 97.5), axis=1)
    return {measure: (float(low[at]), float(high[at])) for at, measure in enumerate(MEASURES)}


def _ranked(
    attacked: Attacked, attack: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the pairs trained on and the others, from the highest score on, and for each of the
    others the number of pairs trained on that score higher, and that score at least as high."""
    order = np.argsort(-attacked.scores[attack])
    falling = -attacked.scores[attack][order]
    trained = attacked.trained[order]
    rows = attacked.rows[order]
    above, at_least = (
        np.searchsorted(falling[trained], falling[~trained], side=side)
        for side in ("left", "right")
    )
    return rows[trained], rows[~trained], above, at_least


def _rates(
    weights: np.ndarray,
    positives: np.ndarray,
    negatives: np.ndarray,
    above: np.ndarray,
    at_least: np.ndarray,
) -> dict[str, np.ndarray]:
    """Return the measures, [n_draws] each; weights count pairs, [n_draws, n], the others are as of
    `_ranked`."""
    hits = np.hstack(
        [np.zeros((len(weights), 1)), np.cumsum(weights.take(positives, axis=1), axis=1)]
    )
    alarm = weights.take(negatives, axis=1)
    alarms = np.cumsum(alarm, axis=1)
    all_hits = hits[:, -1]
    all_alarms = alarms[:, -1]
    area = np.vecdot(alarm, hits.take(above, axis=1) + hits.take(at_least, axis=1)) / 2
    rates = {AUROC: area / (all_hits * all_alarms)}
    ends = np.append(above, len(positives))
    for name, most in RATES.items():
        # Slightly above, since the number of alarms allowed may fall short of a whole one by
        # rounding
        first = (alarms <= most * all_alarms[:, None] + 1e-9).sum(axis=1)  # that is one too many
        rates[name] = np.take_along_axis(hits, ends[first][:, None], axis=1)[:, 0] / all_hits
    return rates
