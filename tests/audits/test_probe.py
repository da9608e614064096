import dataclasses
from pathlib import Path

import pytest
from PIL import Image

from clipmem_core.audits.member import probe_accuracy, view_maker
from clipmem_core.config import AuditConfig, InputError, preset_config
from clipmem_core.training.model import build_model

COLOURS = {"blue": (20, 40, 200), "red": (200, 30, 20)}


@pytest.fixture
def config(tmp_path: Path) -> AuditConfig:
    """Red and blue pictures of several sizes, five of each to fit on and three to judge."""
    for part, count in (("train", 5), ("val", 3)):
        for name, colour in COLOURS.items():
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                shade = tuple(value + 5 * i for value in colour)
                Image.new("RGB", (20 + i, 30), shade).save(tmp_path / part / name / f"{i}.png")
    return dataclasses.replace(preset_config("tiny"), probe_data=str(tmp_path))


def accuracy(config: AuditConfig) -> float:
    model = build_model("tiny", loss="clip", seed=0)
    return probe_accuracy(model, config, view_maker(model, config, 0), "cpu")


def test_a_probe_tells_red_from_blue(config: AuditConfig) -> None:
    assert accuracy(config) == 1
    judged = Path(config.probe_data) / "val"
    for path in (judged / "red").iterdir():
        Image.new("RGB", (20, 30), COLOURS["blue"]).save(path)
    assert accuracy(config) == 0.5


@pytest.mark.parametrize("content", [b"", b"not a picture"])
def test_a_broken_picture_is_named(config: AuditConfig, content: bytes) -> None:
    (Path(config.probe_data) / "train" / "red" / "2.png").write_bytes(content)
    with pytest.raises(InputError, match=r"probe-data picture '.*red/2\.png' is broken .*: take it out and go on"):
        accuracy(config)
