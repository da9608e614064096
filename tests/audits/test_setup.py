import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from clipmem_core.audits import setup
from clipmem_core.audits.prepare import draw_membership
from clipmem_core.audits.settings import resolve
from clipmem_core.audits.setup import check_same, grow, member_seeds
from clipmem_core.audits.store import Audit, file_sha256, write_table
from clipmem_core.config import AuditConfig, InputError, SourceOptions
from tests.audits.small import ENSEMBLE, PAPER, config_of
from tests.conftest import Made


@pytest.fixture
def start(made: Made, tmp_path: Path) -> Audit:
    """The paper audit as its members found it, to change at will."""
    left = shutil.ignore_patterns("*.pt", "*.npy", "*.jsonl")
    return Audit(Path(shutil.copytree(made.paper.folder, tmp_path / "start", ignore=left)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.5}, "--lr is 0.002 there and 0.5 here"),
        ({"epochs": 7, "seed": 3}, "--seed is 0 there and 3 here; --epochs is 24 there and 7 here"),
        ({"source": SourceOptions(scenes_pairs=500)}, "--scenes-pairs is 400 there and 500 here"),
        ({"plant_miscaptions": 5}, "--plant-miscaptions is 0 there and 5 here"),
    ],
)
def test_another_config_is_one_line_with_the_fields_that_differ(
    start: Audit, changes: dict[str, Any], message: str
) -> None:
    config = dataclasses.replace(resolve(config_of(PAPER)), **changes)
    with pytest.raises(InputError, match=f"'start' exists with another config: {message}. Take another --name"):
        check_same(start, "scenes", config)


def test_another_source_is_named_but_not_another_way_to_write_it_nor_what_changes_no_number(
    start: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="the source is 'scenes' there and 'cats.csv' here"):
        check_same(start, "cats.csv", resolve(config_of(PAPER)))
    check_same(start, "scenes", dataclasses.replace(resolve(config_of(PAPER)), threads=7, cache_gb=0.5))
    stored = start.record.values
    (start.folder / "config.json").write_text(json.dumps(stored | {"source": "sub/../cats.csv"}))
    monkeypatch.chdir(tmp_path)
    check_same(start, str(tmp_path / "cats.csv"), resolve(config_of(PAPER)))


def test_fewer_members_than_there_are_is_an_error(made: Made) -> None:
    with pytest.raises(InputError, match="'ensemble' has 4 members and 2 were asked for: ask for as many or more"):
        check_same(made.ensemble, "scenes", resolve(config_of([*ENSEMBLE, "--members", "2"])))


def test_growing_leaves_the_first_members_as_they_are(made: Made) -> None:
    assert len(made.before_growth) == 2 * 8
    for name, sha256 in made.before_growth.items():
        assert file_sha256(made.ensemble.folder / name) == sha256, name


def test_a_grown_audit_is_the_one_that_was_made_at_once(made: Made) -> None:
    stored = made.ensemble.record.values
    config = resolve(config_of([*ENSEMBLE, "--members", "4"]))
    assert stored["members"] == ["r0-f0", "r0-f1", "r1-f0", "r1-f1"]
    assert stored["seeds"] == {"r0-f0": 0, "r0-f1": 0, "r1-f0": 1, "r1-f1": 1}
    assert stored["config"]["members"] == 4
    assert stored["fingerprint"] == setup.audit_fingerprint(config, stored["dataset_fingerprint"])
    drawn = draw_membership(np.load(made.ensemble.folder / ".prepared.npz")["clusters"], config)
    assert np.array_equal(made.ensemble.membership[list(drawn.members)].to_numpy().T, drawn.trained)


def test_growth_that_is_cut_short_is_taken_up_again(start: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    config = resolve(dataclasses.replace(config_of(PAPER), seeds=2))
    one_seed = start.membership

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(setup, "write_table", killed)
        with pytest.raises(KeyboardInterrupt):
            grow(start, config)
    assert not start.finished
    check_same(start, "scenes", config)
    assert grow(start, config) == 2
    assert start.membership.columns.tolist() == ["pair_id", "group", "f-0", "g-0", "f-1", "g-1"]
    pd.testing.assert_frame_equal(start.membership[one_seed.columns.tolist()], one_seed)
    assert grow(start, config) == 0


def test_given_checkpoints_cannot_grow(start: Audit) -> None:
    path = start.member("f-0") / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"checkpoint": "f.pt"}))
    with pytest.raises(InputError, match="'start' scores given checkpoints and cannot train more: take another --name"):
        grow(start, resolve(dataclasses.replace(config_of(PAPER), seeds=2)))
    assert start.finished


def test_each_seed_or_repeat_has_a_seed_of_its_own() -> None:
    paper, ensemble = AuditConfig(protocol="paper", seed=10), AuditConfig(seed=10)
    assert member_seeds(paper, ["f-0", "g-0", "f-12"]) == {"f-0": 10, "g-0": 10, "f-12": 22}
    assert member_seeds(ensemble, ["r0-f0", "r3-f1"]) == {"r0-f0": 10, "r3-f1": 13}


def test_pairs_that_were_left_out_stay_left_out_as_an_audit_grows(start: Audit) -> None:
    table = start.membership
    left_out = table.index.isin([3, 40, 41])
    members = [name for name in table if name not in ("pair_id", "group")]
    before = table.assign(**{name: table[name] & ~left_out for name in members})
    write_table(start.folder / "membership.parquet", before)
    assert grow(start, dataclasses.replace(resolve(config_of(PAPER)), seeds=2, members=4)) == 2
    after = start.membership
    assert (after["f-1"] == before["f-0"]).all()
    assert (after["g-1"] == before["g-0"]).all()
