"""A setting's text, the pairs that it changes, and the settings of the built-in studies."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from clipmem_core.auditing.folder.settings import check_config
from clipmem_core.auditing.folder.store import Audit, Prepared, is_name, write_prepared
from clipmem_core.cli import parse_command
from clipmem_core.config import FIELDS, SETTING_FIELDS, AuditConfig, preset_config
from clipmem_core.lab.setting import (
    DEFAULTS,
    STUDIES,
    Decided,
    PairChanges,
    Removal,
    Setting,
    changes_of,
    parse_setting,
    without_idle,
)
from clipmem_core.utils import columns as c
from clipmem_core.utils.io import InputError
from tests.fixtures import make_audit, rewrite


def test_an_setting_parses_back_from_its_text_in_any_order_and_from_its_flags() -> None:
    fields = {name: FIELDS[name].default for name in SETTING_FIELDS}
    fields |= {"text_mask": 0.3, "max_logit_scale": 20.0}
    more = {"removal": Removal("p_wrong", 2.5), "decisions": True}
    settings = [
        Setting(),
        Setting(fields | more),
        Setting(fields | more | {"near_duplicates": True}),
    ]
    for setting in settings:
        assert parse_setting("  ".join(reversed(setting.text.split()))) == setting
        assert is_name(setting.name)
        typed = vars(parse_command(["mitigate", "x", *setting.flags]))
        assert {name: typed[name] for name in setting.fields} == setting.fields
        assert typed.get("removal", "") == str(setting.removal or "")
        assert typed.get("decisions", False) == ("decisions" in setting.overrides)
    decided = [Decided(frozenset(ids)) for ids in ("a", "ab")]
    names = [Setting({"decisions": True}, each).name for each in decided]
    assert names[0] != names[1]


WRONG = {
    "seed=1": "setting 'seed' is unknown",
    "text_mask": "text_mask must be a number, not ''",
    "stop_epoch=3.5": "stop_epoch must be a whole number, not '3.5'",
    "removal=clipmem:0": "removal must be",
    "removal=misfit:3": "clipmem, p_wrong, random",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_setting_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=WRONG[text]):
        parse_setting(text)


def test_overrides_without_effect_are_left_out() -> None:
    config = dataclasses.replace(AuditConfig(), text_noise=0.1, adaptive_every=5)
    texts = {
        "text_noise=0.1": "",
        "text_noise=0 noise_place=before": "text_noise=0",
        "noise_place=before": "noise_place=before",
        "adaptive_every=2": "",
        "adaptive_mask=.5 adaptive_every=2": "adaptive_mask=0.5 adaptive_every=2",
        "removal=random:5 near_duplicates": "removal=random:5 near_duplicates",
    }
    assert {text: without_idle(parse_setting(text), config).text for text in texts} == texts


@pytest.fixture
def audit(tmp_path: Path) -> Audit:
    """80 scored and 20 held-out pairs: 1 looks like 0, 3 and 4 like 2, two held-out ones alike."""
    made = make_audit(tmp_path)
    clusters = np.arange(100)
    clusters[[1, 3, 4, 91]] = [0, 2, 2, 90]
    write_prepared(made.folder, Prepared(np.arange(100), clusters, clusters))
    return made


def changes_by(audit: Audit, text: str, decided: Decided | None = None) -> PairChanges:
    return changes_of(audit, dataclasses.replace(parse_setting(text), decided=decided or Decided()))


def removed_by(audit: Audit, text: str) -> list[int]:
    return np.flatnonzero(changes_by(audit, text).removed).tolist()


@pytest.mark.parametrize("by", [c.CLIPMEM, c.P_WRONG])
def test_a_removal_takes_a_share_of_the_pairs_that_have_the_score(audit: Audit, by: str) -> None:
    table = audit.scores
    table.loc[[7, 8], c.P_WRONG] = np.nan
    table.loc[90, [c.CLIPMEM, c.P_WRONG]] = 9.0  # held-out
    rewrite(audit.folder / "scores.parquet", table)
    scored = table[table[c.GROUP] == c.SCORED]
    for percent, count in ((10, 8), (30, 24 if by == c.CLIPMEM else 23)):  # of 80, or of 78
        expected = scored.nlargest(count, by).index
        assert removed_by(audit, f"removal={by}:{percent}") == sorted(expected)


def test_a_random_removal_grows_and_ties_are_broken_by_chance(audit: Audit) -> None:
    few, many = (set(removed_by(audit, f"removal=random:{percent}")) for percent in (10, 50))
    assert len(few) == 8
    assert few < many < set(range(80))
    assert not set(range(5)) <= few
    rewrite(audit.folder / "scores.parquet", audit.scores.assign(clipmem=0.5))
    assert removed_by(audit, "removal=clipmem:50") == sorted(many)


def test_an_setting_changes_near_duplicates_decided_pairs_and_no_held_out_pair(
    audit: Audit,
) -> None:
    ids = audit.pairs[c.PAIR_ID]
    captions = {ids[1]: ("a",), ids[20]: ("b",), ids[21]: tuple(audit.pairs["captions"][21])}
    decided = Decided(frozenset(ids[[9, 95]]), captions | {ids[96]: ("c",), "other": ("d",)})
    assert removed_by(audit, "near_duplicates") == [1, 3, 4]
    changes = changes_by(audit, "near_duplicates decisions", decided)
    assert np.flatnonzero(changes.removed).tolist() == [1, 3, 4, 9]
    assert changes.captions == {20: ("b",)}  # 1 is removed, 21 has the same captions
    assert np.flatnonzero(~changes.compared).tolist() == [1, 3, 4, 9, 20]


@pytest.mark.parametrize("name", sorted({*STUDIES} - {"settings"}))
def test_the_settings_of_a_study_can_run_and_differ(name: str) -> None:
    config = dataclasses.replace(preset_config("small"), train_captions=1, **DEFAULTS)
    settings = [parse_setting(text.format(early=9)) for text in STUDIES[name]]
    assert len({without_idle(setting, config).text for setting in settings} - {""}) == len(settings)
    for setting in settings:
        check_config(dataclasses.replace(config, **setting.fields))
