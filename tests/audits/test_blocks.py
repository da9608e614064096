"""What members tell of pairs a block at a time, against all pairs at once."""

from pathlib import Path

import numpy as np
import pytest

from clipmem_core.audits import blocks
from clipmem_core.audits.blocks import Members, compare, compare_blocks, kept_on_disk, on_disk
from clipmem_core.scores.alignment import pair_terms
from clipmem_core.scores.in_out import Sides
from clipmem_core.scores.membership import ensemble_membership

N, DIM = 1_100, 16


@pytest.fixture
def members() -> tuple[list[np.ndarray], list[np.ndarray], Sides]:
    rng = np.random.default_rng(0)
    image, text = (list(rng.normal(size=(4, N, DIM)).astype(np.float32)) for _ in range(2))
    return image, text, Sides(ensemble_membership(np.arange(N), folds=4, repeats=1, seed=1, halves=True), "ensemble", 1)


@pytest.mark.parametrize("apart", [False, True])
def test_blocks_give_what_all_pairs_at_once_do(
    members: tuple[list[np.ndarray], list[np.ndarray], Sides],
    apart: bool,
    tmp_path: Path,
) -> None:
    image, text, sides = members
    if apart:
        half = np.zeros(N, bool)
        half[np.flatnonzero(sides.external)[::2]] = True
        sides = Sides(sides.membership, "ensemble", 1, half)
    said: list[str] = []
    terms, found = compare_blocks(Members(image, text, sides, [10.0] * 4), tmp_path, say=said.append, block=96)
    whole = compare(image, text, sides, [10.0] * 4)
    for a, b, own in zip(image, text, terms, strict=True):
        at_once = pair_terms(a, b, sides.external)
        assert own.keys() == at_once.keys()
        for name, values in at_once.items():
            np.testing.assert_allclose(own[name], values, atol=1e-5)
    np.testing.assert_allclose(found.parts, whole.parts, atol=1e-5)
    np.testing.assert_allclose(found.out, whole.out, atol=1e-5)
    assert found.fits == pytest.approx(whole.fits, abs=1e-5)
    assert not found.missing
    assert len(said) == 12
    assert [path.name for path in tmp_path.iterdir()] == [".whole"]


def test_what_cannot_be_mapped_has_no_parts_and_says_why(
    members: tuple[list[np.ndarray], list[np.ndarray], Sides], tmp_path: Path
) -> None:
    image, text, sides = members
    image[1], text[1] = image[1][:, :5], text[1][:, :5]
    terms, found = compare_blocks(Members(image, text, sides, [10.0] * 4), tmp_path, block=500)
    assert "embed in one width" in found.missing
    assert np.isnan(found.parts).all()
    assert np.isfinite(found.out).all()
    assert np.isfinite(terms[1]["alignment"]).all()


@pytest.mark.parametrize(("count", "dim", "pairs"), [(4, 256, 65_536), (16, 256, 16_384), (64, 1_024, 4_096)])
def test_the_more_members_the_fewer_pairs_a_block_has(count: int, dim: int, pairs: int) -> None:
    matrix = np.broadcast_to(np.float32(0), (60_000, dim))
    sides = Sides(ensemble_membership(np.arange(60_000), folds=2, repeats=1, seed=0), "ensemble", 0)
    assert sides.external.sum() == 5_000
    assert Members([matrix] * count, [matrix] * count, sides, []).block == pairs


def test_large_values_are_held_in_a_file(tmp_path: Path) -> None:
    values = np.arange(blocks.MAPPED_FROM // 8 + 1, dtype=np.float64)
    held = kept_on_disk(values, tmp_path)
    assert isinstance(held.base, np.memmap)
    np.testing.assert_array_equal(held, values)
    assert not isinstance(on_disk(tmp_path, (9,), np.float32).base, np.memmap)
