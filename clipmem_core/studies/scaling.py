"""What study `scale` says: how memorization shrinks as pairs grow, and what is left of it at another number of pairs.

Gomez, "Rethinking Membership Inference Attacks for CLIP", AAAI 2026 (CLIP-MIA-Bench): the gap in similarity between
pairs that were trained on and others goes as epochs over pairs, T/N.
"""

import math
from math import nan

import numpy as np
import pandas as pd
from scipy.stats import norm

from clipmem_core import columns as c
from clipmem_core.scores.seeds import Difference, PowerLaw, power_law
from clipmem_core.studies.arm import ALL
from clipmem_core.studies.conclusions import MEASURES, in_words, signed, verdict
from clipmem_core.studies.effects import CLIPMEM_NET, mean_of, names_of
from clipmem_core.studies.store import ARM, MEMBERSHIP_AUROC, SEED

PAIRS, FIXED = "pairs", "fixed"  # what the rows of its arms say
LAWS = {"epochs": -1.0, "steps": -2.0}  # what is fixed → the power of pairs that epochs over pairs goes with
WEB_SCALE = 400_000_000  # pairs that CLIP was trained on: what is extrapolated to unless a person names a number


def scale(arms: pd.DataFrame, times: pd.DataFrame) -> list[str]:
    """Say whether memorization shrinks as epochs over pairs, with epochs fixed and with steps fixed."""
    lines = {fixed: line_of(arms, fixed, CLIPMEM_NET) for fixed in LAWS}
    sentences = [told for fixed, line in lines.items() if line for told in _of_line(arms, fixed, line)]
    for measure in (MEMBERSHIP_AUROC, c.ATTACK_AUROC):
        means = {name: mean_of(arms, name, measure) for name in names_of(arms) if measure in arms}
        told = ", ".join(f"{in_words(one)} ({name})" for name, one in means.items() if one is not None)
        if told:
            sentences.append(f"{MEASURES[measure]}: {told}.")
    return sentences


def _of_line(arms: pd.DataFrame, fixed: str, line: PowerLaw) -> list[str]:
    """Say what clipmem does with pairs, beside the law."""
    ends = {size: mean_of(arms, _arm_of(arms, fixed, size), CLIPMEM_NET) for size in (line.sizes[0], line.sizes[-1])}
    run = " to ".join(f"{in_words(one)} at {size:,.0f} pairs" for size, one in ends.items() if one)
    law = LAWS[fixed]
    slope = line.slope
    beside = Difference(slope.n, slope.mean - law, slope.low - law, slope.high - law, nan, nan)
    agrees = verdict(
        beside,
        above="it falls more slowly than that",
        below="it falls faster than that",
        open_="the interval holds that",
    )
    sentences = [
        f"With {fixed} fixed, clipmem less that of external pairs goes from {run}, as pairs to the power of "
        f"{signed(line.slope)}. Epochs over pairs (Gomez, AAAI 2026) says {law:+.0f}: {agrees}.".replace(" -", " −")
    ]
    if line.dropped:
        sizes = ", ".join(f"{size:,.0f}" for size in line.dropped)
        sentences.append(f"Left out of that line: {sizes} pairs, where some seed has nothing above 0.")
    if line.bend is not None:
        bent = verdict(
            line.bend,
            above="the fall slows down as pairs grow, so that no single power holds",
            below="the fall speeds up as pairs grow, so that no single power holds",
            open_="one power will do for these sizes",
        )
        sentences.append(f"Its bend, the coefficient of log² pairs, is {signed(line.bend)}: {bent}.")
    return sentences


def extrapolated(arms: pd.DataFrame, size: int) -> list[str]:
    """Say what the lines give at another number of pairs, epochs fixed, and what that is worth.

    Args:
        arms: the rows of the study, with `clipmem_net`.
        size: pairs that a member would train on; 0 means those of a web-scale model.
    """
    size = size or WEB_SCALE
    line, apart = line_of(arms, "epochs", CLIPMEM_NET), line_of(arms, "epochs", MEMBERSHIP_AUROC)
    if line is None or apart is None:
        return []
    one = apart.at(size)
    mean, low, high = (float(norm.cdf(value / math.sqrt(2))) for value in (one.mean, one.low, one.high))
    auroc = Difference(one.n, mean, low, high, nan, nan)
    needs = ""
    if auroc.mean > 0.5:
        needs = f"; a rank test of a set finds that with {pairs_a_side(auroc.mean):,.0f} pairs a side"
    return [
        f"If these lines go on, {size:,} pairs and as many epochs, {size / line.sizes[-1]:,.0f} times as many pairs as "
        f"were tried, give clipmem of {in_words(line.at(size), written='.2g')} and a membership AUROC of alignment of "
        f"{in_words(auroc, written='.4f')}{needs} (80 % power). The intervals are of the lines, not of whether they go "
        "on: another model, batch and data were not tried." + _beside_the_line(line)
    ]


def pairs_a_side(auroc: float) -> float:
    """Return how many pairs on each side a two-sided rank test at 5 % needs to find this AUROC four times out of five.

    Two Gaussians of equal spread that lie d apart have an AUROC of Φ(d / √2), and a test of their means needs
    2 (z₀.₉₇₅ + z₀.₈)² / d² on each side; a rank test π / 3 times as many. Where the AUROC is near ½ this is Noether's
    number (JASA 82, 1987), (z + z)² / (6 (AUROC − ½)²).

    Example:
        >>> [round(pairs_a_side(auroc)) for auroc in (0.51, 0.55)]
        [13079, 521]
    """
    apart = math.sqrt(2) * norm.ppf(auroc)
    return float(math.pi / 3 * 2 * (norm.ppf(0.975) + norm.ppf(0.8)) ** 2 / apart**2)


def _beside_the_line(line: PowerLaw) -> str:
    """Say on which side of its straight line clipmem comes to lie, where it bends."""
    if line.bend is None or not (line.bend.low > 0 or line.bend.high < 0):
        return ""
    return f" But the line bends: if it bends on, clipmem is {'more' if line.bend.low > 0 else 'less'} than that."


def line_of(arms: pd.DataFrame, fixed: str, measure: str) -> PowerLaw | None:
    """Fit a measure over the sizes; None where too few sizes or seeds are there.

    Of an AUROC what is fitted is how many standard deviations apart two Gaussians with that AUROC lie, which is 0 where
    nothing is memorized.

    Args:
        arms: the rows of the study, with `clipmem_net`.
        fixed: `epochs` or `steps`.
        measure: a column.
    """
    if not {PAIRS, FIXED, measure} <= set(arms.columns):
        return None
    wide = arms[arms[FIXED].isin([fixed, ALL])].pivot_table(index=SEED, columns=PAIRS, values=measure).dropna()
    if wide.shape[1] < 2 or wide.empty:
        return None
    values = wide.to_numpy(dtype=np.float64)
    return power_law(
        wide.columns.to_numpy(dtype=np.float64), values if measure == CLIPMEM_NET else math.sqrt(2) * norm.ppf(values)
    )


def _arm_of(arms: pd.DataFrame, fixed: str, size: float) -> str:
    return str(arms.loc[arms[FIXED].isin([fixed, ALL]) & (arms[PAIRS] == size), ARM].iloc[0])
