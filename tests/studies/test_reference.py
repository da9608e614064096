"""The studies of data/results, read from their tables: every sentence of a table on who reaches the aim holds here."""

import re
from pathlib import Path

import pandas as pd
import pytest

from clipmem_core.config import InputError
from clipmem_core.studies.reference import RESULTS, outcome, read_reference, reference_studies

MITIGATIONS = ("combined", "forgetting", "text-noise", "captions", "removal")


def test_every_table_says_what_it_is_of() -> None:
    found = reference_studies(MITIGATIONS)
    assert found[0].plan == "combined"
    assert found[0].counted == "splits"  # those over splits come first
    named = {study.name: study for study in found}
    assert named["combined-scenes-locked"].told == (
        "reference study: scenes, preset locked, AMD EPYC, 2 cores, 5 splits"
    )
    assert named["combined-openstax-locked"].source == "openstax"
    assert named["combined-photographs"].source == "photographs"
    assert {study.plan for study in reference_studies(("time", "size", "views"))} == {"time", "size", "views"}


def test_who_reaches_the_aim_is_what_the_study_itself_said() -> None:
    checked = 0
    for study in reference_studies(MITIGATIONS):
        told = next((line for line in study.sentences if line.startswith("The aim (")), "")
        names = re.search(r"is reached by ([^;]+?)[.;]", told)
        if not names or study.name in ("forgetting",) or "forget" in names[1]:
            continue  # what forgets is judged against another arm, which this table does not have alone
        outcomes = {arm: outcome(study, arm) for arm in study.arms if arm != study.reference}
        reached = {arm for arm, found in outcomes.items() if found is not None and found.reached}
        assert reached == (set() if names[1] == "no arm" else set(names[1].split(", "))), study.name
        checked += 1
    assert checked >= 4


def test_rows_are_those_of_the_reference_arm_alone() -> None:
    study = read_reference(RESULTS / "study-forgetting.csv")
    assert study.reference == "none"
    assert not study.rows.duplicated(["arm", "measure"]).any()
    none = study.rows[study.rows["arm"] == "none"]
    assert (none["difference"] == 0).all()


def test_a_table_that_does_not_say_what_made_it_is_told(tmp_path: Path) -> None:
    path = tmp_path / "study-x.csv"
    pd.DataFrame({"arm": ["none"], "measure": ["clipmem"]}).to_csv(path, index=False)
    with pytest.raises(InputError, match=r"study-x.csv cannot be read .*: get the file again"):
        read_reference(path)
    path.write_text(
        "# command: python -m clipmem_core study combined scenes --name x\n# machine: M; cpu\n# seeds: 0, 1\n"
        "# value: mean over seeds; low, high: 95 % interval over splits of the pairs of the paired difference\n"
        "arm,measure\nnone,clipmem\n"
    )
    with pytest.raises(InputError, match=r"study-x.csv lacks difference, high, low, n, value: get the file again"):
        read_reference(path)
