"""Seconds and bytes → the words a person reads."""

import math

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
