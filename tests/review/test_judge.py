"""Captions from elsewhere, judged by models that never saw their pair."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from starlette.applications import Starlette
from starlette.testclient import TestClient

from clipmem_core import open_audit
from clipmem_core.audit.store import write_json
from clipmem_core.cli import main
from clipmem_core.dashboard.component.routes import PREFIX, routes
from clipmem_core.io import InputError, read_json
from clipmem_core.review.cards import percent
from clipmem_core.training.model import build_model
from tests.audit.test_locked import FLAGS

SCORES = ["similarity_out", "margin_out", "agreement"]
PARTS = ["p_pair", "p_caption", "p_word"]


def run(*more: str) -> int:
    options = ["--pretrained", "start.pt", "--members", "4", "--epochs", "12"]
    return main(["audit", "scenes", *FLAGS, *options, *more])


@pytest.fixture(scope="module")
def audits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with an audit of five captions a pair, and one of a single caption; both in
    full precision."""
    folder = tmp_path_factory.mktemp("judged")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CLIPMEM_DATA", str(folder / "data"))
        torch.save(build_model("tiny", loss="clip", seed=5).state_dict(), "start.pt")
        assert (run("--name", "five"), run("--name", "one", "--captions", "1")) == (0, 0)
    return folder


@pytest.fixture(autouse=True)
def inside(audits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(audits)
    monkeypatch.setenv("CLIPMEM_DATA", str(audits / "data"))


def test_a_caption_of_the_pair_has_the_evidence_that_the_audit_has_of_it() -> None:
    key = ["pair_id", "caption"]
    own = open_audit("five").captions.drop_duplicates(key)
    right = own.groupby("pair_id")["p_caption"].transform("max") < 0.5
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
    np.testing.assert_allclose(kept, stored, rtol=0.02, atol=1e-4)
    assert stored.nunique() > 50


def test_a_single_caption_has_the_posterior_of_its_pair() -> None:
    audit = open_audit("one")
    pairs = audit.pairs.assign(caption=audit.pairs["captions"].str[0])
    table = audit.judge(pairs[["image", "caption"]])
    found = table[~table["own"]]
    fit = audit.scores["csls_out"]
    (scores, log_odds) = pd.read_json(audit.folder / "p_wrong.json")["curves"]["pairs"]
    np.testing.assert_allclose(
        found["p_pair"], 1 / (1 + np.exp(-np.interp(fit, scores, log_odds))), atol=1e-3
    )
    assert (found["p_caption"] == 0).all()


def candidates() -> pd.DataFrame:
    """One of the captions of some pairs, which nobody trained on, and one of another pair."""
    pairs = open_audit("five").pairs.iloc[:60]
    right = pairs["captions"].str[0]
    wrong = pairs["captions"].str[1].to_numpy()[::-1]
    table = pd.concat(
        [pairs.assign(caption=right, true="yes"), pairs.assign(caption=wrong, true="no")]
    )
    return table[["image", "caption", "true"]]


def test_a_file_of_candidates_is_judged(capsys: pytest.CaptureFixture[str]) -> None:
    table = candidates()
    table.to_csv("new.csv")
    table.to_json("new.jsonl", orient="records", lines=True)
    table.to_parquet("new.parquet")
    for ending in ("csv", "jsonl", "parquet"):
        assert main(["judge", "five", f"new.{ending}"]) == 0
        printed = capsys.readouterr().out
        assert f"new-judged.{ending}: candidates: 120; pairs: 60" in printed
        assert printed.count("\n scene-") == 20
    results = [
        pd.read_csv("new-judged.csv"),
        pd.read_json("new-judged.jsonl", lines=True),
        pd.read_parquet("new-judged.parquet"),
    ]
    for found in results:
        np.testing.assert_allclose(found["p_wrong"], results[0]["p_wrong"], atol=1e-6)
        assert set(found["true"].dropna()) == {"yes", "no"}
        assert found["caption"].tolist() == table["caption"].tolist()
    assert main(["judge", "five", "new.csv", "--all-captions"]) == 0
    both = pd.read_csv("new-judged.csv")
    new = both[~both["own"]]
    assert (len(both), len(new)) == (420, 120)
    by_pair = new.pivot(index="image", columns="true", values="p_wrong")
    assert (by_pair["no"] > by_pair["yes"]).mean() > 0.8
    alone = open_audit("five").judge(table[table["true"] == "no"])
    alone = alone[~alone["own"]].set_index("image")["p_wrong"]
    # candidates are no siblings
    np.testing.assert_allclose(by_pair["no"], alone.loc[by_pair.index], atol=1e-3)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"pair_id": ["scene-00000"], "text": ["a"]}, "pair_id, text: name one caption"),
        ({"pair_id": ["scene-00000", "absent"], "caption": ["a", "b"]}, "row 2 of the candidates"),
        (
            {"pair_id": ["scene-00000", "x"], "caption": ["a", "  "]},
            "row 2 of the candidates has no",
        ),
        ({"pair_id": ["scene-00000"], "caption": [None]}, "row 1 of the candidates has no caption"),
    ],
)
def test_wrong_candidates_are_one_line(columns: dict[str, list[str]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_audit("five").judge(pd.DataFrame(columns))


def test_a_file_that_is_no_table_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.parquet").write_text("caption")
    for name in ("bad.parquet", "absent.csv", "bad.txt"):
        assert main(["judge", "five", name]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert name in line


def test_damaged_embeddings_are_one_line(audits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = audits / "data" / "audits"
    shutil.copytree(folder / "five", folder / "damaged")
    candidates().to_csv("new.csv")
    path = sorted((folder / "damaged" / "members").glob("*/image.faiss"))[1]
    content = path.read_bytes()
    for damaged in (content + b"more", content[:-9], b"\0" * len(content)):
        path.write_bytes(damaged)
        assert main(["judge", "damaged", "new.csv"]) == 2
        (line,) = capsys.readouterr().err.split("error:")[1].strip().splitlines()
        assert str(path) in line


def test_the_editor_shows_the_probability_of_the_typed_caption() -> None:
    server = TestClient(Starlette(routes=routes()))
    audit = open_audit("five")
    own = audit.captions.iloc[0]

    def text(**parameters: object) -> str:
        answer = server.get(f"/{PREFIX}/judge", params={"audit": "five", "row": 0, **parameters})
        return answer.json()["text"]

    now = f"{percent(own['p_wrong'])} now"
    assert text(caption=own["caption"], before=own["caption"]).endswith(f": {now}")
    table = audit.judge(pd.DataFrame({"pair_id": own[["pair_id"]], "caption": ["a pink house"]}))
    typed = percent(table["p_wrong"].iloc[-1])
    changed = text(caption="a  pink house ", before=own["caption"])
    assert changed.endswith(f": {typed} as typed, {now}")
    assert text(caption=" ") == text(caption="a", row=9_999) == ""


@pytest.mark.parametrize("lost", ["words/1.pt", "captions.parquet"])
def test_a_lost_file_is_named_and_made_again(lost: str, capsys: pytest.CaptureFixture[str]) -> None:
    audit = open_audit("one")
    table = candidates()
    before = audit.judge(table)
    table.to_csv("new.csv")
    (audit.folder / lost).unlink()
    assert main(["judge", "one", "new.csv"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert lost in line
    assert run("--name", "one", "--captions", "1") == 0
    np.testing.assert_allclose(audit.judge(table)[PARTS], before[PARTS], atol=1e-5)


def test_precomputed_features_and_few_pairs_are_no_traceback(audits: Path) -> None:
    folder = audits / "data" / "audits"
    shutil.copytree(folder / "five", folder / "other")
    audit = open_audit("other")
    table = candidates()
    fitted = read_json(audit.folder / "p_wrong.json")
    write_json(audit.folder / "p_wrong.json", fitted | {"missing": "too few pairs"})
    with pytest.raises(InputError, match="too few pairs"):
        audit.judge(table)
    config = read_json(audit.folder / "config.json")
    config["config"]["features"] = "x"
    write_json(audit.folder / "config.json", config)
    with pytest.raises(InputError, match="nothing new can be embedded"):
        audit.judge(table)
