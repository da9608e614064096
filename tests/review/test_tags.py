"""A person's words on pairs and saved views, in the log of decisions."""

import numpy as np
import pytest

from clipmem_core.audits.store import Audit, write_table
from clipmem_core.config import InputError
from clipmem_core.review.decisions import Review
from clipmem_core.review.log import (
    LONGEST,
    add_tag,
    known_tags,
    save_view,
    saved_views,
    tag_fault,
    tagged_pairs,
    tags_of,
    writing,
)
from clipmem_core.review.rows import count_decided, count_pairs, pair_ids, score_histogram
from clipmem_core.review.selection import Selection
from tests.fixtures import HOSTILE

A, B, C = "images/010.png", "images/011.png", "images/012.png"


def tag(review: Review, ids: list[str], word: str, *, on: bool = True) -> None:
    with writing(review.path) as log:
        add_tag(log, ids, word, on=on)


def test_the_last_that_was_said_of_a_pair_and_a_word_stands(review: Review) -> None:
    assert (tags_of(review.path, [A]), known_tags(review.path), saved_views(review.path)) == ({}, {}, {})
    assert not review.path.exists()
    tag(review, [A, B], " blurred ")
    tag(review, [B, C], "twice")
    tag(review, [B], "blurred", on=False)
    tag(review, [B], "twice")
    assert tags_of(review.path, [A, B, C, "absent"]) == {A: ["blurred"], B: ["twice"], C: ["twice"]}
    assert known_tags(review.path) == {"twice": 2, "blurred": 1}
    assert tagged_pairs(review.path, "blurred") == [A]
    assert review.position() == 0  # a word is no decision


def test_a_tag_is_a_filter_that_follows_what_is_tagged(audit: Audit, review: Review) -> None:
    wanted = Selection(tag=HOSTILE[2][:LONGEST])
    assert count_pairs(audit, wanted) == 0
    tag(review, [A, C, "of another audit"], wanted.tag)
    assert set(pair_ids(audit, wanted)) == {A, C}
    tag(review, [C], wanted.tag, on=False)
    assert pair_ids(audit, wanted) == [A]


@pytest.mark.parametrize("word", ["", "  ", "x" * (LONGEST + 1), "two\nlines", "half \ud83d", "\0"])
def test_what_is_no_word_is_refused(review: Review, word: str) -> None:
    assert tag_fault(word)
    with pytest.raises(InputError, match="a view's name"):
        save_view(review.path, word, {})


def test_views_are_saved_renewed_and_taken_away(review: Review) -> None:
    save_view(review.path, "wrong", {"order": "misfit"})
    save_view(review.path, HOSTILE[3][:LONGEST], {})
    save_view(review.path, "wrong", {"order": "misfit", "decision": "undecided"})
    assert saved_views(review.path)["wrong"] == {"order": "misfit", "decision": "undecided"}
    assert saved_views(review.path)[HOSTILE[3][:LONGEST]] == {}
    save_view(review.path, "wrong", None)
    assert list(saved_views(review.path)) == [HOSTILE[3][:LONGEST]]


def test_how_much_of_a_selection_is_decided_is_counted_whatever_it_says_of_decisions(
    audit: Audit, review: Review
) -> None:
    ids = pair_ids(audit, Selection(label="circle"))
    review.decide([*ids[:2], pair_ids(audit, Selection(label="square"))[0]], "keep")
    for decision in ("", "undecided", "keep", "remove"):
        assert count_decided(audit, Selection(label="circle", decision=decision)) == (2, len(ids))


def test_a_histogram_counts_every_pair_that_has_the_score_once(audit: Audit) -> None:
    found = score_histogram(audit, "misfit")
    assert found is not None
    counts, edges = found
    scores = audit.scores["misfit"].dropna()
    assert counts.sum() == len(scores) == 80
    for place in (0, 7, 39):
        last = scores <= edges[place + 1] if place == 39 else scores < edges[place + 1]
        assert counts[place] == ((scores >= edges[place]) & last).sum()


@pytest.mark.parametrize("ends", [(0.5, 0.5), (1.0, 1.0 + 1e-15), (-1e308, 1e308)])
def test_scores_that_no_bins_can_tell_have_no_histogram(audit: Audit, ends: tuple[float, float]) -> None:
    write_table(audit.folder / "scores.parquet", audit.scores.assign(misfit=np.resize(ends, 100)))
    assert score_histogram(audit, "misfit") is None
