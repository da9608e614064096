"""The colours of the figures are told apart from the pages and from each other."""

from itertools import combinations

from clipmem_core.columns import GROUPS
from clipmem_core.figures import layout as c


def luminance(colour: str) -> float:
    """Relative luminance by the Web Content Accessibility Guidelines."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_every_colour_stands_out_from_both_pages() -> None:
    named = [value for name, value in vars(c).items() if name.isupper() and not name.endswith("_PAGE")]
    listed = [one.values() if isinstance(one, dict) else one for one in named if isinstance(one, (dict, tuple))]
    listed += [[one] for one in named if isinstance(one, str)]
    colours = {colour for found in listed for colour in found if str(colour).startswith("#")}
    assert len(colours) > 20
    assert not [(one, page) for one in colours for page in ("#ffffff", "#171614") if contrast(one, page) < 3]


def test_what_is_drawn_together_has_different_colours() -> None:
    assert set(c.GROUP_COLOURS) == set(GROUPS)
    assert c.group_colour("odd") == c.OTHER
    for other in (c.ENCODER_COLOURS.values(), c.FOLD_COLOURS):
        assert all(one != two for one, two in combinations([*c.GROUP_COLOURS.values(), *other], 2))
    assert len({*c.LABEL_COLOURS, c.OTHER}) == 13
