"""Adding arms to a made-up study; none is trained."""

import threading
from pathlib import Path

import pytest

from clipmem_core.audits.store import is_name
from clipmem_core.config import InputError
from clipmem_core.studies.basis import Decided, basis_of
from clipmem_core.studies.own import OwnArm, add_own, arm_from, equal_times, find_arm, read_own
from clipmem_core.studies.rankings import Removal
from clipmem_core.studies.setting import Setting, parse_setting
from clipmem_core.studies.store import ARMS, StudyFolder
from tests.studies.made_basis import ids_of, make_study

DECIDED = Decided(frozenset({"p0", "p230"}), {"p5": ("new",)})
RUN = [("none", 0, 100.0), ("none", 1, 110.0), ("text-mask", 0, 80.0), ("text-mask", 1, 88.0), ("text-mask", 2, 10.0)]


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyFolder:
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path))
    return make_study(tmp_path, RUN)


def own_file(study: StudyFolder) -> Path:
    return study.folder / "own.json"


def test_an_added_arm_is_in_the_file_and_among_the_settings(study: StudyFolder) -> None:
    setting = Setting({"text_mask": 0.3, "noise_place": "before"}, Removal("clipmem", 50))
    name = add_own(study, setting)
    assert name == "text_mask-0.3_removal-clipmem-50"
    assert study.settings[name] == "text_mask=0.3 removal=clipmem:50"  # without what does nothing
    assert find_arm(study, setting) == name
    assert [arm.name for arm in read_own(study)] == [name]
    arm = arm_from(read_own(study)[0], basis_of(study))
    assert arm.fields == {"train_captions": 1, "text_mask": 0.3}
    assert arm.removal == Removal("clipmem", 50)
    assert arm.settings == {"text_mask": 0.3, "removed_by": "clipmem"}


@pytest.mark.parametrize(
    ("text", "arm"),
    [
        ("", "none"),
        ("text_noise=0 noise_place=before", "none"),
        ("train_captions=1 text_mask=0.15", "text-mask"),
        ("stop_epoch=40", "early-stop"),
        ("equal_time", "none"),
    ],
)
def test_a_setting_that_the_plan_has_is_not_added(study: StudyFolder, text: str, arm: str) -> None:
    assert add_own(study, parse_setting(text)) == find_arm(study, parse_setting(text)) == arm
    assert not own_file(study).exists()


def test_a_setting_that_was_added_is_not_added_again(study: StudyFolder) -> None:
    first = add_own(study, parse_setting("lookalikes"))
    before = own_file(study).read_bytes()
    assert add_own(study, parse_setting("lookalikes")) == first == "lookalikes"
    assert own_file(study).read_bytes() == before


def test_nobody_has_a_setting_that_was_never_added(study: StudyFolder) -> None:
    assert find_arm(study, parse_setting("text_mask=0.3")) is None
    assert find_arm(study, parse_setting("decisions")) is None
    assert find_arm(study, parse_setting("decisions"), decided=DECIDED) is None


def test_other_decisions_are_another_arm_and_what_was_decided_is_frozen(study: StudyFolder) -> None:
    setting = parse_setting("decisions")
    first = add_own(study, setting, decided=DECIDED)
    again = Decided(DECIDED.removed | {"p399"}, DECIDED.recaptioned)  # an external pair more
    assert add_own(study, setting, decided=again) == first
    more = Decided(DECIDED.removed | {"p7"}, DECIDED.recaptioned)
    second = add_own(study, setting, decided=more)
    assert first != second
    assert first.startswith("decisions-")
    assert is_name(second)
    assert [arm.decided for arm in read_own(study)] == [DECIDED, more]
    assert find_arm(study, setting, decided=DECIDED) == first
    assert find_arm(study, setting) == second  # the last
    arm = arm_from(read_own(study)[0], basis_of(study))
    assert arm.changed == {"p0", "p230", "p5"}
    assert arm.settings == {"decisions": True, "removed": 2, "recaptioned": 1}


def test_a_pair_that_is_taken_out_gets_no_captions(study: StudyFolder) -> None:
    add_own(study, parse_setting("lookalikes decisions"), decided=Decided(recaptioned={"p1": ("a",), "p9": ("b",)}))
    arm = arm_from(read_own(study)[0], basis_of(study))
    assert arm.removed == {"p1", "p3", "p4", "p221"}
    assert set(arm.recaptioned) == {"p9"}


def test_an_arm_with_equal_time_trains_as_many_epochs_as_take_as_long(study: StudyFolder) -> None:
    name = add_own(study, parse_setting("text_mask=0.15 equal_time"))
    # Seeds 0 and 1 have both: 105 s of none beside 84 s, so that 80 epochs become 100.
    assert name == "text_mask-0.15_equal_time"
    assert read_own(study)[0].epochs == {"epochs": 100}
    arm = arm_from(read_own(study)[0], basis_of(study))
    assert arm.fields == {"train_captions": 1, "text_mask": 0.15, "epochs": 100}
    study.write_rows(ARMS, [{"arm": arm, "seed": 0, "seconds": s} for arm, s in (("none", 9.0), ("text-mask", 1.0))])
    assert add_own(study, parse_setting("text_mask=0.15 equal_time")) == name  # frozen


def test_an_early_stop_is_as_much_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path))
    study = make_study(tmp_path, [("none", 0, 90.0), ("early-stop", 0, 50.0)])
    add_own(study, parse_setting("stop_epoch=40 equal_time"))
    assert read_own(study)[0].epochs == {"epochs": 144, "stop_epoch": 72}


def test_arms_that_take_another_time_are_those_that_are_run_with_equal_time(study: StudyFolder) -> None:
    added = add_own(study, parse_setting("decisions"), decided=DECIDED)
    seconds = {"none": 100.0, "text-mask": 109.0, "early-stop": 67.0, added: 111.0}
    study.write_rows(ARMS, [{"arm": arm, "seed": 0, "seconds": took} for arm, took in seconds.items()])
    found = equal_times(study, basis_of(study))
    assert [(setting.text, decided) for setting, decided in found] == [
        ("stop_epoch=40 equal_time", None),
        ("decisions equal_time", DECIDED),
    ]


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
    (
        "decisions",
        Decided(ids_of(range(220, 271))),
        "decisions: 9 candidate pairs would be left that all arms",
    ),
    (
        "decisions",
        Decided(recaptioned=dict.fromkeys(ids_of(range(280, 331)), ("new",))),
        "decisions: 9 independent pairs would be left",
    ),
    ("text_mask=0.2 equal_time", Decided(), "equal_time needs the seconds that 'text_mask=0.2' takes without it"),
    ("stop_epoch=40 equal_time", Decided(), "equal_time needs the seconds that 'stop_epoch=40' takes without it"),
]


@pytest.mark.parametrize(("text", "decided", "message"), REFUSED, ids=[message[:50] for _, _, message in REFUSED])
def test_what_cannot_run_is_one_line_and_nothing_is_written(
    study: StudyFolder, text: str, decided: Decided, message: str
) -> None:
    with pytest.raises(InputError) as error:
        add_own(study, parse_setting(text), decided=decided)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not own_file(study).exists()


def test_pairs_that_earlier_arms_changed_are_not_compared_either(study: StudyFolder) -> None:
    add_own(study, parse_setting("decisions"), decided=Decided(ids_of(range(220, 250))))
    with pytest.raises(InputError, match="9 candidate pairs would be left"):
        add_own(study, parse_setting("decisions"), decided=Decided(ids_of(range(250, 271))))
    assert len(read_own(study)) == 1


def test_without_two_pictures_alike_there_is_nothing_to_leave_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path))
    monkeypatch.setattr("tests.studies.made_basis.TWINS", {})
    with pytest.raises(InputError, match="lookalikes: no two of the pictures that members train on look alike"):
        add_own(make_study(tmp_path), parse_setting("lookalikes"))


def test_a_study_of_another_question_takes_no_settings(study: StudyFolder) -> None:
    study.write_asked(study.asked | {"study": "time"})
    with pytest.raises(InputError, match="study time has its own arms and no others: .* captions, text-noise, removal"):
        add_own(study, parse_setting("text_mask=0.3"))


def test_a_name_that_an_arm_of_the_plan_has_is_not_taken(study: StudyFolder) -> None:
    study.write_asked(study.asked | {"arms": study.asked["arms"] | {"lookalikes": {}}})
    name = add_own(study, parse_setting("lookalikes"))
    assert name != "lookalikes"
    assert name.startswith("lookalikes-")


def test_arms_that_are_added_at_the_same_moment_are_all_kept(study: StudyFolder) -> None:
    shares = (0.2, 0.3, 0.4, 0.5)
    added = [threading.Thread(target=add_own, args=(study, Setting({"text_mask": share}))) for share in shares]
    for thread in added:
        thread.start()
    for thread in added:
        thread.join()
    assert {arm.setting.fields["text_mask"] for arm in read_own(study)} == set(shares)


def test_an_own_arm_reads_back_as_it_was_written(study: StudyFolder) -> None:
    add_own(study, parse_setting("decisions text_mask=0.3 removal=misfit:5"), decided=DECIDED)
    assert read_own(study) == [
        OwnArm(read_own(study)[0].name, parse_setting("text_mask=0.3 removal=misfit:5 decisions"), DECIDED)
    ]
