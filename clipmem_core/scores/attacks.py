"""Likelihood-ratio membership inference. Each member is the target once; the others are shadow
models.

The pair's alignment under the target is compared with its alignments under shadows that were
trained on the pair, and under those that were not, each less the mean of the held-out pairs. Of
both, a pair has one shadow fewer than it has members, whether or not the target was trained on it:
otherwise their number would give that away. The member left out beside the target, of the other
kind, is of the target's replicate or seed where possible.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy  # scipy.stats is loaded when it is used

from clipmem_core.scores.membership import InOut
from clipmem_core.scores.metrics import ROC_AUC, resamples, roc_auc, roc_counts, seed_interval
from clipmem_core.utils import draws
from clipmem_core.utils.columns import ALIGNMENT

BAVARIA = "bavaria"
LIRA = "lira"
RMIA = "rmia"
_RATES = {"TPR@0.01": 0.01, "TPR@0.001": 0.001}  # true-positive rate by false-positive rate
ROC_MEASURES = (ROC_AUC, *_RATES)
# Shadows of a pair, from which LiRA uses the variance of the pair alone (its section VI)
_OWN_VARIANCE = 64
_MOST_SHAPE = 50.0  # of the prior of the variance: t with 100 degrees of freedom, nearly normal
# The least variance of the prior of the mean, as a share of that of one alignment: 1,000 shadows
_FLAT = 1e-3


@dataclass(frozen=True)
class Shadows:
    """The alignments of the shadows that were trained on each pair, or of the others: their number,
    mean (0 without a shadow), and sum of squared deviations, [n] each."""

    count: np.ndarray
    mean: np.ndarray
    squares: np.ndarray
    noise: float  # variance of an alignment between members

    @property
    def variance(self) -> float:
        """The variance of one alignment, pooled over pairs; the noise where no pair has two
        shadows."""
        freedom = np.maximum(self.count - 1, 0).sum()
        return float(self.squares.sum() / freedom) if freedom else self.noise

    @property
    def present(self) -> np.ndarray:
        """True for pairs with a shadow, [n]."""
        return self.count > 0

    @property
    def mean_or_nan(self) -> np.ndarray:
        """The mean, NaN without a shadow, [n]."""
        return np.where(self.present, self.mean, np.nan)


@dataclass(frozen=True)
class Attacked:
    """One target: whether it was trained on each attacked pair, and each attack's scores, [n]
    each."""

    trained: np.ndarray
    scores: dict[str, np.ndarray]


def attack(alignments: Sequence[np.ndarray], in_out: InOut, rows: np.ndarray) -> list[Attacked]:
    """Attack every member with the others; NaN where an attack needs shadows with and without the
    pair and there are none.

    A score is high where the attack predicts that the target was trained on the pair: of `bavaria`
    and `lira` the log likelihood ratio, of `rmia` and `alignment` in cosine units. Scores compare
    within one target.

    Args:
        alignments: one array a member, [n_pairs] each.
        in_out: who was trained on what.
        rows: the pairs that are attacked, int [n], ascending; no held-out ones.

    Returns:
        One result a member, arrays [n].
    """
    trained = in_out.membership.trained[:, rows]
    held_out = np.stack([values[in_out.held_out] for values in alignments])
    held_out_mean = held_out.mean(axis=1, keepdims=True).astype(np.float64)
    noise = float((held_out - held_out_mean).var(axis=0, ddof=1).mean())
    centred = np.stack([values[rows] for values in alignments]) - held_out_mean
    key = draws.rng(in_out.seed, "shadow models").random(trained.shape, dtype=np.float32)
    results = []
    for replicate in in_out.replicates:
        for target in replicate.tolist():
            used = _shadows(trained, target, replicate, key)
            inside, outside = (
                _summary(centred, used & chosen, noise) for chosen in (trained, ~trained)
            )
            scores = {
                name: score(centred[target], inside, outside) for name, score in _SCORES.items()
            }
            results.append(Attacked(trained[target], scores))
    return results


def bavaria(values: np.ndarray, inside: Shadows, outside: Shadows) -> np.ndarray:
    """Return log p(value | trained on) − log p(value | not) by Student's t predictives (BaVarIA-t),
    [n].

    Brännvall, "Exponential-Family Membership Inference: From LiRA and RMIA to BaVarIA", arXiv
    2603.11799, 2026: the mean and the variance of both kinds of shadows have a normal–inverse-gamma
    prior.
    Where we depart from it: the prior is fitted to the shadows of all pairs, and the prior mean of
    one kind is a straight line of the pair's mean of the other kind, as in RMIA's offline attack.
    Without a shadow of a kind only the prior is used; NaN where all pairs lack one. A prior of no
    weight on the mean and of a known variance gives `lira`.

    Args:
        values: the target's alignments, [n].
        inside, outside: the shadows that were trained on the pair, and the others.
    """
    if not (inside.count.any() and outside.count.any()):
        return np.full(len(values), np.nan)
    return _predictive(values, inside, outside) - _predictive(values, outside, inside)


def lira(values: np.ndarray, inside: Shadows, outside: Shadows) -> np.ndarray:
    """Return the log-likelihood ratio of two Gaussians (Carlini et al., "Membership Inference
    Attacks From First Principles", IEEE S&P 2022): the pair's means, and variances pooled over
    pairs where its shadows are few.

    Args: as for `bavaria`. NaN for a pair that lacks a shadow of either kind.
    """
    ratio = np.zeros(len(values))
    for sign, shadows in ((1, inside), (-1, outside)):
        sample_variance = shadows.squares / np.maximum(shadows.count - 1, 1)
        variance = np.where(shadows.count >= _OWN_VARIANCE, sample_variance, shadows.variance)
        ratio += sign * scipy.stats.norm.logpdf(values, shadows.mean_or_nan, np.sqrt(variance))
    return ratio


def rmia(values: np.ndarray, inside: Shadows, outside: Shadows) -> np.ndarray:
    """Return how far a pair lies above its mean under shadows, with equal weight of those with and
    without it.

    Zarifzadeh, Liu and Shokri, "Low-Cost High-Power Membership Inference Attacks", ICML 2024: the
    likelihood of the pair under the target over its mean under shadows, compared with the same of
    population pairs. The share of population pairs that it exceeds rises with this ratio, so that
    for one target the ROC is the same, but for ties. We use alignment as the log-likelihood, in
    units so large that the log of its mean is the mean.

    Args: as for `bavaria`. In cosine units; NaN for a pair that lacks a shadow of either kind.
    """
    return values - (inside.mean_or_nan + outside.mean_or_nan) / 2


_SCORES = {
    BAVARIA: bavaria,
    LIRA: lira,
    RMIA: rmia,
    ALIGNMENT: lambda values, inside, outside: values,  # whatever the shadows
}


def _shadows(
    trained: np.ndarray, target: int, replicate: np.ndarray, key: np.ndarray
) -> np.ndarray:
    """Return which members are shadows of each pair, bool [n_members, n]: all but the target and
    one that is opposite to it, of its replicate where possible.

    Args: `trained` is true where the member trained on the pair, and `key` a random number,
    [n_members, n] each; `replicate` are the members of the target's replicate or seed.
    """
    opposite = trained != trained[target]
    preference = np.where(opposite, key, -1.0)
    preference[replicate] += opposite[replicate]
    is_first = np.arange(len(trained))[:, None] == preference.argmax(axis=0)
    used = ~(opposite & is_first)
    used[target] = False
    return used


def _summary(values: np.ndarray, used: np.ndarray, noise: float) -> Shadows:
    """Summarise the alignments of the members `used`, [n_members, n] each."""
    count = used.sum(axis=0)
    mean = np.sum(values, axis=0, where=used) / np.maximum(count, 1)
    return Shadows(count, mean, np.sum((values - mean) ** 2, axis=0, where=used), noise)


def _shape(shadows: Shadows) -> float:
    """Return the shape of the inverse-gamma prior of the variance, by its moments, above 2.

    With d degrees of freedom s² has E[s⁴] = E[σ⁴] (1 + 2/d), and E[σ⁴] / E[σ²]² = (shape − 1) /
    (shape − 2).
    """
    several = shadows.count > 1
    if not shadows.squares[several].any():
        return _MOST_SHAPE
    freedom = shadows.count[several] - 1
    variance = shadows.squares[several] / freedom
    ratio = (variance**2 / (1 + 2 / freedom)).mean() / variance.mean() ** 2
    return float(min(2 + 1 / (ratio - 1), _MOST_SHAPE)) if ratio > 1 else _MOST_SHAPE


def _prior_mean(shadows: Shadows, other: Shadows) -> np.ndarray:
    """Return the prior mean of the shadows of each pair: the mean of all, or a line of the pair's
    mean of the other kind, [n]."""
    mean_of_all = shadows.mean[shadows.present].mean()
    both = shadows.present & other.present
    if both.sum() < 3:
        return np.full(len(both), mean_of_all)
    line = np.polynomial.Polynomial.fit(other.mean[both], shadows.mean[both], 1)
    return np.where(other.present, line(other.mean), mean_of_all)


def _predictive(values: np.ndarray, shadows: Shadows, other: Shadows) -> np.ndarray:
    """Return the log density of values under the Student's t predictive of some shadows and the
    prior, [n]."""
    variance = shadows.variance
    shape = _shape(shadows)
    prior_mean = _prior_mean(shadows, other)
    off = (shadows.mean - prior_mean) ** 2
    # Means scatter about the line by the differences between pairs, and by the remaining noise of
    # single members
    between = off[shadows.present].mean() - variance * np.mean(1 / shadows.count[shadows.present])
    weight = variance / max(between, _FLAT * variance)  # of the prior mean, in shadows
    n = weight + shadows.count
    mean = (weight * prior_mean + shadows.count * shadows.mean) / n
    a = shape + shadows.count / 2
    b = variance * (shape - 1) + shadows.squares / 2 + weight * shadows.count * off / (2 * n)
    return scipy.stats.t.logpdf(values, 2 * a, mean, np.sqrt(b * (n + 1) / (a * n)))


def roc(attacked: Attacked, attack: str) -> dict[str, float]:
    """Measure how well an attack separates the pairs that its target was trained on from the
    others.

    Args:
        attacked: one target.
        attack: name of the attack.

    Returns:
        `auroc`, in [0, 1], ties counting half, and the true-positive rate at the lowest threshold
        with a false-positive rate of at most 1 and .1 %. NaN where all or no pairs were trained on,
        a score is missing, or the rate is below one false positive.
    """
    trained = attacked.trained
    others = int((~trained).sum())
    if np.isnan(attacked.scores[attack]).any() or others in (0, len(trained)):
        return dict.fromkeys(ROC_MEASURES, float("nan"))
    rates = _rates(attacked, attack, np.ones((1, len(trained))))[:, 0]
    return dict(zip(ROC_MEASURES, rates.tolist(), strict=True))


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
    rows = []
    for name in attacked[0].scores:
        values = pd.DataFrame([roc(target, name) for target in attacked])
        measured = [attacked[target] for target in np.flatnonzero(values[ROC_AUC].notna()).tolist()]
        ends = np.full((2, len(ROC_MEASURES)), np.nan)
        if measured and name in (BAVARIA, ALIGNMENT):
            ends = _pair_intervals(measured, name, n_boot=n_boot, seed=seed)
        for measure, low, high in zip(ROC_MEASURES, *ends, strict=True):
            finite = values[measure].dropna()
            missing = ""
            if finite.empty:
                missing = (
                    "needs shadows with and without each pair, and pairs that a member was not "
                    f"trained on: at least {round(1 / _RATES.get(measure, 1)):,}"
                )
            members_low, members_high = seed_interval(finite.to_numpy())
            row = {
                "attack": name,
                "measure": measure,
                "value": finite.mean(),
                "members_low": members_low,
                "members_high": members_high,
                "pairs_low": low,
                "pairs_high": high,
                "targets": len(finite),
                "missing": missing,
            }
            rows.append(row)
    return pd.DataFrame(rows)


def _pair_intervals(
    attacked: Sequence[Attacked], attack: str, *, n_boot: int, seed: int
) -> np.ndarray:
    """Return the 2.5 and 97.5 percentiles of each measure's mean over targets, over resamples of
    pairs, [2, 3]."""
    n_pairs = len(attacked[0].trained)
    rng = draws.rng(seed, "attack resamples")
    means = [
        np.mean([_rates(target, attack, weights) for target in attacked], axis=0)
        for weights in resamples([np.arange(n_pairs)], n_pairs, n_boot, rng)
    ]
    return np.percentile(np.hstack(means), (2.5, 97.5), axis=1)


def _rates(attacked: Attacked, attack: str, weights: np.ndarray) -> np.ndarray:
    """Return `ROC_MEASURES` in resamples of the pairs, [3, n_resamples], NaN where a rate is below
    one false positive; weights count how often a pair is drawn, [n_resamples, n]."""
    hits, alarms = roc_counts(attacked.scores[attack], attacked.trained, weights)
    others = np.count_nonzero(~attacked.trained)
    rates = [roc_auc(hits, alarms)]
    for most in _RATES.values():
        # Slightly above, since the number of alarms allowed may fall short of an integer by
        # rounding
        lowest = (alarms <= most * alarms[:, -1:] + 1e-9).sum(axis=1, keepdims=True) - 1
        rate = np.take_along_axis(hits, lowest, axis=1)[:, 0] / hits[:, -1]
        rates.append(rate if most * others >= 1 else np.full(len(rate), np.nan))
    return np.stack(rates)
