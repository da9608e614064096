import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clipmem_core.audits.member import (
    MemberRun,
    open_member,
    probe_accuracy,
    trained_model,
    utility,
    view_maker,
)
from clipmem_core.config import InputError, preset_config
from clipmem_core.training.model import build_model
from tests.audits.small import vectors
from tests.conftest import Made


@pytest.fixture
def run(made: Made, monkeypatch: pytest.MonkeyPatch) -> Iterator[MemberRun]:
    monkeypatch.setenv("CLIPMEM_DATA", str(made.data))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield open_member(made.paper.folder, "f-0")
    torch.set_num_threads(threads)


def test_candidate_and_independent_share_every_draw_and_no_others_do(run: MemberRun) -> None:
    group, keys = run.membership["group"].to_numpy(), run.data.keys
    assert np.array_equal(keys[group == "candidate"], keys[group == "independent"])
    assert len(set(keys.tolist())) == 350
    assert run.data.rows.tolist() == np.flatnonzero(run.membership["f-0"]).tolist()


def test_a_class_that_only_external_pairs_have_counts_in_zero_shot(made: Made, run: MemberRun) -> None:
    labels = run.pairs["label"].to_numpy(dtype=object).copy()
    labels[np.flatnonzero(run.membership["group"] == "external")] = "zebra"
    model, image = trained_model(run), vectors(run.folder / "image.npy").astype(np.float32)
    metrics = utility(dataclasses.replace(run, pairs=run.pairs.assign(label=labels)), model, image)
    assert metrics["linear_probe"] == 0
    assert 0 <= metrics["zero_shot"] <= 1
    without = utility(dataclasses.replace(run, pairs=run.pairs.assign(label=None)), model, image)
    assert sorted(without) == sorted(f"{way}_R@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10))


def test_a_probe_tells_red_from_blue_and_a_broken_picture_is_named(tmp_path: Path) -> None:
    for part, count in (("train", 5), ("val", 3)):
        for name, colour in {"blue": (20, 40, 200), "red": (200, 30, 20)}.items():
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                shade = tuple(value + 5 * i for value in colour)
                Image.new("RGB", (20 + i, 30), shade).save(tmp_path / part / name / f"{i}.png")
    config = dataclasses.replace(preset_config("tiny"), probe_data=str(tmp_path))
    model = build_model("tiny", loss="clip", seed=0)
    views = view_maker(model, config, 0)
    assert probe_accuracy(model, config, views, "cpu") == 1
    for path in (tmp_path / "val" / "red").iterdir():
        Image.new("RGB", (20, 30), (20, 40, 200)).save(path)
    assert probe_accuracy(model, config, views, "cpu") == 0.5
    (tmp_path / "train" / "red" / "2.png").write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"probe-data picture '.*red/2\.png' is broken"):
        probe_accuracy(model, config, views, "cpu")
