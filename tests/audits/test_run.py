import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from clipmem_core.audits.member import open_member
from clipmem_core.audits.prepare import pixels_folder
from clipmem_core.audits.run import ensure_pixels, run_audit
from clipmem_core.audits.store import Audit, broken_files
from clipmem_core.config import InputError
from clipmem_core.pairs.pictures import read_square
from tests.audits.small import PAPER, Silent, config_of, with_drawn_set
from tests.conftest import Made


@pytest.fixture
def moved(made: Made, data: Path) -> Audit:
    """The paper audit in another data folder, without the store of small pictures."""
    with_drawn_set(data, made.data)
    left = shutil.ignore_patterns("*.pt", "*.npy")
    audit = Audit(Path(shutil.copytree(made.paper.folder, data / "audits" / "paper", ignore=left)))
    root = data / "sets" / Path(audit.record.root).name
    (audit.folder / "config.json").write_text(json.dumps(audit.record.values | {"root": str(root)}))
    return audit


def prepared(audit: Audit) -> tuple[list[int], list[int]]:
    with np.load(audit.folder / ".prepared.npz") as stored:
        return stored["cache_rows"].tolist(), stored["clusters"].tolist()


def test_the_store_of_small_pictures_can_be_made_again(moved: Audit, data: Path) -> None:
    before, name = prepared(moved), Path(moved.record.root).name
    (moved.folder / ".prepared.npz").unlink()
    elsewhere = moved.record.values | {"root": f"/on/another/machine/sets/{name}"}
    (moved.folder / "config.json").write_text(json.dumps(elsewhere))
    assert moved.record.pictures == data / "sets" / name
    screen = Silent()
    ensure_pixels(moved, screen)
    assert screen.lines == [
        f"{moved.folder / '.prepared.npz'} is broken or missing: storing the small pictures again",
    ]
    assert (data / moved.record.pixels / "pixels.npy").is_file()
    assert prepared(moved) == before
    ensure_pixels(moved, screen)
    assert len(screen.lines) == 1


def test_a_finished_audit_stays_what_it_is_when_its_small_pictures_move(moved: Audit, data: Path) -> None:
    """As from an older version of Pillow or of this code, whose store has another name."""
    stored = moved.record.values
    (moved.folder / "config.json").write_text(json.dumps(stored | {"pixels": "cache/pixels/older"}))
    before = (moved.folder / "config.json").read_bytes()
    screen = Silent()
    for _ in range(2):
        ensure_pixels(moved, screen)
    older = data / "cache" / "pixels" / "older" / "cache.json"
    assert screen.lines == [f"{older} is broken or missing: storing the small pictures again"]
    assert (moved.folder / "config.json").read_bytes() == before
    assert (pixels_folder(moved) / "pixels.npy").is_file()
    run = open_member(moved.folder, "f-0")
    root = Path(stored["root"])
    expected = [read_square(root, image, size=40, resize_mode="shortest") for image in moved.pairs["image"][[5, 70]]]
    assert np.array_equal(run.data.pixels.gather(np.array([5, 70])), expected)


def test_an_audit_does_not_go_on_with_other_pictures(moved: Audit) -> None:
    changed = Path(moved.record.root) / moved.pairs["image"].iloc[7]
    Image.new("RGB", (64, 64), "red").save(changed)
    with pytest.raises(InputError, match="have changed since audit 'paper' began: take another --name"):
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


def test_counts_are_said_before_anything_is_trained(data: Path, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    with_drawn_set(data, made.data)
    monkeypatch.setattr("clipmem_core.audits.run.finish_audit", lambda *_: None)
    screen = Silent()
    config = config_of([*PAPER, "--plant-miscaptions", "6", "--drop-lookalikes"])
    audit = run_audit("scenes", config, name="planned", screen=screen)
    assert screen.lines[0] == "reading scenes"
    assert screen.lines[1].endswith(f"{len(audit.quarantine):,} rows in quarantine")
    assert len(audit.pairs) + len(audit.quarantine) == 400
    assert audit.quarantine["reason"].str.startswith("look-alike of scene-").all()
    assert not audit.finished
    others = made.paper.pairs.set_index("pair_id")["captions"]
    planted = audit.pairs[[list(row.captions) != list(others[row.pair_id]) for row in audit.pairs.itertuples()]]
    assert len(planted) == 6
    assert set(planted["planted"]) == {"miscaption"}
    group = audit.membership.set_index("pair_id")["group"]
    assert set(group[planted["pair_id"]]) == {"candidate"}


def test_pictures_that_stream_from_disk_change_no_number(data: Path) -> None:
    flags = [*PAPER, "--scenes-pairs", "220", "--epochs", "2"]

    def run(gb: str) -> Audit:
        return run_audit("scenes", config_of([*flags, "--cache-gb", gb]), name=f"of-{gb}", screen=Silent())

    streamed = run("1e-6")
    assert not list((data / "cache" / "pixels").glob("*/pixels.npy"))
    stored = run("1")
    assert (pixels_folder(stored) / "pixels.npy").exists()
    for name in ("scores.parquet", "utility.parquet", "members/f-0/trajectory.npy", "members/g-0/image.npy"):
        assert (streamed.folder / name).read_bytes() == (stored.folder / name).read_bytes(), name
