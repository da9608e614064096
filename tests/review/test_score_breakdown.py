import math

import numpy as np
import pandas as pd
import pytest

from clipmem_core.audits.store import Audit, write_table
from clipmem_core.config import InputError
from clipmem_core.review import score_breakdown
from clipmem_core.review.score_breakdown import Suggested, mean_terms, member_terms, suggested_captions
from clipmem_core.scores.alignment import pair_terms
from clipmem_core.scores.membership import Membership, Sides
from tests.fixtures import Copy
from tests.review.embedded import Embeddings, embed

TERMS = ["positive", "negative_text", "negative_image", "alignment", "similarity"]


@pytest.fixture(params=["ensemble", "paper"])
def audit(copy: Copy, request: pytest.FixtureRequest) -> Audit:
    return copy(request.param)


def members_of(audit: Audit) -> Membership:
    table = audit.membership
    names = table.columns[2:].tolist()
    return Membership(table["group"].to_numpy(str), tuple(names), table[names].to_numpy().T)


def test_terms_of_one_pair_are_those_of_the_pass_over_all(audit: Audit) -> None:
    vectors = embed(audit)
    external = (audit.membership["group"] == "external").to_numpy()
    whole = {name: pair_terms(*both, external) for name, both in vectors.items()}
    for row in [0, 3, 50, *np.flatnonzero(external)[:3]]:
        found = member_terms(audit, int(row))
        assert found["member"].tolist() == list(vectors)
        wanted = pd.DataFrame([{term: whole[name][term][row] for term in TERMS} for name in vectors])
        np.testing.assert_allclose(found[TERMS], wanted, atol=1e-6)


def test_sides_are_the_protocols_and_trained_is_the_truth(audit: Audit) -> None:
    embed(audit)
    membership = members_of(audit)
    config = audit.record.values
    inside = Sides(membership, config["protocol"], config["config"]["seed"]).inside
    for row in range(0, 100, 9):
        found = member_terms(audit, row)
        assert (found["side"] == "in").tolist() == inside[:, row].tolist()
        assert found["trained"].tolist() == membership.trained[:, row].tolist()
    if config["protocol"] == "paper":  # f is in and g out, whoever saw the pair
        assert found["side"].tolist() == ["in", "out"] * 3
        assert not found["trained"].any()


@pytest.fixture
def open_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Suggestions are shown whatever they lead by, in audits of any size."""
    monkeypatch.setattr(score_breakdown, "LEAD", -math.inf)
    monkeypatch.setattr(score_breakdown, "LEAST", 0)


def slowly_scored(audit: Audit, vectors: Embeddings, row: int) -> tuple[list[str], np.ndarray]:
    """The members that never saw a pair; mean cosines of its picture with captions and pictures, pair by pair."""
    strangers = [name for name in vectors if not audit.membership.iloc[row][name]]
    found = np.zeros((2, len(audit.pairs)))
    for side, other in np.ndindex(found.shape):
        a = [vectors[name][0][row].astype(float) for name in strangers]
        b = [vectors[name][1 - side][other].astype(float) for name in strangers]
        found[side, other] = np.mean([x @ y / np.sqrt((x @ x) * (y @ y)) for x, y in zip(a, b, strict=True)])
    return strangers, found


def rows_with_strangers(audit: Audit) -> list[int]:
    """Some rows that a member never saw; the last is external."""
    return [*np.flatnonzero(~members_of(audit).trained.all(axis=0))[5:60:20].tolist(), 99]


def write_captions(audit: Audit, captions: list[list[str]]) -> None:
    write_table(audit.folder / "pairs.parquet", audit.pairs.assign(captions=pd.Series(captions)))


@pytest.mark.usefixtures("open_gate")
def test_suggestions_are_those_of_a_slow_search(audit: Audit) -> None:
    vectors = embed(audit)
    captions = [[f"caption {row // 2}"] for row in range(100)]  # each is there twice
    write_captions(audit, captions)
    for row in rows_with_strangers(audit):
        strangers, (text, image) = slowly_scored(audit, vectors, row)
        wanted = list[tuple[int, str]]()
        for other in np.argsort(-(text + image)).tolist():
            if captions[other] not in (captions[row], *([caption] for _, caption in wanted)):
                wanted.append((other, captions[other][0]))
        found = suggested_captions(audit, row, k=3)
        assert [(each.row, each.caption) for each in found.choices] == wanted[:3]
        assert [each.cosine for each in found.choices] == pytest.approx(text[[other for other, _ in wanted[:3]]])
        assert (found.members, found.own) == (tuple(strangers), (pytest.approx(text[row], abs=1e-6),))
        terms = member_terms(audit, row)
        assert found.own[0] == pytest.approx(terms.loc[~terms["trained"], "similarity"].mean())


@pytest.mark.usefixtures("open_gate")
def test_a_suggestion_is_one_caption_of_a_pair_the_one_that_fits_its_own_picture_best(copy: Copy) -> None:
    audit = copy()
    embed(audit)
    write_captions(audit, [[f"poor {row}", f"best {row}", f"fair {row}"] for row in range(100)])
    table = pd.DataFrame({"pair_id": audit.pairs["pair_id"].repeat(3), "caption": [0, 1, 2] * 100, "misfit": 0.0})
    write_table(audit.folder / "captions.parquet", table.assign(similarity_out=[-0.5, 0.5, np.nan] * 100, odd=False))
    found = suggested_captions(audit, 99)
    assert len(found.choices) == 3
    assert all(each.caption == f"best {each.row}" for each in found.choices)
    own = member_terms(audit, 99)["similarity"].mean()
    assert found.own == (-0.5, 0.5, pytest.approx(own))  # the pair's own fit where a caption has none
    assert found.worst == 0


def test_only_what_leads_the_tenth_is_suggested_and_nothing_in_a_small_audit(
    copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = copy()
    vectors = embed(audit)
    write_captions(audit, [[f"caption {row}"] for row in range(100)])
    assert suggested_captions(audit, 99).choices == ()
    monkeypatch.setattr(score_breakdown, "LEAST", 100)
    score = slowly_scored(audit, vectors, 99)[1].sum(axis=0)
    best = np.sort(np.delete(score, 99))[::-1]
    for shown in (0, 1, 2):
        monkeypatch.setattr(
            score_breakdown, "LEAD", (best[max(shown - 1, 0)] + best[shown]) / 2 - best[9] + (not shown)
        )
        assert len(suggested_captions(audit, 99).choices) == shown


def test_the_row_of_the_scores_has_every_column_and_none_for_what_is_missing(copy: Copy) -> None:
    audit = copy()
    scores = audit.scores
    scores.loc[7, "se"] = np.inf
    scores.loc[7, "q_value"] = np.nan
    write_table(audit.folder / "scores.parquet", scores)
    found = mean_terms(audit, 7)
    assert list(found) == scores.columns[2:].tolist()
    assert found["se"] is found["q_value"] is None
    assert found["clipmem"] == scores["clipmem"][7]
    assert found["similarity_out"] == scores["similarity_out"][7]


def test_what_cannot_be_taken_apart_is_named(copy: Copy) -> None:
    audit = copy()
    vectors = embed(audit)
    with pytest.raises(InputError, match="audit 'made' has no row 100 in its scores"):
        mean_terms(audit, 100)
    for row in (-1, 100):
        for read in (member_terms, suggested_captions):
            with pytest.raises(InputError, match=f"audit 'made' has no row {row}, only 100"):
                read(audit, row)
    np.save(audit.member("r1-f0") / "text.npy", vectors["r1-f0"][0][:90])
    for read, at in ((member_terms, 3), (suggested_captions, 99)):
        with pytest.raises(InputError, match=r"r1-f0/text\.npy has 90 rows"):
            read(audit, at)
    path, membership = audit.folder / "membership.parquet", audit.membership
    membership.loc[8, membership.columns[2:]] = True  # a pair that every member saw
    write_table(path, membership)
    assert suggested_captions(audit, 8) == Suggested()
    path.write_bytes(b"PAR1 not really PAR1")
    with pytest.raises(InputError, match=r"membership\.parquet cannot be read"):
        member_terms(audit, 3)
