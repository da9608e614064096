"""One colour for each group and each encoder, everywhere; each stands out 3 : 1 from the light and the dark page."""

from clipmem_core.columns import CANDIDATE, EXTERNAL, INDEPENDENT, SCORED, SHARED

LIGHT_PAGE = "#ffffff"
DARK_PAGE = "#171614"

GROUP_COLOURS = {
    CANDIDATE: "#d55e00",
    INDEPENDENT: "#1479b8",
    SCORED: "#9a5bc4",
    SHARED: "#808080",
    EXTERNAL: "#008f6b",
}
ENCODER_COLOURS = {"image": "#a87800", "text": "#c2487a"}
OTHER = "#808080"
PLANTED_COLOUR = "#c2487a"


def group_colour(group: str) -> str:
    """Return the colour of a group; grey for a name that is none of ours."""
    return GROUP_COLOURS.get(group, OTHER)
