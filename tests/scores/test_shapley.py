import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes
from scipy.stats import ortho_group

from clipmem_core.config import InputError
from clipmem_core.scores.alignment import pair_terms
from clipmem_core.scores.in_out import Sides
from clipmem_core.scores.membership import Membership, ensemble_membership, paper_membership
from clipmem_core.scores.memorization import memorization_table, sslmem
from clipmem_core.scores.shapley import contributions, map_fit, procrustes

N, DIM = 220, 6
Matrices = list[np.ndarray]


def _units(rng: np.random.Generator, n_rows: int = N, dim: int = DIM) -> np.ndarray:
    vectors = rng.normal(size=(n_rows, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def _members(n_members: int, *, seed: int = 0, noise: float = 0.3) -> tuple[Matrices, Matrices]:
    """Members that see one world with noise of their own, so that there is a space to map to."""
    rng = np.random.default_rng(seed)
    world = _units(rng), _units(rng)
    image, text = ([side + noise * _units(rng) for _ in range(n_members)] for side in world)
    return image, text


def _clipmem(image: Matrices, text: Matrices, drawn: Membership, protocol: str) -> np.ndarray:
    terms = [pair_terms(a, b, drawn.group == "external") for a, b in zip(image, text, strict=True)]
    return memorization_table(terms, Sides(drawn, protocol, 0))["clipmem"].to_numpy()


def _h(image: np.ndarray, text: np.ndarray, external: np.ndarray, pair: int) -> float:
    others = [row for row in np.flatnonzero(external) if row != pair]
    negatives = image[pair] @ text[others].mean(axis=0) + image[others].mean(axis=0) @ text[pair]
    return float(image[pair] @ text[pair] - negatives)


def test_procrustes_is_scipys_and_recovers_a_rotation() -> None:
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(2, 50, 7))
    np.testing.assert_allclose(procrustes(source, target), orthogonal_procrustes(source, target)[0], atol=1e-6)
    turn = ortho_group.rvs(7, random_state=1)
    np.testing.assert_allclose(procrustes(source, source @ turn), turn, atol=1e-6)
    assert map_fit(target, target @ turn, turn) == pytest.approx(1)
    assert abs(map_fit(rng.normal(size=(5_000, 7)), rng.normal(size=(5_000, 7)), turn)) < 0.02
    with pytest.raises(ValueError, match=r"one shape, not \(50, 7\) and \(49, 7\)"):
        procrustes(source, target[1:])
    rows = np.random.default_rng(0).normal(size=(3, 9))
    np.testing.assert_allclose(procrustes(rows, rows), np.eye(9), atol=1e-6)


@pytest.mark.parametrize(("protocol", "seeds"), [("paper", 1), ("paper", 3), ("ensemble", 0)])
def test_the_two_parts_add_up_to_clipmem_in_every_row(protocol: str, seeds: int) -> None:
    ids = np.arange(N)
    if protocol == "paper":
        drawn = paper_membership(ids, seeds=seeds, seed=0)
    else:
        drawn = ensemble_membership(ids, folds=3, repeats=2, seed=0)
    image, text = _members(len(drawn.members))
    parts, fits = contributions(image, text, Sides(drawn, protocol, 0))
    np.testing.assert_allclose(parts.sum(axis=1), _clipmem(image, text, drawn, protocol), atol=1e-5)
    assert list(parts) == ["clipmem_image", "clipmem_text"]
    mapped = [member for member in drawn.members if member.startswith("f" if protocol == "paper" else "r")]
    assert list(fits) == (mapped if protocol == "paper" else mapped[1:])
    assert all(0.8 < fit < 1 for fit in fits.values())


def test_the_map_is_fitted_on_every_shared_pair() -> None:
    drawn = paper_membership(np.arange(N), seeds=1, seed=0)
    image, text = _members(2)
    external, shared = drawn.group == "external", drawn.group == "shared"
    parts, _ = contributions(image, text, Sides(drawn, "paper", 0))
    rows = [np.concatenate([image[member][shared], text[member][shared]]) for member in (0, 1)]
    turn, _ = orthogonal_procrustes(*rows)
    f, g = (image[0] @ turn, text[0] @ turn), (image[1], text[1])
    for pair in range(0, N, 20):
        fg, gg, ff, gf = (_h(a[0], b[1], external, pair) for a, b in ((f, g), (g, g), (f, f), (g, f)))
        assert parts["clipmem_image"][pair] == pytest.approx((fg - gg + ff - gf) / 2, abs=1e-5)


def test_the_fit_is_that_of_pairs_that_the_map_was_not_fitted_on() -> None:
    """A map that sees a few pairs can turn any onto any, so that those which it saw would seem to fit."""
    drawn = paper_membership(np.arange(N), seeds=1, seed=0)
    rng, dim = np.random.default_rng(0), 40
    image, text = ([_units(rng, dim=dim) for _ in range(2)] for _ in range(2))
    _, fits = contributions(image, text, Sides(drawn, "paper", 0))
    shared = drawn.group == "shared"
    rows = [np.concatenate([image[member][shared], text[member][shared]]) for member in (0, 1)]
    assert map_fit(*rows, orthogonal_procrustes(*rows)[0]) > 0.3
    assert abs(fits["f-0"]) < 0.1


def test_equal_members_have_no_parts_and_those_that_differ_in_text_only_owe_everything_to_the_text_encoder() -> None:
    drawn = paper_membership(np.arange(N), seeds=1, seed=0)
    (image,), (text,) = _members(1)
    parts, fits = contributions([image] * 2, [text] * 2, Sides(drawn, "paper", 0))
    np.testing.assert_allclose(parts, 0, atol=1e-6)
    assert fits == {"f-0": pytest.approx(1)}
    memorizing = np.where(
        (drawn.group == "candidate")[:, None], image, text
    )  # equal on shared pairs: R is the identity
    parts, _ = contributions([image] * 2, [memorizing, text], Sides(drawn, "paper", 0))
    np.testing.assert_allclose(parts["clipmem_image"], 0, atol=1e-6)
    assert parts["clipmem_text"][drawn.group == "candidate"].mean() > 0.5


def test_with_a_fitted_map_a_text_encoder_that_differs_leaves_the_image_encoder_in_the_spread_of_the_null() -> None:
    drawn = paper_membership(np.arange(N), seeds=1, seed=0)
    rng, external = np.random.default_rng(3), drawn.group == "external"
    (image,), (text,) = _members(1)
    other = text + 0.3 * _units(rng)  # differs on the shared pairs too: R is fitted, and not the identity
    other[drawn.group == "candidate"] = image[drawn.group == "candidate"]
    turn = ortho_group.rvs(DIM, random_state=5).astype(np.float32)
    parts, fits = contributions([image @ turn, image], [other @ turn, text], Sides(drawn, "paper", 0))
    assert 0.9 < fits["f-0"] < 1
    null, found = parts["clipmem_image"][external], parts["clipmem_image"][drawn.group == "candidate"]
    assert abs(found.mean()) < abs(null.mean()) + 2 * null.std() / len(null) ** 0.5
    assert parts["clipmem_text"][drawn.group == "candidate"].mean() > 0.5


def test_turning_a_members_whole_space_changes_nothing() -> None:
    drawn = ensemble_membership(np.arange(N), folds=2, repeats=2, seed=0)
    image, text = _members(4)
    before, _ = contributions(image, text, Sides(drawn, "ensemble", 0))
    for member in (0, 2):
        turn = ortho_group.rvs(DIM, random_state=member).astype(np.float32)
        image[member], text[member] = image[member] @ turn, text[member] @ turn
    after, _ = contributions(image, text, Sides(drawn, "ensemble", 0))
    np.testing.assert_allclose(after, before, atol=1e-5)


def test_the_linear_form_is_the_mean_over_all_pairs_of_in_and_out_members() -> None:
    drawn = ensemble_membership(np.arange(N), folds=3, repeats=2, seed=0)
    (image, text), external = _members(6, noise=0.0), drawn.group == "external"
    rng = np.random.default_rng(5)  # members agree on external pairs, so that every map is the identity
    for matrix in (*image, *text):
        matrix[~external] += 0.5 * _units(rng, int((~external).sum()))
    parts, _ = contributions(image, text, Sides(drawn, "ensemble", 0))
    inside = Sides(drawn, "ensemble", 0).inside
    for pair in [*np.flatnonzero(external)[:3], *np.flatnonzero(~external)[:5]]:
        shares = [
            0.5
            * (
                _h(image[f], text[g], external, pair)
                - _h(image[g], text[g], external, pair)
                + _h(image[f], text[f], external, pair)
                - _h(image[g], text[f], external, pair)
            )
            for f in np.flatnonzero(inside[:, pair])
            for g in np.flatnonzero(~inside[:, pair])
        ]
        assert parts["clipmem_image"][pair] == pytest.approx(np.mean(shares), abs=1e-5)


def test_members_that_cannot_be_compared_are_named() -> None:
    drawn = paper_membership(np.arange(N), seeds=1, seed=0)
    image, text = _members(2)
    with pytest.raises(InputError, match=r"members that embed in one width, not in \[5, 6\]"):
        contributions([image[0], image[1][:, :5]], text, Sides(drawn, "paper", 0))
    with pytest.raises(ValueError, match=r"must have 220 rows, not \[219, 220\]"):
        contributions([image[0], image[1][1:]], text, Sides(drawn, "paper", 0))
    with pytest.raises(ValueError, match="must hold 2 members, not 1 and 2"):
        contributions(image[:1], text, Sides(drawn, "paper", 0))
    alone = Membership(np.where(drawn.group == "shared", "scored", drawn.group), drawn.members, drawn.trained)
    with pytest.raises(InputError, match="at least 2 shared pairs, found 0"):
        contributions(image, text, Sides(alone, "paper", 0))


def test_sslmem_is_the_mean_cosine_of_different_views_in_minus_out() -> None:
    rng = np.random.default_rng(0)
    drawn = paper_membership(np.arange(N), seeds=2, seed=0)
    views = [rng.normal(size=(N, 4, 5)) for _ in range(4)]
    views = [member / np.linalg.norm(member, axis=2, keepdims=True) for member in views]
    squares = [np.linalg.norm(member.mean(axis=1), axis=1) ** 2 for member in views]
    captions = np.where(np.arange(N) < 3, 1, 4)
    table = sslmem(squares, squares, Sides(drawn, "paper", 0), n_views=4, n_captions=captions)
    off_diagonal = ~np.eye(4, dtype=bool)
    cosine = [[(pair @ pair.T)[off_diagonal].mean() for pair in member] for member in views]
    expected = (np.array(cosine[0]) + cosine[2] - cosine[1] - cosine[3]) / 2
    np.testing.assert_allclose(table["sslmem_image"], expected)
    np.testing.assert_allclose(table["sslmem_text"][3:], expected[3:])
    assert table["sslmem_text"][:3].isna().all()
