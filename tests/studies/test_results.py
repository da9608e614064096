"""The results of a study: paired differences worked out by hand, its sentences, its tables, and the shipped ones."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmem_core.commands import main
from clipmem_core.config import InputError
from clipmem_core.studies.plan import commands_of
from clipmem_core.studies.results import (
    COLUMNS,
    RESULTS,
    all_differences,
    differences,
    front,
    read_reference,
    reference_studies,
    sentence_of,
    sentences,
    show_study,
    write_results,
)
from clipmem_core.studies.store import StudyFolder, list_studies
from tests.studies.conftest import Trained
from tests.studies.made_context import make_study

Start = Callable[..., StudyFolder]


def test_time_keeps_what_was_memorized_after_each_epoch_and_a_look_changes_nothing(
    start: Start, trained: Trained, whole: StudyFolder, tmp_path: Path
) -> None:
    study = start("time", "t", seeds=1)
    times, arms = study.times, study.arms
    assert times["epoch"].tolist() == [1, 2]
    other = ("arm", "seed", "retrieval")  # after an epoch a pair's captions are looked for as one
    shared = [name for name in times if name in arms and name not in other]
    assert "clipmem_text" in shared
    np.testing.assert_allclose(
        times.loc[1, shared].astype(float), arms.loc[0, shared].astype(float), atol=1e-5
    )  # the last look is at the finished member
    assert (times.loc[0, shared] != arms.loc[0, shared]).any()
    write_results(study, tmp_path / "t.csv")
    table = pd.read_csv(tmp_path / "t.csv", comment="#")
    row = table.query("measure == 'clipmem_text' and epoch == 1").iloc[0]
    assert row["value"] == pytest.approx(times.loc[0, "clipmem_text"], rel=1e-4)
    for name in ("checkpoint.pt", "trajectory.npy", "image.npy", "text.npy"):
        first, second = (one.audit("none").member("f-0") / name for one in (study, whole))
        assert not first.samefile(second)
        assert first.read_bytes() == second.read_bytes()


def test_a_study_is_shown_and_written_with_its_answer_and_what_made_it(
    whole: StudyFolder, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show_study(whole)
    shown = capsys.readouterr().out
    assert "none (n = 2), and paired differences to it" in shown
    assert "95 % interval over training seeds of one split" in " ".join(shown.split())
    assert "whole: fewer than 3 replicates" in shown
    assert "±" in shown
    write_results(whole, tmp_path / "two.csv")
    lines = (tmp_path / "two.csv").read_text().splitlines()
    assert lines[0] == "# command: " + commands_of(whole)[0]
    assert lines[1].startswith("# machine: ")
    assert lines[2] == "# seeds: 0, 1"
    assert "# whole: fewer than 3 replicates, too few to compare." in lines
    table = pd.read_csv(tmp_path / "two.csv", comment="#")
    arms = whole.arms.set_index(["arm", "seed"])["clipmem_candidate"]
    assert set(table["reference"]) == {"none"}
    row = table.query("arm == 'whole' and measure == 'clipmem_candidate'").iloc[0]
    assert row["difference"] == pytest.approx(np.mean([arms["whole", s] - arms["none", s] for s in (0, 1)]), rel=1e-4)


def test_the_command_line_writes_a_table_or_says_what_is_wrong(
    drawn: Path, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLIPMEM_DATA", str(drawn))
    assert [one.name for one in list_studies()] == ["ranked", "whole"]
    assert main(["results", "whole", str(tmp_path / "out.csv"), "--study"]) == 0
    assert (tmp_path / "out.csv").is_file()
    assert main(["results", "whole", "--study"]) == main(["results", "nosuch", "x", "--study"]) == 2
    assert capsys.readouterr().err.count("error: ") == 2


def test_a_study_without_a_row_has_no_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path))
    make_study(tmp_path)
    assert main(["results", "made", str(tmp_path / "out.csv"), "--study"]) == 2
    assert "study 'made' has no result yet: run it again" in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()


def contributions(values: dict[str, list[tuple[float, float]]]) -> pd.DataFrame:
    """Arms with (image, text) contributions, one a seed."""
    return pd.DataFrame(
        [
            {"arm": arm, "seed": seed, "clipmem_image": image, "clipmem_text": text, "clipmem_candidate": image + text}
            for arm, seeds in values.items()
            for seed, (image, text) in enumerate(seeds)
        ]
    )


def test_differences_are_taken_seed_by_seed() -> None:
    table = contributions({"none": [(0, 1), (0, 2), (0, 3)], "less": [(0, 0.5), (0, 1.4), (0, 2.6)]})
    found = differences(table, "none")
    assert list(found.columns) == COLUMNS
    less = found.query("arm == 'less' and measure == 'clipmem_text'").iloc[0]
    assert (less["n"], less["value"], less["difference"]) == (3, pytest.approx(1.5), pytest.approx(-0.5))
    # Differences −.5, −.6, −.4: SD .1, and t.975 with two degrees of freedom is 4.3027.
    assert less["high"] - less["difference"] == pytest.approx(4.3027 * 0.1 / np.sqrt(3), abs=1e-4)
    none = found.query("arm == 'none' and measure == 'clipmem_text'").iloc[0]
    assert none["difference"] == 0
    assert np.isnan(none["low"])
    table = contributions({"none": [(0, 1), (0, 2), (0, 9)], "less": [(0, 0), (0, 1)]})
    less = differences(table, "none").query("arm == 'less' and measure == 'clipmem_text'").iloc[0]
    assert (less["n"], less["difference"]) == (2, -1)
    alone = differences(table.query("arm == 'less'"), "none")
    assert alone.empty


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
    at = points.set_index("arm").loc[found, "less"].to_numpy()
    assert (np.diff(at) >= 0).all()


def test_an_arm_without_a_value_is_on_no_front() -> None:
    points = pd.DataFrame({"arm": ["a", "b", "c"], "x": [0.0, 1.0, np.nan], "y": [np.nan, 1.0, 2.0]})
    assert front(points, "x", "y") == ["b"]
    assert front(points[:0], "x", "y") == []


def rows(**arms: list[tuple[float, float]]) -> pd.DataFrame:
    """Return a table of arms whose seeds have clipmem and retrieval."""
    parts = dict.fromkeys(["clipmem_image", "clipmem_text"], 0.1)
    return pd.DataFrame(
        [
            {"arm": arm, "seed": seed, "clipmem_candidate": clipmem, "retrieval": retrieval, **parts}
            for arm, seeds in arms.items()
            for seed, (clipmem, retrieval) in enumerate(seeds)
        ]
    )


def test_a_sentence_says_what_is_other_than_0_after_holms_correction() -> None:
    none = [(0.4, 0.5), (0.42, 0.51), (0.38, 0.49)]
    less = [(x - 0.1, y + d) for (x, y), d in zip(none, (0.01, -0.01, 0.001), strict=True)]
    more = [(x + 0.04, y - 0.1) for x, y in none]
    compared = differences(rows(none=none, less=less, more=more), "none")
    assert sentence_of(compared, "less") == "less: 25 % less memorization, retrieval unchanged."
    assert sentence_of(compared, "more") == "more: 10 % more memorization, 20 % less retrieval."
    few = differences(rows(none=none[:2], less=less[:2]), "none")
    assert sentence_of(few, "less") == "less: fewer than 3 replicates, too few to compare."
    below = differences(rows(none=[(-0.1, 0.5)] * 3, less=[(-0.2, 0.5)] * 3), "none")
    assert sentence_of(below, "less") == "less: 0.100 less memorization, retrieval unchanged."


@pytest.mark.parametrize("reference", ["forget-untrained", "text_forget_df-1"])
@pytest.mark.parametrize("field", ["text_forget_df", "text_min_df"])
def test_arms_that_leave_tokens_out_are_also_compared_with_what_leaves_out_only_those_never_trained(
    reference: str, field: str
) -> None:
    arm = [(0.2, 0.48)] * 3
    arms = rows(none=[(0.4, 0.5)] * 3, untrained=[(0.39, 0.51)] * 3, rare=arm, mask=arm)
    arms = arms.replace({"untrained": reference})
    arms["text_forget_df"] = arms["arm"].map({reference: 1.0})
    arms[field] = arms.get(field, arms["arm"].map({})).where(arms["arm"] != "rare", 3.0)
    compared = all_differences(arms, "none")
    assert compared.query("arm == 'rare' and measure == 'retrieval'")[
        ["reference", "difference"]
    ].to_numpy().tolist() == [["none", pytest.approx(-0.02)], [reference, pytest.approx(-0.03)]]
    assert set(compared.query("reference != 'none'")["arm"]) == {"rare"}
    assert sentence_of(compared, "rare") == f"rare (against {reference}): 49 % less memorization, 6 % less retrieval."


def test_a_study_of_scale_says_the_power_of_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, found = np.random.default_rng(0), []
    for fixed, power in {"epochs": -1.0, "steps": -1.5}.items():
        for size in (500, 1_000, 2_000, 4_000):
            arm, of = ("all", "all") if size == 4_000 else (f"{fixed}-{size}", fixed)
            for seed in range(3):
                gap = 0.1 * (size / 4_000) ** power * np.exp(0.01 * rng.normal())
                found.append({"arm": arm, "seed": seed, "pairs": size, "fixed": of, "clipmem_candidate": gap})
    table = pd.DataFrame(found).drop_duplicates(["arm", "seed"])
    named = dict.fromkeys(["membership_auroc", "clipmem_image", "clipmem_text", "retrieval", "clipmem_external"], 0.0)
    study = make_study(tmp_path)
    study.write_asked(study.asked | {"study": "scale", "reference": "all"})
    study.add("arms.parquet", table.assign(**named).to_dict("records"))
    told = [sentence for sentence in sentences(study) if sentence.startswith("With ")]
    for sentence, fixed, power, law in zip(told, ("epochs", "steps"), (-1.0, -1.5), ("−1", "−2"), strict=True):
        assert sentence.startswith(f"With {fixed} fixed")
        assert sentence.endswith(f"predicts {law}.")
        assert float(sentence.split("power of ")[1].split(" ")[0].replace("−", "-")) == pytest.approx(power, abs=0.02)


def test_shipped_tables_are_read_those_over_splits_first() -> None:
    found = reference_studies(["combined", "forgetting", "text-noise", "captions", "removal"])
    assert (found[0].plan, found[0].over) == ("combined", "splits of the pairs")
    named = {study.name: study for study in found}
    assert named["combined-scenes-locked"].title == (
        "reference study: scenes, preset locked, AMD EPYC, 2 cores, 5 splits"
    )
    assert named["combined-openstax-locked"].source == "openstax"
    assert named["combined-photographs"].source == "photographs"
    assert {study.plan for study in reference_studies(["time", "size", "views"])} == {"time", "size", "views"}


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
