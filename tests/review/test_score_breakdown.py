import math

import numpy as np
import pandas as pd
import pytest

from clipmem_core.audit.store import Audit, write_table
from clipmem_core.audit.unit_tables import REFERENCES, read_units
from clipmem_core.columns import GROUPS
from clipmem_core.review import score_breakdown
from clipmem_core.review.score_breakdown import (
    claim_1,
    doubts,
    encoder_means,
    member_terms,
    paradigm_layers,
    suggested_captions,
    tower_layers,
)
from clipmem_core.scores.alignment import pair_terms
from clipmem_core.scores.membership import Membership
from tests.fixtures import Copy, Embeddings, caption_rows, embed
from tests.made_encoders import make_units, paradigm_rows

TERMS = ["positive", "negative_text", "negative_image", "alignment", "similarity"]


@pytest.fixture(params=["ensemble", "paper"])
def audit(copy: Copy, request: pytest.FixtureRequest) -> Audit:
    return copy(request.param)


def members_of(audit: Audit) -> Membership:
    table = audit.membership
    names = table.columns[2:].tolist()
    return Membership(table["group"].to_numpy(str), tuple(names), table[names].to_numpy().T)


def test_the_terms_of_one_pair_agree_with_those_of_all_pairs(audit: Audit) -> None:
    vectors = embed(audit)
    external = (audit.membership["group"] == "external").to_numpy()
    whole = {name: pair_terms(*both, external) for name, both in vectors.items()}
    for row in [0, 3, 50, *np.flatnonzero(external)[:3]]:
        result = member_terms(audit, int(row))
        assert result["member"].tolist() == list(vectors)
        expected = pd.DataFrame(
            [{term: whole[name][term][row] for term in TERMS} for name in vectors]
        )
        np.testing.assert_allclose(result[TERMS], expected, atol=1e-6)


@pytest.fixture
def open_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Suggestions are shown whatever they lead by, in audits of any size."""
    monkeypatch.setattr(score_breakdown, "LEAD", -math.inf)
    monkeypatch.setattr(score_breakdown, "LEAST", 0)


def slowly_scored(audit: Audit, vectors: Embeddings, row: int) -> tuple[list[str], np.ndarray]:
    """The members that never saw a pair; mean cosines of its picture with captions and pictures,
    pair by pair."""
    strangers = [name for name in vectors if not audit.membership.iloc[row][name]]
    result = np.zeros((2, len(audit.pairs)))
    for side, other in np.ndindex(result.shape):
        a = [vectors[name][0][row].astype(float) for name in strangers]
        b = [vectors[name][1 - side][other].astype(float) for name in strangers]
        result[side, other] = np.mean(
            [x @ y / np.sqrt((x @ x) * (y @ y)) for x, y in zip(a, b, strict=True)]
        )
    return strangers, result


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
        expected = list[tuple[int, str]]()
        for other in np.argsort(-(text + image)).tolist():
            if captions[other] not in (captions[row], *([caption] for _, caption in expected)):
                expected.append((other, captions[other][0]))
        result = suggested_captions(audit, row)
        assert [(each.row, each.caption) for each in result.choices] == expected[:3]
        assert [each.cosine for each in result.choices] == pytest.approx(
            text[[other for other, _ in expected[:3]]]
        )
        assert (result.members, result.cosines) == (
            tuple(strangers),
            (pytest.approx(text[row], abs=1e-6),),
        )
        terms = member_terms(audit, row)
        assert result.cosines[0] == pytest.approx(terms.loc[~terms["trained"], "similarity"].mean())


@pytest.mark.usefixtures("open_gate")
def test_a_suggestion_is_one_caption_of_a_pair_the_one_that_fits_its_own_picture_best(
    copy: Copy,
) -> None:
    audit = copy()
    embed(audit)
    write_captions(audit, [[f"poor {row}", f"best {row}", f"fair {row}"] for row in range(100)])
    table = caption_rows(audit).assign(similarity_out=[-0.5, 0.5, np.nan] * 100)
    write_table(audit.folder / "captions.parquet", table)
    result = suggested_captions(audit, 99)
    assert len(result.choices) == 3
    assert all(each.caption == f"best {each.row}" for each in result.choices)
    own = member_terms(audit, 99)["similarity"].mean()
    assert result.cosines == (
        -0.5,
        0.5,
        pytest.approx(own),
    )  # the pair's own fit where a caption has none


def test_only_a_clear_lead_is_suggested_and_nothing_in_a_small_audit(
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
            score_breakdown,
            "LEAD",
            (best[max(shown - 1, 0)] + best[shown]) / 2 - best[9] + (not shown),
        )
        assert len(suggested_captions(audit, 99).choices) == shown


MEAN = "unitmem_mean"


def slow_means(audit: Audit, column: str, names: pd.Series) -> dict[str, tuple[int, float, float]]:
    """The number, mean and standard error of a score by name, by pandas."""
    values = audit.scores[column].groupby(names)
    return {
        str(name): (int(own.count()), own.mean(), own.std() / np.sqrt(own.count()))
        for name, own in values
        if own.count()
    }


@pytest.mark.parametrize("protocol", ["ensemble", "paper"])
@pytest.mark.parametrize("by", ["group", "label", "injected"])
def test_means_are_those_of_a_slow_loop(made: dict[str, Audit], protocol: str, by: str) -> None:
    audit = made[protocol]
    groups = GROUPS if by == "group" else ["candidate", "scored"]
    inside = audit.scores["group"].isin(groups)
    names = audit.scores["group"] if by == "group" else audit.pairs[by]
    names = (names.fillna("not injected") if by == "injected" else names).where(inside)
    result = encoder_means(audit, by=by, groups=groups)
    for encoder in ("image", "text"):
        own = result[result["encoder"] == encoder].set_index("name")
        expected = slow_means(audit, f"clipmem_{encoder}", names)
        assert set(own.index) == set(expected)
        for name, (n, mean, error) in expected.items():
            row = own.loc[name]
            assert (row["n"], row["mean"]) == (n, pytest.approx(mean))
            assert (row["high"] - row["low"]) / 2 == pytest.approx(1.96 * error)


def test_a_layer_is_the_mean_over_members_between_the_lowest_and_the_highest(copy: Copy) -> None:
    audit = copy()
    units = make_units(audit)
    layers = tower_layers(units, read_units(audit, REFERENCES))
    first = units[(units["tower"] == "image") & (units["layer"] == 1)]
    means = [np.nanmean(values[MEAN]) for _, values in first.groupby("member")]
    assert layers.loc[0, ["tower", "layer"]].tolist() == ["image", 1]
    assert layers.loc[0, ["mean", "low", "high"]].tolist() == pytest.approx(
        [np.mean(means), min(means), max(means)]
    )
    sources = ("members", "before training", "seen", "unseen")
    assert layers["source"].value_counts().to_dict() == dict.fromkeys(sources, 3)


def test_paradigms_go_by_relative_depth_with_an_interval_over_seeds() -> None:
    result = paradigm_layers(paradigm_rows({"clip": 0.4}, layers=5))
    assert result["depth"].tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert result["mean"].tolist() == pytest.approx([0.4, 0.41, 0.42, 0.43, 0.44])
    # Seeds .001 apart: SD .001, and t.975 with two degrees of freedom is 4.3027.
    assert (result["high"] - result["mean"]).tolist() == pytest.approx(
        [4.3027 * 0.001 / np.sqrt(3)] * 5, rel=1e-4
    )
    alone = paradigm_layers(paradigm_rows({"clip": 0.4}, layers=1, seeds=2))
    assert alone["depth"].tolist() == [0.5]
    assert alone["low"].isna().all()


def test_a_poor_fit_and_a_null_off_0_are_doubted() -> None:
    rows = [
        ("candidate", "image", 0.05),
        ("candidate", "text", 0.35),
        ("external", "image", -0.041),
    ]
    table = pd.DataFrame([*rows, ("external", "text", 0.0)], columns=["name", "encoder", "mean"])
    table = table.assign(low=table["mean"] - 0.002, high=table["mean"] + 0.002)
    poor, null = doubts(table, 0.49)
    assert "fits poorly: 0.49" in poor
    assert "null of the image encoder is not near 0: −0.041" in null
    assert doubts(table.replace(-0.041, 0.039), 0.5) == []  # within a tenth of .40


def test_claim_1_is_answered_by_the_seeds() -> None:
    others = {"supervised": 0.5, "self-supervised": 0.3}
    ends = {
        0.4: "so it does here.",
        0.6: "here it lies above both.",
        0.2: "here it lies below both.",
    }
    for mean, end in ends.items():
        assert claim_1(paradigm_rows({"clip": mean, **others}, spread=0.001)).endswith(end)
    table = paradigm_rows({"clip": 0.4, **others})
    odd = 0.3 * ((table["paradigm"] == "clip") & (table["seed"] == 0)).astype(float)
    assert "the seeds leave it open" in claim_1(table.assign(**{MEAN: table[MEAN] + odd}))
    assert "supervised is missing" in claim_1(table[table["paradigm"] != "supervised"])
