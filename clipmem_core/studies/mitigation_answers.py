"""The rows of a study of mitigations → what came out beside `none`: claim by claim, and against the aim."""

from collections.abc import Collection, Mapping

import pandas as pd

from clipmem_core import columns as c
from clipmem_core.scores.seeds import Difference
from clipmem_core.scores.uncertainty import MIN_REPLICATES
from clipmem_core.studies.aim import AIM, Outcome, judged_against, leaving_out, outcome_of, percent, untrained_of
from clipmem_core.studies.answers import verdict
from clipmem_core.studies.compare import CLIPMEM_NET, difference_of
from clipmem_core.studies.mitigations import NONE, UNTRAINED
from clipmem_core.studies.rankings import RANDOM
from clipmem_core.studies.store import ARM, CLIPMEM_CANDIDATE, MEMBERSHIP_AUROC, RETRIEVAL

MEASURES = {
    CLIPMEM_CANDIDATE: "mean clipmem",
    CLIPMEM_NET: "the same beyond external pairs",
    MEMBERSHIP_AUROC: "membership AUROC",
    RETRIEVAL: "retrieval",
}
UNLEARNED = (
    f"{NONE} reads tokens that no pair of its training has as the random vectors that they began as. Arms that leave "
    "out rare tokens leave out those too"
)
PAPERS_NOISE = 0.15
PAPERS_REMOVAL = 100


def signed(found: Difference) -> str:
    """Return a difference with its interval.

    Example:
        >>> signed(Difference(3, -0.02, -0.03, -0.01, 0.01, 0.02))
        '−0.020 [−0.030, −0.010]'
    """
    text = f"{found.mean:+z.3f}"
    if found.n > 1:
        text += f" [{found.low:+z.3f}, {found.high:+z.3f}]"
    return text.replace("-", "−")


def effects(arms: pd.DataFrame, arm: str, reference: str = NONE) -> dict[str, Difference]:
    """Return the paired differences of an arm to a reference in memorization, twice, AUROC and primary utility."""
    found = {name: difference_of(arms, arm, reference, name) for name in MEASURES if name in arms}
    return {name: one for name, one in found.items() if one is not None}


def captions(arms: pd.DataFrame, times: pd.DataFrame) -> list[str]:
    """Say whether claim 4 of the paper holds at the most captions."""
    others = [name for name in _names(arms) if name.startswith("captions-")]
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
    counts = sorted({int(name.rsplit("-", 1)[1]) for name in _names(arms) if name.startswith(f"{c.CLIPMEM}-")})
    for other in (RANDOM, c.SIMILARITY_IN):
        gains = {n: effects(arms, f"{c.CLIPMEM}-{n}", f"{other}-{n}").get(RETRIEVAL) for n in counts}
        told = [f"{signed(found)} at {n}" for n, found in gains.items() if found]
        if told:
            sentences.append(f"Retrieval by clipmem minus by {other}, as many pairs taken out: {', '.join(told)}.")
    return [*sentences, *_least(arms)] if sentences else []


def combined(arms: pd.DataFrame, times: pd.DataFrame) -> list[str]:
    """Say which settings reach the aim, and if none does, which comes nearest."""
    found = {name: outcome_of(arms, name) for name in _names(arms) if name != NONE}
    known = {name: one for name, one in found.items() if one is not None}
    if not known:
        return []
    reached = [name for name, one in known.items() if one.reached]
    told = f"is reached by {', '.join(reached)}" if reached else _not_reached(known)
    judged = [_told(arms, name, judged_against(arms, name)) for name in reached]
    return [f"The aim ({AIM}) {told}.", *judged, *_least(arms), *_untrained(arms, reached)]


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
        return f"needs {MIN_REPLICATES} seeds, and clipmem and retrieval of {NONE} above 0, to be judged"
    name = min(judged, key=lambda one: judged[one].missed)
    less, loss = percent(max(judged[name].less, 0)), percent(max(judged[name].loss, 0))
    lost = f"up to {loss} of retrieval lost"
    return f"is reached by no arm; nearest: {name} with at least {less} less clipmem and {lost}"


def _names(arms: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(arms[ARM]))


def _claim(arms: pd.DataFrame, claim: str, arm: str, *, lower: bool = True) -> list[str]:
    """Judge both halves of a claim at one arm."""
    found = effects(arms, arm)
    halves = ((CLIPMEM_CANDIDATE, -1), (RETRIEVAL, 1)) if lower else ((RETRIEVAL, 1),)
    parts = [f"{MEASURES[name]} {signed(found[name])}, {_judged(found[name], sign)}" for name, sign in halves if found]
    return [f"{claim}, at {arm} against {NONE}: {'; '.join(parts)}."] if parts else []


def _judged(found: Difference, expected: int) -> str:
    """Say of a difference with an expected sign: reproduced, not reproduced, or inside the noise."""
    words = ["not reproduced, it is the other way round", "reproduced"]
    below, above = words if expected > 0 else reversed(words)
    if found.n < MIN_REPLICATES:
        return verdict(found, above=above, below=below, open_="")
    inside = f"inside the noise (a change of {found.detectable:.3f} could have been seen)"
    return verdict(found, above=above, below=below, open_=inside)


def _told(arms: pd.DataFrame, name: str, reference: str = NONE) -> str:
    found = effects(arms, name, reference)
    parts = [f"{words} {signed(found[measure])}" for measure, words in MEASURES.items() if measure in found]
    return f"{name} against {reference}: {', '.join(parts)}."


def _least(arms: pd.DataFrame) -> list[str]:
    """Tell of the arm that has the least memorization beside `none`, and of what the study could have seen."""
    differences = {name: difference_of(arms, name, NONE, CLIPMEM_CANDIDATE) for name in _names(arms) if name != NONE}
    known = {name: one.mean for name, one in differences.items() if one is not None}
    if not known:
        return []
    least = min(known, key=known.__getitem__)
    found = effects(arms, least)
    seen = [f"{one.detectable:.3f} in {MEASURES[name]}" for name, one in found.items() if one.n > 1]
    could = f" It could have seen changes of {', '.join(seen)}." if seen else ""
    whose = "The least mean clipmem is that of" if known[least] < 0 else f"No arm has less than {NONE}; nearest:"
    return [f"{whose} {_told(arms, least)}{could}"]
