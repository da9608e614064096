"""Near-duplicates by features, against a loop over all pairs."""

import numpy as np
import pytest

from clipmem_core.features import near_duplicates
from clipmem_core.features.near_duplicates import alike_by_features


def by_loop(features: np.ndarray, threshold: float) -> list[int]:
    """Join clusters pair by pair."""
    centred = features - features.mean(axis=0)
    clusters = list(range(len(features)))
    for i in range(len(features)):
        for j in range(i):
            cosine = centred[i] @ centred[j] / np.linalg.norm(centred[i]) / np.linalg.norm(centred[j])
            if cosine >= threshold:
                low, high = sorted((clusters[i], clusters[j]))
                clusters = [low if cluster == high else cluster for cluster in clusters]
    return clusters


@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.99])
def test_clusters_are_those_of_a_slow_loop(threshold: float) -> None:
    rng = np.random.default_rng(4)
    centres = rng.normal(size=(12, 6))
    features = np.concatenate([centres + rng.normal(scale=0.08, size=centres.shape) for _ in range(5)])
    assert alike_by_features(features, threshold=threshold).tolist() == by_loop(features, threshold)


def test_many_features_are_searched_in_cells_and_nearly_all_links_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    features = rng.normal(size=(1500, 96)).astype(np.float16)
    noise = rng.normal(scale=rng.uniform(0.05, 0.4, size=(500, 1)), size=(500, 96))  # cosines of 0.93 to 1
    features = np.concatenate([features, features[:500] + noise.astype(np.float16)])
    exact = alike_by_features(features)
    monkeypatch.setattr(near_duplicates, "EXACT_UP_TO", 100)
    monkeypatch.setattr(near_duplicates, "QUERIES", 7)  # some blocks a cell, on either side
    monkeypatch.setattr(near_duplicates, "BLOCK", 5)
    found = alike_by_features(features)
    linked = exact != np.arange(2000)
    assert 300 < linked.sum() < 500
    assert (found[linked] == exact[linked]).mean() > 0.98
    assert (found[~linked] == exact[~linked]).all()  # each is checked in full: none too many
