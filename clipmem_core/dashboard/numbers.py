"""Scores, times and sizes in the few digits a person reads, and what may be claimed of a score."""

import math
from dataclasses import dataclass
from typing import Any

from clipmem_core.audits.store import Audit
from clipmem_core.config import InputError
from clipmem_core.files import is_number, mapping

MODERATED = "moderated"  # the verdict's word for errors of single pairs
MODERATED_ERROR = "standard error (pooled with like pairs; ± 1.96 of it covers 95 %)"


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
    error = MODERATED_ERROR if verdict.get("se_kind") == MODERATED else ""
    floor: Any = verdict.get("external_sd")
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


UNITS = ("B", "kB", "MB", "GB", "TB")


def duration(seconds: float) -> str:
    """Return a time in words, of two units at most; nothing where it is not known.

    Example:
        >>> duration(9.6), duration(125), duration(3 * 3600 + 1260), duration(math.nan)
        ('10 s', '2 min 5 s', '3 h 21 min', '')
    """
    if not math.isfinite(seconds):
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def bytes_in_words(count: int) -> str:
    """Return a size in the unit that suits it.

    Example:
        >>> bytes_in_words(999), bytes_in_words(1_234_000), bytes_in_words(0)
        ('999 B', '1.2 MB', '0 B')
    """
    power = min(len(UNITS) - 1, int(math.log10(count) // 3)) if count else 0
    return f"{count:,} B" if power == 0 else f"{count / 1000**power:.1f} {UNITS[power]}"


def signed(value: float | None) -> str:
    """Return a difference with its sign."""
    return f"+{number(value)}" if value is not None and value > 0 else number(value)


def pairs_in_words(count: int) -> str:
    """Return a number of pairs.

    Example:
        >>> pairs_in_words(1), pairs_in_words(1200)
        ('1 pair', '1,200 pairs')
    """
    return "1 pair" if count == 1 else f"{count:,} pairs"


def moment(time: str) -> str:
    """Return an ISO time without its seconds.

    Example:
        >>> moment("2025-01-31T12:34:56+00:00")
        '2025-01-31 12:34'
    """
    return f"{time[:10]} {time[11:16]}"
