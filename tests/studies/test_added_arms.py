"""Arms that a person adds to a study, trained: the whole way, what a kill on the way changes, and what is read anew."""

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clipmem_core import columns as c
from clipmem_core.audits import run as audits_run
from clipmem_core.audits.member import open_member, trained_model
from clipmem_core.commands import main
from clipmem_core.review.decisions import RECAPTION, REMOVE, Review
from clipmem_core.review.study_decisions import decided_for
from clipmem_core.studies import own
from clipmem_core.studies.basis import Decided
from clipmem_core.studies.own import add_own, find_arm
from clipmem_core.studies.setting import Setting, parse_setting
from clipmem_core.studies.store import StudyFolder, open_study
from clipmem_core.training.embed import text_embeddings
from tests.audits.small import ROOT, vectors
from tests.studies.conftest import FLAGS, Trained
from tests.studies.test_run import START, numbers

Start = Callable[..., StudyFolder]
ALSO = ["--also", "text_mask=0.3 removal=clipmem:9"]


def ids_of(study: StudyFolder, group: str) -> list[str]:
    table = study.audit("none").membership
    return table.loc[table[c.GROUP] == group, c.PAIR_ID].tolist()


def mean_clipmem(study: StudyFolder, arm: str, without: Sequence[str]) -> float:
    """Mean clipmem of candidates, but for some, from the vectors alone."""
    audit = study.audit(arm)
    table = audit.membership
    external = (table[c.GROUP] == c.EXTERNAL).to_numpy()
    judged = (table[c.GROUP] == c.CANDIDATE).to_numpy() & ~table[c.PAIR_ID].isin(without).to_numpy()
    found = []
    for name in ("f-0", "g-0"):
        image, text = (vectors(audit.member(name) / f"{kind}.faiss") for kind in ("image", "text"))
        a = np.einsum("nd,nd->n", image, text) - image @ text[external].mean(0) - text @ image[external].mean(0)
        found.append(a[judged].mean())
    return float(found[0] - found[1])


def test_an_arm_that_is_added_to_a_finished_study_trains_alone_and_all_rows_compare_the_same_pairs(
    start: Start, trained: Trained
) -> None:
    study = start("two", "again", seeds=1)
    before = study.arms
    candidates = ids_of(study, c.CANDIDATE)
    removed = frozenset([*candidates[:3], *ids_of(study, c.SHARED)[:2]])
    decided = Decided(removed, {candidates[3]: ("another caption",)})
    name = add_own(study, parse_setting("decisions"), decided=decided)
    start("two", "again", seeds=1)
    assert trained.members[4:] == [f"{name}/f-0", f"{name}/g-0"]
    rows = study.arms.set_index("arm")
    for arm in ("none", "whole", name):
        expected = mean_clipmem(study, arm, without=candidates[:4])
        assert rows.loc[arm, "clipmem_candidate"] == pytest.approx(expected, abs=1e-6)
    kept = ["retrieval", "samples_seen", "seconds", "peak_mb", "clipmem_external"]
    pd.testing.assert_frame_equal(rows.loc[["none", "whole"], kept], before.set_index("arm")[kept])
    assert (rows.loc[name, "removed"], rows.loc[name, "recaptioned"]) == (5, 1)
    there = study.audit(name).membership.set_index(c.PAIR_ID)
    assert not there.loc[list(removed), ["f-0", "g-0"]].to_numpy().any()
    captions = study.audit(name).pairs.set_index(c.PAIR_ID)[c.CAPTIONS]
    assert list(captions[candidates[3]]) == ["another caption"]
    assert study.asked["settings"] == study.settings == {"none": "", "whole": "crop_scale=1", name: "decisions"}


def test_a_member_without_rare_tokens_is_judged_on_what_it_reads(start: Start) -> None:
    min_df = 60  # of 120 pairs
    study = start("two", "again", "--eval-captions", "1", seeds=1, also=[parse_setting(f"text_min_df={min_df}")])
    audit = study.audit(f"text_min_df-{min_df}")
    pairs, trained = audit.pairs, audit.membership["f-0"].to_numpy()
    counts = Counter(word for own in pairs.loc[trained, c.CAPTIONS] for word in set(" ".join(own).split()))
    read = pairs[c.CAPTIONS].str[0].map(lambda text: " ".join(word for word in text.split() if counts[word] >= min_df))
    alike = read == read[read != ""].mode()[0]
    assert pairs.loc[alike, c.CAPTIONS].str[0].nunique() > 1
    usual, without = (vectors(study.audit(arm).member("f-0") / "text.faiss")[alike] for arm in ("none", audit.name))
    assert np.abs(without - without[0]).max() < 1e-3 < np.abs(usual - usual[0]).max()
    assert study.arms.set_index("arm").loc[audit.name, "text_min_df"] == min_df


def test_to_forget_rare_tokens_costs_no_training_and_reads_as_if_they_had_never_been_read(start: Start) -> None:
    also = [parse_setting(text) for text in ("text_forget_df=60", "text_min_df=60", "text_min_df=60 text_forget_df=9")]
    study = start("two", "again", "--eval-captions", "1", seeds=1, also=also)
    forgets, never, both = (study.audit(setting.name).member("f-0") for setting in also)
    none = study.audit("none").member("f-0")
    assert (forgets / "checkpoint.pt").samefile(none / "checkpoint.pt")
    assert not (never / "checkpoint.pt").samefile(none / "checkpoint.pt")
    model, audit = trained_model(open_member(study.audit("none").folder, "f-0")), study.audit(also[0].name)
    reads = open_member(study.audit(also[1].name).folder, "f-0").data.tokens  # what was never read is what is forgotten
    first = np.concatenate([[0], np.cumsum(audit.pairs[c.CAPTIONS].map(len))[:-1]])
    expected = text_embeddings(model, reads[first], precision=audit.record.precision, device="cpu")
    assert np.abs(vectors(forgets / "text.faiss") - expected).max() < 2e-3  # stored in half precision
    assert np.abs(vectors(none / "text.faiss") - expected).max() > 0.05
    assert np.array_equal(vectors(forgets / "image.faiss"), vectors(none / "image.faiss"))
    assert (both / "text.faiss").read_bytes() == (never / "text.faiss").read_bytes()
    rows = study.arms.set_index("arm")
    assert rows.loc[also[0].name, "seconds"] == rows.loc["none", "seconds"]


def test_shared_pairs_that_are_taken_out_change_no_other_row(start: Start, trained: Trained) -> None:
    study = start("two", "again", seeds=1)
    before, compared = study.arms, study.asked["compared"]
    add_own(study, parse_setting("removal=clipmem_text:9"))
    start("two", "again", seeds=1)
    assert [name for name in trained.members[4:] if not name.startswith("ranking/")] == [
        "removal-clipmem_text-9/f-0",
        "removal-clipmem_text-9/g-0",
    ]
    assert study.asked["compared"] == compared
    pd.testing.assert_frame_equal(study.arms[:2][before.columns.tolist()], before)
    assert study.arms.loc[2, "removed"] == 9


def test_a_study_that_was_interrupted_in_an_added_arm_ends_with_the_same_table(
    start: Start, trained: Trained, data: Path
) -> None:
    also = [parse_setting("text_mask=0.3 removal=clipmem:9")]
    # While pairs are ranked, in the plan's second arm, between f and g of the added arm, and in its second seed.
    for members in (2, 7, 9, 14):
        trained.stop_after = members
        with pytest.raises(KeyboardInterrupt):
            start("two", "again", also=also)
        assert len(trained.members) == members
        also = []  # it is in the folder
    trained.stop_after = None
    again = start("two", "again")
    assert len(trained.members) == len(set(trained.members)) == 4 + 3 * 4
    shutil.rmtree(data / "studies" / "members")
    whole = start("two", "whole", also=[parse_setting("removal=clipmem:9 text_mask=.3")])
    assert len(trained.members) == 2 * (4 + 3 * 4)
    pd.testing.assert_frame_equal(numbers(again), numbers(whole))
    assert again.asked["compared"] == whole.asked["compared"]


@pytest.mark.slow
def test_a_study_that_was_killed_in_an_added_arm_ends_with_the_same_table(
    start: Start, trained: Trained, data: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", START, "study", "two", "scenes", "--name", "again", *FLAGS, "--also", "colour=0.2"],
        env={**os.environ, "CLIPMEM_DATA": str(data), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )
    study = StudyFolder(data / "studies" / "again")
    while not (study.audit("colour-0.2").member("f-0") / "log.jsonl").is_file() and process.poll() is None:
        time.sleep(0.02)
    process.kill()  # the added arm trains, or is done
    process.wait()
    assert 2 <= len(study.done()) < 6
    start("two", "again")
    assert len(trained.members) < 12
    shutil.rmtree(data / "studies" / "members")
    whole = start("two", "whole", also=[parse_setting("colour=0.2")])
    both = [name for name in numbers(study) if name in numbers(whole)]
    pd.testing.assert_frame_equal(numbers(study)[both], numbers(whole)[both])


def test_rows_that_were_being_read_anew_when_it_was_killed_are_read_anew_again(
    start: Start, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = start("two", "again", seeds=1)
    before = study.arms
    decided = Decided(frozenset(ids_of(study, c.CANDIDATE)[:3]))
    add_own(study, parse_setting("decisions"), decided=decided)
    with monkeypatch.context() as patch:
        patch.setattr(StudyFolder, "write_asked", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            start("two", "again", seeds=1)
    assert len(study.arms) == 2  # the page has all rows at any moment
    start("two", "again", seeds=1)
    changed = [mean_clipmem(study, arm, without=list(decided.removed)) for arm in ("none", "whole")]
    assert study.arms["clipmem_candidate"].tolist()[:2] == pytest.approx(changed, abs=1e-6)
    assert before["clipmem_candidate"].tolist() != pytest.approx(changed, abs=1e-6)


def test_an_arm_that_is_added_while_others_train_is_run_too(
    start: Start, trained: Trained, monkeypatch: pytest.MonkeyPatch, data: Path
) -> None:
    def run_members(audit: object, names: Sequence[str], **how: object) -> None:
        if audit.name == "whole":
            add_own(open_study("again"), Setting({"colour": 0.1}))
        trained.run_members(audit, names, **how)

    monkeypatch.setattr(audits_run, "run_members", run_members)
    study = start("two", "again", seeds=1)
    assert study.arms["arm"].tolist() == ["none", "whole", "colour-0.1"]


def test_the_whole_way_from_the_command_line(
    whole: StudyFolder, trained: Trained, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own, "ABOUT_EQUAL", -1.0)  # no two arms take equally long
    candidates = ids_of(whole, c.CANDIDATE)
    review = Review(data / "review" / f"{whole.dataset_fingerprint}.sqlite")
    review.decide(candidates[:2], REMOVE)
    review.decide(candidates[2:3], RECAPTION, captions=["another caption"])
    typed = ["study", "two", "scenes", "--name", "way", *FLAGS, "--seeds", "1", *ALSO, "--also", "decisions"]
    assert main([*typed, "--equal-time"]) == 0
    study = StudyFolder(data / "studies" / "way")
    decided = decided_for(study)
    assert decided == Decided(frozenset(candidates[:2]), {candidates[2]: ("another caption",)})
    texts = ["", "crop_scale=1", "text_mask=0.3 removal=clipmem:9", "decisions"]
    assert [study.settings[arm] for arm in study.arms["arm"]] == [
        *texts,
        *(f"{text} equal_time" for text in texts[1:]),
    ]
    for text in (*texts, "decisions equal_time"):
        assert find_arm(study, parse_setting(text), decided=decided) in set(study.arms["arm"])
    rows = study.arms.set_index("arm")
    assert rows.loc["text_mask-0.3_removal-clipmem-9", "samples_seen"] == 2 * (120 - 9)
    plain, equal = (rows.loc[name] for name in ("whole", "crop_scale-1_equal_time"))
    expected = max(1, round(2 * rows.loc["none", "seconds"] / plain["seconds"]))
    assert equal["epochs"] == expected
    assert equal["samples_seen"] == expected * 120
    assert study.asked["equal_time"]
    members = len(trained.members)
    assert main(typed) == 0
    assert len(trained.members) == members
