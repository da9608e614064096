from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from clipmem_core.audits.store import Audit, read_json, write_json, write_table
from clipmem_core.config import AuditConfig, without_idle
from clipmem_core.studies import plans, shared
from clipmem_core.studies.arms import Arm
from clipmem_core.studies.plans import Study
from clipmem_core.studies.shared import parts, take
from clipmem_core.studies.store import StudyFolder
from tests.studies.conftest import Trained

Start = Callable[..., StudyFolder]


def evaluated(config: AuditConfig, pairs: pd.DataFrame) -> list[Arm]:
    return [Arm("none"), Arm("more-views", {"views": 3})]


def test_arms_that_differ_in_evaluation_alone_share_their_training(
    start: Start, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(plans.STUDIES, "two", Study("?", evaluated, "none", lambda arms, times: []))
    study = start("two", "a", seeds=1)
    first, second = (study.audit(arm).member("f-0") for arm in ("none", "more-views"))
    assert (first / "checkpoint.pt").samefile(second / "checkpoint.pt")
    assert not (first / "image.faiss").samefile(second / "image.faiss")
    assert (first / "image.faiss").read_bytes() != (second / "image.faiss").read_bytes()
    assert (first / "text.faiss").read_bytes() == (second / "text.faiss").read_bytes()


def test_a_shared_member_that_is_broken_is_named_thrown_away_and_trained_again(
    start: Start, trained: Trained, data: Path
) -> None:
    first = start("two", "a", seeds=1)
    member, kept = first.audit("none").member("f-0"), data / "studies" / "members"
    broken = next(path for path in kept.glob("*/checkpoint.pt") if path.samefile(member / path.name))
    broken.write_text("broken")
    for name in ("checkpoint.pt", "text.faiss"):
        (member / name).unlink()
    said: list[str] = []
    assert take(first.audit("none"), "f-0", say=said.append) == ""
    assert said == [f"{broken} is broken: making it again"]
    start("two", "b", seeds=1)
    assert trained.members[4:] == ["none/f-0"]


@pytest.fixture
def audit(whole: StudyFolder, tmp_path: Path) -> Audit:
    """What a member's key is made from, to be changed."""
    there, own = whole.audit("none"), Audit(tmp_path / "none")
    own.folder.mkdir()
    for name in ("config.json", "pairs.parquet", "membership.parquet"):
        (own.folder / name).write_bytes((there.folder / name).read_bytes())
    return own


def change(audit: Audit, **fields: object) -> None:
    stored = read_json(audit.folder / "config.json")
    write_json(audit.folder / "config.json", stored | {"config": stored["config"] | fields})


NOTHING = [{"preset": "small"}, {"seeds": 5}, {"cache_gb": 1.0}, {"adaptive_every": 7}, {"noise_place": "before"}]
TRAINING = [
    {"epochs": 3},
    {"crop_scale": 0.4},
    {"lr": 0.1},
    {"train_captions": 1},
    {"model": "small"},
    {"new": 1},
    {"text_mask": 0.2},
]
EVALUATION = [{"views": 3}, {"eval_captions": 1}, {"eval_crop_scale": 1.0}]


@pytest.mark.parametrize(
    ("fields", "same"),
    [(f, (True, True)) for f in NOTHING]
    + [(f, (False, False)) for f in TRAINING]
    + [(f, (True, False)) for f in EVALUATION],
)
def test_a_key_changes_with_what_a_members_bits_depend_on(
    audit: Audit, fields: dict[str, object], same: tuple[bool, bool]
) -> None:
    before = list(parts(audit, "f-0"))
    change(audit, **fields)
    after = list(parts(audit, "f-0"))
    assert tuple(a == b for a, b in zip(before, after, strict=True)) == same


def test_a_key_changes_with_captions_membership_seed_and_member(audit: Audit) -> None:
    pairs, membership = audit.pairs, audit.membership
    keys = [list(parts(audit, "f-0")), list(parts(audit, "g-0")), list(parts(audit, "f-1"))]
    write_table(audit.folder / "membership.parquet", membership.assign(**{"f-0": ~membership["f-0"]}))
    keys.append(list(parts(audit, "f-0")))
    write_table(audit.folder / "membership.parquet", membership)
    write_table(audit.folder / "pairs.parquet", pairs.assign(captions=[["another"], *pairs["captions"][1:]]))
    keys.append(list(parts(audit, "f-0")))
    assert len({key for both in keys for key in both}) == 2 * len(keys)


def test_labels_are_of_evaluation_alone(audit: Audit) -> None:
    before = list(parts(audit, "f-0"))
    write_table(audit.folder / "pairs.parquet", audit.pairs.assign(label="one"))
    after = list(parts(audit, "f-0"))
    assert (before[0] == after[0], before[1] == after[1]) == (True, False)


def test_members_are_copied_where_the_disk_has_no_links(
    start: Start, trained: Trained, monkeypatch: pytest.MonkeyPatch, whole: StudyFolder
) -> None:
    def refuse(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(shared.os, "link", refuse)
    first, second = start("two", "a", seeds=1), start("two", "b", seeds=1)
    paths = [study.audit("none").member("f-0") / "checkpoint.pt" for study in (first, second)]
    assert len(trained.members) == 4
    assert not paths[0].samefile(paths[1])
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_finished_member_takes_nothing(whole: StudyFolder) -> None:
    assert take(whole.audit("none"), "f-0") == ""


def test_a_member_from_before_there_were_mitigations_is_found_by_one_without_any(audit: Audit) -> None:
    now = list(parts(audit, "f-0"))
    stored = read_json(audit.folder / "config.json")
    older = without_idle(stored["config"])
    assert "text_noise" in stored["config"]
    assert "text_noise" not in older
    write_json(audit.folder / "config.json", stored | {"config": older})
    assert list(parts(audit, "f-0")) == now
