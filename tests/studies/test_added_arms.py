"""Arms that a person adds to a study, trained: what is read anew, what their members read, and the whole way."""

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
from clipmem_core.review.decisions import RECAPTION, REMOVE, Review, decided_for
from clipmem_core.studies.arm import Arm, Decided, parse_setting
from clipmem_core.studies.plan import add_own, find_arm
from clipmem_core.studies.store import StudyFolder, open_study
from clipmem_core.training.model import text_embeddings
from tests.audits.small import vectors
from tests.studies.conftest import FLAGS, Trained
from tests.studies.test_run import centring

Start = Callable[..., StudyFolder]


def ids_of(study: StudyFolder, group: str) -> list[str]:
    table = study.audit("none").membership
    return table.loc[table[c.GROUP] == group, c.PAIR_ID].tolist()


def mean_clipmem(study: StudyFolder, arm: str, without: Sequence[str]) -> float:
    """Mean clipmem of candidates, but for some, from the vectors alone."""
    audit = study.audit(arm)
    table = audit.membership
    external = centring(audit)
    judged = (table[c.GROUP] == c.CANDIDATE).to_numpy() & ~table[c.PAIR_ID].isin(without).to_numpy()
    found = []
    for name in ("f-0", "g-0"):
        image, text = (vectors(audit.member(name) / f"{kind}.npy") for kind in ("image", "text"))
        a = np.einsum("nd,nd->n", image, text) - image @ text[external].mean(0) - text @ image[external].mean(0)
        found.append(a[judged].mean())
    return float(found[0] - found[1])


def test_an_arm_that_is_added_to_a_finished_study_trains_alone_and_all_rows_compare_the_same_pairs(
    start: Start, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = start("two", "again", seeds=1)
    before, candidates = study.arms, ids_of(study, c.CANDIDATE)
    removed = frozenset([*candidates[:3], *ids_of(study, c.SHARED)[:2]])
    decided = Decided(removed, {candidates[3]: ("another caption",)})
    name = add_own(study, parse_setting("decisions"), decided=decided)
    with monkeypatch.context() as patch:  # killed when the rows that are there were read anew
        patch.setattr(StudyFolder, "write_asked", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            start("two", "again", seeds=1)
    assert len(study.arms) == 2  # the page has all rows at any moment
    start("two", "again", seeds=1)
    assert trained.members[4:] == [f"{name}/f-0", f"{name}/g-0"]
    rows = study.arms.set_index("arm")
    for arm in ("none", "whole", name):
        expected = mean_clipmem(study, arm, without=candidates[:4])
        assert rows.loc[arm, "clipmem_candidate"] == pytest.approx(expected, abs=1e-6)
    assert rows["clipmem_candidate"].tolist()[:2] != pytest.approx(before["clipmem_candidate"].tolist(), abs=1e-6)
    kept = ["retrieval", "samples_seen", "seconds", "peak_mb", "clipmem_external"]
    pd.testing.assert_frame_equal(rows.loc[["none", "whole"], kept], before.set_index("arm")[kept])
    assert (rows.loc[name, "removed"], rows.loc[name, "recaptioned"]) == (5, 1)
    assert study.asked["settings"] == study.settings == {"none": "", "whole": "crop_scale=1", name: "decisions"}


def test_forgotten_tokens_are_read_as_if_they_had_never_been_read(start: Start) -> None:
    min_df = 60  # of 120 pairs
    texts = [f"text_forget_df={min_df}", f"text_min_df={min_df}", f"text_min_df={min_df} text_forget_df=9"]
    study = start("two", "again", "--eval-captions", "1", seeds=1, also=texts)
    audits = [study.audit(parse_setting(text).folder_name) for text in texts]
    forgets, never, both = (audit.member("f-0") for audit in audits)
    none = study.audit("none").member("f-0")
    assert (forgets / "checkpoint.pt").read_bytes() == (none / "checkpoint.pt").read_bytes()
    model, audit = trained_model(open_member(study.audit("none").folder, "f-0")), audits[0]
    reads = open_member(audits[1].folder, "f-0").data.tokens  # what was never read is what is forgotten
    first = np.concatenate([[0], np.cumsum(audit.pairs[c.CAPTIONS].map(len))[:-1]])
    expected = text_embeddings(model, reads[first], precision=audit.record.precision, device="cpu")
    usual, without, forgot = (vectors(folder / "text.npy") for folder in (none, never, forgets))
    assert np.abs(forgot - expected).max() < 2e-3  # stored in half precision
    assert np.abs(usual - expected).max() > 0.05
    np.testing.assert_allclose(vectors(forgets / "image.npy"), vectors(none / "image.npy"), atol=1e-5)
    np.testing.assert_allclose(vectors(both / "text.npy"), without, atol=1e-5)
    rows = study.arms.set_index("arm")
    assert rows.loc[audits[1].name, "text_min_df"] == min_df
    # A member without rare tokens is judged on what it reads: captions that differ in those alone are the same to it.
    pairs, trained = audit.pairs, audit.membership["f-0"].to_numpy()
    counts = Counter(word for own in pairs.loc[trained, c.CAPTIONS] for word in set(" ".join(own).split()))
    read = pairs[c.CAPTIONS].str[0].map(lambda text: " ".join(word for word in text.split() if counts[word] >= min_df))
    alike = read == read[read != ""].mode()[0]
    assert pairs.loc[alike, c.CAPTIONS].str[0].nunique() > 1
    spread = [np.abs(found[alike] - found[alike][0]).max() for found in (without, usual)]
    assert spread[0] < 1e-3 < spread[1]


def test_an_arm_that_is_added_while_others_train_is_run_too(
    start: Start, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_members(audit: object, names: Sequence[str], **how: object) -> None:
        if audit.name == "crop_scale-0.8":
            add_own(open_study("again"), Arm(overrides={"text_forget_df": 2}))
        trained.run_members(audit, names, **how)

    monkeypatch.setattr(audits_run, "run_members", run_members)
    study = start("two", "again", seeds=1, also=["crop_scale=0.8"])
    assert study.arms["arm"].tolist() == ["none", "whole", "crop_scale-0.8", "text_forget_df-2"]


def test_the_whole_way_from_the_command_line(
    whole: StudyFolder, trained: Trained, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates = ids_of(whole, c.CANDIDATE)
    review = Review(data / "review" / f"{whole.dataset_fingerprint}.sqlite")
    review.decide(candidates[:2], REMOVE)
    review.decide(candidates[2:3], RECAPTION, captions=["another caption"])
    removal = "text_mask=0.3 removal=clipmem:9"
    typed = [
        "study",
        "two",
        "scenes",
        "--name",
        "way",
        *FLAGS,
        "--seeds",
        "1",
        "--also",
        removal,
        "--also",
        "decisions",
    ]
    assert main(typed) == 0
    study = StudyFolder(data / "studies" / "way")
    decided = decided_for(study)
    assert decided == Decided(frozenset(candidates[:2]), {candidates[2]: ("another caption",)})
    texts = ["", "crop_scale=1", removal, "decisions"]
    found = [study.settings[arm] for arm in study.arms["arm"]]
    assert found == texts
    for text in texts:
        assert find_arm(study, parse_setting(text), decided=decided) in set(study.arms["arm"])
    rows = study.arms.set_index("arm")
    assert rows.loc["text_mask-0.3_removal-clipmem-9", "samples_seen"] == 2 * (120 - 9)
    members = len(trained.members)
    assert main(typed) == 0
    assert len(trained.members) == members
