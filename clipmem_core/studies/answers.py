"""The rows of a study → what came out, in plain sentences, the unwelcome ones too."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.scores.seeds import Difference, paired_difference
from clipmem_core.scores.uncertainty import MIN_REPLICATES
from clipmem_core.studies.compare import TEXT_LEAD, difference_of, mean_of
from clipmem_core.studies.store import ARM, EPOCH, IMAGE_EXTERNAL, SEED, TEXT_EXTERNAL

Answer = Callable[[pd.DataFrame, pd.DataFrame], list[str]]
CURVES = {  # encoder → its contribution, and that on external pairs, which moves it up and down from epoch to epoch
    "image": (c.CLIPMEM_IMAGE, IMAGE_EXTERNAL),
    "text": (c.CLIPMEM_TEXT, TEXT_EXTERNAL),
}


def in_words(found: Difference) -> str:
    """Return a mean with its interval.

    Example:
        >>> in_words(Difference(3, 0.21, 0.19, 0.23, 0.01, 0.02))
        '0.210 [0.190, 0.230]'
    """
    ends = "" if np.isnan(found.low) else f" [{found.low:.3f}, {found.high:.3f}]"
    return f"{found.mean:.3f}{ends}".replace("-", "−")


def verdict(found: Difference, *, above: str, below: str, open_: str) -> str:
    """Choose the words that an interval allows."""
    if found.n < MIN_REPLICATES:
        return f"{found.n} seed{'s are' if found.n > 1 else ' is'} too few to say more"
    if found.low > 0:
        return above
    return below if found.high < 0 else open_


def size(arms: pd.DataFrame, times: pd.DataFrame) -> list[str]:
    """Say whether a larger image encoder flips claim 3."""
    larger, one = (mean_of(arms, f"image-{width}-text-one", TEXT_LEAD) for width in ("double", "one"))
    change = difference_of(arms, "image-double-text-one", "image-one-text-one", TEXT_LEAD)
    if larger is None or one is None or change is None:
        return []
    end = verdict(larger, above="it does not flip", below="it flips", open_="the seeds leave it open")
    means = arms.groupby(ARM, sort=False)[TEXT_LEAD].mean()
    low, high = str(means.idxmin()), str(means.idxmax())
    return [
        "Does a larger image encoder flip claim 3 (text contributes more than image)? With the image encoder twice as "
        f"wide, text − image contribution is {in_words(larger)}, against {in_words(one)} at its own width: {end}.",
        f"Doubling the image encoder changes text − image by {in_words(change)}; this study could have seen a change "
        f"of {change.detectable:.3f}.",
        f"Over all {len(means)} sizes text − image runs from {means[low]:.3f} ({low}) to {means[high]:.3f} ({high}).",
    ]


def views(arms: pd.DataFrame, times: pd.DataFrame) -> list[str]:
    """Say whether the text encoder leads only because captions are not augmented."""
    normal, off = "crops-normal-captions-1", "crops-off-captions-1"
    bare, image = mean_of(arms, off, TEXT_LEAD), difference_of(arms, off, normal, c.CLIPMEM_IMAGE)
    if bare is None or image is None:
        return []
    end = verdict(
        bare,
        above="the text encoder leads all the same, so its share is not only the missing caption augmentation",
        below="the image encoder leads, so claim 3 rests on the missing caption augmentation",
        open_="no lead is left that these seeds could show",
    )
    sentences = [
        "Is the text share only the missing caption augmentation? With neither side augmented (whole pictures, one "
        f"caption) text − image contribution is {in_words(bare)}: {end}.",
        f"Turning crops off changes the image encoder's contribution by {in_words(image)}.",
    ]
    text = difference_of(arms, "crops-normal-captions-all", normal, c.CLIPMEM_TEXT)
    if text is None:
        return [*sentences, "This source has one caption a pair: what more captions do cannot be seen on it."]
    return [*sentences, f"Training on all captions changes the text encoder's contribution by {in_words(text)}."]


def time(arms: pd.DataFrame, times: pd.DataFrame) -> list[str]:
    """Say which encoder memorizes first, by the contributions beyond those of external pairs."""
    if times.empty:
        return []
    ends = times.sort_values(EPOCH).groupby(SEED).last()
    final = ", ".join(
        f"{encoder} {ends[name].mean():.3f} (external pairs {ends[null].mean():.3f})"
        for encoder, (name, null) in CURVES.items()
    )
    last = f"At the end of training the contributions are {final}."
    gained = _told(times, gain_time, "On average the text encoder gained its final contribution at epoch {text:.1f}")
    if not gained:
        return [last, "Which encoder memorizes first? No seed has a contribution above 0 of both encoders."]
    half = _told(times, half_time, "Half of it the text encoder has for good after {text:.1f} epochs")
    return [f"Which encoder memorizes first? {gained}", half, last]


def beyond_external(times: pd.DataFrame) -> pd.DataFrame:
    """Return each encoder's contribution, of every row, less that of external pairs, by which f and g are apart."""
    return times.assign(**{name: times[name] - times[null] for name, null in CURVES.values()})


def _told(times: pd.DataFrame, moment: Callable[[np.ndarray, np.ndarray], float], begin: str) -> str:
    """Compare a moment of both encoders' curves seed by seed; empty where no seed has both."""
    found: dict[str, list[float]] = {encoder: [] for encoder in CURVES}
    for _, rows in beyond_external(times).groupby(SEED):
        for encoder, (name, _) in CURVES.items():
            found[encoder].append(moment(rows[EPOCH].to_numpy(), rows[name].to_numpy()))
    both = pd.DataFrame(found).dropna()
    if both.empty:
        return ""
    late = paired_difference(both["image"].tolist(), both["text"].tolist())
    end = verdict(late, above="text first", below="image first", open_="the seeds leave it open")
    image, text = both["image"].mean(), both["text"].mean()
    return f"{begin.format(text=text)}, the image encoder at {image:.1f}: {in_words(late)} epochs later, {end}."


def gain_time(epochs: np.ndarray, values: np.ndarray) -> float:
    """Return at which epoch the final value was gained, on average: ∫ (1 − value / final) over the epochs, from 0 at
    epoch 0, straight from one to the next; NaN where the final value is not above 0. Every epoch counts, so that one
    that lies off moves it little.

    Example:
        >>> gain_time(np.array([1, 2, 4]), np.array([0.0, 0.4, 0.4]))
        1.5
    """
    order = np.argsort(epochs)
    epochs, values = np.append(0.0, epochs[order]), np.append(0.0, values[order])
    return float(np.trapezoid(1 - values / values[-1], epochs)) if values[-1] > 0 else float("nan")


def half_time(epochs: np.ndarray, values: np.ndarray) -> float:
    """Return when half of the final value was reached for good, from 0 at epoch 0; NaN where that is not above 0.

    Example:
        >>> half_time(np.array([1, 2, 4]), np.array([0.1, 0.2, 0.8]))
        2.6666666666666665
    """
    order = np.argsort(epochs)
    epochs, values = np.append(0.0, epochs[order]), np.append(0.0, values[order])
    half = values[-1] / 2
    if not half > 0:
        return float("nan")
    last_below = int(np.flatnonzero(values < half)[-1])
    before, after = values[last_below], values[last_below + 1]
    share = (half - before) / (after - before)
    return float(epochs[last_below] + share * (epochs[last_below + 1] - epochs[last_below]))
