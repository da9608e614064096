import numpy as np
import pytest
from scipy.special import digamma

from clipmem_core.columns import TERMS
from clipmem_core.scores.in_out import Sides
from clipmem_core.scores.membership import Membership, ensemble_membership, paper_membership
from clipmem_core.scores.memorization import memorization_table, relative
from clipmem_core.scores.table import SCORE_COLUMNS


def _terms(rng: np.random.Generator, n_members: int, n_pairs: int) -> list[dict[str, np.ndarray]]:
    return [{term: rng.normal(size=n_pairs).astype(np.float32) for term in TERMS} for _ in range(n_members)]


def _membership(groups: list[str], members: tuple[str, ...], trained: list[list[int]]) -> Membership:
    return Membership(np.array(groups), members, np.array(trained, dtype=bool))


def test_a_two_by_two_ensemble_by_hand() -> None:
    drawn = _membership(
        ["scored", "scored", "external", "external"],
        ("r0-f0", "r0-f1", "r1-f0", "r1-f1"),
        [[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]],
    )
    alignment = [[0.9, 0.1, 0.2, 0.0], [0.1, 0.7, 0.2, 0.0], [0.7, 0.2, 0.2, 0.0], [0.3, 0.5, 0.2, 0.0]]
    terms = [{term: np.array(row) for term in TERMS} for row in alignment]
    table = memorization_table(terms, Sides(drawn, "ensemble", 0))
    assert table["clipmem"].tolist() == pytest.approx([0.8 - 0.2, 0.6 - 0.15, 0, 0])
    assert table["alignment_in"].tolist()[:2] == pytest.approx([0.8, 0.6])
    assert table["positive_out"].tolist()[:2] == pytest.approx([0.2, 0.15])
    assert table["clipmem_relative"].tolist() == pytest.approx([1.0, 0.75, 0, 0])
    assert table["n_in"].tolist() == [2, 2, 0, 0]
    assert table["n_out"].tolist() == [2, 2, 4, 4]
    assert table["p_value"].tolist()[:2] == pytest.approx([1 / 9, 1 / 9])  # two external pairs, four labellings each
    assert table["q_value"].tolist()[:2] == pytest.approx([1 / 9, 1 / 9])
    assert table["q_value"][2:].isna().all()
    # In minus out is 0.8 and 0.4 in the repeats of one pair, 0.6 and 0.3 in those of the other: two variances of a
    # mean, 0.04 and 0.0225, of one degree of freedom, which differ no more than two samples of one variance do. What
    # both say of it is the mean of their logs, less that of χ²(1).
    pooled = np.sqrt(0.04 * 0.0225) * np.exp(np.log(0.5) - digamma(0.5))
    assert table["se"].tolist()[:2] == pytest.approx([np.sqrt(pooled)] * 2)
    assert table["clipmem_shrunk"].isna().all()  # two pairs have no distribution
    assert table["similarity_in"].isna().tolist() == [False, False, True, True]
    assert table["similarity_out"].tolist() == pytest.approx([0.2, 0.15, 0.2, 0.0])


def test_a_paper_audit_by_hand() -> None:
    drawn = _membership(
        ["shared", "candidate", "independent", "external", "external"],
        ("f-0", "g-0"),
        [[1, 1, 0, 0, 0], [1, 0, 1, 0, 0]],
    )
    f, g = np.array([0.5, 0.9, 0.2, 0.1, 0.2]), np.array([0.5, 0.3, 0.7, 0.2, 0.1])
    terms = [dict.fromkeys(TERMS, f), dict.fromkeys(TERMS, g)]
    table = memorization_table(terms, Sides(drawn, "paper", 0))
    assert table["clipmem"].tolist() == pytest.approx([0, 0.6, -0.5, -0.1, 0.1])
    assert table["alignment_in"].tolist() == f.tolist()
    assert table["negative_text_out"].tolist() == g.tolist()
    assert table["n_in"].tolist() == [2, 1, 1, 0, 0]
    assert table["n_out"].tolist() == [0, 1, 1, 2, 2]
    np.testing.assert_allclose(table["similarity_in"], [0.5, 0.9, 0.7, np.nan, np.nan])
    np.testing.assert_allclose(table["similarity_out"], [np.nan, 0.3, 0.2, 0.15, 0.15])
    assert table["p_value"].tolist()[1:3] == pytest.approx([1 / 3, 1 / 3])
    assert table["se"].tolist() == pytest.approx([np.sqrt(0.02)] * 5)


def test_swapping_f_and_g_flips_the_sign_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    drawn, terms = paper_membership(np.arange(300), seeds=2, seed=0), _terms(rng, 4, 300)
    group = drawn.group.copy()
    group[drawn.group == "candidate"], group[drawn.group == "independent"] = "independent", "candidate"
    swapped = Membership(group, drawn.members, drawn.trained[[1, 0, 3, 2]])
    table = memorization_table(terms, Sides(drawn, "paper", 0))
    mirror = memorization_table([terms[row] for row in (1, 0, 3, 2)], Sides(swapped, "paper", 0))
    np.testing.assert_allclose(table["clipmem"], -mirror["clipmem"], atol=1e-6)
    judged = np.isin(group, ["candidate", "independent"])
    for column in ("p_value", "q_value"):
        np.testing.assert_allclose(table[column][judged], mirror[column][judged], atol=1e-6)
    for column in ("se", "n_in", "n_out", "similarity_in", "similarity_out"):
        np.testing.assert_allclose(table[column], mirror[column], atol=1e-6)


def test_the_table_has_the_columns_of_the_contract_in_its_order() -> None:
    drawn = ensemble_membership(np.arange(250), folds=2, repeats=2, seed=0)
    table = memorization_table(_terms(np.random.default_rng(0), 4, 250), Sides(drawn, "ensemble", 0))
    assert list(table) == SCORE_COLUMNS[2:20]
    assert len(table) == 250
    with pytest.raises(ValueError, match="one mapping for each of 4 members, not 3"):
        memorization_table(_terms(np.random.default_rng(0), 3, 250), Sides(drawn, "ensemble", 0))
    assert relative(np.zeros(2)).tolist() == [0, 0]


def test_external_pairs_of_an_ensemble_are_scored_around_zero_in_spite_of_members_that_differ() -> None:
    drawn = ensemble_membership(np.arange(3_000), folds=2, repeats=2, seed=0)
    terms = [{term: np.full(3_000, float(member)) for term in TERMS} for member in range(4)]
    table = memorization_table(terms, Sides(drawn, "ensemble", 0))
    external = table["clipmem"][drawn.group == "external"]
    assert external.unique().tolist() != [0]
    assert abs(external.mean()) < 0.2
