import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from clipmem_core.scores import detection
from clipmem_core.scores.detection import detection_table
from clipmem_core.training.trainer import Contrast


def test_lemon_is_its_formula_in_slow_loops() -> None:
    rng = np.random.default_rng(0)
    image, text = rng.normal(size=(2, 12, 5))
    near_images, near_texts = (
        np.stack([rng.permutation(12)[:3] for _ in range(12)]) for _ in range(2)
    )

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        return 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    score = detection.lemon(image, text, near_images, near_texts)
    for pair in range(12):
        expected = distance(image[pair], text[pair])
        for near, here, there in ((near_images, image, text), (near_texts, text, image)):
            for j in near[pair]:
                fading = np.exp(
                    -0.1 * distance(here[pair], here[j]) - 5 * distance(image[j], text[j])
                )
                expected += 5 * distance(there[pair], there[j]) * fading / 3
        assert score[pair] == pytest.approx(expected)


def test_the_margin_is_the_own_logit_less_torchs_logsumexp_of_the_others() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = [
        torch.nn.functional.normalize(torch.randn(9, 4, generator=generator), dim=1)
        for _ in range(3)
    ]
    trajectory = np.full((4, 10, 2), np.nan)
    expected = []
    for epoch, same in enumerate(vectors):  # equal towers: both directions have one probability
        logits = 5 * same @ same.T
        others = torch.where(torch.eye(9, dtype=torch.bool), -torch.inf, logits)
        expected.append(logits.diagonal() - torch.logsumexp(others, dim=1))
        _, log_probability_ = Contrast.apply(same, same, torch.tensor(5.0), "fp32")
        trajectory[epoch, :9, 1] = log_probability_
    found = detection.margin_over_epochs(trajectory)
    np.testing.assert_allclose(found[:9], torch.stack(expected).mean(dim=0), atol=1e-4)
    assert np.isnan(found[9])


def test_confident_learning_holds_classes_against_their_thresholds_as_a_slow_loop_does() -> None:
    rng = np.random.default_rng(0)
    probability = rng.dirichlet(np.ones(4), size=50)
    classes = rng.permutation(np.arange(50) % 4)
    found = detection._over_thresholds(probability, classes)
    threshold = [
        np.mean([p[k] for p, own in zip(probability, classes, strict=True) if own == k])
        for k in range(4)
    ]
    for p, own, score in zip(probability, classes, found, strict=True):
        others = [p[k] - threshold[k] for k in range(4) if k != own]
        assert score == pytest.approx(max(others) - (p[own] - threshold[own]))


def test_confident_learning_finds_captions_that_go_with_another_label() -> None:
    rng = np.random.default_rng(0)
    classes = np.arange(300) % 3
    features = rng.normal(size=(300, 8)) + 3 * np.eye(8)[classes]
    labels = np.array([f"c{k}" for k in classes], dtype=object)
    labels[:30] = [f"c{(k + 1) % 3}" for k in classes[:30]]
    labels[290:] = None
    labels[280:284] = "rare"
    score = detection.confident_learning(features, labels, seed=0)
    assert roc_auc_score(np.arange(280) < 30, score[:280]) > 0.98
    assert (score[280:284] == 0).all()
    assert (score[290:] == 0).all()
    with pytest.raises(ValueError, match="fewer than two labels have 5 pairs or more"):
        detection.confident_learning(features, np.array(["a"] * 300, dtype=object), seed=0)


def _case(n: int = 600, *, ties: bool = False) -> tuple[dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.random(n) < 0.1
    scores = {
        name: rng.normal(size=n) + lift * truth
        for name, lift in (("misfit", 2.0), ("weak", 0.5), ("none", 0.0))
    }
    return {name: np.round(values) if ties else values for name, values in scores.items()}, truth


@pytest.mark.parametrize("ties", [False, True])
def test_values_are_sklearns_of_all_pairs_and_of_those_drawn(ties: bool) -> None:
    scores, truth = _case(ties=ties)
    table = detection_table(scores, truth, n_boot=5).set_index("score")
    for name, score in scores.items():
        assert table.loc[name, "auroc"] == pytest.approx(roc_auc_score(truth, score))
        assert table.loc[name, "average_precision"] == pytest.approx(
            average_precision_score(truth, score)
        )
    (weights,) = detection._resamples(truth, 1, np.random.default_rng(3))
    drawn = np.repeat(np.arange(600), weights[0])
    assert truth[drawn].sum() == truth.sum()
    for score in scores.values():
        auroc, average_precision, _ = detection._metrics(score, truth, weights, 50)[:, 0]
        assert auroc == pytest.approx(roc_auc_score(truth[drawn], score[drawn]))
        assert average_precision == pytest.approx(
            average_precision_score(truth[drawn], score[drawn])
        )


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30),
    st.integers(1, 40),
)
def test_precision_at_k_is_its_mean_over_random_orders_of_ties(
    pairs: list[tuple[int, bool]], k: int
) -> None:
    score, truth = (np.array(column) for column in zip(*pairs, strict=True))
    if truth.all() or not truth.any():
        return
    k = min(k, len(truth))
    before = 0
    found = 0.0
    for value in sorted(set(score.tolist()), reverse=True):
        tied = truth[score == value]
        taken = min(len(tied), max(0, k - before))
        found += tied.mean() * taken
        before += len(tied)
    table = detection_table({"score": score}, truth, k=k, n_boot=2, reference="score")
    assert table["precision_at_k"][0] == pytest.approx(found / k)


def test_the_lead_of_the_reference_is_paired() -> None:
    scores, truth = _case()
    scores["same"] = 2 * scores["misfit"]
    table = detection_table(scores, truth, n_boot=200).set_index("score")
    assert (
        table.loc["same", ["auroc_difference", "auroc_difference_low", "auroc_difference_high"]]
        == 0
    ).all()
    lead = table.loc["misfit", "average_precision"] - table.loc["weak", "average_precision"]
    assert table.loc["weak", "average_precision_difference"] == pytest.approx(lead)
    assert table.loc["weak", "average_precision_difference_low"] > 0


def test_the_precision_curve_is_precision_at_k_and_ends_at_the_share_of_wrong_pairs() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(200) < 0.2
    score = rng.integers(0, 12, size=200).astype(float)
    numbers = np.array([1, 7, 50, 200])
    expected = [
        detection_table({"score": score}, truth, k=int(k), n_boot=1)["precision_at_k"][0]
        for k in numbers
    ]
    np.testing.assert_allclose(detection.precision_curve(score, truth, numbers), expected)
    assert expected[-1] == pytest.approx(truth.mean())
