"""Audits with locked towers: records, words, unlocked blocks, protocols and the second round."""

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from clipmem_core.auditing.folder.store import Audit, write_json
from clipmem_core.auditing.run.pipeline import ensure_features, run_audit
from clipmem_core.lab.unitmem import check_units
from clipmem_core.training.model import build_model
from clipmem_core.utils.io import InputError
from tests.audit.small import Silent, config_of

# A model of random weights stands for a pretrained one: its embeddings of different pictures
# differ, and it is small.
FLAGS = shlex.split(
    "--preset small --model tiny --lock-image --lock-text --halves --folds 2 --scenes-pairs 220 "
    "--cache-size 40 --epochs 3 --batch-size 32 --lr 2e-3 --views 2 --threads 1 --precision fp32 "
    "--rounds 1"
)
MANY_WRONG = ("--members", "4", "--inject-miscaptions", "80", "--epochs", "8", "--rounds", "auto")
# Runs in every process of an audit before anything else: KILL_AT names an event and how the path
# ends that it is about.
KILLS = """
import os, signal, sys

def end(event, arguments):
    target, _, ending = os.environ["KILL_AT"].partition(":")
    if event == target and str(arguments[event == "os.rename"]).endswith(ending):
        os.kill(os.getpid(), signal.SIGKILL)

if "KILL_AT" in os.environ:
    sys.addaudithook(end)
"""


def flags(start: str, *more: str) -> list[str]:
    return [*FLAGS, "--pretrained", start, *more]


def test_an_audit_records_its_towers(two_rounds: Audit, tmp_path: Path) -> None:
    record = two_rounds.record
    towers = record.towers
    assert (list(towers), towers["image"]["name"]) == (["image", "text"], "tiny")
    changed = towers | {"text": towers["text"] | {"sha256": "0" * 64}}
    write_json(tmp_path / "config.json", dataclasses.replace(record, towers=changed).values)
    with pytest.raises(InputError, match="text tower tiny has weights of sha256"):
        ensure_features(Audit(tmp_path), Silent())
    with pytest.raises(InputError, match="has a locked tower"):
        check_units(two_rounds)


def test_words_lie_where_their_captions_have_them_and_make_the_scores(two_rounds: Audit) -> None:
    words, captions = (
        pd.read_parquet(two_rounds.folder / f"{name}.parquet") for name in ("words", "captions")
    )
    texts = two_rounds.pairs.set_index("pair_id")["captions"]
    names = (
        "pair_id caption_row caption position start word probability surprise changed better "
        "better_probability p_wrong"
    )
    assert words.columns.tolist() == names.split()
    names = (
        "caption_row pair_id caption similarity_out margin_out learned agreement read "
        "p_check p_pair p_caption p_word p_wrong check"
    )
    assert captions.columns.tolist() == names.split()
    assert len(captions) == 5 * len(texts)
    for row in words.sample(200, random_state=0).itertuples():
        assert texts[row.pair_id][row.caption][row.start :].startswith(row.word)
        assert row.word.lower() not in row.better
        assert (row.better_probability > row.probability).all()
        assert row.surprise > 0 or not len(row.better)
    # Of the words of a caption, one is wrong with the caption's p_word; the highest p_wrong orders
    # the review.
    sums = words.groupby("caption_row")["p_wrong"].sum().reindex(captions["caption_row"])
    np.testing.assert_allclose(sums.fillna(0), captions["p_word"], rtol=1e-4, atol=1e-5)
    parts = captions[["p_check", "p_pair", "p_caption", "p_word"]].sum(axis=1)
    np.testing.assert_allclose(parts, captions["p_wrong"], atol=1e-9)
    scores = two_rounds.scores.set_index("pair_id")
    worst = captions.groupby("pair_id")["p_wrong"].max().reindex(scores.index)
    open_ = scores["suspicion"] > 0  # not explained by an incident
    np.testing.assert_allclose(scores["suspicion"][open_].rank(), worst[open_].rank())
    assert (scores["p_wrong"] >= worst - 1e-9).all()
    # Decoys of other pictures fit the picture less.
    margin = np.load(two_rounds.member("r0-f0") / "captions.npy")["margin"]
    assert np.nanmean(margin[len(captions) :]) < np.nanmean(margin[: len(captions)])


def audit_of(words: Sequence[str], **changes: Any) -> Audit:
    config = dataclasses.replace(config_of(words), **changes)
    return run_audit("scenes", config, name="a", screen=Silent())


def test_unlocked_blocks_train(start: str, data: Path) -> None:
    finished = audit_of(
        flags(start, "--members", "2", "--unlock", "1", "--text-mask", "0.3", "--epochs", "1")
    )
    first, second = (
        torch.load(finished.member(name) / "checkpoint.pt", weights_only=True)
        for name in finished.record.members
    )
    for side in ("visual", "text"):
        upper = [name for name in first if name.startswith(f"{side}.upper.")]
        assert any(not torch.equal(first[name], second[name]) for name in upper)
    scores = finished.scores
    parts = scores["clipmem_image"] + scores["clipmem_text"]
    np.testing.assert_allclose(parts, scores["clipmem"], atol=1e-4)
    assert scores["sslmem_image"].notna().any()
    assert "below their last blocks (1)" in str(finished.verdict["checks"])


@pytest.mark.parametrize(
    "changes",
    [
        {"protocol": "paper", "halves": False, "lock_text": False},
        {"lock_image": False, "loss": "siglip"},
    ],
)
def test_one_locked_tower_works_in_any_protocol_and_loss(
    changes: dict[str, Any], start: str, data: Path
) -> None:
    loss = changes.get("loss", "clip")  # of what the trained encoder starts from, too
    path = str(Path(start).with_name(f"{loss}.pt"))
    torch.save(build_model("tiny", loss=loss, seed=5).state_dict(), path)
    audit = audit_of(flags(path, "--epochs", "1", "--members", "2", "--seeds", "1"), **changes)
    assert audit.scores["clipmem"].notna().all()
    assert list(audit.record.towers) == [
        kind for kind in ("image", "text") if changes.get(f"lock_{kind}", True)
    ]


def misfit(scores: pd.DataFrame, fit: str) -> pd.Series:
    z = (scores - scores.mean()) / scores.std(ddof=0)
    return -(z["learned"] + 6 * z[fit])


def test_the_most_suspicious_pairs_are_left_out_and_misfit_is_of_the_second_round(
    two_rounds: Audit,
) -> None:
    scores = two_rounds.scores
    scored = scores.loc[scores["group"] == "scored", ["learned", "fit_out", "fit_second"]]
    first = misfit(scored, "fit_out")
    second = misfit(scored, "fit_second")
    count = two_rounds.verdict["second_round_left_out"]
    assert 20 < count < 200
    table = pd.read_parquet(two_rounds.folder / "second.parquet")
    assert table["pair_id"].tolist() == two_rounds.pairs["pair_id"].tolist()
    expected = first.sort_values(ascending=False, kind="stable").index[:count]
    assert set(np.flatnonzero(table["left_out"])) == set(expected)
    np.testing.assert_allclose(scores.loc[scored.index, "misfit"], second, atol=1e-9)
    assert not np.allclose(first, second)
