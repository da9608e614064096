"""A member trained by `train-member`, in one process, in two, and by torchrun, one of whose processes is killed."""

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from clipmem_core import commands
from clipmem_core.audits import train_member
from clipmem_core.audits.lock import hold
from clipmem_core.audits.store import Audit
from clipmem_core.commands import main
from clipmem_core.config import InputError
from clipmem_core.training import loop
from clipmem_core.training.files import CHECKPOINT, STATE, TRAJECTORY
from tests.audits.small import ROOT
from tests.forked import Server
from tests.made_features import make_features

COMMON = shlex.split("--members 2 --folds 2 --epochs 3 --batch-size 32 --threads 1 --precision fp32")
SCENES = ["scenes", *shlex.split("--preset tiny --scenes-pairs 220 --captions 1"), *COMMON]
MEMBER = "r0-f0"
EPOCHS_ALONE = "from clipmem_core.training import loop; loop.SECONDS_BETWEEN_LINES = 1e9"  # in the log
# Saves its state at each step; at first the second of two processes ends as by kill -9 before the sixth.
KILLED = """
import os, signal, sys
from clipmem_core.commands import main
from clipmem_core.training import loop

def step(self, rows, progress, pixels=None, step=loop.Trainer.step):
    if progress.step == 5 and (os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]) == ("1", "0"):
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, rows, progress, pixels)

loop.SECONDS_BETWEEN_SAVES = loop.TRAINED_TO_SAVED = 0
loop.SECONDS_BETWEEN_LINES = 1e9
loop.Trainer.step = step
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data folder with audits whose members wait: of a ViT, with SigLIP's loss, and of heads on features."""
    data = tmp_path_factory.mktemp("prepared")
    features = str(make_features(data / "sets" / "features", pairs=400, dim=16))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPMEM_DATA", str(data))
        patch.setattr(loop, "SECONDS_BETWEEN_LINES", 1e9)
        for name, asked in (("vit", SCENES), ("siglip", [*SCENES, "--loss", "siglip"]), ("heads", [features, *COMMON])):
            assert main(["audit", *asked, "--name", name, "--prepare-only"]) == 0
            assert not list((data / "audits" / name).rglob(CHECKPOINT))
        yield data


def copied(data: Path, name: str, copy: str) -> Audit:
    shutil.copytree(data / "audits" / name, data / "audits" / copy)
    return Audit(data / "audits" / copy)


def together(forks: Server, audit: Audit, *flags: str) -> None:
    """Train a member in two processes."""
    with socket.create_server(("localhost", 0)) as free:
        group = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])}
    typed, data = ("train-member", audit.name, MEMBER, *flags), audit.folder.parents[1]
    both = [forks.start(*typed, data=data, before=EPOCHS_ALONE, RANK=str(rank), **group) for rank in range(2)]
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert [errors for _, errors in said] == ["", ""]
    assert f"member {MEMBER}: done" in said[0][0]
    assert not said[1][0].strip()


def log(audit: Audit) -> list[dict[str, float]]:
    return [json.loads(line) for line in (audit.member(MEMBER) / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", ["vit", "siglip", "heads"])
def test_two_processes_train_the_member_of_one(prepared: Path, forks: Server, name: str) -> None:
    one, two = copied(prepared, name, f"{name}-one"), copied(prepared, name, f"{name}-two")
    assert main(["train-member", one.name, MEMBER]) == 0
    together(forks, two, "--accum-freq", "2", *([] if name == "heads" else ["--grad-checkpointing"]))
    curves = [[line["loss"] for line in log(audit)] for audit in (one, two)]
    assert curves[1] == pytest.approx(curves[0], abs=1e-4)
    assert len(curves[0]) == 3
    trajectories = [np.load(audit.member(MEMBER) / TRAJECTORY).astype(np.float32) for audit in (one, two)]
    np.testing.assert_allclose(*trajectories, atol=5e-3)
    means = [np.nanmean(trajectory[..., 1], axis=1) for trajectory in trajectories]  # less the loss of each epoch
    np.testing.assert_allclose(*means, atol=1e-4)


def test_the_audit_is_finished_by_its_usual_command(prepared: Path) -> None:
    usual, audit = copied(prepared, "vit", "usual"), copied(prepared, "vit", "by-hand")
    assert main(["train-member", "by-hand", MEMBER]) == 0
    trained = (audit.member(MEMBER) / CHECKPOINT).stat().st_mtime_ns
    for name in ("usual", "by-hand"):
        assert main(["audit", *SCENES, "--name", name]) == 0
    assert (audit.member(MEMBER) / CHECKPOINT).stat().st_mtime_ns == trained
    pd.testing.assert_frame_equal(audit.scores, usual.scores, check_exact=True)


def test_one_of_torchruns_processes_is_killed_and_those_started_again_end_with_the_same_bits(
    prepared: Path, forks: Server, tmp_path: Path
) -> None:
    whole, killed = copied(prepared, "vit", "whole"), copied(prepared, "vit", "killed")
    together(forks, whole)
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    typed = [*torchrun, "--max-restarts", "1", str(script), "train-member", killed.name, MEMBER]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(typed, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert "failed (exitcode: -9) local_rank: 1" in ended.stderr
    assert [line["step"] for line in log(killed)] == [3, 6, 9]
    left, right = (torch.load(a.member(MEMBER) / CHECKPOINT, weights_only=True) for a in (whole, killed))
    assert all(torch.equal(left[name], right[name]) for name in left)
    for file in (TRAJECTORY, "text.npy"):
        assert (whole.member(MEMBER) / file).read_bytes() == (killed.member(MEMBER) / file).read_bytes()
    assert not (killed.member(MEMBER) / STATE).exists()


def test_what_cannot_be_trained_is_one_line(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*typed: str, code: int = 2) -> str:
        capsys.readouterr()
        assert main(["train-member", *typed]) == code
        return "".join(capsys.readouterr()).strip()

    assert said("nosuch", MEMBER).startswith("error: there is no audit 'nosuch' in")
    assert said("vit", "f-0") == "error: audit 'vit' has no member 'f-0': choose one of r0-f0, r0-f1"
    assert said("heads", MEMBER, "--grad-checkpointing").startswith("error: --grad-checkpointing is for transformer")
    assert "× --accum-freq 99 cannot share a batch of" in said("vit", MEMBER, "--accum-freq", "99")
    done = copied(prepared, "heads", "done")
    assert main(["train-member", "done", MEMBER]) == 0
    trained = (done.member(MEMBER) / CHECKPOINT).stat().st_mtime_ns
    assert said("done", MEMBER, code=0) == "member 'r0-f0' of audit 'done' is done: nothing to do"
    assert (done.member(MEMBER) / CHECKPOINT).stat().st_mtime_ns == trained
    with hold(done.folder, what="audit"):
        assert said("done", "r0-f1").startswith("error: audit 'done' is being run by another process")


@pytest.mark.usefixtures("prepared")
def test_the_first_process_speaks_for_all(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The others wait to be ended by torchrun, and speak up only if the first had nothing to say."""
    waited = []
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(commands.time, "sleep", lambda seconds: waited.append((seconds, capsys.readouterr().err)))
    assert main(["train-member", "nosuch", MEMBER]) == 2
    assert waited == [(20, "")]
    assert capsys.readouterr().err.startswith("error: there is no audit 'nosuch' in")


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="has 1 GPUs: ask torchrun for"), train_member.processes("cuda"):
        pass
