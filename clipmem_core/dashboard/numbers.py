"""Scores as the few digits a person reads, with what may be claimed of them: an error, or the noise floor."""

import math
from dataclasses import dataclass
from typing import Any

from clipmem_core.audits.store import Audit
from clipmem_core.config import InputError
from clipmem_core.review.overview import is_number, mapping
from clipmem_core.scores.uncertainty import MIN_MEMBERS_FOR_SE

ERRORS = {  # the verdict's word → ours
    "welch": "standard error (Welch)",
    "paired over seeds": "standard error (paired over seeds)",
}


@dataclass(frozen=True)
class Noise:
    """What is known of the uncertainty of clipmem in an audit."""

    error: str = ""  # what the errors of single pairs are; empty where there are none to show
    floor: float | None = None  # standard deviation of clipmem over external pairs, which no member learned

    def around(self, clipmem: float | None, error: float | None) -> str:
        """Return what is written after a pair's clipmem."""
        if clipmem is None:
            return ""
        if error is not None and self.error:
            return f" ± {error:.2f}"
        return "" if self.floor is None else f" (noise {self.floor:.2f})"

    def explain(self) -> str:
        """Return one line on what `around` writes."""
        if self.error:
            return f"± {self.error}."
        if self.floor is None:
            return "This audit does not say how certain clipmem is."
        return f"Noise {self.floor:.2f}: SD of clipmem over external pairs, which no member saw."


def read_verdict(audit: Audit) -> dict[str, Any]:
    """Return an audit's verdict, empty where it is missing or broken: for pages that show pairs without it too."""
    try:
        return mapping(audit.verdict)
    except InputError:
        return {}


def read_noise(audit: Audit) -> Noise:
    """Return what an audit says of the uncertainty, and may show of it; nothing where it cannot be read."""
    verdict = read_verdict(audit)
    try:
        enough = len(audit.record.members) >= MIN_MEMBERS_FOR_SE
    except InputError:
        enough = False
    floor: Any = verdict.get("external_sd")
    error = ERRORS.get(str(verdict.get("se_kind")).lower(), "") if enough else ""
    return Noise(error, float(floor) if is_number(floor) else None)


def number(value: float | None) -> str:
    """Return a score with the digits that matter.

    Example:
        >>> number(-0.3456), number(0.0312), number(3.0), number(None)
        ('−0.35', '0.031', '3.00', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    small = 0 < abs(value) < 0.095
    return (f"{value:.2g}" if small else f"{value:.2f}").replace("-", "−")
