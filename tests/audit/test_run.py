import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from clipmem_core.auditing.folder import prepare
from clipmem_core.auditing.folder.prepare import check_same, draw_membership
from clipmem_core.auditing.folder.settings import resolve
from clipmem_core.auditing.folder.store import Audit, broken_files, file_sha256
from clipmem_core.auditing.run.pipeline import ensure_pixels, run_audit
from clipmem_core.config import SourceOptions
from clipmem_core.utils.io import InputError
from tests.audit.small import ENSEMBLE, PAIRS, PAPER, Silent, config_of, with_drawn_set
from tests.shared import Made


@pytest.fixture
def moved(made: Made, data: Path) -> Audit:
    """The paper audit in another data folder, without the store of small pictures."""
    with_drawn_set(data, made.data)
    left = shutil.ignore_patterns("*.pt", "*.npy", "*.faiss")
    audit = Audit(Path(shutil.copytree(made.paper.folder, data / "audits" / "paper", ignore=left)))
    root = data / "sets" / Path(audit.record.root).name
    (audit.folder / "config.json").write_text(json.dumps(audit.record.values | {"root": str(root)}))
    return audit


def prepared(audit: Audit) -> tuple[list[int], list[int]]:
    with np.load(audit.folder / ".prepared.npz") as stored:
        return stored["cache_rows"].tolist(), stored["clusters"].tolist()


def test_the_store_of_small_pictures_can_be_made_again(moved: Audit, data: Path) -> None:
    before = prepared(moved)
    name = Path(moved.record.root).name
    (moved.folder / ".prepared.npz").unlink()
    elsewhere = moved.record.values | {"root": f"/on/another/machine/sets/{name}"}
    (moved.folder / "config.json").write_text(json.dumps(elsewhere))
    assert moved.record.pictures == data / "sets" / name
    ensure_pixels(moved, Silent())
    assert (data / moved.record.pixels / "pixels.npy").is_file()
    assert prepared(moved) == before
    (moved.folder / ".prepared.npz").unlink()
    changed = moved.record.pictures / moved.pairs["image"].iloc[7]
    Image.new("RGB", (64, 64), "red").save(changed)
    with pytest.raises(
        InputError, match="have changed since audit 'paper' began: use another --name"
    ):
        ensure_pixels(moved, Silent())


def test_a_broken_table_of_a_finished_audit_is_made_again(made: Made, data: Path) -> None:
    with_drawn_set(data, made.data)
    audit = Audit(Path(shutil.copytree(made.paper.folder, data / "audits" / "paper")))
    (audit.folder / "scores.parquet").write_bytes(b"PAR1 and no more")
    (audit.folder / "utility.parquet").unlink()
    screen = Silent()
    run_audit("scenes", config_of(PAPER), name="paper", screen=screen)
    assert any("2 of its files" in line and "scores.parquet" in line for line in screen.lines)
    assert broken_files(audit.folder) == []
    pd.testing.assert_frame_equal(audit.scores, made.paper.scores, check_exact=True)
    pd.testing.assert_frame_equal(audit.utility, made.paper.utility)


def test_another_config_or_source_is_one_line_with_what_differs(made: Made) -> None:
    audit = made.paper
    config = resolve(config_of(PAPER))
    message = f"--seed is 0 there and 3 here; --scenes-pairs is {PAIRS} there and 500 here"
    source = SourceOptions(scenes_pairs=500)
    with pytest.raises(InputError, match=f"'paper' exists with another config: {message}"):
        check_same(audit, "scenes", dataclasses.replace(config, seed=3, source=source))
    with pytest.raises(InputError, match="the source is 'scenes' there and 'cats.csv' here"):
        check_same(audit, "cats.csv", config)
    check_same(audit, "scenes", dataclasses.replace(config, threads=7, cache_gb=0.5))


def test_a_grown_audit_has_the_first_members_and_the_membership_of_one_made_at_once(
    made: Made,
) -> None:
    assert len(made.before_growth) == 2 * 8
    for name, sha256 in made.before_growth.items():
        assert file_sha256(made.ensemble.folder / name) == sha256, name
    record = made.ensemble.record
    config = resolve(config_of([*ENSEMBLE, "--members", "4", "--sentences", "off"]))
    assert record.seeds == {"r0-f0": 0, "r0-f1": 0, "r1-f0": 1, "r1-f1": 1}
    assert record.fingerprint == prepare.audit_fingerprint(config, record.dataset_fingerprint)
    drawn = draw_membership(np.load(made.ensemble.folder / ".prepared.npz")["clusters"], config)
    assert np.array_equal(made.ensemble.membership[list(drawn.members)].to_numpy().T, drawn.trained)


def test_wrong_captions_of_the_drawn_set_come_out_on_top(typed: Path) -> None:
    audit = Audit(typed / "audits" / "scenes")
    assert audit.verdict["sentence"] in (typed / "printed.txt").read_text()
    scored = (audit.scores["group"] == "scored").to_numpy()
    scores = audit.scores[scored]
    wrong = (audit.pairs["injected"][scored] == "miscaption").to_numpy()
    right = audit.pairs["injected"][scored].isna()
    assert roc_auc_score(wrong, scores["misfit"]) > 0.9
    assert roc_auc_score(wrong, scores["clipmem"]) > 0.65
    mean = scores[["clipmem", "similarity_out"]][right].mean()
    assert scores["clipmem"][wrong].mean() > 1.5 * mean["clipmem"] > 0
    assert scores["similarity_out"][wrong].mean() < 0.8 * mean["similarity_out"]
    held_out = audit.scores["clipmem"][audit.scores["group"] == "held-out"]
    assert abs(held_out.mean()) < scores["clipmem"].mean()


def test_an_audit_draws_the_map_of_its_pictures(typed: Path) -> None:
    points = pd.read_parquet(next((typed / "cache" / "maps").iterdir()))
    assert len(points) == Audit(typed / "audits" / "scenes").record.pairs
    assert points["region"].str.len().min() > 0
