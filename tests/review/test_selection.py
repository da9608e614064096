import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipmem_core.review.selection import MAX_CORNERS, Outline, Range, Selection, box, from_parameters, to_parameters
from clipmem_core.scores.registry import BY_NAME

numbers = st.integers(-5000, 5000).map(lambda value: value / 1000)
texts = st.text(max_size=20)
ranges = st.builds(Range, st.sampled_from(list(BY_NAME)), st.none() | numbers, st.none() | numbers)
corners = st.lists(st.tuples(numbers, numbers), min_size=3, max_size=MAX_CORNERS).map(tuple)
outlines = st.builds(Outline, st.sampled_from(list(BY_NAME)), st.sampled_from(list(BY_NAME)), corners)
selections = st.builds(
    Selection,
    order=st.sampled_from(list(BY_NAME)),
    ascending=st.booleans(),
    group=texts,
    label=texts,
    injected=texts,
    decision=texts,
    words=texts,
    ranges=st.lists(ranges, max_size=3).map(tuple),
    outline=st.none() | outlines,
    map=texts,
    meaning=texts,
    like=texts,
    by=st.sampled_from(["image", "text"]),
    member=texts,
)


@given(selections)
def test_an_address_reopens_the_same_selection(selection: Selection) -> None:
    assert from_parameters(to_parameters(selection)) == (selection, [])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("order", "beauty"),
        ("order", 'clipmem"; DROP TABLE x'),
        ("range", "clipmem"),
        ("range", "clipmem:a:1"),
        ("range", "clipmem:nan:1"),
        ("outline", "clipmem:misfit:0:0:1:1"),
        ("outline", "clipmem:map_y:0:0:1:1:2:2"),
        ("outline", "clipmem:misfit:0:0:1:1:2:inf"),
        ("by", "smell"),
    ],
)
def test_a_malformed_parameter_is_named_and_ignored(name: str, value: str) -> None:
    assert from_parameters({name: value, "group": "scored"}) == (Selection(order="misfit", group="scored"), [name])


def test_a_search_is_ordered_by_match_unless_the_address_says_otherwise() -> None:
    assert from_parameters({"meaning": "a cat"})[0].order == "match"
    assert from_parameters({"like": "a.png", "order": "misfit"})[0].order == "misfit"
    assert box("clipmem", "misfit", (2, 1), (0, -1)).corners == ((1, -1), (2, -1), (2, 0), (1, 0))
