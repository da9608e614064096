"""Every colour of the figures, one for each group and each encoder; each stands out 3 : 1 from light and dark pages."""

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
KIND_COLOURS = (PLANTED_COLOUR, "#1479b8", "#a87800", "#008f6b")
LABEL_COLOURS = (  # told apart from each other
    *("#1479b8", "#d55e00", "#008f6b", "#9a5bc4", "#a87800", "#d6498a"),
    *("#0f8f9f", "#d93a3a", "#6f8a1f", "#6a6fd8", "#a0674b", "#c04fc0"),
)
SCALE = ("#3f87b5", "#7b74b8", "#b8608c", "#d5552a")  # low to high
SIDE_COLOURS = {"f": GROUP_COLOURS[CANDIDATE], "g": GROUP_COLOURS[INDEPENDENT]}  # after the group that only it sees
FOLD_COLOURS = ("#5b6fd6", "#b0662a", "#1f8f8a", "#b8528f", "#6f8a1f", "#8a6a5c")
WIDTH_COLOURS = ("#1479b8", "#008f6b", "#d55e00")  # of the text encoder: half, one, double
CHOSEN_COLOUR, FRONT_COLOUR = "#6a6fd8", "#0f8f9f"


def group_colour(group: str) -> str:
    """Return the colour of a group; grey for a name that is none of ours."""
    return GROUP_COLOURS.get(group, OTHER)
