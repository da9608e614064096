"""Captions from elsewhere, judged by models that never saw their pair."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import logit

from clipmem_core import open_audit
from clipmem_core.auditing.folder.settings import towers_of
from clipmem_core.auditing.folder.store import read_embeddings
from clipmem_core.auditing.run.member import open_member, trained_model
from clipmem_core.cli import main
from clipmem_core.config import SourceOptions
from clipmem_core.dataset.source import read_source
from clipmem_core.errors.batch import Fitted
from clipmem_core.features.embed import FeatureExtractor
from clipmem_core.training.model import build_model
from clipmem_core.utils.io import InputError
from clipmem_core.utils.ragged import Ragged
from tests.audit.test_locked import FLAGS

SCORES = ["similarity_out", "margin_out", "agreement"]
PARTS = ["p_pair", "p_caption", "p_word"]


@pytest.fixture(scope="module")
def audits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with an audit of five captions a pair, in full precision."""
    folder = tmp_path_factory.mktemp("judged")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CLIPMEM_DATA", str(folder / "data"))
        torch.save(build_model("tiny", loss="clip", seed=5).state_dict(), "start.pt")
        options = ["--pretrained", "start.pt", "--members", "4", "--epochs", "12"]
        assert main(["audit", "scenes", *FLAGS, *options, "--name", "five"]) == 0
    return folder


@pytest.fixture(autouse=True)
def inside(audits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(audits)
    monkeypatch.setenv("CLIPMEM_DATA", str(audits / "data"))


def test_a_caption_of_the_pair_has_the_evidence_that_the_audit_has_of_it() -> None:
    key = ["pair_id", "caption"]
    own = open_audit("five").captions.drop_duplicates(key)
    right = own.groupby("pair_id")[["p_pair", "p_caption"]].transform("max").max(axis=1) < 0.5
    own = own[right].sample(200, random_state=0).set_index(key)
    table = open_audit("five").judge(own.index.to_frame(index=False).assign(by="me"))
    assert table["own"].sum() == 5 * own.index.get_level_values(0).nunique()
    assert table.groupby("pair_id")["best"].sum().eq(1).all()
    found = table[table["by"] == "me"].set_index(key).loc[own.index]
    np.testing.assert_allclose(found[SCORES], own[SCORES], atol=1e-4)
    np.testing.assert_allclose(found[PARTS].sum(axis=1), found["p_wrong"], atol=1e-12)
    # The word model, which was kept, gives the log-probabilities that words.parquet was made from.
    kept, stored = (
        part["p_word"] / (part["p_word"] + 1 - part["p_wrong"]) for part in (found, own)
    )
    # At another share of wrong words all log-odds differ by the same.
    assert np.std(logit(kept) - logit(stored)) < 0.1
    assert stored.nunique() > 50


def test_a_single_caption_has_the_posterior_of_its_pair_at_the_share_of_the_batch() -> None:
    fit = np.random.default_rng(0).normal(0.6, 1.0, 400)
    ends = [-5.0, 5.0]
    fitted = Fitted(
        curves={"pairs": (ends, [10.0, -10.0])}, shares=[0.1, 0.1, 0.1], fit=[-1.0, 0.0]
    )

    def judge(fit: np.ndarray) -> np.ndarray:
        nothing = np.full((len(fit), 3), np.nan)
        beside = np.column_stack([fit, fit, fit])
        each = Ragged.of(np.ones(len(fit)))
        evidence = (each, beside, nothing[:, :0], nothing, nothing[:, 0])
        no = np.zeros(len(fit), bool)
        return fitted.judge(*evidence, is_new=~no, not_captions=no)["p_pair"].to_numpy()

    odds = np.exp(np.clip(-2 * fit, -10, 10))
    found = judge(fit)
    share = found.mean()  # of maximum likelihood: the mean of its posterior
    expected = odds * share / (odds * share + 1 - share)
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=1e-3)
    odds = odds[:10] * 0.1 / 0.9  # in a small batch the audit's share
    np.testing.assert_allclose(judge(fit[:10]), odds / (odds + 1), atol=1e-3)


def test_a_file_of_candidates_is_judged(capsys: pytest.CaptureFixture[str]) -> None:
    """Candidates are one of the captions of some pairs, and one of another pair."""
    pairs = open_audit("five").pairs.iloc[:60]
    right = pairs["captions"].str[0]
    wrong = pairs["captions"].str[1].to_numpy()[::-1]
    table = pd.concat(
        [pairs.assign(caption=right, true="yes"), pairs.assign(caption=wrong, true="no")]
    )[["image", "caption", "true"]]
    table.to_csv("new.csv")
    assert main(["judge", "five", "new.csv"]) == 0
    printed = capsys.readouterr().out
    assert "new-judged.csv: candidates: 120; pairs: 60" in printed
    assert printed.count("\n scene-") == 10
    found = pd.read_csv("new-judged.csv")
    assert found["caption"].tolist() == table["caption"].tolist()
    table.to_parquet("new.parquet")
    assert main(["judge", "five", "new.parquet", "--all-captions"]) == 0
    both = pd.read_parquet("new-judged.parquet")
    new = both[~both["own"]]
    assert (len(both), len(new)) == (420, 120)
    by_pair = new.pivot(index="image", columns="true", values="p_wrong")
    assert (by_pair["no"] > by_pair["yes"]).mean() > 0.8


def test_bad_candidates_are_listed_with_their_reason() -> None:
    table = pd.DataFrame(
        {"pair_id": ["scene-00000", "absent", "scene-00001"], "caption": ["a house", "b", "  "]}
    )
    found = open_audit("five").judge(table)
    reasons = found[~found["own"]].set_index("pair_id")["reason"]
    assert pd.isna(reasons["scene-00000"])
    assert "pair_id" in reasons["absent"]
    assert reasons["scene-00001"] == "caption is empty"
    for wrong in (table.rename(columns={"caption": "text"}), table[1:], table[:0]):
        with pytest.raises(InputError):
            open_audit("five").judge(wrong)


def test_captions_that_are_not_judged_fail_unless_they_are_allowed() -> None:
    table = open_audit("five").pairs[["image"]][:4].assign(caption="=a house")
    table.loc[1:, "image"] = "gone.png"
    table.to_csv("gone.csv")
    words = ["judge", "five", "gone.csv", "--fail-above", "0.9"]
    assert main(words) == 1
    assert main([*words, "--allow-unjudged", "1"]) == 0
    assert pd.read_csv("gone-judged.csv")["caption"][0] == "'=a house"


def test_a_candidate_is_not_compared_with_the_caption_that_it_replaces() -> None:
    audit = open_audit("five")
    pair = audit.pairs.iloc[0]
    first, second, *others = pair["captions"]
    table = pd.DataFrame({"pair_id": pair["pair_id"], "caption": [first, first + "!"]})
    found = audit.judge(table.assign(replaces=["", first]))
    assert found["caption"].tolist() == [*pair["captions"], *table["caption"]]
    itself, beside = found["agreement"][-2:]
    own = audit.captions.iloc[0]["agreement"]
    assert itself == pytest.approx(own, abs=1e-3)  # of the other four, although it is there
    assert beside < audit.judge(table[1:])["agreement"].iloc[-1]


@pytest.fixture(scope="module")
def new_pairs(audits: Path) -> pd.DataFrame:
    """Captions of pairs that no audit has seen, whose ids and picture names it has; the first of
    every fifth pair is one of another pair."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPMEM_DATA", str(audits / "data"))
        options = SourceOptions(scenes_pairs=60, scenes_seed=1)
        raw = read_source("scenes", options, data=audits / "data")
    pairs = raw.pairs[raw.pairs["injected"].isna()].reset_index(drop=True)
    pairs["image"] = [str((raw.root / image).relative_to(audits)) for image in pairs["image"]]
    texts = pairs["captions"].tolist()
    captions = [
        [texts[at - 1][1], *rest] if at % 5 == 0 else [first, *rest]
        for at, (first, *rest) in enumerate(texts)
    ]
    return pairs.assign(caption=captions)[["pair_id", "image", "caption"]]


def test_pairs_that_the_audit_has_never_seen_are_judged(
    new_pairs: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = new_pairs.explode("caption")
    known = open_audit("five").pairs.iloc[:1]
    row = {"pair_id": known["pair_id"].iloc[0], "image": "gone.png", "caption": "a house"}
    pd.concat([listed, pd.DataFrame([row])]).to_json("fresh.jsonl", orient="records", lines=True)
    assert main(["judge", "five", "fresh.jsonl", "--fail-above", "0.99"]) == 0
    assert f"new: {len(new_pairs)}" in capsys.readouterr().out
    found = pd.read_json("fresh-judged.jsonl", lines=True)
    assert found["new"].tolist() == [True] * len(listed) + [False]
    found = found[:-1]
    assert found["caption"].tolist() == listed["caption"].tolist()
    np.testing.assert_allclose(found[PARTS].sum(axis=1), found["p_wrong"], atol=1e-9)
    first = found.drop_duplicates("image")["p_wrong"].to_numpy()
    is_wrong = np.arange(len(first)) % 5 == 0
    assert (first[is_wrong][:, None] > first[~is_wrong]).mean() > 0.9
    # A list of captions a row under another name, as `audit` reads it
    other = new_pairs.rename(columns={"caption": "text"})
    other.to_json("other.jsonl", orient="records", lines=True)
    assert main(["judge", "five", "other.jsonl", "--fail-above", "0.01"]) == 1
    again = pd.read_json("other-judged.jsonl", lines=True)
    np.testing.assert_allclose(again["agreement"], found["agreement"], atol=1e-4)
    # A fault of the pipeline that made the new pairs is named
    capsys.readouterr()
    new_pairs.assign(caption="image not available").to_csv("fault.csv")
    assert main(["judge", "five", "fault.csv"]) == 0
    assert "pictures have the caption “image not available”" in capsys.readouterr().out


def test_a_new_pair_has_the_evidence_that_a_loop_over_the_members_finds(
    new_pairs: pd.DataFrame,
) -> None:
    audit = open_audit("five")
    pair = new_pairs.iloc[0]
    table = pd.DataFrame({"image": pair["image"], "caption": pair["caption"]})
    found = audit.judge(table)
    data = hashlib.sha256(Path(pair["image"]).read_bytes()).hexdigest()
    towers = towers_of(audit.record.config)
    assert towers.image
    assert towers.text
    shown = pd.DataFrame({"image": [pair["image"]], "sha256": [data]})
    picture = FeatureExtractor(towers.image, Path()).images(shown)[:]
    texts = towers.text.opened.embed(pair["caption"])
    held_out = np.flatnonzero(audit.membership["group"] == "held-out")
    similarity = []
    margin = []
    for member in audit.record.members:
        run = open_member(audit.folder, member)
        model = trained_model(run)
        with torch.inference_mode():
            image = model.encode_image(torch.from_numpy(picture).float()).numpy()
            text = model.encode_text(torch.from_numpy(texts).float()).numpy()
        image, text = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (image, text))
        others = read_embeddings(audit.member(member))[0][held_out]
        others /= np.linalg.norm(others, axis=1, keepdims=True)
        similarity.append(text @ image[0])
        margin.append(similarity[-1] - np.sort(text @ others.T, axis=1)[:, -10:].mean(axis=1))
    np.testing.assert_allclose(found["similarity_out"], np.mean(similarity, axis=0), atol=2e-3)
    np.testing.assert_allclose(found["margin_out"], np.mean(margin, axis=0), atol=2e-3)
    features = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    cosines = features @ features.T - 2 * np.eye(len(texts))
    np.testing.assert_allclose(found["agreement"], cosines.max(axis=1), atol=2e-3)
