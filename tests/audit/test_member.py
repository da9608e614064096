import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from clipmem_core.audit.member import (
    MemberRun,
    open_member,
    trained_model,
    utility,
)
from tests.audit.small import vectors
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
