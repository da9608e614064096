"""Audits with locked towers: what they refuse and record, growth until stable, and that kills change no score."""

import dataclasses
import shlex
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipmem_core.audit.member import open_member
from clipmem_core.audit.pipeline import run_audit
from clipmem_core.audit.settings import check_config, checked_towers
from clipmem_core.audit.store import Audit
from clipmem_core.audit.unitmem import check_members
from clipmem_core.config import InputError, preset_config
from clipmem_core.training.model import build_model
from tests.audit.small import Silent, config_of, with_drawn_set
from tests.audit.test_resume import same
from tests.forked import Server

# A model of random weights stands for a pretrained one: its embeddings of different pictures differ, and it is small.
FLAGS = shlex.split(
    "--preset small --model tiny --lock-image --lock-text --halves --folds 2 --scenes-pairs 220 --cache-size 40 "
    "--epochs 3 --batch-size 32 --lr 2e-3 --views 2 --threads 1 --precision fp32 --rounds 1"
)


@pytest.fixture(scope="module")
def finished(start: str, tmp_path_factory: pytest.TempPathFactory) -> Audit:
    """A finished audit of 6 members that never was stopped."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPMEM_DATA", str(tmp_path_factory.mktemp("finished")))
        return run_audit("scenes", config_of(flags(start, "--members", "6")), name="a", screen=Silent())


def flags(start: str, *more: str, base: Sequence[str] = FLAGS) -> list[str]:
    return [*base, "--pretrained", start, *more]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"lock_image": False}, "--model locked"),
    ({"text_tower": ""}, "--lock-text needs pretrained weights"),
    ({"text_min_df": 3}, "--text-min-df"),
    ({"crop_scale": 0.2}, "--crop-scale"),
    ({"folds": 5}, "--folds must be even with --halves, not 5"),
    ({"protocol": "paper", "stable": 0.9}, "--stable belongs to --protocol ensemble"),
    ({"preset": "small", "protocol": "paper"}, "--halves belongs to --protocol ensemble"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[" ".join(wrong) for wrong, _ in WRONG])
def test_a_setting_that_contradicts_a_lock_is_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        check_config(dataclasses.replace(preset_config("locked"), **changes))
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_an_audit_records_its_towers_and_reads_their_features(finished: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    towers = finished.record.towers
    assert (list(towers), towers["image"]["name"]) == (["image", "text"], "tiny")
    with pytest.raises(InputError, match="text tower tiny has weights of sha256"):
        checked_towers(finished.record.config, {"text": {"sha256": "0" * 64}})
    assert "clipmem is what the heads memorized" in str(finished.verdict["checks"])
    with pytest.raises(InputError, match="has a locked tower"):
        check_members(finished)
    monkeypatch.setenv("CLIPMEM_DATA", str(finished.folder.parents[1]))
    run = open_member(finished.folder, "r0-f0")
    tower = run.towers.text
    assert tower is not None
    captions = [caption for captions in run.pairs["captions"] for caption in captions]
    np.testing.assert_allclose(run.data.tokens[:5], tower.open().embed(captions[:5]), atol=2e-3)


def test_members_are_added_until_the_ranking_is_stable(start: str, data: Path) -> None:
    config = config_of(flags(start, "--epochs", "1", "--members", "6", "--stable", "0.01"))
    audit = run_audit("scenes", config, name="a", screen=Silent())
    assert len(audit.record.members) == len(audit.membership.columns) - 2 < 6
    screen = Silent()
    run_audit("scenes", config, name="a", screen=screen)
    assert screen.lines[-1] == "it is finished: nothing to do"
    run_audit("scenes", dataclasses.replace(config, stable=0.999), name="a", screen=Silent())
    assert len(audit.record.members) == 6


# Runs in every process of an audit before anything else: KILL_AT names an event and how the path ends that it is about.
KILLS = """
import os, signal, sys

def end(event, arguments):
    target, _, ending = os.environ["KILL_AT"].partition(":")
    if event == target and str(arguments[event == "os.rename"]).endswith(ending):
        os.kill(os.getpid(), signal.SIGKILL)

if "KILL_AT" in os.environ:
    sys.addaudithook(end)
"""
MOMENTS = (
    "open:index.bin",  # the first features are written, and not in the index yet
    "os.rename:r0-f1/trajectory.npy",
    "os.rename:a/membership.parquet",  # a repeat is about to be added
    "os.rename:a/manifest.json",
)


def kill_at_each(moments: Sequence[str], arguments: Sequence[str], data: Path, forks: Server) -> None:
    """Run a command until it is killed at each moment, and at last to its end."""
    for moment in (*moments, ""):
        process = forks.start(*arguments, data=data, before=KILLS, **({"KILL_AT": moment} if moment else {}))
        errors = process.communicate()[1]
        # itself, or one of its members
        assert process.returncode in ((-signal.SIGKILL, 1) if moment else (0,)), (moment, errors)


def test_a_kill_at_features_heads_and_growth_changes_no_score(
    finished: Audit, start: str, tmp_path: Path, forks: Server
) -> None:
    data = with_drawn_set(tmp_path / "data", finished.folder.parents[1])
    audit = Audit(data / "audits" / "a")
    arguments = ["audit", "scenes", "--name", "a", *flags(start, "--members", "6", "--stable", "0.999")]
    kill_at_each(MOMENTS, arguments, data, forks)
    assert len(audit.record.members) == 6
    same(audit, finished)


@pytest.mark.parametrize(
    "changes",
    [
        {"protocol": "paper", "halves": False, "lock_text": False},
        {"lock_image": False, "loss": "siglip"},
    ],
)
def test_one_locked_tower_works_in_either_protocol_and_loss(changes: dict[str, Any], start: str, data: Path) -> None:
    siglip = changes.get("loss") == "siglip"
    if siglip:  # what the trained encoder starts from must be of this loss
        start = str(Path(start).with_name("siglip.pt"))
        torch.save(build_model("tiny", loss="siglip", seed=5).state_dict(), start)
    config = dataclasses.replace(config_of(flags(start, "--epochs", "1", "--members", "2", "--seeds", "1")), **changes)
    audit = run_audit("scenes", config, name="a", screen=Silent())
    assert audit.scores["clipmem"].notna().all()
    assert list(audit.record.towers) == [kind for kind in ("image", "text") if changes.get(f"lock_{kind}", True)]
    weights = torch.load(audit.member(audit.record.members[-1]) / "checkpoint.pt", weights_only=True)
    assert ("logit_bias" in weights) == siglip
