"""Members that studies share: what their keys depend on, and what happens to one that is broken."""

from collections.abc import Callable
from pathlib import Path

import pytest

from clipmem_core.audits.store import Audit, read_json, write_json, write_table
from clipmem_core.studies import plans, shared
from clipmem_core.studies.arm import Arm
from clipmem_core.studies.shared import parts, take
from clipmem_core.studies.store import StudyFolder
from tests.studies.conftest import Trained, study_of

Start = Callable[..., StudyFolder]


def test_arms_that_differ_in_evaluation_alone_share_their_training(
    start: Start, trained: Trained, monkeypatch: pytest.MonkeyPatch, members: None
) -> None:
    monkeypatch.setitem(plans.STUDIES, "two", study_of(Arm("none"), Arm("more-views", {"views": 3})))
    study = start("two", "a", seeds=1)
    first, second = (study.audit(arm).member("f-0") for arm in ("none", "more-views"))
    assert (first / "checkpoint.pt").samefile(second / "checkpoint.pt")
    assert not (first / "image.faiss").samefile(second / "image.faiss")
    assert (first / "image.faiss").read_bytes() != (second / "image.faiss").read_bytes()
    assert (first / "text.faiss").read_bytes() == (second / "text.faiss").read_bytes()


def test_a_shared_member_that_is_broken_is_named_thrown_away_and_trained_again_and_one_is_copied_without_links(
    start: Start, trained: Trained, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError

    monkeypatch.setitem(plans.STUDIES, "two", study_of(Arm("none")))
    with monkeypatch.context() as patch:  # a disk that has no links
        patch.setattr(shared.os, "link", refuse)
        studies = [start("two", name, seeds=1) for name in "ab"]
        paths = [study.audit("none").member("f-0") / "checkpoint.pt" for study in studies]
        assert len(trained.members) == 2
        assert not paths[0].samefile(paths[1])
        assert paths[0].read_bytes() == paths[1].read_bytes()
    audit, kept = studies[0].audit("none"), data / "studies" / "members"
    broken = next(path for path in kept.glob("*/checkpoint.pt") if path.read_bytes() == paths[0].read_bytes())
    broken.write_text("broken")
    for name in ("checkpoint.pt", "text.faiss"):
        (audit.member("f-0") / name).unlink()
    said: list[str] = []
    assert take(audit, "f-0", say=said.append) == ""
    assert said == [f"{broken} is broken: making it again"]
    start("two", "c", seeds=1)
    assert trained.members[2:] == ["none/f-0"]
    assert take(StudyFolder(data / "studies" / "c").audit("none"), "f-0") == ""  # it has all


@pytest.fixture
def audit(whole: StudyFolder, tmp_path: Path) -> Audit:
    """What a member's key is made from, to be changed."""
    there, own = whole.audit("none"), Audit(tmp_path / "none")
    own.folder.mkdir()
    for name in ("config.json", "pairs.parquet", "membership.parquet"):
        (own.folder / name).write_bytes((there.folder / name).read_bytes())
    return own


NOTHING = [
    {"preset": "small"},
    {"seeds": 5},
    {"cache_gb": 1.0},
    {"adaptive_every": 7},
    {"noise_place": "before"},
    {"text_forget_as": "random"},
]
TRAINING = [{"epochs": 3}, {"crop_scale": 0.4}, {"lr": 0.1}, {"train_captions": 1}, {"lock_image": True}]
EVALUATION = [{"views": 3}, {"eval_captions": 1}, {"eval_crop_scale": 1.0}]
CHANGES = (
    *((fields, (True, True)) for fields in NOTHING),
    *((fields, (False, False)) for fields in (*TRAINING, {"text_mask": 0.2})),
    *((fields, (True, False)) for fields in EVALUATION),
)


def test_a_key_changes_with_what_a_members_bits_depend_on(audit: Audit) -> None:
    path, before = audit.folder / "config.json", list(parts(audit, "f-0"))
    stored = read_json(path)
    for fields, same in CHANGES:
        write_json(path, stored | {"config": stored["config"] | fields})
        assert tuple(a == b for a, b in zip(before, parts(audit, "f-0"), strict=True)) == same, fields


def test_a_key_changes_with_captions_membership_seed_and_member(audit: Audit) -> None:
    pairs, membership = audit.pairs, audit.membership
    keys = [list(parts(audit, "f-0")), list(parts(audit, "g-0")), list(parts(audit, "f-1"))]
    write_table(audit.folder / "membership.parquet", membership.assign(**{"f-0": ~membership["f-0"]}))
    keys.append(list(parts(audit, "f-0")))
    write_table(audit.folder / "membership.parquet", membership)
    write_table(audit.folder / "pairs.parquet", pairs.assign(captions=[["another"], *pairs["captions"][1:]]))
    keys.append(list(parts(audit, "f-0")))
    assert len({key for both in keys for key in both}) == 2 * len(keys)
    write_table(audit.folder / "pairs.parquet", pairs.assign(label="one"))  # labels are of evaluation alone
    labelled = list(parts(audit, "f-0"))
    assert (labelled[0] == keys[0][0], labelled[1] == keys[0][1]) == (True, False)
