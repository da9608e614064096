"""The rows of a selection and their order, against a slow loop over every pair; selections in
addresses."""

import math
import random
import unicodedata
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmem_core.auditing.folder.store import PAIRS, Audit, Prepared, write_prepared, write_table
from clipmem_core.review import filters
from clipmem_core.review.decisions import open_review
from clipmem_core.review.filters import (
    count_pairs,
    failed_checks,
    find_rows,
    near_duplicate_groups,
    pair_ids,
)
from clipmem_core.review.search import Hits
from clipmem_core.review.views import Outline, Range, Selection, from_parameters, to_parameters
from clipmem_core.scores.registry import BY_NAME
from clipmem_core.utils.io import InputError
from tests.fixtures import Copy, rewrite

numbers = st.floats(-2, 2).map(lambda value: round(value, 3))
ranges = st.builds(
    lambda column, ends, is_open: Range(column, ends[0], math.inf if is_open else ends[1]),
    st.sampled_from(["clipmem", "misfit", "n_in"]),
    st.tuples(st.floats(-2, 2), st.floats(-2, 2)).map(sorted),
    st.booleans(),
)
corners = st.lists(st.tuples(numbers, numbers), min_size=3, max_size=9).map(tuple)
selections = st.builds(
    Selection,
    order=st.sampled_from(list(BY_NAME)),
    ascending=st.booleans(),
    group=st.sampled_from(["", "", "shared", "independent", "candidate", "x' OR 1=1 --"]),
    label=st.sampled_from(["", "", "", "circle", "%", 'circle" --']),
    injected=st.sampled_from(["", "", "any", "none", "miscaption", "vague"]),
    words=st.sampled_from(
        ["", "", "", "a", "CIRCLE teal", "%", "_lines_", "' OR 1=1", "צרוקודיל", "é", "\0", "[a-z]"]
    ),
    ranges=st.lists(ranges, max_size=2).map(tuple),
    outline=st.none() | st.builds(Outline, st.just("similarity_out"), st.just("clipmem"), corners),
)


def folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()


def is_in(outline: Outline, x: float, y: float) -> bool:
    """Walk the edges one by one and count those to the right of a point."""
    crossed = False
    (x0, y0) = outline.corners[-1]
    for x1, y1 in outline.corners:
        if (y0 > y) != (y1 > y) and x < (x1 - x0) * (y - y0) / (y1 - y0) + x0:
            crossed = not crossed
        x0 = x1
        y0 = y1
    return crossed


def is_selected(selection: Selection, pair: dict, decision: str | None) -> bool:
    """Decide on one pair by reading the selection aloud."""
    in_ranges = (each.low <= pair[each.column] <= each.high for each in selection.ranges)
    texts = [folded(caption) for caption in pair["captions"]]
    injected = {"": True, "any": bool(pair["injected"]), "none": not pair["injected"]}
    decisions = {"": True, "decided": decision is not None, "undecided": decision is None}
    outline = selection.outline
    return (
        math.isfinite(pair[selection.order])
        and selection.group in ("", pair["group"])
        and selection.label in ("", pair["label"])
        and injected.get(selection.injected, pair["injected"] == selection.injected)
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
        pair["injected"] = pair["injected"] if isinstance(pair["injected"], str) else None
    result = [
        row for row, p in enumerate(pairs) if is_selected(selection, p, decisions.get(p["pair_id"]))
    ]
    result.sort(key=lambda row: (-pairs[row][selection.order], row))
    turned = selection.order == "review_place"
    turned |= selection.order == "clipmem" and selection.group == "independent"
    return result[::-1] if selection.ascending != turned else result


def every(audit: Audit, selection: Selection) -> list[int]:
    return find_rows(audit, selection, size=10_000)


def with_scores(audit: Audit, **columns: object) -> Audit:
    rewrite(audit.folder / "scores.parquet", audit.scores.assign(**columns))
    return audit


@given(selection=selections, protocol=st.sampled_from(["ensemble", "paper"]))
@settings(max_examples=40)
def test_any_selection_agrees_with_a_slow_loop(
    made: dict[str, Audit], selection: Selection, protocol: str
) -> None:
    audit = made[protocol]
    expected = slowly(audit, selection, {})
    names = audit.pairs["pair_id"]
    assert every(audit, selection) == expected
    assert count_pairs(audit, selection) == len(expected)
    assert pair_ids(audit, selection) == names[expected].tolist()


@pytest.mark.parametrize("decision", ["remove", "decided", "undecided"])
def test_a_decision_changes_the_selection_at_once(copy: Copy, decision: str) -> None:
    audit = copy()
    review = open_review(audit)
    ids = audit.pairs["pair_id"].tolist()
    draw = random.Random(decision)
    current = dict[str, str]()
    selection = Selection(decision=decision, order="misfit")
    for choice in ("keep", "remove", "recaption", None, "remove"):
        some = draw.sample(ids, 30)
        captions = ["right"] if choice == "recaption" else []
        review.decide([*some, "a pair of another audit"], choice, captions=captions)
        current = {
            each: kind for each, kind in (current | dict.fromkeys(some, choice)).items() if kind
        }
        assert every(audit, selection) == slowly(audit, selection, current)
    before = every(audit, selection)
    review.decide(ids, "keep")
    review.undo(len(review.history()))
    assert every(audit, selection) == before


def test_an_outline_on_a_map_holds_pairs_of_the_map(
    copy: Copy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    audit = copy()
    path = tmp_path / "map.parquet"
    table = pd.DataFrame({"row": [70, 7, 50], "map_x": [0.5, 0.2, 3.0], "map_y": [0.5, 0.9, 0.5]})
    write_table(path, table.astype({"map_x": "float32", "map_y": "float32"}))
    absent = tmp_path / "absent.parquet"
    monkeypatch.setattr(
        "clipmem_core.auditing.tables.maps.map_path",
        lambda _, side: path if side == "pictures" else absent,
    )
    shape = Outline("map_x", "map_y", ((0, 0), (1, 0), (1, 1), (0, 1)))
    assert sorted(every(audit, Selection(outline=shape, map="pictures"))) == [7, 70]
    with pytest.raises(InputError, match="there is no map of the captions of made yet"):
        count_pairs(audit, Selection(outline=shape, map="captions"))
    assert count_pairs(audit, Selection(map="captions", outline=None)) == 100


def test_a_search_is_ordered_by_match_filtered_and_reversed(
    made: dict[str, Audit], monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = made["ensemble"]
    found = np.array([5, 90, 2, 33])
    search = Mock(return_value=Hits(found, found, found))
    monkeypatch.setattr(filters, "search", search)
    requested = Selection(order="match", meaning="a cat")
    assert every(audit, requested) == [5, 90, 2, 33]
    assert every(audit, replace(requested, group="scored")) == [5, 2, 33]
    assert every(audit, replace(requested, ascending=True)) == [33, 2, 90, 5]
    by_alignment = audit.scores.loc[found, "alignment_in"].sort_values(ascending=False)
    assert every(audit, replace(requested, order="alignment_in")) == by_alignment.index.tolist()


def test_a_file_that_was_replaced_is_read_again(copy: Copy) -> None:
    audit = copy()
    requested = Selection(words="circle", ranges=(Range("clipmem", -50),))
    assert count_pairs(audit, requested) > 0
    rewrite(audit.folder / PAIRS, audit.pairs.assign(captions=[["square"]] * 100))
    assert count_pairs(audit, requested) == 0
    with_scores(audit, clipmem=range(100))
    assert find_rows(audit, Selection(), size=2) == [99, 98]
    (audit.folder / "scores.parquet").unlink()
    with pytest.raises(InputError, match=r"scores\.parquet is missing"):
        find_rows(audit, Selection(), size=2)


@pytest.fixture
def checked(copy: Copy) -> Audit:
    """A made audit without a store of small pictures: those of the data set are read instead."""
    made = copy()
    pairs = made.pairs
    pairs.at[3, "captions"] = ["a frog &amp; a toad on a pad"]
    pairs.at[4, "captions"] = ["IMG_0042.jpg", "a frog on a pad"]
    rewrite(made.folder / PAIRS, pairs)
    rows = np.arange(len(pairs))
    clusters = rows.copy()
    clusters[[7, 9, 12]] = 5
    clusters[20] = 19
    write_prepared(made.folder, Prepared(rows, clusters, clusters))
    return made


def test_checks_as_conditions_and_groups_of_near_duplicates(checked: Audit) -> None:
    assert failed_checks(checked, 3) == []  # before the checks are made
    assert sorted(every(checked, Selection(check="near_duplicate"))) == [5, 7, 9, 12, 19, 20]
    assert count_pairs(checked, Selection(check="markup", words="frog")) == 1
    assert "markup" in failed_checks(checked, 3)
    assert near_duplicate_groups(checked) == [[5, 7, 9, 12], [19, 20]]


texts = st.text(max_size=20)
searches = st.fixed_dictionaries(
    {name: texts for name in ["label", "decision", "words", "map", "meaning", "like", "incident"]}
    | {"by": st.sampled_from(["caption", "picture"])}
)


@given(selections, searches)
def test_an_address_reopens_the_same_selection(
    selection: Selection, search: dict[str, str]
) -> None:
    selection = replace(selection, **search)
    assert from_parameters(to_parameters(selection)) == (selection, [])
