"""Audits with locked towers: records, growth, the second round, and that kills change
no score."""

import dataclasses
import re
import shlex
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from clipmem_core.auditing.folder.settings import checked_towers
from clipmem_core.auditing.folder.store import Audit
from clipmem_core.auditing.run.pipeline import run_audit
from clipmem_core.lab.unitmem import check_units
from clipmem_core.training.model import build_model
from clipmem_core.utils.io import InputError
from tests.audit.small import Silent, config_of, with_drawn_set
from tests.audit.test_resume import same
from tests.forked import Server

# A model of random weights stands for a pretrained one: its embeddings of different pictures
# differ, and it is small.
FLAGS = shlex.split(
    "--preset small --model tiny --lock-image --lock-text --halves --folds 2 --scenes-pairs 220 "
    "--cache-size 40 --epochs 3 --batch-size 32 --lr 2e-3 --views 2 --threads 1 --precision fp32 "
    "--rounds 1"
)


@pytest.fixture(scope="module")
def finished(start: str, tmp_path_factory: pytest.TempPathFactory) -> Audit:
    """A finished audit of 4 members."""
    return uninterrupted(tmp_path_factory, flags(start, "--members", "4"))


def uninterrupted(factory: pytest.TempPathFactory, words: Sequence[str]) -> Audit:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPMEM_DATA", str(factory.mktemp("data")))
        return run_audit("scenes", config_of(words), name="a", screen=Silent())


def flags(start: str, *more: str) -> list[str]:
    return [*FLAGS, "--pretrained", start, *more]


def test_an_audit_records_its_towers(finished: Audit) -> None:
    towers = finished.record.towers
    assert (list(towers), towers["image"]["name"]) == (["image", "text"], "tiny")
    with pytest.raises(InputError, match="text tower tiny has weights of sha256"):
        checked_towers(finished.record.config, {"text": {"sha256": "0" * 64}})
    assert "clipmem is what the heads memorized" in str(finished.verdict["checks"])
    with pytest.raises(InputError, match="has a locked tower"):
        check_units(finished)


def test_words_lie_where_their_captions_have_them_and_make_the_scores(finished: Audit) -> None:
    words, captions = (
        pd.read_parquet(finished.folder / f"{name}.parquet") for name in ("words", "captions")
    )
    pairs = finished.pairs.set_index("pair_id")
    scores = finished.scores.set_index("pair_id")
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
    assert len(captions) == 5 * len(pairs)
    for row in words.sample(200, random_state=0).itertuples():
        assert pairs["captions"][row.pair_id][row.caption][row.start :].startswith(row.word)
        assert row.word.lower() not in row.better
        assert (row.better_probability > row.probability).all()
        assert row.surprise > 0 or not len(row.better)
    # Of the words of a caption, one is wrong with the caption's p_word; the highest p_wrong orders
    # the review.
    by_caption = words.groupby(["pair_id", "caption"])["p_wrong"].sum()
    stored = captions.set_index(["pair_id", "caption"])
    np.testing.assert_allclose(
        by_caption, stored["p_word"].reindex(by_caption.index), rtol=1e-4, atol=1e-5
    )
    assert (stored["p_word"].drop(by_caption.index) == 0).all()
    np.testing.assert_allclose(
        stored[["p_check", "p_pair", "p_caption", "p_word"]].sum(axis=1),
        stored["p_wrong"],
        atol=1e-9,
    )
    worst = captions.groupby("pair_id")["p_wrong"].max()
    open_ = scores["suspicion"].reindex(worst.index) > 0  # not explained by an incident
    assert scores["suspicion"].between(0, 1).all()
    ranks = scores["suspicion"].reindex(worst.index)[open_].rank()
    np.testing.assert_allclose(ranks, worst[open_].rank())
    assert (scores["p_wrong"].reindex(worst.index) >= worst - 1e-9).all()
    # Decoys of other pictures agree less with the captions of the pair, and fit the picture less.
    decoys = np.load(finished.folder / "decoys.npy")
    run = np.load(finished.member("r0-f0") / "captions.npy")
    assert len(run) == len(captions) + len(decoys)
    margin = run["margin"]
    assert np.nanmean(margin[len(captions) :]) < np.nanmean(margin[: len(captions)])


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
MOMENTS = (
    "os.rename:/keys.parquet",  # features are in the index, and their keys are not written yet
    "os.rename:words/0.pt",  # a word model is trained, and its predictions are not saved yet
    "os.rename:r0-f1/text.faiss",  # the member is trained, and not embedded yet
)
GROWTH = ("os.rename:a/membership.parquet",)  # a replicate is about to be added


def killed_audit_is_same(
    uninterrupted: Audit,
    runs: Sequence[tuple[Sequence[str], Sequence[str]]],
    folder: Path,
    forks: Server,
) -> None:
    """Run an audit with some flags until it is killed at each moment, and at last to its end: its
    scores are those without a kill."""
    data = with_drawn_set(folder / "data", uninterrupted.folder.parents[1])
    for moments, arguments in runs:
        command = ["audit", "scenes", "--name", "a", *arguments]
        for moment in (*moments, ""):
            process = forks.start(
                *command, data=data, before=KILLS, **({"KILL_AT": moment} if moment else {})
            )
            errors = process.communicate()[1]
            # itself, or one of its members
            codes = (-signal.SIGKILL, 1) if moment else (0,)
            assert process.returncode in codes, (moment, errors)
    same(Audit(data / "audits" / "a"), uninterrupted)


def test_a_kill_at_features_heads_and_growth_changes_no_score(
    finished: Audit, start: str, tmp_path: Path, forks: Server
) -> None:
    runs = [(MOMENTS, flags(start, "--members", "2")), (GROWTH, flags(start, "--members", "4"))]
    killed_audit_is_same(finished, runs, tmp_path, forks)


def test_unlocked_blocks_train(start: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    words = flags(start, "--members", "2", "--unlock", "1", "--text-mask", "0.3", "--epochs", "1")
    finished = uninterrupted(tmp_path_factory, words)
    models = [
        torch.load(finished.member(name) / "checkpoint.pt", weights_only=True)
        for name in finished.record.members[:2]
    ]
    for side in ("visual", "text"):
        upper = [name for name in models[0] if name.startswith(f"{side}.upper.")]
        assert upper
        assert any(not torch.equal(models[0][name], models[1][name]) for name in upper)
    scores = finished.scores
    np.testing.assert_allclose(
        scores["clipmem_image"] + scores["clipmem_text"], scores["clipmem"], atol=1e-4
    )
    assert scores["sslmem_image"].notna().any()
    assert "below the last block" in str(finished.verdict["checks"])


def test_a_full_disk_is_named_and_the_same_command_resumes(
    start: str, tmp_path: Path, forks: Server
) -> None:
    # The detector of languages unpacks its model into an unnamed file.
    loaded = "from clipmem_core.dataset.languages import language_of; language_of('a dog')"
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, -1))"
    command = ["audit", "scenes", "--name", "a", *flags(start, "--members", "2", "--epochs", "1")]
    process = forks.start(*command, data=tmp_path, before=f"{loaded}; {full}")
    (line,) = process.communicate()[1].splitlines()
    assert process.returncode == 2
    assert "raise the limit (ulimit -f), and the same command resumes it" in line
    assert re.search(r"/[01]\.pt", line)  # of either word model
    process = forks.start(*command, data=tmp_path)
    assert (process.communicate()[1], process.returncode) == ("", 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"protocol": "paper", "halves": False, "lock_text": False},
        {"lock_image": False, "loss": "siglip"},
        {"folds": 4, "members": 4, "halves": False},
    ],
)
def test_locked_towers_work_in_any_protocol_and_loss(
    changes: dict[str, Any], start: str, data: Path
) -> None:
    if changes.get("loss") == "siglip":  # what the trained encoder starts from must be of this loss
        start = str(Path(start).with_name("siglip.pt"))
        torch.save(build_model("tiny", loss="siglip", seed=5).state_dict(), start)
    config = dataclasses.replace(
        config_of(flags(start, "--epochs", "1", "--members", "2", "--seeds", "1")), **changes
    )
    audit = run_audit("scenes", config, name="a", screen=Silent())
    assert audit.scores["clipmem"].notna().all()
    assert list(audit.record.towers) == [
        kind for kind in ("image", "text") if changes.get(f"lock_{kind}", True)
    ]


MANY_WRONG = ("--members", "4", "--inject-miscaptions", "80", "--epochs", "8", "--rounds", "auto")


@pytest.fixture(scope="module")
def two_rounds(start: str, tmp_path_factory: pytest.TempPathFactory) -> Audit:
    """A finished audit of two rounds."""
    return uninterrupted(tmp_path_factory, flags(start, *MANY_WRONG))


def misfit(scores: pd.DataFrame, log_probability: str, weight: int) -> pd.Series:
    z = (scores - scores.mean()) / scores.std(ddof=0)
    return -(z["learned"] + weight * z[log_probability])


def test_the_most_suspicious_pairs_are_left_out_and_misfit_is_of_the_second_round(
    two_rounds: Audit,
) -> None:
    scores = two_rounds.scores
    scored = scores.loc[
        scores["group"] == "scored", ["learned", "log_probability_out", "log_probability_second"]
    ]
    first = misfit(scored, "log_probability_out", 2)
    second = misfit(scored, "log_probability_second", 4)
    count = two_rounds.verdict["second_round_left_out"]
    assert 20 < count < 200
    table = pd.read_parquet(two_rounds.folder / "second.parquet")
    assert table["pair_id"].tolist() == two_rounds.pairs["pair_id"].tolist()
    expected = first.sort_values(ascending=False, kind="stable").index[:count]
    assert set(np.flatnonzero(table["left_out"])) == set(expected)
    np.testing.assert_allclose(scores.loc[scored.index, "misfit"], second, atol=1e-9)
    assert not np.allclose(first, second)
    captions = pd.read_parquet(two_rounds.folder / "captions.parquet")  # misfit orders whole pairs
    p_pair = captions.groupby("pair_id", sort=False)["p_pair"].first().to_numpy()
    assert p_pair[second.idxmax()] == p_pair.max() > p_pair[second.idxmin()]


SECOND_MOMENTS = ("os.rename:second/log_probability_out.npy",)  # a member is trained again


def test_a_kill_in_the_second_round_changes_no_score(
    two_rounds: Audit, start: str, tmp_path: Path, forks: Server
) -> None:
    arguments = flags(start, *MANY_WRONG, "--rounds", "2")
    killed_audit_is_same(two_rounds, [(SECOND_MOMENTS, arguments)], tmp_path, forks)
    assert not list(tmp_path.glob("data/audits/a/members/*/second/*.pt"))
