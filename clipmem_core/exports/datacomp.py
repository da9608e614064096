"""A cleaned data set → the sorted uids of the pairs to keep, as DataComp's resharder takes a subset: a NumPy file."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from clipmem_core.atomic import replacing
from clipmem_core.columns import PAIR_ID
from clipmem_core.exports.cleaned import Cleaned
from clipmem_core.exports.pictures import Progress

UID = "uid"
DTYPE = np.dtype("u8,u8")  # the two halves of 128 bits, the higher first
_HEX = r"^[0-9a-fA-F]{32}$"


def write_uids(cleaned: Cleaned, path: Path, *, progress: Progress | None = None) -> tuple[tuple[str, ...], str]:
    """Write the uids, and beside them a CSV of pair_id and uid where an id is none and had to be made one.

    Returns:
        What the format cannot carry, and an empty string: there is no command that audits it.
    """
    ids = cleaned.pairs[PAIR_ID]
    made = cleaned.kept - (pc.sum(pc.match_substring_regex(ids, _HEX)).as_py() or 0)
    uids = [uid_of(pair_id) for pair_id in ids.to_pylist()] if made else ids.to_pylist()
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, packed(uids), allow_pickle=False)
    beside = uids_file(path)
    beside.unlink(missing_ok=True)  # of the export that this one replaces
    if made:
        with replacing(beside) as temporary:
            pa_csv.write_csv(pa.table({PAIR_ID: ids, UID: pa.array(uids)}), temporary)
    lost = f"{cleaned.recaptioned:,} new captions cannot be in a list of uids"
    hashed = (
        f"{made:,} ids are no uids (32 hex digits) and were hashed, see {beside.name}: "
        "to name a pool's samples, audit it with --csv-id-key uid"
    )
    return tuple(note for count, note in ((cleaned.recaptioned, lost), (made, hashed)) if count), ""


def uids_file(path: Path) -> Path:
    """Return the file beside the uids that says which pair each was made from."""
    return path.with_name(f"{path.stem}.uids.csv")


def uid_of(pair_id: str) -> str:
    """Return an id that is 32 hex digits as it is, in lower case, and of any other the first 128 bits of its SHA-256.

    Example:
        >>> uid_of("a.jpg"), uid_of("00000000000000010000000000000002")
        ('509b0d4641a7c3ba088ffa28559d1f57', '00000000000000010000000000000002')
    """
    if len(pair_id) == 32 and all(letter in "0123456789abcdefABCDEF" for letter in pair_id):
        return pair_id.lower()
    return hashlib.sha256(pair_id.encode()).hexdigest()[:32]


def packed(uids: list[str]) -> np.ndarray:
    """Return uids of 32 hex digits as sorted pairs of 64-bit numbers, `u8,u8` [n]."""
    halves = np.frombuffer(bytes.fromhex("".join(uids)), dtype=">u8").reshape(-1, 2)
    halves = halves[np.lexsort((halves[:, 1], halves[:, 0]))]
    found = np.empty(len(halves), DTYPE)
    found["f0"], found["f1"] = halves[:, 0], halves[:, 1]
    return found
