from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clipmem_core.audits.store import Audit, write_table
from clipmem_core.config import InputError
from clipmem_core.review import conditions, rows, search
from clipmem_core.review.rows import count_pairs, find_rows
from clipmem_core.review.selection import Range, Selection, box

Copy = Callable[..., Audit]


def test_an_outline_on_a_map_holds_pairs_of_the_map(
    copy: Copy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    audit, path = copy(), tmp_path / "map.parquet"
    table = pd.DataFrame({"row": [70, 7, 50], "map_x": [0.5, 0.2, 3.0], "map_y": [0.5, 0.9, 0.5]})
    write_table(path, table.astype({"map_x": "float32", "map_y": "float32"}))
    for module in (rows, conditions):
        monkeypatch.setattr(module, "map_file", lambda audit, name: path if name == "m0.image" else None)
    shape = box("map_x", "map_y", (0, 1), (0, 1))
    assert sorted(find_rows(audit, Selection(outline=shape, map="m0.image"), page=1, size=9)) == [7, 70]
    with pytest.raises(InputError, match=r"there is no map 'm0\.text' of made yet: draw it on the page Map of embedd"):
        count_pairs(audit, Selection(outline=shape, map="m0.text"))


def test_a_search_is_ordered_by_match_and_can_be_filtered_and_turned_round(
    made: dict[str, Audit], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = np.array([5, 90, 2, 33]), np.array([0.9, 0.8, 0.8, 0.1], np.float32)
    monkeypatch.setattr(search, "hits", lambda audit, selection: found)
    shown = [
        find_rows(made["ensemble"], selection, page=1, size=9)
        for selection in (
            Selection(order="match", meaning="a cat"),
            Selection(order="match", meaning="a cat", group="scored"),
            Selection(order="match", meaning="a cat", ascending=True),
            Selection(order="alignment_in", meaning="a cat"),
        )
    ]
    by_alignment = made["ensemble"].scores.loc[found[0], "alignment_in"].sort_values(ascending=False).index.tolist()
    assert shown == [[5, 90, 2, 33], [5, 2, 33], [33, 2, 90, 5], by_alignment]


def test_embeddings_of_more_pairs_than_the_audit_has_are_refused(
    made: dict[str, Audit], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "hits", lambda audit, selection: (np.array([100]), np.array([0.9])))
    with pytest.raises(InputError, match="has embeddings of more pairs than scores: delete it and run it again"):
        count_pairs(made["ensemble"], Selection(order="match", meaning="a dog"))


@pytest.mark.parametrize(
    "selection",
    [
        Selection(order="se; DROP"),
        Selection(order="match"),
        Selection(order="pair_id"),
        Selection(ranges=(Range('clipmem" --', 0),)),
        Selection(outline=box("clipmem", "label", (0, 1), (0, 1))),
    ],
)
def test_a_column_that_is_none_is_refused(made: dict[str, Audit], selection: Selection) -> None:
    with pytest.raises(ValueError, match=r"(order|range|outline) must be (of )?(one|two) of n_in, n_out, clipmem"):
        count_pairs(made["ensemble"], selection)


def test_maps_are_looked_for_only_where_an_outline_needs_one(
    made: dict[str, Audit], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "map_file", lambda audit, name: pytest.fail("asked for"))
    assert count_pairs(made["ensemble"], Selection(map="m0.image", outline=None)) == 100
