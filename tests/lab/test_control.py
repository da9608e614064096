"""Decisions and their control: as many pairs removed at random, and what is stored of both."""

import json

import numpy as np
import pandas as pd

from clipmem_core.auditing.folder.store import Audit
from clipmem_core.lab import mitigated
from clipmem_core.lab.experiment import store_effect
from clipmem_core.lab.setting import DECISIONS, Setting, changes_of, control_of
from clipmem_core.review.bulk_edits import store_table
from clipmem_core.review.decisions import open_review
from clipmem_core.review.progress_and_repair import read_effect
from tests.fixtures import Copy, copy, data, made
from tests.made_settings import make_lab, measure

__all__ = ["copy", "data", "made"]


def decide(audit: Audit, ids: list[str], decision: str) -> None:
    store_table(audit, pd.DataFrame({"pair_id": ids, "decision": decision}))


def test_as_many_pairs_are_removed_at_random_and_both_effects_are_stored(copy: Copy) -> None:
    audit = make_lab(copy(), heads=True)
    ids = audit.scores.loc[audit.scores["group"] == "scored", "pair_id"].tolist()[:7]
    decide(audit, ids, "remove")
    setting = Setting({DECISIONS: True}, open_review(audit).changes())
    control = control_of(setting)
    assert control is not None
    removed, at_random = (changes_of(audit, each).removed for each in (setting, control))
    assert removed.sum() == at_random.sum() == 7
    assert not np.array_equal(removed, at_random)
    assert not at_random[audit.scores["group"] == "held-out"].any()
    for each in (setting, control):
        store_effect(audit, setting)
        assert not read_effect(audit)  # before all members are finished
        measure(audit, mitigated.begin(audit, each).name)
    store_effect(audit, setting)
    effects = read_effect(audit)
    assert [*effects] == ["With my decisions", "As many pairs removed at random"]
    assert json.dumps(effects)
    decide(audit, ids[:1], "keep")
    assert not read_effect(audit)  # of other decisions
