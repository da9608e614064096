"""The log of decisions on a data set → the pairs that a study takes out, and the captions that others get instead."""

from pathlib import Path

import pyarrow as pa

from clipmem_core.audits.store import PAIRS
from clipmem_core.columns import CAPTIONS, PAIR_ID
from clipmem_core.review.decisions import RECAPTION, REMOVE, review_of
from clipmem_core.studies.arm import Decided
from clipmem_core.studies.store import StudyFolder


def decided_of(dataset_fingerprint: str, pairs: Path | pa.Table | None = None) -> Decided:
    """Return what a person decided on a data set up to now; pairs to keep are not in it.

    Args:
        dataset_fingerprint: of the data set's content, as an audit of it has it.
        pairs: pair_id and captions, a file or a table; what was decided on other captions of these pairs is left out.
    """
    table = review_of(dataset_fingerprint, pairs).table()
    removed, recaptioned = (table[table["decision"] == decision] for decision in (REMOVE, RECAPTION))
    captions = {str(id_): tuple(own) for id_, own in zip(recaptioned[PAIR_ID], recaptioned[CAPTIONS], strict=True)}
    return Decided(frozenset(removed[PAIR_ID].astype(str)), captions)


def decided_for(study: StudyFolder) -> Decided:
    """Return what a person decided on the data set of a study up to now.

    All audits with the same pairs share these decisions: one that was made with another `--captions`, or with
    `--drop-lookalikes` where the study was made without, has its own.

    Raises:
        InputError: the study has not begun.
    """
    pairs = study.audit(study.asked["reference"]).folder / PAIRS
    return decided_of(study.dataset_fingerprint, pairs if pairs.is_file() else None)
