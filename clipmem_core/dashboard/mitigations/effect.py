"""An arm of a study beside `none` → what it did in a sentence, and whether that is what one hopes for."""

import math
from collections.abc import Callable

import pandas as pd
import streamlit as st

from clipmem_core.dashboard.plain import show_strong, show_text
from clipmem_core.scores.paired import Difference
from clipmem_core.scores.uncertainty import MIN_REPLICATES
from clipmem_core.studies.aim import AIM, LESS, LOSS, base_of, outcome_of, percent
from clipmem_core.studies.compare import difference_of
from clipmem_core.studies.mitigations import NONE
from clipmem_core.studies.store import CLIPMEM_CANDIDATE, MEMBERSHIP_AUROC, RETRIEVAL, SECONDS

MEASURED = (CLIPMEM_CANDIDATE, MEMBERSHIP_AUROC, RETRIEVAL, SECONDS)


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
    if told := effect(arms, arm):
        show_strong(f"{called.replace(' ', ', ').replace('=', ' ')} against none: {told}")
        show_text(verdict(arms, arm))
    else:
        st.caption("This setting and none have no seed in common yet.")


def effect(arms: pd.DataFrame, arm: str) -> str:
    """Return the paired differences of an arm to `none` in a sentence; empty where they share no seed."""
    found = {name: difference_of(arms, arm, NONE, name) for name in MEASURED}
    clipmem, auroc, retrieval, seconds = (found[name] for name in MEASURED)
    if clipmem is None or auroc is None or retrieval is None or seconds is None:
        return ""
    parts = [
        f"clipmem {_percent(clipmem, base_of(arms, arm, CLIPMEM_CANDIDATE))}",
        f"AUROC {_interval(auroc, lambda value: f'{value:+z.3f}')}",
        f"retrieval {_percent(retrieval, base_of(arms, arm, RETRIEVAL))}",
    ]
    times = 1 + seconds.mean / base_of(arms, arm, SECONDS)
    price = f"; ×{times:.2f} seconds" if math.isfinite(times) else ""
    return f"{', '.join(parts)}{price}.".replace("-", "−")


def verdict(arms: pd.DataFrame, arm: str) -> str:
    """Return whether an arm meets the aim, and what it misses; few seeds say nothing."""
    found = outcome_of(arms, arm)
    if found is None:
        return ""
    if found.n < MIN_REPLICATES:
        few = f"{found.n} seed{'s are' if found.n > 1 else ' is'}"
        return f"{few} too few to say whether it meets the aim: {AIM}."
    if math.isnan(found.less):
        return "The seeds leave open whether mean clipmem of none is above 0: there may be nothing to lower."
    if math.isnan(found.loss):
        return "The seeds leave open whether retrieval of none is above 0: there may be nothing to lose."
    falls = f"falls by {percent(found.less)}" if found.less > 0 else "does not fall"
    misses = [
        "" if found.less >= LESS else f"clipmem {falls}",
        "" if found.auroc < 0 else "AUROC does not fall",
        "" if found.loss <= LOSS else f"retrieval may lose {percent(found.loss)}",
    ]
    missed = ", ".join(filter(None, misses))
    return f"It misses the aim ({AIM}): {missed}." if missed else f"It meets the aim: {AIM}."


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
