import numpy as np
from sklearn.linear_model import Ridge

from clipmem_core.errors.tower_fit import FOLDS, TowerModel, draw_swaps, tower_values
from clipmem_core.utils.embeddings import unit


def test_similarities_are_those_of_ridge_regressions_and_slow_loops() -> None:
    rng = np.random.default_rng(0)
    n = 48
    image = rng.normal(size=(n, 9)).astype(np.float32)
    text = (image[:, :5] + rng.normal(size=(n, 5))).astype(np.float32)
    bridge = unit(rng.normal(size=(n, 4))), unit(rng.normal(size=(n, 4)))
    model = TowerModel.of(image, text, bridge, np.arange(n), seed=0)
    assert np.bincount(model.fold).tolist() == [n // FOLDS] * FOLDS
    swaps = draw_swaps(np.arange(n) < 3, seed=0)
    assert (np.sort(swaps, axis=1) == np.arange(3)).all()
    own, swapped = tower_values(model, image, text, bridge, swaps)

    def scaled(values: np.ndarray) -> np.ndarray:
        values = values - values.mean(axis=0)
        return values / np.sqrt((values**2).sum(axis=1).mean())

    def left_out(inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        predicted = np.empty_like(targets)
        for fold in range(FOLDS):
            rest = model.fold != fold
            ridge = Ridge(3.0, fit_intercept=False).fit(inputs[rest], targets[rest])
            predicted[~rest] = ridge.predict(inputs[~rest])
        return predicted

    a, b = scaled(image), scaled(text)
    centred = [part - part.mean(axis=0) for part in bridge]
    sides = [(left_out(a, b), b), (a, left_out(b, a)), (centred[0], centred[1])]
    for number, (left, right) in enumerate(sides):
        similarity = unit(left) @ unit(right).T

        def value(i: int, j: int, similarity: np.ndarray = similarity) -> float:
            others = np.setdiff1d(np.arange(n), [i, j])
            row, column = similarity[i, others], similarity[others, j]
            at = similarity[i, j]
            return float((at - row.mean()) / row.std() + (at - column.mean()) / column.std())

        expected = [value(row, row) for row in range(n)]
        np.testing.assert_allclose(own[:, number], expected, rtol=2e-3, atol=2e-3)
        for row in range(3, 9):
            expected = [value(row, int(source)) for source in swaps[row]]
            found = swapped.reshape(n, 3, 3)[row, :, number]
            np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)
    assert np.isnan(swapped.reshape(n, 3, 3)[0]).all(axis=1).sum() == 1
    new = model.values(image[:4], text[:4], (bridge[0][:4], bridge[1][:4]), (np.full(4, -1),) * 2)
    assert np.isfinite(new).all()
