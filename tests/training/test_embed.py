"""Embeddings are means of unit vectors, the same whatever the batch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from clipmem_core.training import model as under_test
from clipmem_core.training.model import build_model, mean_by_pair, mean_image_embeddings, text_embeddings
from tests.training.toys import draw_data, draw_tokens, view_maker, write_model

HOW = {"precision": "fp32", "device": "cpu"}


@pytest.fixture(params=[3, 256], ids=["three a batch", "one batch"])
def _batch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "BATCH", request.param)


@pytest.mark.usefixtures("_batch")
def test_mean_image_embeddings_equal_the_slow_mean_over_views(toy: str) -> None:
    model, data, views = build_model(toy, loss="clip", seed=0), draw_data(10), view_maker(seed=5)
    means = mean_image_embeddings(model, data, views, n_views=3, **HOW)
    assert means.dtype == np.float32
    assert means.shape == (10, 16)
    for pair in range(10):
        row = np.array([pair])
        total = torch.zeros(16)
        for view in range(3):
            image = views.images(data.pixels.gather(row), views.boxes(data.keys[row], view))
            with torch.no_grad():
                total += F.normalize(model.encode_image(image)[0], dim=0)
        np.testing.assert_allclose(means[pair], total / 3, atol=1e-5)
        assert np.linalg.norm(means[pair]) < 1


def test_views_of_one_whole_picture_average_to_a_unit_vector(toy: str) -> None:
    model = build_model(toy, loss="clip", seed=0)
    means = mean_image_embeddings(model, draw_data(4), view_maker(crop_scale=1.0), n_views=2, **HOW)
    np.testing.assert_allclose(np.linalg.norm(means, axis=1), 1, atol=1e-5)


@pytest.mark.usefixtures("_batch")
def test_text_embeddings_come_in_order_and_equal_one_by_one(toy: str) -> None:
    model, tokens = build_model(toy, loss="clip", seed=0), draw_tokens(25)
    vectors = text_embeddings(model, tokens, **HOW)
    assert vectors.dtype == np.float32
    for row, own in zip(vectors, tokens, strict=True):
        with torch.no_grad():
            expected = model.encode_text(torch.from_numpy(own[None].astype(np.int64)), normalize=True)[0]
        np.testing.assert_allclose(row, expected, atol=1e-5)


def test_bf16_embeddings_are_near_those_of_fp32_and_float32_themselves(toy: str) -> None:
    model, data, tokens = build_model(toy, loss="clip", seed=0), draw_data(5), draw_tokens(5)
    how = {"precision": "amp_bf16", "device": "cpu"}
    for exact, rough in (
        (text_embeddings(model, tokens, **HOW), text_embeddings(model, tokens, **how)),
        (
            mean_image_embeddings(model, data, view_maker(), n_views=2, **HOW),
            mean_image_embeddings(model, data, view_maker(), n_views=2, **how),
        ),
    ):
        assert rough.dtype == np.float32
        np.testing.assert_allclose(rough, exact, atol=0.03)
        assert not (rough == exact).all()


def test_embedding_does_not_drop_patches_and_keeps_no_graph(tmp_path: Path) -> None:
    model = build_model(write_model(tmp_path, patch_dropout=0.5), loss="clip", seed=0)
    model.train()
    first, second = (mean_image_embeddings(model, draw_data(4), view_maker(), n_views=2, **HOW) for _ in range(2))
    assert (first == second).all()
    model.train()
    text_embeddings(model, draw_tokens(2), **HOW)
    assert not model.training


def test_captions_are_averaged_within_their_pair_all_or_the_first_where_that_is_asked() -> None:
    vectors = np.array([[1, 0], [0, 1], [1, 1], [3, 1], [2, -2], [5, 5]], dtype=np.float32)
    means = mean_by_pair(vectors, np.array([0, 1, 4, 6]))
    np.testing.assert_allclose(means, [[1, 0], [4 / 3, 1], [3.5, 1.5]], rtol=1e-6)
    assert means.dtype == np.float32
    start = np.array([0, 1, 4, 6])
    np.testing.assert_allclose(mean_by_pair(vectors, start, first=1), vectors[[0, 1, 4]])
    np.testing.assert_allclose(mean_by_pair(vectors, start, first=2), [[1, 0], [0.5, 1], [3.5, 1.5]])
    np.testing.assert_allclose(mean_by_pair(vectors, start, first=9), mean_by_pair(vectors, start))
