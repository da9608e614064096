import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar

from clipmem_core.errors.batch import batch_share
from clipmem_core.errors.counts import estimate_wrong, posterior_at
from clipmem_core.scores.score_tables import second_round


def drawn(
    seed: int, wrong: int, *, pairs: int = 1000, distance: float = 4.0
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of pairs, the wrong ones first, and of as many swapped pairs."""
    rng = np.random.default_rng(seed)
    fit = np.concatenate([rng.normal(0, 1, wrong), rng.normal(distance, 1, pairs - wrong)])
    return fit, rng.normal(0, 1, pairs)


def test_the_number_of_swapped_captions_is_estimated() -> None:
    for seed, wrong in itertools.product(range(2), (10, 50, 200, 400)):
        assert estimate_wrong(*drawn(seed, wrong)).estimate == pytest.approx(wrong, rel=0.2, abs=4)


def test_the_posterior_is_that_of_two_known_densities() -> None:
    """Bayes' rule with the true normal densities is the independent answer."""
    fit, swapped = drawn(0, 300, pairs=4000, distance=3.0)
    found = estimate_wrong(fit, swapped)
    wrong = 300 * np.exp(-(fit**2) / 2)
    right = 3700 * np.exp(-((fit - 3) ** 2) / 2)
    posterior = posterior_at(found.curve, fit)
    assert np.abs(posterior - wrong / (wrong + right)).mean() < 0.02
    assert found.estimate == pytest.approx(posterior.sum(), rel=0.01)
    # The ratio of two normal densities with means 0 and 3 is linear
    shown = np.linspace(0, 3, 7)
    np.testing.assert_allclose(np.interp(shown, *found.ratio), 4.5 - 3 * shown, atol=0.5)


@pytest.mark.parametrize("wrong", [20, 400, 1700])
def test_the_share_of_another_batch_is_that_of_maximum_likelihood(wrong: int) -> None:
    fit, swapped = drawn(0, 40, pairs=2000)
    ratio = np.interp(drawn(1, wrong, pairs=2000)[0], *estimate_wrong(fit, swapped).ratio)
    weight = np.ones(2000)
    weight[::7] = 0.5

    def loss(share: float) -> float:
        prior = np.log(share * (1 - share)) / 2
        return -float(weight @ np.log(share * np.exp(ratio) + 1 - share) + prior)

    best = minimize_scalar(loss, bounds=(1e-6, 1 - 1e-6), method="bounded", options={"xatol": 1e-8})
    assert batch_share(ratio, weight) == pytest.approx(best.x, rel=1e-3)
    assert batch_share(ratio, np.ones(2000)) == pytest.approx(wrong / 2000, rel=0.25)


def test_a_second_round_leaves_out_the_most_suspicious() -> None:
    fit, swapped = drawn(0, 50)
    misfit = np.random.default_rng(3).permutation(1000).astype(float)
    scores = pd.DataFrame({"misfit": misfit, "fit_out": fit})
    scores["group"] = "scored"
    read = np.ones(1000, bool)
    out = second_round(scores, swapped, "2", read)
    assert out.sum() == round(estimate_wrong(fit, swapped).estimate) > 30
    assert misfit[out].min() > misfit[~out].max()
    assert not second_round(scores, swapped, "auto", read).any()
    assert not second_round(scores[:3], swapped, "2", read[:3]).any()


def test_wrong_captions_of_two_kinds_are_counted() -> None:
    """Those of the second kind score like right ones: only the first kind shows their share."""
    rng = np.random.default_rng(0)
    fit = np.concatenate([rng.normal(0, 1, 60), rng.normal(5, 1, 1940)])
    kinds = rng.normal(0, 1, 1000), rng.normal(5, 1, 1000)
    count = estimate_wrong(fit, *kinds)
    assert 60 <= count.estimate <= 120  # the second kind may be half of them
    posterior = posterior_at(count.curve, fit)
    assert posterior[:60].mean() > 0.9
    assert posterior[60:].mean() < 0.1


def test_a_lower_score_never_has_a_lower_probability() -> None:
    fit, swapped = drawn(0, 50)
    fit = np.sort(np.append(fit, [-40.0, 40.0]))
    posterior = posterior_at(estimate_wrong(fit, swapped).curve, fit)
    assert (np.diff(posterior) <= 0).all()
    assert posterior[0] > 0.95 > 0.01 > posterior[-1]
