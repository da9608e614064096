"""Turns a table of pairs into one where some have each other's captions: known mistakes to try a score on."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from clipmem_core.columns import CAPTIONS, MISCAPTION, PLANTED
from clipmem_core.config import InputError

DRAWS = 200  # draws of rows that are tried before giving up


def plant_miscaptions(pairs: pd.DataFrame, rows: np.ndarray, *, n: int, seed: int) -> pd.DataFrame:
    """Swap the captions of n pairs among themselves, so that none keeps a caption of its own.

    Captions are compared by their text: a pair never receives one that it had before, whichever pair it came from.

    Args:
        pairs: table with the columns captions and planted; it is left as it is.
        rows: int array [n_rows], the row numbers to draw from; rows that are planted already are passed over.
        n: how many pairs get another pair's captions.
        seed: the draw is a function of it.

    Returns:
        A new table, in which n pairs have other captions and planted = "miscaption".

    Raises:
        InputError: n is 1, negative or more than there are to draw from, or no swap was found that leaves no pair a
            caption of its own.

    Example:
        >>> pairs = pd.DataFrame({"captions": [["a cat"], ["a dog"], ["a cow"]], "planted": None})
        >>> plant_miscaptions(pairs, np.array([0, 1]), n=2, seed=0)["captions"].tolist()
        [['a dog'], ['a cat'], ['a cow']]
    """
    free = np.unique(rows)
    free = free[pairs[PLANTED].isna().to_numpy()[free]] if len(free) else free
    _check(n, len(free))
    if n == 0:
        return pairs.copy()
    captions = pairs[CAPTIONS].tolist()
    drawn, donors = _draw_swap(free, [frozenset(captions[row]) for row in free], n, np.random.default_rng(seed))
    planted = pairs[PLANTED].astype(object)
    planted.iloc[drawn] = MISCAPTION
    moved = captions.copy()
    for row, donor in zip(drawn, donors, strict=True):
        moved[row] = captions[donor]
    return pairs.assign(**{CAPTIONS: pd.Series(moved, index=pairs.index, dtype=object), PLANTED: planted})


def _check(n: int, available: int) -> None:
    if n < 0 or n == 1:
        raise InputError(f"plant_miscaptions must be 0, or 2 and more, got {n}: one pair alone has no one to swap with")
    if n > available:
        raise InputError(f"plant_miscaptions must be at most {available}, the pairs there are to plant in, got {n}")


def _draw_swap(
    free: np.ndarray, owned: list[frozenset[str]], n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return n rows and, for each, the row whose captions it gets."""
    # with one text a pair the first draw settles it; captions that overlap in part may need luck
    for _ in range(DRAWS if any(len(texts) > 1 for texts in owned) else 1):
        drawn = _draw_rows(owned, n, rng)
        donors = _derange([owned[i] for i in drawn], rng) if len(drawn) == n else None
        if donors is not None:
            return free[drawn], free[drawn[donors]]
    raise InputError(
        f"plant_miscaptions must leave no pair a caption of its own, which {n} pairs cannot do here: "
        "too many share the same caption text, plant fewer"
    )


def _draw_rows(owned: list[frozenset[str]], n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw n rows of which no more than half have the same text: with more, some pair would have to keep it."""
    taken: Counter[str] = Counter()
    drawn: list[int] = []
    for i in rng.permutation(len(owned)):
        if len(drawn) == n:
            break
        if all(taken[text] < n // 2 for text in owned[i]):
            taken.update(owned[i])
            drawn.append(int(i))
    return np.array(drawn, dtype=int)


def _derange(owned: Sequence[frozenset[str]], rng: np.random.Generator) -> np.ndarray | None:
    """Return whose captions each gets, or None where no such order exists."""
    n = len(owned)
    donors = rng.permutation(n)
    for i in range(n):
        if owned[i].isdisjoint(owned[donors[i]]):
            continue
        for j in rng.permutation(n):
            # With one text a pair, at most n / 2 alike, such a j always exists, and a swap never spoils what was well.
            if owned[i].isdisjoint(owned[donors[j]]) and owned[j].isdisjoint(owned[donors[i]]):
                donors[[i, j]] = donors[[j, i]]
                break
        else:
            return _match(owned, rng)
    return donors


def _match(owned: Sequence[frozenset[str]], rng: np.random.Generator) -> np.ndarray | None:
    """Return a perfect matching of pairs and foreign captions, found exactly; captions that overlap in part need it."""
    order = rng.permutation(len(owned))
    foreign = csr_array([[one.isdisjoint(owned[i]) for i in order] for one in owned])
    found = maximum_bipartite_matching(foreign, perm_type="column")
    return None if (found < 0).any() else order[found]


def plant_one_caption(pairs: pd.DataFrame, rows: np.ndarray, *, n: int, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Give n pairs that have several captions another pair's in the place of one of theirs.

    Args:
        pairs: table with the columns captions and planted; it is left as it is.
        rows: int array [n_rows], the row numbers to draw from; pairs with one caption, or planted, are passed over.
        n: how many pairs get a wrong caption.
        seed: the draw is a function of it.

    Returns:
        A new table, and the place of each pair's wrong caption, −1 where it has none, int64 [n_pairs].

    Raises:
        InputError: there are fewer than n such pairs, or fewer than two.

    Example:
        >>> pairs = pd.DataFrame({"captions": [["a cat", "one cat"], ["a dog", "one dog"]], "planted": None})
        >>> planted, place = plant_one_caption(pairs, np.array([0, 1]), n=1, seed=0)
        >>> int((place >= 0).sum()), sum("dog" in text for text in planted["captions"][int(place.argmax())])
        (1, 1)
    """
    captions = [list(own) for own in pairs[CAPTIONS]]
    unplanted = pairs[PLANTED].isna().to_numpy()
    free = np.array([row for row in np.unique(rows) if len(captions[row]) > 1 and unplanted[row]], dtype=np.int64)
    if not 0 <= n <= len(free) or len(free) < 2:
        raise InputError(f"{n} pairs cannot get one wrong caption: {len(free)} have several and are not planted")
    rng = np.random.default_rng(seed)
    place, moved = np.full(len(pairs), -1, dtype=np.int64), [list(own) for own in captions]
    for row in rng.permutation(free)[:n].tolist():
        others = [donor for donor in free.tolist() if set(captions[donor]).isdisjoint(captions[row])]
        if not others:
            raise InputError("one wrong caption a pair cannot be planted where all captions are alike")
        donor = captions[int(rng.choice(others))]
        place[row] = rng.integers(len(captions[row]))
        moved[row][place[row]] = donor[int(rng.integers(len(donor)))]
    return pairs.assign(**{CAPTIONS: pd.Series(moved, index=pairs.index, dtype=object)}), place
