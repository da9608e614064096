"""An arm of a study beside its references → what it did in a sentence, and whether that is what one hopes for."""

import math
from collections.abc import Callable

import pandas as pd
import streamlit as st

from clipmem_core.columns import ONE_SPLIT
from clipmem_core.dashboard.plain import show_strong, show_text
from clipmem_core.scores.paired import Difference
from clipmem_core.scores.uncertainty import MIN_REPLICATES
from clipmem_core.studies.aim import AIM, LESS, LOSS, base_of, judged_against, leaving_out, outcome_of, percent
from clipmem_core.studies.compare import difference_of
from clipmem_core.studies.mitigations import NONE
from clipmem_core.studies.store import CLIPMEM_CANDIDATE, MEMBERSHIP_AUROC, RETRIEVAL, SECONDS

MEASURED = (CLIPMEM_CANDIDATE, MEMBERSHIP_AUROC, RETRIEVAL, SECONDS)
MEASURED_ONCE = (
    "none reads tokens that it never trained on as the random vectors they began as. On OpenClipart (611 queries of "
    "one split, 4 members of half of the data) 35 to 38 % of unseen captions have one, and leaving out only those "
    "lifts retrieval by 0.0065 ± 0.0057. Against that, forgetting tokens of fewer than 2 pairs costs 3.2 % of "
    "retrieval, of fewer than 3 pairs 6.9 %, and 33 % on queries with a rare word that was trained on."
)
KEPT = (
    "checkpoint.pt is the same as without forgetting: read with every token, it shows all that was memorized (of these "
    "4 members a membership AUROC of 0.87). Forgetting mitigates only once the rows of these tokens are deleted from "
    "the token embedding, and nothing here deletes them."
)


def draw_effect(arms: pd.DataFrame, arm: str, called: str) -> None:
    """Draw what an arm did, and whether it meets the aim.

    Args:
        arms: the rows of a study.
        arm: the chosen one.
        called: the text of its setting.
    """
    if arm == NONE:
        st.caption("Nothing is done against memorization: turn something on to see what it changes.")
        return
    for reference in dict.fromkeys([NONE, judged_against(arms, arm)]):
        if told := effect(arms, arm, reference):
            show_strong(f"{called.replace(' ', ', ').replace('=', ' ')} against {reference}: {told}")
        else:
            st.caption(f"This setting and {reference} have no seed in common yet.")
    if judged := verdict(arms, arm):
        show_text(judged)
    st.caption(f"In brackets: 95 % intervals over {ONE_SPLIT}.")
    if arm in leaving_out(arms):
        st.caption(f"{MEASURED_ONCE} {KEPT if 'text_forget_df' in called else ''}".strip())


def effect(arms: pd.DataFrame, arm: str, reference: str = NONE) -> str:
    """Return the paired differences of an arm to a reference in a sentence; empty where they share no seed."""
    found = {name: difference_of(arms, arm, reference, name) for name in MEASURED}
    clipmem, auroc, retrieval, seconds = (found[name] for name in MEASURED)
    if clipmem is None or auroc is None or retrieval is None or seconds is None:
        return ""
    parts = [
        f"clipmem {_percent(clipmem, base_of(arms, arm, CLIPMEM_CANDIDATE, reference))}",
        f"AUROC {_interval(auroc, lambda value: f'{value:+z.3f}')}",
        f"retrieval {_percent(retrieval, base_of(arms, arm, RETRIEVAL, reference))}",
    ]
    times = 1 + seconds.mean / base_of(arms, arm, SECONDS, reference)
    price = f"; ×{times:.2f} seconds" if math.isfinite(times) else ""
    return f"{', '.join(parts)}{price}.".replace("-", "−")


def verdict(arms: pd.DataFrame, arm: str) -> str:
    """Return whether an arm meets the aim, and what it misses; few seeds say nothing."""
    found, reference = outcome_of(arms, arm), judged_against(arms, arm)
    if found is None:
        return ""
    aim = "the aim" if reference == NONE else f"the aim against {reference}"
    if found.n < MIN_REPLICATES:
        few = f"{found.n} seed{'s are' if found.n > 1 else ' is'}"
        return f"{few} too few to say whether it meets {aim}: {AIM}."
    if math.isnan(found.less):
        return f"The seeds leave open whether mean clipmem of {reference} is above 0: there may be nothing to lower."
    if math.isnan(found.loss):
        return f"The seeds leave open whether retrieval of {reference} is above 0: there may be nothing to lose."
    falls = f"may fall by only {percent(found.less)}" if found.less > 0 else "may not fall"
    misses = [
        "" if found.less >= LESS else f"clipmem {falls}",
        "" if found.auroc < 0 else "AUROC may not fall",
        "" if found.loss <= LOSS else f"retrieval may lose {percent(found.loss)}",
    ]
    missed = ", ".join(filter(None, misses))
    return f"It misses {aim} ({AIM}): {missed}." if missed else f"It meets {aim}: {AIM}."


def _percent(found: Difference, of: float) -> str:
    """Return a difference in percent of a mean; as it is where there is no such mean."""
    if math.isnan(of):
        return _interval(found, lambda value: f"{value:+z.3f}")
    return _interval(found, lambda value: _signed(100 * value / of), unit="\u00a0%")


def _signed(percent: float) -> str:
    """Return a change in percent, of a small one a digit more.

    Example:
        >>> _signed(-17.6), _signed(0.84)
        ('-18', '+0.8')
    """
    return f"{percent:+z.0f}" if abs(percent) >= 9.5 else f"{percent:+z.1f}"


def _interval(found: Difference, written: Callable[[float], str], *, unit: str = "") -> str:
    """Return a difference with its interval, where there is one."""
    ends = f" [{written(found.low)}, {written(found.high)}]" if found.n > 1 else ""
    return f"{written(found.mean)}{unit}{ends}"
