"""Paired differences against scipy and by hand, sentences, and the command that makes a study
again."""

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from clipmem_core.audit.settings import machine, resolve
from clipmem_core.audit.store import write_json
from clipmem_core.cli import main, parse_command
from clipmem_core.config import SourceOptions, affecting, as_dict
from clipmem_core.studies.results import (
    command_of,
    differences,
    front,
    relative,
    sentence_of,
    show_differences,
)
from clipmem_core.studies.study_folder import StudyFolder
from tests.studies.conftest import config_of

ARMS = {"a": 8, "b": 4, "c": 8}  # members of each


def made_rows(splits: int = 0) -> pd.DataFrame:
    """A table as of a lab, or of several splits: the baseline differs between arms."""
    rng = np.random.default_rng(0)
    rows = []
    for split in range(max(1, splits)):
        for arm, count in ({**ARMS, "none": 8}).items():
            for name in dict.fromkeys((arm, "none")):
                for member in range(count):
                    row = {"arm": name, "against": arm, "member": f"r0-f{member}"}
                    row |= {"clipmem": rng.normal(0.3, 0.1), "retrieval": rng.normal(0.5, 0.1)}
                    row["clipmem_external"] = rng.normal(0, 0.01)
                    rows.append(row | ({"split": split} if splits else {}))
    return pd.DataFrame(rows)


def side(rows: pd.DataFrame, arm: str, against: str) -> pd.DataFrame:
    return rows[(rows["arm"] == arm) & (rows["against"] == against)]


@pytest.mark.parametrize("splits", [0, 4])
def test_differences_are_paired_by_member_or_by_split(splits: int) -> None:
    rows = made_rows(splits)
    over = "split" if splits else "member"
    found = differences(rows).set_index(["arm", "measure"])
    net = rows.assign(clipmem_net=rows["clipmem"] - rows["clipmem_external"])
    for measure in ("clipmem_net", "retrieval"):
        tests = {}
        for arm, count in ARMS.items():
            own, base = (
                side(net, name, arm).groupby(over)[measure].mean() for name in (arm, "none")
            )
            assert len(base) == splits or count  # the baseline on the members of the arm alone
            tests[arm] = ttest_rel(own, base)
            row = found.loc[(arm, measure)]
            interval = tests[arm].confidence_interval()
            assert row["n"] == (splits or count)
            expected = [own.mean(), base.mean(), (own - base).mean(), *interval, tests[arm].pvalue]
            names = ["value", "baseline", "difference", "low", "high", "p_value"]
            assert row[names].tolist() == pytest.approx(expected)
        # Holm: the smallest p times 3, the next times 2, and none below the one before.
        order = sorted(tests, key=lambda arm: tests[arm].pvalue)
        highest = 0.0
        for place, arm in enumerate(order):
            highest = max(highest, min(1, tests[arm].pvalue * (3 - place)))
            assert found.loc[(arm, measure), "p_of_all"] == pytest.approx(highest)
        none = found.loc[("none", measure)]
        assert none["difference"] == 0
        assert np.isnan(none["p_value"])


def test_two_members_have_no_interval_and_missing_values_are_left_out() -> None:
    rows = made_rows()
    few = rows[rows["member"].isin(["r0-f0", "r0-f1"])]
    found = differences(few)
    assert set(found["n"]) == {2}
    assert found[["low", "p_value", "p_of_all"]].isna().all(axis=None)
    one = rows.copy()
    one.loc[side(one, "none", "a").index[0], "retrieval"] = np.nan
    assert differences(one).set_index(["arm", "measure"]).loc[("a", "retrieval"), "n"] == 7
    assert differences(rows[:0]).empty


steps = st.integers(0, 4).map(float)


@settings(max_examples=50)
@given(st.lists(st.tuples(steps, steps), max_size=8))
def test_the_front_is_what_no_arm_beats_in_both(values: list[tuple[float, float]]) -> None:
    names = [f"arm-{n}" for n in range(len(values))]
    points = pd.DataFrame(values, columns=["less", "more"]).assign(arm=names)
    beaten = {
        names[n]
        for n, (x, y) in enumerate(values)
        if any(a <= x and b >= y and (a, b) != (x, y) for a, b in values)
    }
    found = front(points, "less", "more")
    assert set(found) == set(names) - beaten
    assert (np.diff(points.set_index("arm").loc[found, "less"].to_numpy()) >= 0).all()


def test_a_difference_is_in_percent_of_the_baseline() -> None:
    row = {"baseline": 0.4, "difference": -0.1, "low": -0.12, "high": 0.08}
    assert relative(row) == "−25.0 % [−30.0, +20.0]"
    assert relative(row | {"low": np.nan}) == "−25.0 %"
    assert relative(row | {"baseline": -0.4}) == "−0.100 [−0.120, +0.080]"


def test_a_sentence_and_a_table_have_the_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    rows = made_rows().assign(**{"attack_TPR@0.01": 0.25})
    rows.loc[rows["arm"] == "a", ["clipmem", "clipmem_external"]] = [0.1, 0.0]
    rows.loc[side(rows, "none", "a").index, ["clipmem", "clipmem_external"]] = [0.25, 0.05]
    rows.loc[rows["arm"] == "a", "attack_TPR@0.01"] = 0.125
    sentence = sentence_of(differences(rows), "a", "Less")
    assert sentence.startswith("Less: memorization −50.0 % [−50.0, −50.0], ")
    assert "12 % of the training pairs instead of 25 %" in sentence
    show_differences(rows, {"a": "Less", "another": "x"})
    shown = capsys.readouterr().out
    assert sentence in shown
    assert "-0.100" in shown
    assert "another" not in shown


def asked_for(data: Path, *flags: str, **changes: Any) -> StudyFolder:
    """Write the study.json of a study that was started with some flags."""
    config = dataclasses.replace(resolve(config_of(*flags)), **changes)
    study = StudyFolder(data / "studies" / "asked")
    study.folder.mkdir(parents=True, exist_ok=True)
    values = {"study": "combined", "source": "my pairs.csv", "config": as_dict(config)}
    values |= {"splits": 3, "also": ["text_mask=0.3 decisions"], "arms": {}}
    write_json(
        study.folder / "study.json", values | {"dataset_fingerprint": "0", "machine": machine()}
    )
    return study


ODD = SourceOptions(csv_separator="\t", csv_caption_key="a caption", scenes_pairs=220)
FLAGS: list[tuple[list[str], dict[str, Any]]] = [
    ([], {}),
    (["--eval-crop-scale", "0", "--views", "4", "--eval-captions", "0"], {}),  # set by studies
    (["--protocol", "ensemble", "--members", "4", "--no-retrieval-apart"], {}),
    (["--drop-near-duplicates", "--lr", "1e-05", "--seed", "7", "--weight-decay=0.2"], {}),
    ([], {"source": ODD, "device": "cuda", "precision": "amp_bf16", "threads": 3}),
]


@pytest.mark.parametrize(("flags", "changes"), FLAGS)
def test_the_command_of_a_study_makes_it_again(
    tmp_path: Path, flags: list[str], changes: dict[str, Any]
) -> None:
    study = asked_for(tmp_path, *flags, **changes)
    words = shlex.split(command_of(study))
    assert words[:3] == ["python", "-m", "clipmem_core"]
    command = parse_command(words[3:])
    found = (command.study, command.source, command.name, command.splits, command.also)
    expected = ("combined", "my pairs.csv", "asked", 3, ("text_mask=0.3 decisions",))
    assert found == expected
    apart = affecting("machine")
    again = as_dict(resolve(command.config))
    asked = study.request["config"]
    assert {name: again[name] for name in again if name not in apart} == {
        name: asked[name] for name in asked if name not in apart
    }
    assert not {f"--{name}" for name in apart} & {word.partition("=")[0] for word in words}


def test_results_of_a_study_are_written_with_its_command(
    study_data: Path, whole: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPMEM_DATA", str(study_data))
    path = tmp_path / "two.csv"
    assert main(["results", "whole", str(path), "--study"]) == 0
    lines = path.read_text().splitlines()
    assert lines[0] == f"# command: {command_of(whole)}"
    assert lines[2] == "# seeds: 0, 2"
    (arm,) = whole.request["arms"]
    assert any(whole.request["arms"][arm] in line for line in lines[4:] if line.startswith("# "))
    table = pd.read_csv(path, comment="#").set_index(["arm", "measure"])
    by_split = [
        side(whole.rows, name, arm).groupby("split")["retrieval"].mean() for name in (arm, "none")
    ]
    difference = (by_split[0] - by_split[1]).mean()
    assert table.loc[(arm, "retrieval"), "difference"] == pytest.approx(difference, abs=1e-4)
    assert main(["results", "nosuch", "x", "--study"]) == 2
