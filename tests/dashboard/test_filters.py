from clipmem_core.dashboard.filters import changed, cleared, conditions, queue_of, with_queue, with_range
from clipmem_core.review.selection import MATCH, Range, Selection, box

EVERYTHING = Selection(
    order=MATCH,
    group="scored",
    label="cat",
    planted="any",
    decision="undecided",
    words="a b",
    ranges=(Range("clipmem", 0.5), Range("misfit", None, 1.0), Range("se", 0.0, 0.25)),
    outline=box("similarity_out", "clipmem", (0, 1), (0, 1)),
    meaning="a frog",
    like="x.png",
    by="text",
    member="m0",
)


def test_each_is_removed_alone_and_removing_all_leaves_none() -> None:
    for place, (text, rest) in enumerate(conditions(EVERYTHING)):
        left = [other for other, _ in conditions(EVERYTHING)]
        assert [other for other, _ in conditions(rest)] == left[:place] + left[place + 1 :], text
    selection = EVERYTHING
    while conditions(selection):
        selection = conditions(selection)[0][1]
    assert selection.order == "misfit"
    assert not selection.searched
    assert conditions(cleared(EVERYTHING)) == []


def test_a_search_is_ordered_by_match_from_its_first_word_to_its_last() -> None:
    begun = changed(Selection(order="misfit", ascending=True), meaning="a frog")
    assert (begun.order, begun.ascending) == (MATCH, False)
    ordered = changed(begun, order="se")
    assert changed(ordered, meaning="a toad").order == "se"
    assert changed(begun, meaning="").order == "misfit"


def test_a_queue_keeps_the_filters_and_ends_the_search() -> None:
    queue = with_queue(EVERYTHING, "misfit")
    assert (queue.order, queue.searched, queue.group) == ("misfit", False, "scored")
    assert queue_of(queue) == "misfit"
    assert queue_of(EVERYTHING) is None
    assert queue_of(Selection(order="misfit", ascending=True)) is None


def test_a_range_replaces_that_of_the_same_score_and_its_ends_may_be_swapped() -> None:
    selection = with_range(Selection(ranges=(Range("se", 0.5), Range("misfit", 1.0))), Range("se", 2.0, 1.0))
    assert selection.ranges == (Range("misfit", 1.0), Range("se", 1.0, 2.0))
