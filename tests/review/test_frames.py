from collections.abc import Callable
from pathlib import Path

import pytest

import clipmem_core
from clipmem_core.audits.store import MANIFEST, Audit
from clipmem_core.config import InputError
from clipmem_core.review.decisions import REMOVE, open_review


def test_an_audit_opens_as_frames_of_one_order_with_what_was_decided(copy: Callable[..., Audit]) -> None:
    audit = copy(name="mine")
    pairs = audit.pairs
    third = pairs.pair_id[2]
    open_review(audit).decide([third], REMOVE, note="a blur")
    opened = clipmem_core.open_audit("mine")
    table = opened.table()
    assert list(table.pair_id) == list(pairs.pair_id) == list(opened.scores.pair_id)
    assert list(table.clipmem.dropna()) == list(opened.scores.clipmem.dropna())
    assert list(table.pair_id[table.decision == REMOVE]) == [third] == list(opened.decisions.pair_id)
    assert table.note[2] == "a blur"
    assert Path(table.filepath[0]).is_file()
    captions = opened.captions
    assert list(captions.caption) == [caption for given in pairs.captions for caption in given]
    assert (captions.groupby("pair_id", sort=False).number.max() + 1).tolist() == pairs.captions.map(len).tolist()


def test_an_audit_that_is_not_there_or_not_finished_is_named(copy: Callable[..., Audit]) -> None:
    (copy(name="half").folder / MANIFEST).unlink()
    with pytest.raises(InputError, match="'half' is not finished: run it again"):
        clipmem_core.open_audit("half")
    with pytest.raises(InputError, match="there is no audit 'other'"):
        clipmem_core.open_audit("other")
