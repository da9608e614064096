"""The results of a study: paired differences worked out by hand, its sentences, its tables, and the shipped ones."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmem_core.cli import main
from clipmem_core.studies.plan import command_of
from clipmem_core.studies.results import (
    COLUMNS,
    differences,
    front,
    reference_studies,
    sentence_of,
    show_study,
)
from clipmem_core.studies.study_folder import StudyFolder


def test_a_study_is_shown_and_written_with_its_sentences_and_its_command(
    drawn: Path, whole: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLIPMEM_DATA", str(drawn))
    show_study(whole)
    shown = " ".join(capsys.readouterr().out.split())
    assert "none (n = 2), and paired differences to it" in shown
    assert "95 % interval over training seeds of one split" in shown
    assert "whole: fewer than 3 replicates" in shown
    assert main(["results", "whole", str(tmp_path / "two.csv"), "--study"]) == 0
    lines = (tmp_path / "two.csv").read_text().splitlines()
    assert lines[0] == f"# command: {command_of(whole)}"
    assert lines[1].startswith("# machine: ")
    assert lines[2] == "# seeds: 0, 1"
    assert "# whole: fewer than 3 replicates, too few to compare." in lines
    table = pd.read_csv(tmp_path / "two.csv", comment="#")
    arms = whole.arms.set_index(["arm", "seed"])["clipmem_candidate"]
    row = table.query("arm == 'whole' and measure == 'clipmem_candidate' and reference == 'none'").iloc[0]
    assert row["difference"] == pytest.approx(np.mean([arms["whole", s] - arms["none", s] for s in (0, 1)]), rel=1e-4)
    assert main(["results", "nosuch", "x", "--study"]) == 2


def rows(
    arms: dict[str, list[float]], *, retrieval: dict[str, list[float]] | None = None, per_split: int = 0
) -> pd.DataFrame:
    """A table of arms with clipmem and retrieval by seed, all of clipmem from text."""
    found = [
        {
            "arm": arm,
            "seed": seed,
            "clipmem_candidate": value,
            "membership_auroc": 0.5 + value,
            "retrieval": (retrieval or {}).get(arm, [0.5] * len(own))[seed],
            "clipmem_image": 0.0,
            "clipmem_text": value,
        }
        | ({"split": seed // per_split} if per_split else {})
        for arm, own in arms.items()
        for seed, value in enumerate(own)
    ]
    return pd.DataFrame(found)


def compare(arms: pd.DataFrame) -> pd.Series:
    """How arm `a` differs from `none` in clipmem."""
    return differences(arms).query("arm == 'a' and measure == 'clipmem_candidate'").iloc[0]


def test_differences_are_taken_seed_by_seed() -> None:
    arms = rows({"none": [1, 2, 3], "a": [0.5, 1.4, 2.6]})
    found = differences(arms)
    assert list(found.columns) == COLUMNS
    less = compare(arms)
    assert (less["n"], less["value"], less["difference"]) == (3, pytest.approx(1.5), pytest.approx(-0.5))
    # Differences −.5, −.6, −.4: SD .1, and t.975 with two degrees of freedom is 4.3027.
    assert less["high"] - less["difference"] == pytest.approx(4.3027 * 0.1 / np.sqrt(3), abs=1e-4)
    none = found.query("arm == 'none' and measure == 'clipmem_text'").iloc[0]
    assert none["difference"] == 0
    assert np.isnan(none["low"])
    fewer = compare(rows({"none": [1, 2, 9], "a": [0, 1]}))
    assert (fewer["n"], fewer["difference"]) == (2, -1)
    assert differences(arms.query("arm == 'a'")).empty


def test_seeds_of_a_split_are_averaged_before_an_interval_is_taken() -> None:
    arms = rows({"none": [0.4, 0.4, 0.5, 0.5, 0.6, 0.6], "a": [0.2, 0.4, 0.3, 0.3, 0.2, 0.6]}, per_split=2)
    found = compare(arms)
    # By split −.1, −.2, −.2: mean −1/6, SD .05774, and t.975 with two degrees of freedom is 4.3027.
    assert (found["n"], found["difference"]) == (3, pytest.approx(-1 / 6))
    assert found["high"] - found["difference"] == pytest.approx(4.3027 * 0.057735 / 3**0.5, rel=1e-4)
    one_less = compare(arms[~((arms["arm"] == "a") & (arms["seed"] == 5))])
    assert one_less["difference"] == pytest.approx((-0.1 - 0.2 - 0.4) / 3)  # the third split has one shared seed


steps = st.integers(0, 4).map(float)


@settings(max_examples=50)
@given(st.lists(st.tuples(steps, steps), max_size=8))
def test_the_front_is_what_no_arm_beats_in_both(values: list[tuple[float, float]]) -> None:
    points = pd.DataFrame(values, columns=["less", "more"]).assign(arm=[f"arm-{n}" for n in range(len(values))])
    beaten = {
        f"arm-{n}" for n, (x, y) in enumerate(values) if any(a <= x and b >= y and (a, b) != (x, y) for a, b in values)
    }
    found = front(points, "less", "more")
    assert set(found) == set(points["arm"]) - beaten
    assert (np.diff(points.set_index("arm").loc[found, "less"].to_numpy()) >= 0).all()


def test_a_sentence_says_what_is_other_than_0_after_holms_correction() -> None:
    none, retrieval = (
        [0.4, 0.42, 0.38],
        {"none": [0.5, 0.51, 0.49], "less": [0.51, 0.5, 0.491], "more": [0.4, 0.41, 0.39]},
    )
    arms = {"none": none, "less": [x - 0.1 for x in none], "more": [x + 0.04 for x in none]}
    compared = differences(rows(arms, retrieval=retrieval))
    assert sentence_of(compared, "less") == "less: 25 % less memorization, retrieval unchanged."
    assert sentence_of(compared, "more") == "more: 10 % more memorization, 20 % less retrieval."
    few = differences(rows({"none": none[:2], "less": none[:2]}))
    assert sentence_of(few, "less") == "less: fewer than 3 replicates, too few to compare."
    below = differences(rows({"none": [-0.1] * 3, "less": [-0.2] * 3}))
    assert sentence_of(below, "less") == "less: 0.100 less memorization, retrieval unchanged."


def test_shipped_tables_are_read_those_over_splits_first() -> None:
    found = reference_studies(["combined", "forgetting", "text-noise", "captions", "removal"])
    assert (found[0].plan, found[0].over) == ("combined", "splits of the pairs")
    named = {study.name: study for study in found}
    expected = "reference study: scenes, preset locked, AMD EPYC, 2 cores, 5 splits"
    assert named["combined-scenes-locked"].title == expected
    assert named["combined-openstax-locked"].title.startswith("reference study: openstax, ")
    assert not named["forgetting"].rows.duplicated(["arm", "measure"]).any()
