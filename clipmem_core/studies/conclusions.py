"""What came out of a study, in plain sentences, the unwelcome ones too: from its rows, question by question."""

from collections.abc import Callable, Collection, Mapping

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.scores.seeds import MIN_REPLICATES, Difference, paired_difference
from clipmem_core.studies.arm import NONE, RANDOM
from clipmem_core.studies.effects import (
    AIM,
    CLIPMEM_NET,
    TEXT_LEAD,
    UNTRAINED,
    Outcome,
    by_split,
    difference_of,
    judged_against,
    leaving_out,
    mean_of,
    names_of,
    outcome_of,
    percent,
    untrained_of,
)
from clipmem_core.studies.store import (
    ARM,
    CLIPMEM_CANDIDATE,
    CLIPMEM_EXTERNAL,
    EPOCH,
    IMAGE_EXTERNAL,
    MEMBERSHIP_AUROC,
    RETRIEVAL,
    SEED,
    SPLIT,
    TEXT_EXTERNAL,
)

Answer = Callable[[pd.DataFrame, pd.DataFrame], list[str]]
CURVES = {  # encoder → its contribution, and that on external pairs, which moves it up and down from epoch to epoch
    "image": (c.CLIPMEM_IMAGE, IMAGE_EXTERNAL),
    "text": (c.CLIPMEM_TEXT, TEXT_EXTERNAL),
}
MEASURES = {
    CLIPMEM_CANDIDATE: "mean clipmem",
    CLIPMEM_NET: "the same less that of external pairs",
    MEMBERSHIP_AUROC: "membership AUROC",
    c.ATTACK_AUROC: "attack AUROC",
    RETRIEVAL: "retrieval",
}
UNLEARNED = (
    f"{NONE} reads tokens that no pair of its training has as the random vectors that they began as. Arms that leave "
    "out rare tokens leave out those too"
)
PAPERS_NOISE = 0.15
NEAR = 0.02  # of the best retrieval: what an earlier stop may cost
PAPERS_REMOVAL = 100


def in_words(found: Difference, *, written: str = ".3f") -> str:
    """Return a mean with its interval.

    Example:
        >>> in_words(Difference(3, -0.02, -0.03, -0.01, 0.01, 0.02), written="+z.3f")
        '−0.020 [−0.030, −0.010]'
    """
    ends = f" [{found.low:{written}}, {found.high:{written}}]" if found.n > 1 else ""
    return f"{found.mean:{written}}{ends}".replace("-", "−")


def signed(found: Difference) -> str:
    """Return a difference with its sign and its interval."""
    return in_words(found, written="+z.3f")


def verdict(found: Difference, *, above: str, below: str, open_: str) -> str:
    """Choose the words that an interval allows."""
    if found.n < MIN_REPLICATES:
        return f"{found.n} replicate{'s are' if found.n > 1 else ' is'} too few to say more"
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
    last = " ".join(filter(None, [last, _when_to_stop(times)]))
    gained = _moments(times, gain_time, "On average the text encoder gained its final contribution at epoch {text:.1f}")
    if not gained:
        return [last, "Which encoder memorizes first? No seed has a contribution above 0 of both encoders."]
    half = _moments(times, half_time, "Half of it the text encoder has for good after {text:.1f} epochs")
    return [f"Which encoder memorizes first? {gained}", half, last]


def _when_to_stop(times: pd.DataFrame) -> str:
    """Say after which epoch retrieval on pairs that nobody trains on is best, and how much is memorized by then; empty
    of a study from before retrieval was kept on the way."""
    if RETRIEVAL not in times or times[RETRIEVAL].isna().all():
        return ""
    net = times[CLIPMEM_CANDIDATE] - times[CLIPMEM_EXTERNAL]
    means = times.assign(**{CLIPMEM_NET: net}).groupby(EPOCH)[[RETRIEVAL, CLIPMEM_NET]].mean()
    epochs = means.index.to_numpy(dtype=np.int64)
    recall, learned = (means[name].to_numpy(dtype=np.float64) for name in (RETRIEVAL, CLIPMEM_NET))
    best, near = int(recall.argmax()), int(np.flatnonzero(recall >= recall.max() * (1 - NEAR))[0])
    early = f", and within {percent(NEAR)} of that after epoch {epochs[near]}, where clipmem is {learned[near]:.3f}"
    return (
        f"Retrieval on external pairs is best after epoch {epochs[best]} ({recall[best]:.3f})"
        f"{early if near < best else ''}; clipmem less that of external pairs is {learned[best]:.3f} after epoch "
        f"{epochs[best]} and {learned[-1]:.3f} at the end."
    )


def beyond_external(times: pd.DataFrame) -> pd.DataFrame:
    """Return each encoder's contribution, of every row, less that of external pairs, by which f and g are apart."""
    return times.assign(**{name: times[name] - times[null] for name, null in CURVES.values()})


def _moments(times: pd.DataFrame, moment: Callable[[np.ndarray, np.ndarray], float], begin: str) -> str:
    """Compare a moment of both encoders' curves split by split; empty where none has both."""
    found: dict[str, list[float]] = {encoder: [] for encoder in CURVES}
    curves = by_split(beyond_external(times), [EPOCH], [name for name, _ in CURVES.values()])
    for _, rows in curves.groupby(SPLIT if SPLIT in curves else SEED):
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
    epochs, values = _from_zero(epochs, values)
    return float(np.trapezoid(1 - values / values[-1], epochs)) if values[-1] > 0 else float("nan")


def half_time(epochs: np.ndarray, values: np.ndarray) -> float:
    """Return when half of the final value was reached for good, from 0 at epoch 0; NaN where that is not above 0.

    Example:
        >>> round(half_time(np.array([1, 2, 4]), np.array([0.1, 0.2, 0.8])), 2)
        2.67
    """
    epochs, values = _from_zero(epochs, values)
    half = values[-1] / 2
    if not half > 0:
        return float("nan")
    last_below = int(np.flatnonzero(values < half)[-1])
    before, after = values[last_below], values[last_below + 1]
    share = (half - before) / (after - before)
    return float(epochs[last_below] + share * (epochs[last_below + 1] - epochs[last_below]))


def effects(arms: pd.DataFrame, arm: str, reference: str = NONE) -> dict[str, Difference]:
    """Return the paired differences of an arm to a reference in memorization, twice, AUROC and primary utility."""
    found = {name: difference_of(arms, arm, reference, name) for name in MEASURES if name in arms}
    return {name: one for name, one in found.items() if one is not None}


def _from_zero(epochs: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(epochs)
    return np.append(0.0, epochs[order]), np.append(0.0, values[order])


def captions(arms: pd.DataFrame, times: pd.DataFrame) -> list[str]:
    """Say whether claim 4 of the paper holds at the most captions."""
    others = [name for name in names_of(arms) if name.startswith("captions-")]
    claim = "Claim 4 (more captions a pair lower memorization and raise utility)"
    return [*_claim(arms, claim, others[-1]), *_least(arms)] if others else []


def text_noise(arms: pd.DataFrame, times: pd.DataFrame) -> list[str]:
    """Say whether claim 5 of the paper holds at its best level of noise."""
    claim = "Claim 5 (noise on the text embedding lowers memorization and raises utility)"
    return [*_claim(arms, claim, f"text-noise-{PAPERS_NOISE:.2f}"), *_least(arms)]


def removal(arms: pd.DataFrame, times: pd.DataFrame) -> list[str]:
    """Say whether claim 6 of the paper holds at its best n, and whether clipmem ranks better than chance and than
    similarity."""
    best = f"{c.CLIPMEM}-{PAPERS_REMOVAL}"
    sentences = _claim(arms, "Claim 6 (taking the most memorized pairs out raises utility first)", best, lower=False)
    counts = sorted({int(name.rsplit("-", 1)[1]) for name in names_of(arms) if name.startswith(f"{c.CLIPMEM}-")})
    for other in (RANDOM, c.SIMILARITY_IN):
        gains = {n: effects(arms, f"{c.CLIPMEM}-{n}", f"{other}-{n}").get(RETRIEVAL) for n in counts}
        told = [f"{signed(found)} at {n}" for n, found in gains.items() if found]
        if told:
            sentences.append(f"Retrieval by clipmem minus by {other}, as many pairs taken out: {', '.join(told)}.")
    return [*sentences, *_least(arms)] if sentences else []


def combined(arms: pd.DataFrame, times: pd.DataFrame) -> list[str]:
    """Say which settings reach the aim, and if none does, which comes nearest."""
    found = {name: outcome_of(arms, name) for name in names_of(arms) if name != NONE}
    known = {name: one for name, one in found.items() if one is not None}
    if not known:
        return []
    reached = [name for name, one in known.items() if one.reached]
    told = f"is reached by {', '.join(reached)}" if reached else _not_reached(known)
    judged = [_told(arms, name, judged_against(arms, name)) for name in reached]
    return [f"The aim ({AIM}) {told}.", *judged, *_of_all(arms, reached), *_least(arms), *_untrained(arms, reached)]


def _of_all(arms: pd.DataFrame, reached: Collection[str]) -> list[str]:
    """Say which arms that reach the aim do so after a correction for how many were tried."""
    if not reached:
        return []
    outcomes = {name: outcome_of(arms, name, of_all=True) for name in reached}
    still = [name for name, one in outcomes.items() if one is not None and one.reached]
    told = f"{', '.join(still)} still" if still else "none of them"
    many = len(names_of(arms)) - 1
    return [f"With intervals that hold for all {many} arms at once (Bonferroni's t) {told} reaches it."]


def forgetting(arms: pd.DataFrame, times: pd.DataFrame) -> list[str]:
    """Say what forgetting rare words takes off memorization and retrieval, and how much of that as many random words
    do."""
    reference = untrained_of(arms)
    if not reference:
        return []
    told = [
        _told(arms, f"{way}-{df}", reference)
        for df in (2, 3)
        for way in ("forget", "delete", "placebo")
        if effects(arms, f"{way}-{df}", reference)
    ]
    rare = [
        f"{signed(found)} ({df - 1} pair{'s' if df > 2 else ''} or fewer)"
        for df in (2, 3)
        if "retrieval_rare" in arms
        if (found := difference_of(arms, f"forget-{df}", reference, "retrieval_rare"))
    ]
    on_rare = [f"Retrieval on queries with a rare trained word changes by {', '.join(rare)}."] if rare else []
    kept = "checkpoint.pt is that of none until rows are deleted: whoever has it can read every word"
    return [f"{UNLEARNED}: all arms are judged against {reference}.", *told, *on_rare, f"{kept}."] if told else []


def _untrained(arms: pd.DataFrame, told: Collection[str]) -> list[str]:
    """Say what arms that leave tokens out are judged against, and how those do that were not told of."""
    reference, names = untrained_of(arms), leaving_out(arms)
    if not names:
        return []
    if not reference:
        return [
            f"{UNLEARNED}; what leaves out only those ({UNTRAINED[0]}, text_forget_df=1) has not run here: against "
            f"{NONE}, {', '.join(names)} may look better than they are."
        ]
    others = [_told(arms, name, reference) for name in names if name not in told and effects(arms, name, reference)]
    judged = f"{UNLEARNED}: they are judged against {reference}, which leaves out only those."
    return [judged, _told(arms, reference), *others]


def _not_reached(known: Mapping[str, Outcome]) -> str:
    """Say which arm misses the aim by least, and by how much; of too few seeds, that they are."""
    judged = {name: one for name, one in known.items() if one.judged}
    if not judged:
        return f"needs {MIN_REPLICATES} replicates, and clipmem and retrieval of {NONE} above 0, to be judged"
    name = min(judged, key=lambda one: judged[one].missed)
    less, loss = percent(max(judged[name].less, 0)), percent(max(judged[name].loss, 0))
    lost = f"up to {loss} of retrieval lost"
    return f"is reached by no arm; nearest: {name} with at least {less} less clipmem and {lost}"


def _claim(arms: pd.DataFrame, claim: str, arm: str, *, lower: bool = True) -> list[str]:
    """Judge both halves of a claim at one arm."""
    found = effects(arms, arm)
    halves = ((CLIPMEM_CANDIDATE, -1), (RETRIEVAL, 1)) if lower else ((RETRIEVAL, 1),)
    parts = [f"{MEASURES[name]} {signed(found[name])}, {_judged(found[name], sign)}" for name, sign in halves if found]
    return [f"{claim}, at {arm} against {NONE}: {'; '.join(parts)}."] if parts else []


def _judged(found: Difference, expected: int) -> str:
    """Say of a difference with an expected sign: reproduced, not reproduced, or inside the noise."""
    words = ("not reproduced, it is the other way round", "reproduced")
    below, above = words if expected > 0 else reversed(words)
    inside = f"inside the noise (a change of {found.detectable:.3f} could have been seen)"
    return verdict(found, above=above, below=below, open_=inside)


def _told(arms: pd.DataFrame, name: str, reference: str = NONE) -> str:
    found = effects(arms, name, reference)
    parts = [f"{words} {signed(found[measure])}" for measure, words in MEASURES.items() if measure in found]
    return f"{name} against {reference}: {', '.join(parts)}."


def _least(arms: pd.DataFrame) -> list[str]:
    """Tell of the arm that has the least memorization beside `none`, and of what the study could have seen."""
    differences = {name: difference_of(arms, name, NONE, CLIPMEM_CANDIDATE) for name in names_of(arms) if name != NONE}
    known = {name: one.mean for name, one in differences.items() if one is not None}
    if not known:
        return []
    least = min(known, key=known.__getitem__)
    found = effects(arms, least)
    seen = [f"{one.detectable:.3f} in {MEASURES[name]}" for name, one in found.items() if one.n > 1]
    could = f" It could have seen changes of {', '.join(seen)}." if seen else ""
    whose = "The least mean clipmem is that of" if known[least] < 0 else f"No arm has less than {NONE}; nearest:"
    return [f"{whose} {_told(arms, least)}{could}"]
