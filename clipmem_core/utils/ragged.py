"""Lists of different lengths in one array, one after the other: the captions of pairs, the words of
captions."""

from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ragged:
    """The bounds of the lists in the array.

    Attributes:
        start: position of the first item of each list, and at the end n_items, int64 [n_lists + 1].

    Example:
        >>> captions = Ragged.of([2, 0, 1])
        >>> captions.start.tolist(), captions.owner.tolist(), captions.number.tolist()
        ([0, 2, 2, 3], [0, 0, 2], [0, 1, 0])
    """

    start: np.ndarray

    @classmethod
    def of(cls, counts: Sequence[int] | np.ndarray) -> "Ragged":
        """Return lists of these lengths."""
        return cls(np.append(0, np.cumsum(counts)).astype(np.int64))

    @classmethod
    def of_lists(cls, lists: Iterable[Sized]) -> "Ragged":
        """Return lists as long as these."""
        return cls.of(list(map(len, lists)))

    def __len__(self) -> int:
        return len(self.start) - 1

    @property
    def n_items(self) -> int:
        """The number of items of all lists."""
        return int(self.start[-1])

    @property
    def first(self) -> np.ndarray:
        """The position of the first item of each list, int64 [n_lists]."""
        return self.start[:-1]

    @property
    def counts(self) -> np.ndarray:
        """The length of each list, int64 [n_lists]."""
        return np.diff(self.start)

    @property
    def owner(self) -> np.ndarray:
        """The list of each item, int64 [n_items]."""
        return np.repeat(np.arange(len(self)), self.counts)

    @property
    def number(self) -> np.ndarray:
        """The number of each item in its list, from 0, int64 [n_items]."""
        return np.arange(self.n_items) - np.repeat(self.first, self.counts)

    def take(self, rows: np.ndarray, *, first: int = 0) -> tuple[np.ndarray, "Ragged"]:
        """Select some lists, or so many first items of each. Return the positions of the selected
        items, and the lists that they form."""
        counts = self.counts[rows]
        part = Ragged.of(np.minimum(counts, first) if first else counts)
        return self.first[rows][part.owner] + part.number, part

    def part(self, begin: int, end: int) -> tuple["Ragged", int]:
        """Return consecutive lists, and the position of their first item among all items."""
        start = self.start[begin : end + 1]
        return Ragged(start - start[0]), int(start[0])

    def mean(self, vectors: np.ndarray, *, first: int = 0) -> np.ndarray:
        """Average the vectors of each list.

        Args:
            vectors: of all items, float32 [n_items, dim].
            first: items of a list that are averaged; 0: all.

        Returns:
            float32 [n_lists, dim]; no list may be empty.
        """
        if first:
            positions, part = self.take(np.arange(len(self)), first=first)
            return part.mean(vectors[positions])
        sums = np.add.reduceat(vectors, self.first, axis=0, dtype=np.float32)
        return sums / self.counts[:, None].astype(np.float32)
