import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ortho_group

from clipmem_core.scores.encoders import UnitTally, compare_parts, contributions
from clipmem_core.utils.embeddings import unit
from tests.scores.simulated import ensemble_in_out, paper_in_out

N = 220
DIM = 6


def _units(rng: np.random.Generator, n_rows: int = N) -> np.ndarray:
    return unit(rng.normal(size=(n_rows, DIM))).astype(np.float32)


def _members(n_members: int, *, noise: float = 0.3) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Members that embed the same vectors with different noise, so that there is a space to map
    to."""
    rng = np.random.default_rng(0)
    without_noise = _units(rng), _units(rng)
    image, text = ([side + noise * _units(rng) for _ in range(n_members)] for side in without_noise)
    return image, text


def _h(image: np.ndarray, text: np.ndarray, held_out: np.ndarray, pair: int) -> float:
    others = [row for row in np.flatnonzero(held_out) if row != pair]
    negatives = image[pair] @ text[others].mean(axis=0) + image[others].mean(axis=0) @ text[pair]
    return float(image[pair] @ text[pair] - negatives)


def test_members_that_differ_in_text_have_a_text_part_alone() -> None:
    in_out = paper_in_out(N)
    (image,), (text,) = _members(1)
    parts, fit = contributions([image] * 2, [text] * 2, in_out)
    np.testing.assert_allclose(parts, 0, atol=1e-6)
    assert fit == pytest.approx(1)
    # Equal on shared pairs: R is the identity
    candidate = in_out.membership.group == "candidate"
    memorizing = np.where(candidate[:, None], image, text)
    parts, _ = contributions([image] * 2, [memorizing, text], in_out)
    np.testing.assert_allclose(parts["clipmem_image"], 0, atol=1e-6)
    assert parts["clipmem_text"][candidate].mean() > 0.5


def test_rotating_a_members_space_changes_nothing() -> None:
    in_out = ensemble_in_out(N)
    image, text = _members(4)
    before, _ = contributions(image, text, in_out)
    for member in (0, 2):
        rotation = ortho_group.rvs(DIM, random_state=member).astype(np.float32)
        image[member] = image[member] @ rotation
        text[member] = text[member] @ rotation
    after, _ = contributions(image, text, in_out)
    np.testing.assert_allclose(after, before, atol=1e-5)


def test_the_linear_form_is_the_mean_over_all_pairs_of_in_and_out_members() -> None:
    in_out = ensemble_in_out(N, folds=3)
    image, text = _members(6, noise=0.0)
    held_out = in_out.held_out
    rng = np.random.default_rng(5)
    # Members agree on held-out pairs, so that every map is the identity
    for matrix in (*image, *text):
        matrix[~held_out] += 0.5 * _units(rng, int((~held_out).sum()))
    parts, _ = contributions(image, text, in_out)
    for pair in [*np.flatnonzero(held_out)[:3], *np.flatnonzero(~held_out)[:5]]:
        shares = []
        inside = in_out.inside[:, pair]
        for f, g in itertools.product(np.flatnonzero(inside), np.flatnonzero(~inside)):
            pairs = ((f, g), (g, g), (f, f), (g, f))
            fg, gg, ff, gf = (_h(image[a], text[b], held_out, pair) for a, b in pairs)
            shares.append((fg - gg + ff - gf) / 2)
        assert parts["clipmem_image"][pair] == pytest.approx(np.mean(shares), abs=1e-5)


def test_the_interval_of_a_difference_is_that_of_the_jackknife_and_the_pairs() -> None:
    in_out = ensemble_in_out(N, folds=3)
    image, text = _members(6)
    for member in range(6):  # what a member trains on, its text encoder remembers
        rows = in_out.membership.trained[member]
        text[member][rows] += 0.3 * image[member][rows]
    scored = ~in_out.held_out
    rare = np.zeros(N, bool)
    table = compare_parts(image, text, in_out, {"scored": scored, "none": rare})
    row = table.set_index("group").loc["scored"]
    parts, _ = contributions(image, text, in_out)
    difference = (parts["clipmem_text"] - parts["clipmem_image"])[scored]
    assert row["difference"] == pytest.approx(difference.mean())
    assert row["text"] + row["image"] == pytest.approx(parts[scored].sum(axis=1).mean())
    without = []
    for member in range(6):
        kept = [each for each in range(6) if each != member]
        membership = replace(
            in_out.membership,
            members=tuple(in_out.membership.members[each] for each in kept),
            trained=in_out.membership.trained[kept],
        )
        part, _ = contributions(
            [image[each] for each in kept],
            [text[each] for each in kept],
            replace(in_out, membership=membership),
        )
        without.append((part["clipmem_text"] - part["clipmem_image"])[scored].mean())
    over_members = 5 / 6 * ((np.array(without) - np.mean(without)) ** 2).sum()
    half = 1.959964 * np.sqrt(over_members + difference.sem() ** 2)
    assert row["high"] - row["difference"] == pytest.approx(half)
    assert table.set_index("group").loc["none", ["low", "high"]].isna().all()


def streamed(values: np.ndarray, order: np.ndarray, *, batch: int) -> pd.DataFrame:
    """Count a table [n_pairs, n_units] batch by batch."""
    tally = UnitTally(values.shape[1])
    for part in np.split(order, range(batch, len(order), batch)):
        tally.add(part, values[part])
    return tally.scores()


def test_streaming_in_any_order_is_the_table_in_memory() -> None:
    rng = np.random.default_rng(0)
    values = np.exp(3 * rng.normal(size=(60, 5))) * (rng.random((60, 5)) < 0.8)
    values[:, 3] = rng.integers(0, 3, 60)
    values[:, 4] = 0
    values = values.astype(np.float32)
    scores = streamed(values, rng.permutation(60), batch=9)
    for unit_number in np.flatnonzero(values.any(axis=0)):
        activations = values[:, unit_number].astype(np.float64)
        found = scores.loc[unit_number]
        row = activations.argmax()
        others = np.delete(activations, row)
        rest = others.mean()
        by_mean = (activations[row] - rest) / (activations[row] + rest)
        np.testing.assert_allclose(found.unitmem_mean, by_mean, rtol=1e-9, atol=1e-12)
        assert found.row == row
    assert np.isnan(scores.unitmem_mean[4])
    assert scores.row[4] == -1
