"""How long an audit takes, worked out by hand from a given pace."""

import dataclasses

import numpy as np
import pytest

from clipmem_core.audits import estimate
from clipmem_core.audits.estimate import Pace, audit_seconds, member_seconds
from clipmem_core.config import AuditConfig
from clipmem_core.scores.membership import Membership


def test_the_time_adds_up_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "side_by_side", lambda config: 2)
    config = AuditConfig(members=5, epochs=10, batch_size=100, views=4)
    pace = Pace(warm_up=9.0, waited=8.0, step=0.5, picture=0.001, caption=0.002, busy=7.0)
    trained = np.zeros((5, 1000), dtype=bool)
    trained[:, :450] = True
    membership = Membership(np.full(1000, "scored"), tuple("abcde"), trained)
    member = member_seconds(pace, config, membership, captions=3000)
    # Five members two at a time are three turns; 450 pairs are five batches.
    assert audit_seconds(member, config, starting=3.0, pairs=1000) == pytest.approx(
        {
            "starting": 9.0,
            "training": 3 * 10 * 5 * 0.5,
            "embedding": 3 * (1000 * 4 * 0.001 + 3000 * 0.002),
            "scoring": 1000 * 5 * 2e-5,
        }
    )
    twice = audit_seconds(member, dataclasses.replace(config, rounds="2"), starting=3.0, pairs=1000)
    assert list(twice) == ["starting", "training", "embedding", "second round", "scoring"]
    assert twice["second round"] == pytest.approx(9 + 75 + 3 * 10.0)
