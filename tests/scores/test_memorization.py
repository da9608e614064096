import numpy as np
import pytest
from scipy.special import digamma
from scipy.stats import spearmanr, ttest_1samp

from clipmem_core.scores import memorization
from clipmem_core.scores.membership import InOut, Membership, in_minus_out
from clipmem_core.scores.memorization import group_summary, memorization_table
from clipmem_core.scores.registry import SCORE_COLUMNS
from clipmem_core.utils.columns import COMPONENTS
from tests.scores.simulated import ensemble_in_out, noisy, paper_in_out


def test_a_two_by_two_ensemble_by_hand() -> None:
    groups = np.repeat(["scored", "held-out"], 2)
    members = ("r0-f0", "r0-f1", "r1-f0", "r1-f1")
    drawn = Membership(groups, members, np.eye(2, 4, dtype=bool)[[0, 1, 0, 1]])
    alignment = np.array([[0.9, 0.1], [0.1, 0.7], [0.7, 0.2], [0.3, 0.5]])
    alignment = np.hstack([alignment, np.tile([0.2, 0.0], (4, 1))])
    components = [dict.fromkeys(COMPONENTS, row) for row in alignment]
    table = memorization_table(components, InOut(drawn, 0))
    assert list(table) == SCORE_COLUMNS[2:20]
    # In minus out is 0.8 and 0.4 in the repeats of one pair, 0.6 and 0.3 in those of the other: two
    # variances of a mean, 0.04 and 0.0225, of one degree of freedom, which differ no more than two
    # samples of one variance do. What both say of it is the mean of their logs, less that of χ²(1).
    pooled = np.sqrt(0.04 * 0.0225) * np.exp(np.log(0.5) - digamma(0.5))
    expected = {
        "n_in": [2, 2, 0, 0],
        "n_out": [2, 2, 4, 4],
        "clipmem": [0.6, 0.45, 0, 0],
        "clipmem_relative": [1.0, 0.75, 0, 0],
        "se": [np.sqrt(pooled)] * 2,
        "p_value": [1 / 9, 1 / 9],  # two held-out pairs, four labellings each
        "q_value": [1 / 9, 1 / 9, np.nan, np.nan],
        "clipmem_shrunk": [np.nan] * 4,  # two pairs have no distribution
        "alignment_in": [0.8, 0.6],
        "positive_out": [0.2, 0.15],
        "similarity_in": [0.8, 0.6, np.nan, np.nan],
        "similarity_out": [0.2, 0.15, 0.2, 0.0],
    }
    for name, values in expected.items():
        found = table[name].tolist()[: len(values)]
        assert found == pytest.approx(values, nan_ok=True), name


def test_a_paper_audit_by_hand() -> None:
    groups = np.array(["shared", "candidate", "independent", "held-out", "held-out"])
    trained = np.array([[1, 1, 0, 0, 0], [1, 0, 1, 0, 0]], dtype=bool)
    drawn = Membership(groups, ("f-0", "g-0"), trained)
    f = np.array([0.5, 0.9, 0.2, 0.1, 0.2])
    g = np.array([0.5, 0.3, 0.7, 0.2, 0.1])
    components = [dict.fromkeys(COMPONENTS, f), dict.fromkeys(COMPONENTS, g)]
    table = memorization_table(components, InOut(drawn, 0))
    expected = {
        "n_in": [2, 1, 1, 0, 0],
        "n_out": [0, 1, 1, 2, 2],
        "clipmem": [0, 0.6, -0.5, -0.1, 0.1],
        "negative_text_out": g,
        "similarity_in": [0.5, 0.9, 0.7, np.nan, np.nan],
        "similarity_out": [np.nan, 0.3, 0.2, 0.15, 0.15],
        "se": [np.sqrt(0.02)] * 5,
    }
    for name, values in expected.items():
        np.testing.assert_allclose(table[name], values, atol=1e-9, err_msg=name)
    assert table["p_value"].tolist()[1:3] == pytest.approx([1 / 3, 1 / 3])


def test_three_seeds_give_a_t_interval_over_the_means_of_each_seed() -> None:
    in_out, alignments = noisy(paper_in_out(2_200, seeds=3), memorized=1.0)
    group = in_out.membership.group
    summary = group_summary(alignments, in_out).set_index("group")
    assert list(summary.index) == ["candidate", "independent", "shared", "held-out"]
    assert set(summary["kind"]) == {"95% interval over seeds"}
    candidates = group == "candidate"
    means = np.subtract(alignments[0::2], alignments[1::2])[:, candidates].mean(axis=1)
    interval = ttest_1samp(means, 0).confidence_interval()
    found = summary.loc["candidate", ["n", "mean", "low", "high"]].tolist()
    expected = [candidates.sum(), np.mean(means), interval.low, interval.high]
    assert found == pytest.approx(expected)
    assert summary.loc["independent", "mean"] == pytest.approx(-1, abs=0.2)


@pytest.mark.parametrize(("replicates", "noise"), [(2, 1.0), (3, 2.0), (6, 4.0)])
def test_reliability_is_the_rank_agreement_with_a_second_audit(
    replicates: int, noise: float
) -> None:
    """Two audits of 20,000 pairs, whose members see what is lasting in each pair with noise of
    their own."""
    n_pairs = 22_000
    in_out = ensemble_in_out(n_pairs, replicates=replicates)
    trained = in_out.membership.trained
    lasting = np.random.default_rng(9).normal(size=n_pairs)
    audits = []
    for seed in (1, 2):
        deviations = np.random.default_rng(seed).normal(size=trained.shape)
        audits.append(list(lasting * trained + noise * deviations))
    clipmem = [in_minus_out(audit, trained)[~in_out.held_out] for audit in audits]
    stability = memorization.ranking_stability(audits[0], in_out)
    found = memorization.ranking_reliability(stability, replicates)
    assert found == pytest.approx(spearmanr(*clipmem).statistic, abs=0.02)


def test_sslmem_is_the_mean_cosine_of_different_views_in_minus_out() -> None:
    rng = np.random.default_rng(0)
    views = rng.normal(size=(4, 220, 4, 5))
    views /= np.linalg.norm(views, axis=-1, keepdims=True)
    squares = (views.mean(axis=2) ** 2).sum(axis=-1)
    components = [{"image_square": each, "text_square": each} for each in squares]
    captions = np.where(np.arange(220) < 3, 1, 4)
    table = memorization.sslmem(
        components, paper_in_out(220, seeds=2), n_views=4, n_captions=captions
    )
    cosine = (views @ views.swapaxes(2, 3))[..., ~np.eye(4, dtype=bool)].mean(axis=-1)
    expected = (cosine[0] + cosine[2] - cosine[1] - cosine[3]) / 2
    np.testing.assert_allclose(table["sslmem_image"], expected)
    np.testing.assert_allclose(table["sslmem_text"][3:], expected[3:])
    assert table["sslmem_text"][:3].isna().all()
