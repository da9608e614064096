"""Checkpoints of open_clip's forms load; anything else is refused in one line, and no code in a file runs."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from clipmem_core.config import InputError
from clipmem_core.training.model import Model, build_model, load_weights
from tests.training import toys


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


def toy_model(name: str, *, loss: str = "clip", seed: int = 0) -> Model:
    return build_model(name, loss=loss, seed=seed)


def assert_refused(name: str, path: Path, reason: str) -> None:
    """Check that a file is refused as a checkpoint and as a start, each in one line."""
    with pytest.raises(
        InputError, match=rf"checkpoint {re.escape(repr(str(path)))} does not load \({reason}"
    ) as loaded:
        load_weights(toy_model(name), path)
    with pytest.raises(InputError, match=f"cannot be built from {re.escape(repr(str(path)))}, .*: {reason}") as built:
        build_model(name, loss="clip", seed=0, pretrained=str(path))
    assert "\n" not in str(loaded.value) + str(built.value)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("bare", [True, False])
def test_open_clips_own_forms_load(toy: str, tmp_path: Path, prefix: str, bare: bool) -> None:
    source, target = toy_model(toy, seed=1), toy_model(toy, seed=2)
    optimizer = torch.optim.AdamW(source.parameters()).state_dict()
    state = {prefix + name: value for name, value in source.state_dict().items()}
    path = tmp_path / "epoch_1.pt"
    torch.save(state if bare else {"epoch": 1, "name": "run", "state_dict": state, "optimizer": optimizer}, path)
    load_weights(target, path)
    started = build_model(toy, loss="clip", seed=2, pretrained=str(path))
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value)
        assert torch.equal(started.state_dict()[name], value)


def test_code_in_a_checkpoint_does_not_run(toy: str, tmp_path: Path) -> None:
    path, trace = tmp_path / "trap.pt", tmp_path / "trace"
    torch.save({"state_dict": Trap(trace)}, path)
    assert_refused(toy, path, "it is no checkpoint, or holds more than weights")
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists()


@pytest.mark.parametrize("content", [b"", b"hello world", b"PK\x03\x04 cut short"])
def test_a_file_that_is_no_checkpoint_is_refused(toy: str, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.pt"
    path.write_bytes(content)
    assert_refused(toy, path, ".+")


@pytest.mark.parametrize("value", [{}, torch.zeros(3), {"state_dict": {}}, [1, 2]])
def test_a_file_without_weights_is_refused(toy: str, tmp_path: Path, value: Any) -> None:
    path = tmp_path / "empty.pt"
    torch.save(value, path)
    assert_refused(toy, path, ".+")


def test_a_checkpoint_of_another_model_says_what_does_not_fit(toy: str, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    path = tmp_path / "other.pt"
    torch.save(toy_model(toys.write_model(tmp_path / "deep", layers=2)).state_dict(), path)
    assert_refused(toy, path, "Error.* in loading state_dict for CLIP: Unexpected key.*resblocks.1")


def test_a_checkpoint_of_the_other_loss_is_refused_or_gets_a_bias_of_0(toy: str, tmp_path: Path) -> None:
    clip, siglip = tmp_path / "clip.pt", tmp_path / "siglip.pt"
    torch.save(toy_model(toy).state_dict(), clip)
    torch.save(toy_model(toy, loss="siglip").state_dict(), siglip)
    with pytest.raises(InputError, match="give one of this model and loss"):
        load_weights(toy_model(toy), siglip)
    model = toy_model(toy, loss="siglip")
    load_weights(model, clip)
    assert float(model.logit_bias.detach()) == 0


def test_a_checkpoint_that_is_not_there_is_refused(toy: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        load_weights(toy_model(toy), tmp_path / "gone.pt")
    with pytest.raises(InputError, match="cannot be built from 'gone', .*not a known tag or valid file"):
        build_model(toy, loss="clip", seed=0, pretrained="gone")
