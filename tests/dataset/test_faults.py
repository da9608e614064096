"""Faults of a pipeline that need no model, or only which pairs are probably wrong."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy

from clipmem_core.cli import main
from clipmem_core.dataset.checks import Captions, PictureMeasures, check_table, not_captions
from clipmem_core.dataset.faults import Fault, bad_sources, sorted_captions, text_faults
from clipmem_core.dataset.scenes import captions_of, plan_pairs, stream
from tests.dataset.samples import drawing

N = 1000
RUN = np.arange(300, 340)
SCATTERED = np.arange(7, N, 25)  # 40 too
WRONG = np.random.default_rng(1).random(N) < 0.02


def made_pairs(captions: list[list[str]] | None = None) -> pd.DataFrame:
    """Pairs of 20 shards and 7 labels; most captions differ, and a series of 12 shares a title."""
    captions = captions or [
        [f"{row * 397 % N} frogs", f"a pond of {row} frogs"]
        if row > 12
        else ["Frogs near Clarksdale"]
        for row in range(N)
    ]
    images = [f"set/{row // 50:05d}.tar/{row}.jpg" for row in range(len(captions))]
    labels = [f"kind {row % 7}" for row in range(len(captions))]
    return pd.DataFrame({"image": images, "captions": captions, "label": labels})


def faults_of(
    pairs: pd.DataFrame, clusters: np.ndarray | None = None, wrong: np.ndarray | None = None
) -> list[Fault]:
    n = len(pairs)
    captions = Captions.from_pairs(pairs.captions.tolist())
    checks = check_table(captions, PictureMeasures(), pairs=n)
    clusters = np.arange(n) if clusters is None else clusters
    faults = text_faults(pairs, clusters, checks, not_captions(captions.texts))
    if wrong is None:
        return faults + sorted_captions(pairs)
    suspected = wrong.copy()
    for fault in faults:
        suspected[fault.rows] = False
    return faults + bad_sources(pairs, suspected)


@pytest.mark.parametrize("rows", [RUN, SCATTERED])
@pytest.mark.parametrize(
    ("kind", "caption"),
    [
        ("repeated caption", "No caption"),
        ("text", "I'm sorry, but I cannot see frog {}"),
        ("text", "frog: 0.{}"),
        ("text", "frog_{}.jpg"),
        ("text", "лягушка {}"),
    ],
)
@pytest.mark.parametrize("wrong", [None, WRONG])
def test_planted_captions_are_one_fault_with_their_rows(
    rows: np.ndarray, kind: str, caption: str, wrong: np.ndarray | None
) -> None:
    pairs = made_pairs()
    for row in rows.tolist():
        pairs.at[row, "captions"] = [caption.format(row)]
    (fault,) = faults_of(pairs, wrong=wrong)
    assert (fault.kind, fault.rows.tolist()) == (kind, rows.tolist())
    assert fault.stretch == ((rows[0], rows[-1] + 1) if rows is RUN else None)


def test_a_picture_of_many_captions_is_a_fault_and_a_caption_of_copies_is_none() -> None:
    clusters = np.arange(N)
    clusters[SCATTERED] = SCATTERED[0]
    (fault,) = faults_of(made_pairs(), clusters)
    assert (fault.kind, fault.rows.tolist()) == ("repeated picture", SCATTERED.tolist())
    pairs = made_pairs()
    for row in SCATTERED.tolist():
        pairs.at[row, "captions"] = ["a frog"]
    assert not faults_of(pairs, clusters)


def test_clean_sets_have_no_fault() -> None:
    scenes = [
        captions_of(plan.scene, stream(0, plan.number, 2)) for plan in plan_pairs(400, seed=0)
    ]
    classes = [[f"a photo of a {'frog' if row % 3 else row % 40}"] for row in range(N)]
    for captions in (scenes, classes, None):
        pairs = made_pairs(captions)
        assert not faults_of(pairs)
        for seed in range(3):
            for rate in (0.05, 0.4):
                wrong = np.random.default_rng(seed).random(len(pairs)) < rate
                assert not faults_of(pairs, wrong=wrong)


def test_wrong_pairs_of_a_shard_are_a_fault_by_fishers_test() -> None:
    wrong = WRONG.copy()
    wrong[250:267] = True
    wrong[np.arange(3, N, 14)] = True  # half of a label
    in_shard = np.arange(N) // 50 == 5
    in_label = np.arange(N) % 7 == 3
    faults = faults_of(made_pairs(), wrong=wrong)
    first, second = (fault.rows.tolist() for fault in faults)
    assert first == np.flatnonzero(in_label & wrong).tolist()
    assert second == np.flatnonzero(in_shard & wrong & ~in_label).tolist()
    table = [
        [np.sum(is_wrong & of) for of in (in_label, ~in_label)] for is_wrong in (wrong, ~wrong)
    ]
    p_value = scipy.stats.fisher_exact(table, alternative="greater").pvalue
    assert faults[0].evidence == pytest.approx(-np.log10(p_value))


def test_captions_sorted_without_their_pictures_are_a_fault() -> None:
    pairs = made_pairs()
    captions = sorted(pairs.captions)
    (fault,) = faults_of(pairs.assign(captions=captions))
    assert (fault.kind, len(fault.rows)) == ("sorted", N)
    named = pairs.assign(captions=captions, image=[f"{texts[0]}.jpg" for texts in captions])
    assert not faults_of(named)


def test_inspect_prints_the_faults(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"{number}.png" for number in range(60)]
    for number, name in enumerate(names):
        drawing(number, side=64).save(tmp_path / name)
    texts = ["no caption"] * 30 + ["as an AI I see none"] * 6 + [f"frog {n}" for n in range(24)]
    lines = [f"{name},{text}" for name, text in zip(names, texts, strict=True)]
    (tmp_path / "captions.csv").write_text("\n".join(["filepath,caption", *lines]))
    assert main(["inspect", str(tmp_path)]) == 0
    kinds = {line.partition(":")[0] for line in capsys.readouterr().out.splitlines()}
    assert {"repeated caption", "text"} <= kinds
