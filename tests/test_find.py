"""The function of arrays: its answer, that of an audit on the same features, and its errors."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import clipmem_core
from clipmem_core.api.arrays import WrongCaptions, find_wrong_captions
from clipmem_core.utils.io import InputError
from tests.audit.small import Silent, config_of

PAIRS = 400
WRONG = np.arange(40)
PER_PAIR = 3
SMALL = {"members": 8, "epochs": 12, "progress": False}


def drawn(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Features of pictures and of three captions each, the pair of each caption, and the captions:
    the first forty pairs have those of another, and captions name what the picture shows."""
    rng = np.random.default_rng(seed)
    things = rng.integers(0, 6, (PAIRS, 2))
    latent = np.eye(12)[things + [0, 6]].sum(axis=1) + rng.normal(size=(PAIRS, 12))
    image = latent @ rng.normal(size=(12, 32)) + 0.1 * rng.normal(size=(PAIRS, 32))
    source = np.arange(PAIRS)
    source[WRONG] = np.roll(WRONG, 7)
    pair = np.repeat(np.arange(PAIRS), PER_PAIR)
    text = latent[source[pair]] @ rng.normal(size=(12, 24))
    text += 0.2 * rng.normal(size=text.shape)
    names = np.array(["dog", "cat", "boat", "tree", "house", "horse", "red", "blue", "green"])
    names = np.append(names, ["white", "black", "brown"])
    captions = [
        f"the {names[b + 6]} {names[a]} number {row}"
        for row, (a, b) in enumerate(things[source[pair]])
    ]
    return image.astype(np.float16), text.astype(np.float16), pair, captions


@pytest.fixture(scope="module")
def found() -> WrongCaptions:
    image, text, pair, captions = drawn()
    return find_wrong_captions(image, text, captions=captions, pair=pair, **SMALL)


def test_wrong_pairs_are_found_and_counted(found: WrongCaptions) -> None:
    p_wrong = found.pairs["p_wrong"].to_numpy()
    assert p_wrong[WRONG].mean() > 0.8
    assert np.delete(p_wrong, WRONG).mean() < 0.05
    assert found.count.low <= len(WRONG) <= found.count.high
    assert len(found.captions) == PAIRS * PER_PAIR
    assert set(found.words["word"]) >= {"dog", "red"}
    moved = found.runs[found.runs["pair"].isin(WRONG)]
    assert ((moved["from_pair"] - moved["pair"]) % len(WRONG) == 7).mean() > 0.9
    shown = found._repr_html_()
    assert str(found.count) in shown
    assert "<table" in shown


def test_rows_keep_their_place_in_any_order_from_any_library(found: WrongCaptions) -> None:
    image, text, pair, captions = drawn()
    order = np.random.default_rng(1).permutation(len(text))
    order = order[np.argsort(order % PER_PAIR, kind="stable")]  # captions of a pair keep theirs
    again = find_wrong_captions(
        torch.from_numpy(image.astype(np.float32)),
        torch.from_numpy(text[order].astype(np.float32)),
        captions=[captions[at] for at in order],
        pair=torch.from_numpy(pair[order]),
        **SMALL,
    )
    for name in ("p_wrong", "margin_out", "learned"):
        expected = found.captions[name].to_numpy()[order]
        np.testing.assert_allclose(again.captions[name], expected, atol=1e-6)
    assert again.captions["text"].tolist() == [captions[at] for at in order]


def test_scores_are_those_of_an_audit_on_the_same_features(
    found: WrongCaptions, data: Path, tmp_path: Path
) -> None:
    from clipmem_core.auditing.run.pipeline import run_audit

    image, text, pair, captions = drawn()
    lines = [
        {"image": str(row), "captions": [captions[at] for at in np.flatnonzero(pair == row)]}
        for row in range(PAIRS)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    np.save(tmp_path / "image.npy", image)
    np.save(tmp_path / "text.npy", text)
    flags = ["--preset", "locked", "--members", "8", "--epochs", "12", "--threads", "1"]
    audit = run_audit(str(tmp_path / "pairs.jsonl"), config_of(flags), name="a", screen=Silent())
    tables = {"pairs": audit.scores, "words": pd.read_parquet(audit.folder / "words.parquet")}
    tables["captions"] = pd.read_parquet(audit.folder / "captions.parquet")
    for name, table in tables.items():
        mine = getattr(found, name)
        for column in table.select_dtypes("number").columns.intersection(mine.columns):
            np.testing.assert_allclose(mine[column], table[column], atol=1e-6, err_msg=column)


def test_new_pairs_are_judged_without_training(found: WrongCaptions) -> None:
    image, text, pair, captions = drawn()
    model = pickle.loads(pickle.dumps(found.model))
    judged = model.judge(image, text, captions=captions, pair=pair)
    assert list(judged["pair"]) == list(pair)
    p_wrong = judged.groupby("pair")["p_wrong"].mean().to_numpy()
    assert p_wrong[WRONG].mean() > 0.8
    assert np.delete(p_wrong, WRONG).mean() < 0.05
    refused = model.judge(image[:1], text[:1], captions=["I'm sorry, I can't describe this image."])
    assert refused["p_check"][0] > 0.9
    with pytest.raises(InputError, match="image_features must have 32 columns"):
        model.judge(text, text)


def test_a_result_says_what_it_cannot_know() -> None:
    image, text, pair, _ = drawn()
    first = np.arange(len(text))[::PER_PAIR]
    found = find_wrong_captions(image[:250], text[first][:250], **SMALL)
    assert any("p_word" in note for note in found.notes)


@pytest.mark.parametrize("pairs", [10, 15, 60])
def test_small_sets_are_judged_by_what_is_known_before(pairs: int) -> None:
    image, text, _, _ = drawn()
    rows = np.arange(100, 100 + pairs)
    texts = text[::PER_PAIR][rows]
    wrong = np.arange(2)
    texts[wrong] = texts[wrong[::-1]]
    known = np.random.default_rng(1).normal(size=(pairs, 40))
    captions = known.copy()
    captions[wrong] = captions[wrong[::-1]]
    found = find_wrong_captions(image[rows], texts, bridge=(known, captions), **SMALL)
    assert set(found.pairs["p_wrong"].nlargest(2).index) == set(wrong)
    assert 1 < found.count.estimate < pairs / 2
    judged = found.model.judge(image[:1], text[:1], bridge=(known[:1], captions[:1]))
    assert 0 <= judged["p_wrong"][0] <= 1
    with pytest.raises(InputError, match="bridge"):
        found.model.judge(image[:1], text[:1])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"text_features": np.zeros((3, 4))}, "text_features has 3 rows"),
        ({"image_features": np.zeros(4)}, r"image_features must be numbers \[n, width\]"),
        ({"image_features": np.full((250, 8), np.nan)}, "image_features has 250 rows"),
        ({"text_features": np.zeros((250, 8))}, "all equal"),
        ({"captions": ["a"]}, "captions must have 250 items"),
        ({"pair": np.arange(250) + 1}, "pair must be rows"),
        ({"pair": np.zeros(250, int)}, "picture 1 has no caption"),
        ({"held_out": [1]}, "held_out must be bool"),
        ({"held_out": np.arange(250) < 9}, "held_out must name at least 50 pairs"),
        ({"group": "a"}, "group must have"),
        ({"ids": ["a"] * 250}, "ids must differ"),
        ({"members": 12}, "members must be a multiple of 8"),
        ({"epochs": 0}, "--epochs must be"),
    ],
)
def test_each_mistake_is_named(changes: dict[str, object], named: str) -> None:
    rng = np.random.default_rng(0)
    values = {name: rng.normal(size=(250, 8)) for name in ("image_features", "text_features")}
    with pytest.raises(InputError, match=named):
        find_wrong_captions(**(values | SMALL | changes))


@pytest.mark.parametrize("pairs", [1, 9])
def test_few_pairs_are_refused_in_one_line(pairs: int) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="at least 10"):
        find_wrong_captions(rng.normal(size=(pairs, 8)), rng.normal(size=(pairs, 8)), **SMALL)


def test_the_package_alone_imports_nothing_slow() -> None:
    code = "import sys, clipmem_core; print({'torch', 'numpy', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
    assert clipmem_core.find_wrong_captions is find_wrong_captions
    with pytest.raises(AttributeError):
        _ = clipmem_core.no_such_name
