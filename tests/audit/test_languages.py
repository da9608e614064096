"""Audits of captions in several languages: the text tower, and captions that it does not read."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clipmem_core.auditing.folder.store import Audit
from clipmem_core.cli import main

CHINESE = range(100, 140)  # of 330 pairs
ADJECTIVES = ("红色的", "一只小")
NOUNS = ("狗", "猫", "鸟")
VERBS = ("在草地上奔跑", "在沙滩上玩耍")
FLAGS = ["--folds=2", "--members=2", "--epochs=1", "--batch-size=64", "--threads=1"]


@pytest.fixture
def mixed(typed: Path, data: Path) -> list[str]:
    """The arguments for an audit of the synthetic set with Chinese captions in some pairs."""
    record = Audit(typed / "audits" / "scenes")
    pairs = record.pairs[["image", "captions"]].copy()
    pairs["captions"] = pairs["captions"].str[:2]
    for row in CHINESE:
        noun, verb = NOUNS[row % 3], VERBS[row % 2]
        pairs.at[row, "captions"] = [f"{adjective}{noun}{verb}" for adjective in ADJECTIVES]
    shutil.copytree(typed / "cache", data / "cache")  # its features are computed
    table = data / "mixed.csv"
    pairs.explode("captions").rename(columns={"image": "filepath", "captions": "title"}).to_csv(
        table, index=False
    )
    return ["audit", str(table), f"--image-folder={record.record.pictures}", *FLAGS]


def test_captions_that_the_tower_does_not_read_are_an_incident_without_p_wrong(
    mixed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*mixed, "--name=english", "--text-tower=all-MiniLM-L6-v2"]) == 0
    assert "Chinese is not read" in capsys.readouterr().out
    audit = Audit.of("english")
    captions = pd.read_parquet(audit.folder / "captions.parquet")
    chinese = captions["pair_id"].isin(audit.pairs["pair_id"].iloc[list(CHINESE)]).to_numpy()
    np.testing.assert_array_equal(captions["read"], ~chinese)
    np.testing.assert_array_equal(captions["p_wrong"].isna(), chinese)
    assert audit.scores["p_wrong"].isna().sum() == len(CHINESE)
    assert audit.verdict["wrong_captions"]["of"] == len(audit.pairs) - len(CHINESE)
    assert audit.verdict["captions_not_read"] == chinese.sum()
    incidents = pd.read_parquet(audit.folder / "incidents.parquet").set_index("kind")
    assert [40, 101, 140] in incidents[["pairs", "first", "last"]].to_numpy().tolist()
    checks = pd.read_parquet(audit.folder / "checks.parquet")
    assert np.flatnonzero(checks["other_language"]).tolist() == list(CHINESE)
    assert main([*mixed, "--name=english", "--text-tower=multilingual"]) == 2
    assert "--text-tower" in capsys.readouterr().err
