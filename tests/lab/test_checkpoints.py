"""Scores of checkpoints that somebody else trained."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from clipmem_core.audit.store import Audit
from clipmem_core.io import InputError
from clipmem_core.lab.checkpoints import (
    align_membership,
    derive_groups,
    read_membership,
    score_checkpoints,
)
from tests.audit.small import PAPER, Silent, config_of, with_drawn_set
from tests.conftest import Made


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read"),
        ("pair_id,f-0\na,1\na,0\n", "has pair 'a' more than once"),
        ("pair_id,f-0\na,maybe\n", "column 'f-0'"),
    ],
)
def test_a_membership_file_that_cannot_be_used_is_one_line(
    text: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "m.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=f"m.csv'?:? {message}"):
        read_membership(tmp_path / "m.csv")


@pytest.mark.parametrize(
    ("names", "trained", "groups"),
    [
        (["f-0", "g-0"], [[1, 1, 0, 0], [1, 0, 1, 0]], "shared candidate independent external"),
        (["r0-f0", "r0-f1"], [[1, 0, 1, 0], [0, 1, 1, 0]], "scored scored shared external"),
    ],
)
def test_groups_follow_from_who_saw_what(
    names: list[str], trained: list[list[int]], groups: str
) -> None:
    assert derive_groups(np.array(trained, bool), names).tolist() == groups.split()


MEMBERSHIP = pd.DataFrame(
    {"pair_id": list("dcbax"), "f-0": [0, 0, 0, 1, 1], "g-0": [0, 0, 1, 0, 1]}
).astype({"f-0": bool, "g-0": bool})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (MEMBERSHIP.iloc[1:3], "--membership lacks 2 of 4 pairs, first 'a'"),
        (MEMBERSHIP.assign(**{"f-0": True}), "fewer than two pairs that no member trained on"),
    ],
)
def test_a_membership_that_does_not_fit_is_one_line(table: pd.DataFrame, message: str) -> None:
    with pytest.raises(InputError, match=message):
        align_membership(table, ["f-0", "g-0"], pd.DataFrame({"pair_id": ["a", "b", "c", "d"]}))


@pytest.fixture
def files(made: Made, data: Path) -> list[str]:
    """The paper audit's checkpoints as open_clip saves them, beside its membership."""
    with_drawn_set(data, made.data)
    made.paper.membership.drop(columns="group").to_csv(data / "membership.csv", index=False)
    paths = [data / f"{name}.pt" for name in ("f-0", "g-0")]
    for path in paths:
        state = torch.load(made.paper.member(path.stem) / "checkpoint.pt", weights_only=True)
        weights = {f"module.{key}": value for key, value in state.items()}
        torch.save({"epoch": 24, "name": "run", "state_dict": weights, "optimizer": {}}, path)
    return [str(path) for path in paths]


def score(files: list[str], screen: Silent | None = None) -> Audit:
    options = {"membership": str(Path(files[0]).with_name("membership.csv")), "checkpoints": files}
    return score_checkpoints(
        "scenes", config_of(PAPER), name="scored", screen=screen or Silent(), **options
    )


def test_checkpoints_score_as_they_did_where_they_were_trained(
    files: list[str], made: Made
) -> None:
    audit = score(files)
    missing = ["misfit", "learned"]
    derived = [*missing, "p_wrong", "suspicion", "review_place"]
    pd.testing.assert_frame_equal(
        audit.scores.drop(columns=derived), made.paper.scores.drop(columns=derived)
    )
    assert audit.scores[missing].isna().all(axis=None)
    pd.testing.assert_frame_equal(audit.membership, made.paper.membership)
    assert "misfit" not in {row["score"] for row in audit.verdict["detection"]}
    with pytest.raises(InputError, match="was made from other checkpoints"):
        score(files[::-1])


def test_a_checkpoint_with_nan_is_refused_before_a_picture_is_read(
    files: list[str], data: Path
) -> None:
    saved = torch.load(files[1], weights_only=True)
    saved["state_dict"]["module.visual.conv1.weight"][0, 0, 0, 0] = float("nan")
    torch.save(saved, files[1])
    screen = Silent()
    with pytest.raises(
        InputError,
        match="it holds NaN or infinity in visual.conv1.weight",
    ):
        score(files, screen)
    assert screen.lines == []
    assert not (data / "audits" / "scored").exists()
