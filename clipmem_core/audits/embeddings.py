"""The mean embeddings of members, as rows that are read when asked for: mapped from a member's indexes where it keeps
some, else computed from its heads and the features of the locked towers.

Up to `MOST_INDEXED` pairs every member keeps its indexes. Of a larger audit whose towers are both locked only the first
does, to search in: those of a million pairs take 2 GB a member, and its heads give them again in seconds.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from clipmem_core.audits.index import map_vectors
from clipmem_core.audits.record import Record
from clipmem_core.audits.settings import shares_process
from clipmem_core.audits.store import IMAGE_INDEX, TEXT_INDEX, Audit

if TYPE_CHECKING:  # torch, which a page without it opens faster
    from clipmem_core.audits.member import Shared

MOST_INDEXED = 100_000


def keeps_indexes(record: Record, member: str) -> bool:
    """Tell whether a member of an audit is to keep its embeddings."""
    return record.pairs <= MOST_INDEXED or member == record.members[0] or not shares_process(record.config)


def indexed_members(audit: Audit) -> list[str]:
    """Return the members that have their embeddings on the disk, or ought to: those that can be searched in."""
    record = audit.record
    return [name for name in record.members if _indexed(audit, record, name)]


def _indexed(audit: Audit, record: Record, member: str) -> bool:
    return keeps_indexes(record, member) or (audit.member(member) / TEXT_INDEX).is_file()


class ComputedRows:
    """Embeddings of pairs, computed as rows of them are asked for: what `array[rows]` is of an array [n_pairs, dim].

    Rows that are asked for from a multiple of 256 on have the bits that an index would have; others may differ from
    them in the last one, as products of other shapes do.
    """

    dtype, ndim = np.dtype(np.float32), 2

    def __init__(self, shape: tuple[int, int], compute: Callable[[np.ndarray], np.ndarray]) -> None:
        self.shape, self.compute = shape, compute

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: slice | np.ndarray) -> np.ndarray:
        """Return some rows, float32 [n, dim]; `key` is a slice, rows, or true for each row."""
        if isinstance(key, slice):
            return self.compute(np.arange(*key.indices(len(self))))
        return self.compute(np.flatnonzero(key) if key.dtype == bool else key)


class Embeddings:
    """The embeddings of an audit's members; what is needed to compute any is read once, for the first."""

    def __init__(self, audit: Audit) -> None:
        self.audit, self.record = audit, audit.record

    def of(self, member: str) -> tuple[np.ndarray, np.ndarray]:
        """Return μ_I and μ_T of every pair, float32 [n_pairs, dim] each, or what stands for such an array.

        Raises:
            InputError: a file is missing or broken, or features are gone that only another tool has computed.
        """
        folder = self.audit.member(member)
        if _indexed(self.audit, self.record, member):
            return map_vectors(folder / IMAGE_INDEX), map_vectors(folder / TEXT_INDEX)
        from clipmem_core.audits.member import computed, finished_model, open_member

        run = open_member(self.audit.folder, member, self._shared)
        return computed(run, finished_model(run))  # type: ignore[return-value]  # stands for arrays

    @functools.cached_property
    def _shared(self) -> "Shared":
        import torch

        from clipmem_core.audits.member import open_shared

        torch.set_num_threads(self.record.threads)  # as where members are trained
        return open_shared(self.audit.folder)
