import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from clipmem_core.auditing.folder.store import Audit
from clipmem_core.review import search
from clipmem_core.review.overview import member_terms
from clipmem_core.review.search import suggested_captions
from tests.fixtures import Copy, Embeddings, caption_rows, embed, rewrite


@pytest.fixture(params=["ensemble", "paper"])
def audit(copy: Copy, request: pytest.FixtureRequest) -> Audit:
    return copy(request.param)


@pytest.fixture
def open_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Suggestions are shown whatever they lead by, in audits of any size."""
    monkeypatch.setattr(search, "LEAD", -math.inf)
    monkeypatch.setattr(search, "LEAST", 0)


def slowly_scored(audit: Audit, vectors: Embeddings, row: int) -> tuple[list[str], np.ndarray]:
    """The members that never saw a pair; mean cosines of its picture with captions and pictures."""
    strangers = [name for name in vectors if not audit.membership.iloc[row][name]]
    cosines = []
    for image, text in (vectors[name] for name in strangers):
        picture = image[[row]].astype(float)
        cosines.append([cosine_similarity(picture, side)[0] for side in (text, image)])
    return strangers, np.mean(cosines, axis=0)


def rows_with_strangers(audit: Audit) -> list[int]:
    """Some rows that a member never saw; the last is held-out."""
    trained = audit.membership[list(audit.record.members)].to_numpy()
    return [*np.flatnonzero(~trained.all(axis=1))[5:60:20].tolist(), 99]


def write_captions(audit: Audit, captions: list[list[str]]) -> None:
    rewrite(audit.folder / "pairs.parquet", audit.pairs.assign(captions=pd.Series(captions)))


@pytest.mark.usefixtures("open_gate")
def test_suggestions_are_those_of_a_slow_search(audit: Audit) -> None:
    vectors = embed(audit)
    captions = [[f"caption {row // 2}"] for row in range(100)]  # each is there twice
    write_captions(audit, captions)
    for row in rows_with_strangers(audit):
        strangers, (text, image) = slowly_scored(audit, vectors, row)
        expected = list[tuple[int, str]]()
        for other in np.argsort(-(text + image)).tolist():
            if captions[other] not in (captions[row], *([caption] for _, caption in expected)):
                expected.append((other, captions[other][0]))
        result = suggested_captions(audit, row)
        assert [(each.row, each.caption) for each in result.choices] == expected[:3]
        chosen = [other for other, _ in expected[:3]]
        assert [each.cosine for each in result.choices] == pytest.approx(text[chosen])
        assert result.cosines == (pytest.approx(text[row], abs=1e-6),)
        terms = member_terms(audit, row)
        terms = terms[terms["member"].isin(strangers)]
        assert result.cosines[0] == pytest.approx(terms["similarity"].mean())


@pytest.mark.usefixtures("open_gate")
def test_the_caption_that_fits_its_picture_best_is_suggested(
    copy: Copy,
) -> None:
    audit = copy()
    embed(audit)
    write_captions(audit, [[f"poor {row}", f"best {row}", f"fair {row}"] for row in range(100)])
    table = caption_rows(audit).assign(similarity_out=[-0.5, 0.5, np.nan] * 100)
    rewrite(audit.folder / "captions.parquet", table)
    result = suggested_captions(audit, 99)
    assert len(result.choices) == 3
    assert all(each.caption == f"best {each.row}" for each in result.choices)
    own = member_terms(audit, 99)["similarity"].mean()
    # that of the pair where a caption has none
    assert result.cosines == (-0.5, 0.5, pytest.approx(own))


def test_only_a_clear_lead_is_suggested(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = copy()
    vectors = embed(audit)
    write_captions(audit, [[f"caption {row}"] for row in range(100)])
    assert suggested_captions(audit, 99).choices == ()
    monkeypatch.setattr(search, "LEAST", 100)
    score = slowly_scored(audit, vectors, 99)[1].sum(axis=0)
    best = np.sort(np.delete(score, 99))[::-1]
    for shown in (1, 2):
        lead = (best[shown - 1] + best[shown]) / 2 - best[9]
        monkeypatch.setattr(search, "LEAD", lead)
        assert len(suggested_captions(audit, 99).choices) == shown
