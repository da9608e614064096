"""Any selection, drawn at random, and the rows it holds, found by a slow look at every pair."""

import math
import unicodedata

from hypothesis import strategies as st

from clipmem_core.audits.store import Audit
from clipmem_core.review.selection import Outline, Range, Selection
from clipmem_core.scores.registry import BY_NAME

numbers = st.floats(-2, 2).map(lambda value: round(value, 3))
ranges = st.builds(Range, st.sampled_from(["clipmem", "misfit", "n_in"]), st.none() | numbers, st.none() | numbers)
corners = st.lists(st.tuples(numbers, numbers), min_size=3, max_size=9).map(tuple)
selections = st.builds(
    Selection,
    order=st.sampled_from(list(BY_NAME)),
    ascending=st.booleans(),
    group=st.sampled_from(["", "", "shared", "independent", "candidate", "x' OR 1=1 --"]),
    label=st.sampled_from(["", "", "", "circle", "%", 'circle" --']),
    planted=st.sampled_from(["", "", "any", "none", "miscaption", "vague"]),
    words=st.sampled_from(["", "", "", "a", "CIRCLE teal", "%", "_lines_", "' OR 1=1", "צרוקודיל", "é", "\0", "[a-z]"]),
    ranges=st.lists(ranges, max_size=2).map(tuple),
    outline=st.none() | st.builds(Outline, st.just("similarity_out"), st.just("clipmem"), corners),
)


def folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()


def is_in(outline: Outline, x: float, y: float) -> bool:
    """Walk the edges one by one and count those to the right of a point."""
    crossed, (x0, y0) = False, outline.corners[-1]
    for x1, y1 in outline.corners:
        if (y0 > y) != (y1 > y) and x < (x1 - x0) * (y - y0) / (y1 - y0) + x0:
            crossed = not crossed
        x0, y0 = x1, y1
    return crossed


def is_selected(selection: Selection, pair: dict, decision: str | None) -> bool:
    """Decide on one pair by reading the selection aloud."""
    in_ranges = (
        (given.low is None and given.high is None)
        or (given.low is None or pair[given.column] >= given.low)
        and (given.high is None or pair[given.column] <= given.high)
        for given in selection.ranges
    )
    texts = [folded(caption) for caption in pair["captions"]]
    planted = {"": True, "any": bool(pair["planted"]), "none": not pair["planted"]}
    decisions = {"": True, "decided": decision is not None, "undecided": decision is None}
    outline = selection.outline
    return (
        math.isfinite(pair[selection.order])
        and selection.group in ("", pair["group"])
        and selection.label in ("", pair["label"])
        and planted.get(selection.planted, pair["planted"] == selection.planted)
        and decisions.get(selection.decision, decision == selection.decision)
        and all(in_ranges)
        and all(any(folded(word) in text for text in texts) for word in selection.words.split())
        and (outline is None or is_in(outline, pair[outline.x], pair[outline.y]))
    )


def slowly(audit: Audit, selection: Selection, decisions: dict[str, str]) -> list[int]:
    """Look at every pair and sort them in Python."""
    table = audit.pairs.merge(audit.scores, on="pair_id", validate="1:1")
    pairs = table.astype(object).where(table.notna(), None).fillna(math.nan).to_dict("records")
    for pair in pairs:
        pair["planted"] = pair["planted"] if isinstance(pair["planted"], str) else None
    found = [row for row, p in enumerate(pairs) if is_selected(selection, p, decisions.get(p["pair_id"]))]
    found.sort(key=lambda row: (-pairs[row][selection.order], row))
    turned = selection.order == "clipmem" and selection.group == "independent"
    return found[::-1] if selection.ascending != turned else found
