"""A pair taken apart, and texts embedded, in audits that were really trained: the numbers are those of their files."""

import numpy as np
import pytest

from clipmem_core.audits.store import Audit
from clipmem_core.review.cards import caption_scores
from clipmem_core.review.score_breakdown import mean_terms, member_terms, suggested_captions
from clipmem_core.review.search import embed_text, nearest
from tests.audits.small import vectors
from tests.conftest import Made


def some_of_each_group(audit: Audit) -> list[int]:
    """Three rows of every group."""
    group = audit.membership["group"].to_numpy(str)
    return [row for name in np.unique(group) for row in np.flatnonzero(group == name)[:3].tolist()]


def test_the_members_terms_average_to_the_scores(audit: Audit) -> None:
    scores = audit.scores
    for row in some_of_each_group(audit):
        terms = member_terms(audit, row)
        inside, outside = (terms[terms["side"] == side] for side in ("in", "out"))
        gap = inside["alignment"].mean() - outside["alignment"].mean()
        assert gap == pytest.approx(scores["clipmem"][row], abs=1e-5)
        for side, table in (("in", inside), ("out", outside)):
            for term in ("alignment", "positive", "negative_text", "negative_image"):
                assert table[term].mean() == pytest.approx(scores[f"{term}_{side}"][row], abs=1e-5), (row, term, side)
        without = terms.loc[~terms["trained"], "similarity"]
        assert without.mean() == pytest.approx(scores["similarity_out"][row], abs=1e-5, nan_ok=True)
    for row in some_of_each_group(audit):
        wanted = mean_terms(audit, row)["similarity_out"]
        single = [each.similarity_out for each in caption_scores(audit, audit.pairs["pair_id"][row]).values()]
        assert suggested_captions(audit, row).own == pytest.approx(
            () if wanted is None else single or (wanted,), abs=1e-5
        )


def test_a_caption_that_is_searched_for_is_found_where_it_stands(made: Made) -> None:
    audit = made.paper
    stored = vectors(audit.member("g-0") / "text.npy")
    for row in (0, 17, 399):  # one caption a pair, embedded in fp32
        found = embed_text(audit, audit.pairs["captions"][row][0], member="g-0")
        np.testing.assert_allclose(found, stored[row], atol=1e-5)


def test_the_nearest_picture_is_the_one_of_the_largest_cosine(audit: Audit) -> None:
    member = audit.record.members[1]
    stored = vectors(audit.member(member) / "image.npy")
    unit = stored / np.linalg.norm(stored, axis=1, keepdims=True)
    for row in (0, 399):
        cosine = unit @ unit[row]
        cosine[row] = -2
        (found,) = nearest(audit, row, by="image", member=member, k=1)
        assert found == (int(np.argmax(cosine)), pytest.approx(cosine.max(), abs=1e-6))
