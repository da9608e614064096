import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from clipmem_core.auditing.folder.prepare import draw_membership, inject, load_data_set
from clipmem_core.config import AuditConfig
from clipmem_core.utils import columns as c
from clipmem_core.utils.io import InputError

CONFIG = AuditConfig(cache_size=16, members=4)


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.with_suffix(".txt").write_text(f"picture number {seed}\n", encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path, data: Path) -> Path:
    """Six pictures in two classes: the fourth repeats the second's bytes."""
    for number in range(6):
        picture(tmp_path / "set" / ("cat" if number < 3 else "dog") / f"{number}.png", number)
    (tmp_path / "set" / "dog" / "3.png").write_bytes(
        (tmp_path / "set" / "cat" / "1.png").read_bytes()
    )
    return tmp_path / "set"


def test_every_row_is_a_pair_or_in_quarantine(folder: Path) -> None:
    (folder / "cat" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n cut short")
    (folder / "cat" / "broken.txt").write_text("a broken one")
    Image.new("RGB", (4, 4)).save(folder / "dog" / "silent.png")
    found = load_data_set(str(folder), CONFIG)
    assert found.raw.rows == 8 == len(found.pairs) + len(found.quarantine)
    kinds = found.quarantine.set_index(c.PAIR_ID)[c.KIND].to_dict()
    assert kinds == {"cat/broken.png": c.BAD_PICTURE, "dog/silent.png": c.BAD_CAPTION}
    assert found.pairs.columns.tolist() == c.PAIR_COLUMNS
    expected = ["cat/0.png", "cat/1.png", "cat/2.png", "dog/3.png", "dog/4.png", "dog/5.png"]
    assert found.pairs[c.PAIR_ID].tolist() == expected
    assert found.pairs[[c.WIDTH, c.HEIGHT]].drop_duplicates().to_numpy().tolist() == [[32, 24]]


def test_near_duplicates_share_a_cluster_and_dropped_ones_name_their_twin(folder: Path) -> None:
    found = load_data_set(str(folder), CONFIG)
    assert found.clusters.tolist() == [0, 1, 2, 1, 4, 5]
    assert found.near_duplicates == 1
    limited = load_data_set(str(folder), dataclasses.replace(CONFIG, drop_near_duplicates=True))
    assert limited.quarantine[[c.PAIR_ID, c.KIND, c.REASON]].to_numpy().tolist() == [
        ["dog/3.png", c.NEAR_DUPLICATE, "near-duplicate of cat/1.png"]
    ]
    rows = np.array([0, 1, 2, 4, 5])
    assert limited.pairs[c.PAIR_ID].tolist() == found.pairs[c.PAIR_ID][rows].tolist()
    assert limited.near_duplicates == 0
    pixels = limited.pixels.gather(np.arange(5))
    np.testing.assert_array_equal(pixels, found.pixels.gather(rows))


@pytest.mark.parametrize(("protocol", "group"), [("paper", "candidate"), ("ensemble", "scored")])
def test_wrong_captions_are_injected_where_they_are_scored(protocol: str, group: str) -> None:
    config = AuditConfig(protocol=protocol, members=4, inject_miscaptions=20, seed=5)
    captions = [[f"caption {number}"] for number in range(400)]
    pairs = pd.DataFrame({c.CAPTIONS: captions}).assign(pair_id=range(400), injected=None)
    membership = draw_membership(np.arange(400), config)
    injected = inject(pairs, membership, config)
    is_wrong = (injected[c.INJECTED] == "miscaption").to_numpy()
    assert is_wrong.sum() == 20
    assert set(membership.group[is_wrong]) == {group}
    changed = injected[c.CAPTIONS].map(list) != pairs[c.CAPTIONS]
    np.testing.assert_array_equal(changed, is_wrong)


def test_pairs_with_one_group_key_are_split_as_one(folder: Path) -> None:
    rows = [f"cat/{number}.png,caption {number},study-{number % 2}" for number in (0, 1, 2)]
    rows += [f"dog/{number}.png,caption {number}," for number in (3, 4, 5)]
    (folder / "studies.csv").write_text("\n".join(["image,caption,study", *rows]))
    options = dataclasses.replace(CONFIG.source, group_key="study")
    config = dataclasses.replace(CONFIG, source=options)
    found = load_data_set(str(folder / "studies.csv"), config)
    assert found.groups.tolist() == [0, 1, 0, 1, 4, 5]  # the fourth repeats the second picture
    assert found.near_duplicates == 1
    with pytest.raises(InputError, match="--group-key"):
        load_data_set(
            str(folder / "studies.csv"),
            dataclasses.replace(config, source=dataclasses.replace(options, group_key="x")),
        )
