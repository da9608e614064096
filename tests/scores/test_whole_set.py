import numpy as np
import pytest
from scipy.stats import hypergeom

from clipmem_core.scores.prevalence import told_count
from clipmem_core.scores.whole_set import whole_count


def _by_trying(found: int, drawn: int, total: int) -> tuple[int, int]:
    """Every number of the kind that neither tail of what was found speaks against."""
    kinds = np.arange(found, total - drawn + found + 1)
    at_least = np.array([hypergeom.pmf(range(found, drawn + 1), total, kind, drawn).sum() for kind in kinds])
    at_most = np.array([hypergeom.pmf(range(found + 1), total, kind, drawn).sum() for kind in kinds])
    within = kinds[(at_least > 0.025) & (at_most > 0.025)]
    return int(within[0]), int(within[-1])


@pytest.mark.parametrize(
    ("found", "drawn", "total"), [(0, 20, 90), (3, 20, 90), (19, 20, 90), (20, 20, 21), (7, 60, 70)]
)
def test_limits_are_those_found_by_trying_every_number(found: int, drawn: int, total: int) -> None:
    estimate, low, high = whole_count(found, drawn, total)
    assert estimate == pytest.approx(found * total / drawn)
    assert (low, high) == _by_trying(found, drawn, total)


def test_a_sample_of_all_is_a_count() -> None:
    for found in (0, 3, 50):
        assert whole_count(found, 50, 50) == (found, found, found)


@pytest.mark.parametrize(
    ("kind", "drawn", "total"), [(3, 200, 1000), (40, 200, 1000), (500, 200, 1000), (900, 900, 1000)]
)
def test_the_interval_covers(kind: int, drawn: int, total: int) -> None:
    rng = np.random.default_rng(kind)
    draws = rng.hypergeometric(kind, total - kind, drawn, size=4_000)
    ends = {found: whole_count(int(found), drawn, total) for found in np.unique(draws)}
    covered = np.mean([ends[found][1] <= kind <= ends[found][2] for found in draws])
    assert covered >= 0.945  # 95 % within the noise of 4,000 draws; more where counts are few
    variance = drawn * kind / total * (1 - kind / total) * (total - drawn) / (total - 1)
    assert draws.var() == pytest.approx(variance, rel=0.1)


def test_the_interval_of_wrong_captions_covers_those_of_the_whole_set() -> None:
    """Sets of 4,000 pairs of which 6 % are wrong; a quarter is drawn, and its wrong captions are counted by score."""
    covered, total, wrong, drawn = [], 4_000, 240, 1_000
    for seed in range(60):
        rng = np.random.default_rng(seed)
        rows = rng.choice(total, drawn, replace=False)
        fit = rng.normal(np.where(rows < wrong, 0.0, 3.2), 1)
        told = told_count(fit, rng.normal(0, 1, drawn), rng.normal(1, 1, drawn), -fit)
        _, low, high = whole_count(told["estimate"], drawn, total, low=told["low"], high=told["high"])
        covered.append(low <= wrong <= high)
    assert np.mean(covered) >= 0.93


def test_a_count_that_is_uncertain_makes_it_wider() -> None:
    plain, uncertain = whole_count(20, 100, 1_000), whole_count(20, 100, 1_000, low=12, high=31)
    assert uncertain[0] == plain[0]
    assert plain[0] - uncertain[1] == pytest.approx(np.hypot(plain[0] - plain[1], 80))
    assert uncertain[2] - plain[0] == pytest.approx(np.hypot(plain[2] - plain[0], 110))
    between, above, below = (whole_count(found, 100, 1_000) for found in (2.5, 3, 2))
    assert below[1] == between[1]
    assert between[2] == above[2]


@pytest.mark.parametrize(("found", "drawn", "total"), [(5, 4, 10), (1, 11, 10), (-1, 5, 10), (0, 0, 10)])
def test_what_cannot_be_is_refused(found: int, drawn: int, total: int) -> None:
    with pytest.raises(ValueError, match="found, drawn and total must ascend"):
        whole_count(found, drawn, total)
