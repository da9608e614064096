"""Scores of checkpoints that somebody else trained."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from clipmem_core.audits.checkpoints import (
    align_membership,
    compare_checkpoints,
    derive_groups,
    read_membership,
    score_checkpoints,
)
from clipmem_core.audits.store import Audit
from clipmem_core.config import InputError
from clipmem_core.scores.alignment import pair_terms
from tests.audits.small import PAPER, Silent, config_of, vectors, with_drawn_set
from tests.conftest import Made


@pytest.fixture
def csv(tmp_path: Path) -> Callable[[str], Path]:
    def written(text: str) -> Path:
        path = tmp_path / "m.csv"
        path.write_text(text, encoding="utf-8")
        return path

    return written


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read: No columns"),
        ("id,f-0\na,1\n", "needs a column pair_id, it has id, f-0"),
        ("pair_id,f-0\na,1\na,0\n", "has pair 'a' more than once"),
        ("pair_id,f-0\na,maybe\n", "column 'f-0' must be true or false in every row"),
        ("pair_id,f-0\na,\n", "column 'f-0' must be true or false in every row"),
    ],
)
def test_a_membership_file_that_does_not_do_is_one_line(text: str, message: str, csv: Callable[[str], Path]) -> None:
    with pytest.raises(InputError, match=f"--membership '.*m.csv':? {message}"):
        read_membership(csv(text))


def test_groups_follow_from_who_saw_what() -> None:
    paper = np.array([[1, 1, 0, 0], [1, 0, 1, 0]], dtype=bool)
    assert derive_groups(paper, ["f-0", "g-0"]).tolist() == ["shared", "candidate", "independent", "external"]
    ensemble = np.array([[1, 0, 1, 0], [0, 1, 1, 0]], dtype=bool)
    assert derive_groups(ensemble, ["r0-f0", "r0-f1"]).tolist() == ["scored", "scored", "shared", "external"]


PAIRS = pd.DataFrame({"pair_id": ["a", "b", "c", "d"]})


def membership(**columns: Any) -> pd.DataFrame:
    rows = {"pair_id": ["d", "c", "b", "a", "x"], "f-0": [0, 0, 0, 1, 1], "g-0": [0, 0, 1, 0, 1]} | columns
    return pd.DataFrame(rows).astype({"f-0": bool, "g-0": bool})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (membership().iloc[1:3], "--membership lacks 2 of 4 pairs, first 'a': every pair needs a row"),
        (membership(**{"f-0": [1] * 5}), "fewer than two pairs that no member saw"),
        (membership(group=["external", "extra", "shared", "shared", "x"]), "group must be one of .*, not 'extra'"),
        (membership(group=["external"] * 5), "names pairs external that a member saw"),
    ],
)
def test_a_membership_that_does_not_fit_is_one_line(table: pd.DataFrame, message: str) -> None:
    with pytest.raises(InputError, match=message):
        align_membership(table, ["f-0", "g-0"], PAIRS)


class Scored:
    """The paper audit's checkpoints, scored as if somebody else had trained them."""

    def __init__(self, made: Made, data: Path, patch: pytest.MonkeyPatch) -> None:
        patch.setenv("CLIPMEM_DATA", str(with_drawn_set(data, made.data)))
        self.made, self.made_at, self.membership = made, data, data / "membership.csv"
        made.paper.membership.drop(columns="group").to_csv(self.membership, index=False)
        self.files = [str(self.as_open_clip_saves(name, data / f"{name}.pt")) for name in ("f-0", "g-0")]

    def as_open_clip_saves(self, member: str, path: Path) -> Path:
        state = torch.load(self.made.paper.member(member) / "checkpoint.pt", weights_only=True)
        weights = {f"module.{key}": value for key, value in state.items()}
        torch.save({"epoch": 24, "name": "run", "state_dict": weights, "optimizer": {}}, path)
        return path

    def score(self, files: list[str], *, name: str = "scored", screen: Silent | None = None) -> Audit:
        config = config_of(PAPER)
        options = {"name": name, "membership": str(self.membership), "checkpoints": files, "screen": screen or Silent()}
        return score_checkpoints("scenes", config, **options)


@pytest.fixture(scope="module")
def scored(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        yield Scored(made, tmp_path_factory.mktemp("scored"), patch)


def test_given_checkpoints_score_as_they_did_where_they_were_trained(scored: Scored, made: Made) -> None:
    audit = scored.score(scored.files)
    for name in ("f-0", "g-0"):
        for file in ("image.npy", "text.npy"):
            own, trained = (vectors(one.member(name) / file) for one in (audit, made.paper))
            np.testing.assert_allclose(own, trained, atol=1e-5)
    missing = ["misfit", "learned"]
    by_them = [*missing, "review_place"]
    pd.testing.assert_frame_equal(audit.scores.drop(columns=by_them), made.paper.scores.drop(columns=by_them))
    assert audit.scores[missing].isna().all(axis=None)
    pd.testing.assert_frame_equal(audit.membership, made.paper.membership)
    assert audit.record.config.protocol == "paper"
    assert audit.finished
    listed = {row["score"] for row in audit.verdict["detection"]}
    assert "misfit" not in listed


def test_other_checkpoints_under_the_same_name_are_refused(scored: Scored) -> None:
    scored.score(scored.files)
    with pytest.raises(InputError, match="was made from another checkpoint for f-0: take another --name"):
        scored.score(scored.files[::-1])


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_checkpoint_whose_training_broke_is_told_before_a_picture_is_read(
    scored: Scored, tmp_path: Path, number: float
) -> None:
    saved = torch.load(scored.files[1], weights_only=True)
    saved["state_dict"]["module.visual.conv1.weight"][0, 0, 0, 0] = number
    torch.save(saved, tmp_path / "broken.pt")
    screen = Silent()
    files = [scored.files[0], str(tmp_path / "broken.pt")]
    with pytest.raises(InputError, match=r"checkpoint '.*broken.pt' holds NaN or infinity in visual.conv1.weight"):
        scored.score(files, name="broken", screen=screen)
    assert screen.lines == []
    assert not (scored.made.data / "audits" / "broken").exists()


def test_a_target_and_a_reference_give_each_pair_a_difference(scored: Scored, made: Made) -> None:
    given: dict[str, Any] = {"name": "two", "checkpoints": scored.files, "screen": Silent()}
    table = pd.read_parquet(compare_checkpoints("scenes", config_of(PAPER), **given))
    everyone = np.ones(len(table), dtype=bool)
    terms = [
        pair_terms(vectors(folder / "image.npy"), vectors(folder / "text.npy"), everyone)["alignment"]
        for folder in (made.paper.member(name) for name in ("f-0", "g-0"))
    ]
    np.testing.assert_allclose(table["difference"], terms[0] - terms[1], atol=1e-5)
    assert table.columns.tolist() == [
        *("pair_id", "alignment_target", "similarity_target", "alignment_reference", "similarity_reference"),
        "difference",
    ]
