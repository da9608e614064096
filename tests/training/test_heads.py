"""Heads on the features of locked towers."""

import numpy as np
import pytest
import torch

from clipmem_core.training.model import Standard, build_model, locked_model
from clipmem_core.training.views import FeatureRows, FeatureViews

FEATURES = np.random.default_rng(0).normal(3, 2, (500, 6)).astype(np.float16)


def test_standard_features_have_mean_zero_and_mean_square_one() -> None:
    found = Standard.of(FEATURES)(torch.from_numpy(FEATURES).float()).numpy()
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-4)
    assert (found**2).mean() == pytest.approx(1, abs=1e-4)


def test_a_constant_feature_is_no_division_by_zero() -> None:
    standard = Standard.of(np.ones((3, 2), np.float16))
    assert torch.equal(standard(torch.ones(1, 2)), torch.zeros(1, 2))


def test_the_first_weights_are_a_function_of_the_seed() -> None:
    one, same, other = (locked_model(6, 4, dim=3, loss="clip", seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["visual.head.proj.weight"], other["visual.head.proj.weight"])


def test_both_losses_start_where_open_clip_starts_them() -> None:
    for loss in ("clip", "siglip"):
        model, whole = locked_model(6, 4, dim=3, loss=loss, seed=0), build_model("tiny", loss=loss, seed=0)
        assert model.logit_scale.item() == pytest.approx(whole.logit_scale.item())
        assert (model.logit_bias is not None) == (loss == "siglip")


def test_a_tower_that_is_not_locked_is_that_of_the_whole_model() -> None:
    whole, same = (build_model("tiny", loss="clip", seed=3) for _ in range(2))
    dim = same.visual.output_dim
    model = locked_model(6, 0, dim=dim, loss="clip", seed=3, whole=whole)
    tokens = torch.ones(2, same.context_length, dtype=torch.int64)
    torch.testing.assert_close(model.eval().encode_text(tokens), same.eval().encode_text(tokens))
    assert model.encode_image(torch.zeros(2, 6)).shape == (2, dim)


def test_a_view_to_train_on_has_a_fifth_of_its_numbers_at_their_mean() -> None:
    mean = torch.from_numpy(FEATURES.astype(np.float32)).mean(dim=0)
    keys = np.arange(500, dtype=np.uint64) * np.uint64(7919)
    views = FeatureViews(mean, seed=4)
    seen = views.training_images(FEATURES, keys, 2)
    dropped = seen == mean
    assert dropped.float().mean().item() == pytest.approx(0.2, abs=0.03)
    kept = mean + (torch.from_numpy(FEATURES).float() - mean) / 0.8
    torch.testing.assert_close(seen[~dropped], kept[~dropped], atol=1e-5, rtol=1e-5)
    alone = FeatureViews(mean, seed=4).training_images(FEATURES[7:8], keys[7:8], 2)
    torch.testing.assert_close(alone[0], seen[7])  # whoever else is in the batch
    assert not torch.equal(views.training_images(FEATURES, keys, 3), seen)
    assert torch.equal(views.evaluation_images(FEATURES, keys, 0), torch.from_numpy(FEATURES).float())


def test_rows_of_features_are_gathered_in_the_order_asked_for() -> None:
    np.testing.assert_array_equal(FeatureRows(FEATURES).gather(np.array([3, 1])), FEATURES[[3, 1]])
