"""Runs of displaced captions, found in embeddings whose right partners are known."""

import itertools

import numpy as np
import pytest

from clipmem_core.errors.runs import DisplacedRun, Fits, _complete, find_runs, maximal_segments

N = 800


def fits_of(source: np.ndarray, *, noise: float = 0.7, seed: int = 0) -> Fits:
    """Embeddings of pairs whose captions are those of `source`; four members, each trained on half
    of the pairs, which it learned as they are."""
    rng = np.random.default_rng(seed)
    meaning = rng.normal(size=(N, 24))
    image, text = [], []
    trained = rng.random((4, N)) < 0.5
    for in_training in trained:
        pictures = meaning + noise * rng.normal(size=meaning.shape)
        captions = meaning[source] + noise * rng.normal(size=meaning.shape)
        captions[in_training] = pictures[in_training]
        for vectors, into in ((pictures, image), (captions, text)):
            into.append((vectors / np.linalg.norm(vectors, axis=1)[:, None]).astype(np.float32))
    return Fits(image, text, trained, seed=0)


def planted() -> tuple[np.ndarray, dict[str, tuple[int, int]]]:
    source = np.arange(N)
    source[101:161] = np.arange(100, 160)
    source[250:290], source[600:640] = np.arange(600, 640), np.arange(250, 290)
    source[400:440] = np.arange(400, 440)[::-1]
    return source, {"shift": (100, 159), "exchange": (250, 639), "reversal": (400, 439)}


def test_runs_are_found_with_their_kind_their_ends_and_their_partners() -> None:
    source, expected = planted()
    runs = find_runs(fits_of(source), [])
    assert sorted(run.kind for run in runs) == sorted(expected)
    for run in runs:
        first, last = expected[run.kind]
        assert abs(run.rows.min() - first) <= 2
        assert abs(run.rows.max() - last) <= 2
        sure = run.probability > 0.5
        assert sure.mean() > 0.9
        assert (source[run.partners[sure]] == run.rows[sure]).mean() > 0.97
    (shift,) = (run for run in runs if run.kind == "shift")
    assert set(shift.partners - shift.rows) == {1}


def test_a_reversal_without_evidence_is_an_empty_run() -> None:
    rows = np.arange(100, 130)
    run = _complete(fits_of(np.arange(N)), rows, rows[::-1])
    assert (len(run.rows), run.score) == (0, 0)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.4])
def test_random_swaps_are_no_run(share: float) -> None:
    for seed in range(2):
        source = np.arange(N)
        swapped = np.random.default_rng(seed).choice(N, int(share * N), replace=False)
        source[swapped] = np.roll(swapped, 1)
        assert find_runs(fits_of(source, seed=seed), []) == []


def test_a_run_in_another_order_is_repaired_where_that_is_sure() -> None:
    source = np.arange(N)
    source[300:380] = np.random.default_rng(1).permutation(np.arange(300, 380))
    (run,) = find_runs(fits_of(source, noise=0.5), [])
    assert isinstance(run, DisplacedRun)
    assert (run.kind, abs(run.rows.min() - 300) <= 2) == ("reordered", True)
    sure = run.probability >= 0.9
    assert sure.sum() > 30
    assert (source[run.partners[sure]] == run.rows[sure]).mean() >= 0.9


def test_a_stretch_in_alphabetical_order_needs_misfits_and_no_repair() -> None:
    source = np.arange(N)
    source[300:380] = np.random.default_rng(1).permutation(np.arange(300, 380))
    stretches = [np.arange(100, 180), np.arange(300, 380)]
    fits = fits_of(source, noise=1.2)
    assert find_runs(fits, []) == []
    (run,) = find_runs(fits, stretches)
    assert (run.kind, run.rows.tolist()) == ("reordered", stretches[1].tolist())
    assert (run.probability > 0.5).mean() < 0.1  # too few for a run without an order


def test_segments_are_those_of_the_definition() -> None:
    """A maximal segment: every proper part has a lower sum, and no larger one has this property."""
    rng = np.random.default_rng(0)
    for _ in range(30):
        values = rng.integers(-4, 5, 12) + rng.random(12) / 10

        def grows(start: int, end: int, values: np.ndarray = values) -> bool:
            sums = np.cumsum(np.concatenate([[0], values[start:end]]))
            return sums[1:].min() > 0 and sums[:-1].max() < sums[-1]

        spans = [span for span in itertools.combinations(range(13), 2) if grows(*span)]
        largest = [
            (start, end)
            for start, end in spans
            if not any(a <= start and end <= b and (a, b) != (start, end) for a, b in spans)
        ]
        found = maximal_segments(values, 1e-9)
        assert [(first, last + 1) for _, first, last in found] == largest
        for total, first, last in found:
            assert total == pytest.approx(values[first : last + 1].sum())
    equal = np.tile([1.0, -2.0], 3_000)  # no recursion: as many segments as there are ones
    assert len(maximal_segments(equal, 0.5)) == 3_000
