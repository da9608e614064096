"""Adding arms to a made-up study; none is trained."""

import threading
from pathlib import Path

import pytest

from clipmem_core.audits.store import is_name
from clipmem_core.config import InputError
from clipmem_core.studies.arm import Arm, Decided, Removal, first_split, parse_setting
from clipmem_core.studies.plan import add_own, find_arm, read_own
from clipmem_core.studies.store import StudyFolder
from tests.studies.made_context import ids_of, make_study

DECIDED = Decided(frozenset({"p0", "p230"}), {"p5": ("new",)})
RUN = [("none", 0, 100.0), ("none", 1, 110.0), ("text-mask", 0, 80.0), ("text-mask", 1, 88.0), ("text-mask", 2, 10.0)]


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyFolder:
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path))
    return make_study(tmp_path, [*RUN, ("early-stop", 0, 50.0)])


def test_an_added_arm_is_in_the_file_and_among_the_settings(study: StudyFolder) -> None:
    arm = Arm(overrides={"text_mask": 0.3, "noise_place": "before", "removal": Removal("clipmem", 50)})
    name = add_own(study, arm)
    assert name == "text_mask-0.3_removal-clipmem-50"
    assert study.settings[name] == "text_mask=0.3 removal=clipmem:50"  # without what does nothing
    assert find_arm(study, arm) == name
    (found,) = read_own(study)
    assert found == Arm(name, {"text_mask": 0.3, "removal": Removal("clipmem", 50)})
    assert found.row(Decided()) == {"text_mask": 0.3, "removed_by": "clipmem"}
    before = (study.folder / "own.json").read_bytes()
    assert add_own(study, arm) == name
    assert (study.folder / "own.json").read_bytes() == before
    assert find_arm(study, parse_setting("text_mask=0.4")) is None


@pytest.mark.parametrize(
    ("text", "arm"),
    [
        ("", "none"),
        ("text_noise=0 noise_place=before", "none"),
        ("train_captions=1 text_mask=0.15", "text-mask"),
    ],
)
def test_a_setting_that_the_plan_has_is_not_added(study: StudyFolder, text: str, arm: str) -> None:
    assert add_own(study, parse_setting(text)) == find_arm(study, parse_setting(text)) == arm
    assert not (study.folder / "own.json").exists()


def test_other_decisions_are_another_arm_and_what_was_decided_is_frozen(study: StudyFolder) -> None:
    setting = parse_setting("decisions text_mask=0.3")
    assert find_arm(study, setting) is find_arm(study, setting, decided=DECIDED) is None
    first = add_own(study, setting, decided=DECIDED)
    again = Decided(DECIDED.removed | {"p399"}, DECIDED.recaptioned)  # an external pair more
    assert add_own(study, setting, decided=again) == first
    more = Decided(DECIDED.removed | {"p7"}, DECIDED.recaptioned)
    second = add_own(study, setting, decided=more)
    assert first != second
    assert first.startswith("text_mask-0.3_decisions-")
    assert is_name(second)
    assert [arm.decided for arm in read_own(study)] == [DECIDED, more]
    assert find_arm(study, setting, decided=DECIDED) == first
    assert find_arm(study, setting) == second  # the last
    arm = read_own(study)[0]
    changes = first_split(study).changes(arm)
    assert changes.ids == {"p0", "p230", "p5"}
    assert arm.row(changes) == {"text_mask": 0.3, "decisions": True, "removed": 2, "recaptioned": 1}


REFUSED = [
    ("text_mask=1.5", Decided(), "--text-mask must be at least 0 and below 1, not 1.5"),
    ("crop_scale=2", Decided(), "--crop-scale must be a number above 0 and at most 1"),
    ("stop_epoch=81", Decided(), "--stop-epoch must be one of the 80 epochs"),
    ("train_captions=-1", Decided(), "--train-captions must be at least 0"),
    ("removal=clipmem:111", Decided(), "removal takes out at most 110 of the 220 shared pairs, not 111"),
    ("removal=random:108 lookalikes", Decided(), "at most 107 of the 220 shared pairs after the 3 others that"),
    ("decisions", Decided(), "decisions: no pair of this study is decided to be removed or recaptioned: decide first"),
    ("decisions", Decided(frozenset({"p399"})), "decisions: no pair of this study is decided"),
    ("decisions", Decided(ids_of(range(111))), "111 of 220 shared pairs would be taken out: at most half of them"),
    ("decisions", Decided(ids_of(range(220, 271))), "decisions: 9 candidate pairs would be left that all arms"),
    (
        "decisions",
        Decided(recaptioned=dict.fromkeys(ids_of(range(280, 331)), ("new",))),
        "decisions: 9 independent pairs would be left",
    ),
]


def test_what_cannot_run_is_one_line_and_nothing_is_written(study: StudyFolder) -> None:
    for text, decided, message in REFUSED:
        with pytest.raises(InputError) as error:
            add_own(study, parse_setting(text), decided=decided)
        assert message in str(error.value)
        assert "\n" not in str(error.value)
    assert not (study.folder / "own.json").exists()
    study.write_asked(study.asked | {"study": "time"})
    with pytest.raises(InputError, match="study time has its own arms and no others: .* captions, text-noise, removal"):
        add_own(study, parse_setting("text_mask=0.3"))


def test_pairs_that_earlier_arms_changed_are_not_compared_either(study: StudyFolder) -> None:
    add_own(study, parse_setting("decisions"), decided=Decided(ids_of(range(220, 250))))
    with pytest.raises(InputError, match="9 candidate pairs would be left"):
        add_own(study, parse_setting("decisions"), decided=Decided(ids_of(range(250, 271))))
    assert len(read_own(study)) == 1


def test_without_two_pictures_alike_there_is_nothing_to_leave_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path))
    monkeypatch.setattr("tests.studies.made_context.TWINS", {})
    with pytest.raises(InputError, match="lookalikes: no two of the pictures that members train on look alike"):
        add_own(make_study(tmp_path), parse_setting("lookalikes"))


def test_a_name_that_an_arm_of_the_plan_has_is_not_taken(study: StudyFolder) -> None:
    study.write_asked(study.asked | {"arms": study.asked["arms"] | {"lookalikes": {}}})
    name = add_own(study, parse_setting("lookalikes"))
    assert name != "lookalikes"
    assert name.startswith("lookalikes-")


def test_arms_that_are_added_at_the_same_moment_are_all_kept(study: StudyFolder) -> None:
    texts = [f"text_mask={share}" for share in (0.2, 0.3, 0.4, 0.5)]
    added = [threading.Thread(target=add_own, args=(study, parse_setting(text))) for text in texts]
    for thread in added:
        thread.start()
    for thread in added:
        thread.join()
    assert sorted(arm.text for arm in read_own(study)) == texts
