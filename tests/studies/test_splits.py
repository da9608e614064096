"""Studies whose seeds have splits of their own: what is drawn anew, what stays paired, and what old studies do."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clipmem_core import columns as c
from clipmem_core.audits.member import open_member, trained_model
from clipmem_core.audits.prepare import membership_of, sides_of, utility_rows
from clipmem_core.audits.store import read_utility
from clipmem_core.commands import parse
from clipmem_core.config import InputError
from clipmem_core.studies import plan
from clipmem_core.studies.arm import Arm
from clipmem_core.studies.measure import retrieval_by_rarity
from clipmem_core.studies.plan import commands_of, resume_arguments
from clipmem_core.studies.results import differences
from clipmem_core.studies.run import run_study
from clipmem_core.studies.store import StudyFolder
from clipmem_core.training.model import text_embeddings
from tests.audits.small import Silent, vectors
from tests.audits.test_given import clip_retrieval
from tests.studies.conftest import Trained, numbers, study_of
from tests.studies.test_run import centring

Start = Callable[..., StudyFolder]


def test_every_seed_draws_its_own_split_that_its_arms_share_and_goes_on_after_a_stop(
    start: Start, trained: Trained, whole: StudyFolder
) -> None:
    trained.stop_after = 5  # in the second split
    with pytest.raises(KeyboardInterrupt):
        start("two", "splits", seeds_per_split=1)
    trained.stop_after = None
    study = start("two", "splits", seeds_per_split=1)
    assert len(trained.members) == len(set(trained.members)) + 4 == 8  # f-0 and g-0 of two arms on two splits
    rows = study.arms
    assert rows[["arm", "seed", "split"]].to_numpy().tolist() == [
        ["none", 0, 0],
        ["whole", 0, 0],
        ["none", 1, 1],
        ["whole", 1, 1],
    ]
    tables = {(arm, split): study.audit(arm, split).membership for arm in ("none", "whole") for split in (0, 1)}
    for split in (0, 1):
        pd.testing.assert_frame_equal(tables["none", split], tables["whole", split])
    groups = [tables["none", split][c.GROUP] for split in (0, 1)]
    assert (groups[0] != groups[1]).mean() > 0.5
    assert [study.audit("none", split).record.seeds for split in (0, 1)] == [{"f-0": 0, "g-0": 0}, {"f-0": 1, "g-0": 1}]
    # The first seed is that of a study with one split.
    both = [name for name in numbers(whole) if not name.startswith("attack")]  # whose shadows are of all splits
    pd.testing.assert_frame_equal(numbers(study)[both][:2], numbers(whole)[both][:2])
    asked = study.asked
    command = parse(["study", *resume_arguments(study)])
    assert (asked["seeds_per_split"], command.seeds_per_split, command.config.seeds) == (1, 1, 2)
    assert "--seeds-per-split" not in commands_of(study)[0]
    with pytest.raises(InputError, match="--seeds-per-split is 1 there and 2 here. Take another --name"):
        start("two", "splits", seeds_per_split=2)
    with pytest.raises(InputError, match=r"--seeds must be a multiple of --seeds-per-split \(2\), not 3"):
        start("two", "more", seeds=3, seeds_per_split=2)


def table(values: dict[str, list[float]], *, per_split: int) -> pd.DataFrame:
    """A table of arms with clipmem by seed; AUROC falls with it, and retrieval stays."""
    return pd.DataFrame(
        [
            {
                "arm": arm,
                "seed": seed,
                "split": seed // per_split,
                "clipmem_candidate": value,
                "membership_auroc": 0.5 + value,
                "retrieval": 0.5,
                "clipmem_image": 0.0,
                "clipmem_text": value,
            }
            for arm, own in values.items()
            for seed, value in enumerate(own)
        ]
    )


def compare(arms: pd.DataFrame) -> pd.Series:
    """How arm `a` differs from `none` in clipmem."""
    return differences(arms, "none").query("arm == 'a' and measure == 'clipmem_candidate'").iloc[0]


def test_seeds_of_a_split_are_averaged_before_an_interval_is_taken() -> None:
    arms = table({"none": [0.4, 0.4, 0.5, 0.5, 0.6, 0.6], "a": [0.2, 0.4, 0.3, 0.3, 0.2, 0.6]}, per_split=2)
    found = compare(arms)
    # By split −.1, −.2, −.2: mean −1/6, SD .05774, and t.975 with two degrees of freedom is 4.3027.
    assert (found["n"], found["difference"]) == (3, pytest.approx(-1 / 6))
    assert found["high"] - found["difference"] == pytest.approx(4.3027 * 0.057735 / 3**0.5, rel=1e-4)
    one_less = compare(arms[~((arms["arm"] == "a") & (arms["seed"] == 5))])
    assert one_less["difference"] == pytest.approx((-0.1 - 0.2 - 0.4) / 3)  # the third split has one shared seed


def test_a_seed_without_a_value_does_not_count() -> None:
    arms = table({"none": [0.4, 0.5, 0.6], "a": [0.2, float("nan"), 0.4]}, per_split=1)
    found = compare(arms)
    assert (found["n"], found["difference"]) == (2, pytest.approx(-0.2))


def test_arms_are_corrected_for_their_number_beside_the_raw_intervals() -> None:
    none = [0.40, 0.42, 0.38, 0.41]
    arms = table(
        {
            "none": none,
            **{
                f"a{n}": [x - 0.15 + n * d for x, d in zip(none, (0, 0.01, -0.01, 0.005), strict=True)]
                for n in range(1, 5)
            },
        },
        per_split=1,
    )
    rows = differences(arms, "none").query("measure == 'clipmem_candidate' and arm != 'none'")
    assert (rows["arms"] == 4).all()
    assert (rows["p_of_all"] >= rows["p_value"]).all()
    assert rows["p_of_all"].min() == pytest.approx(4 * rows["p_value"].min())
    wider = (rows["high_of_all"] - rows["low_of_all"]) / (rows["high"] - rows["low"])
    # t with three degrees of freedom at .05 / 8 and at .025: 5.3919 and 3.1824 (scipy's and any table's)
    assert wider.tolist() == pytest.approx([5.0472 / 3.1824] * 4, rel=0.08)


def test_forgetting_says_what_is_lost_on_queries_with_a_rare_word(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = [
        Arm("none", {"train_captions": 1}),
        Arm("forget-untrained", {"text_forget_df": 1}),
        Arm("forget-3", {"text_forget_df": 3}),
    ]
    arms += [Arm("delete-3", {"text_forget_df": 3, "text_forget_as": "deleted"})]
    study = study_of(*arms)
    monkeypatch.setitem(plan.STUDIES, "two", plan.Study("?", study.arms, by_rarity=True))
    study = start("two", "words", "--eval-captions", "1", seeds=1, seeds_per_split=1)
    rows = study.arms.set_index("arm")
    audit = study.audit("none")
    assert retrieval_by_rarity(audit, ("f-0", "g-0"))["retrieval_rare"] == rows.loc["none", "retrieval_rare"]
    share = rows["queries_rare"]
    assert (share == share.iloc[0]).all()  # the same pairs in every arm
    assert 0 < share.iloc[0] < 1
    folders = [study.audit(arm).member("f-0") for arm in ("none", "forget-3", "delete-3")]
    assert len({(folder / "text.npy").read_bytes() for folder in folders}) == 3


@pytest.mark.usefixtures("data")
def test_utility_is_measured_on_pairs_that_neither_centre_nor_steer(whole: StudyFolder) -> None:
    audit = whole.audit("none")
    run = open_member(audit.folder, "f-0")
    rows = utility_rows(sides_of(audit, run.config, membership_of(run.membership)))
    external = np.flatnonzero(run.membership[c.GROUP] == c.EXTERNAL)
    assert set(run.data.external) == set(np.flatnonzero(centring(audit)))
    assert sorted([*rows, *run.data.external]) == external.tolist()
    assert len(rows) == len(external) // 2 == audit.verdict["utility_pairs"]
    # Few enough to be found by chance: of 25 pictures the first five are a fifth, and each of 125 captions is a query.
    model = trained_model(run)
    start, how = run.data.caption_start, {"precision": run.config.precision, "device": "cpu"}
    captions = np.concatenate([np.arange(start[row], start[row + 1]) for row in rows])
    text = text_embeddings(model, run.data.tokens[captions], **how)
    image = vectors(audit.member("f-0") / "image.npy")[rows]
    owner = np.repeat(np.arange(len(rows)), start[rows + 1] - start[rows])
    cosines = text @ (image / np.linalg.norm(image, axis=1, keepdims=True)).T
    ranks = [(cosine >= cosine[own] - 1e-6).sum() - 1 for cosine, own in zip(cosines, owner, strict=True)]
    assert np.mean([rank < 5 for rank in ranks]) == read_utility(audit.member("f-0"))["text_to_image_R@5"]


def test_what_has_no_meaning_with_locked_towers_says_so() -> None:
    config = parse(["study", "combined", "scenes", "--name", "x", "--preset", "locked"]).config
    faults = {name: plan.fault_where_locked(name, config) for name in plan.STUDIES}
    assert {name for name, fault in faults.items() if fault} == {"size", "views", "forgetting"}
    assert faults["forgetting"] == "study forgetting is about the words of a trained text encoder: take --no-lock-text"
    assert not any(
        plan.fault_where_locked(name, parse(["study", name, "scenes", "--name", "x"]).config) for name in faults
    )


def test_a_source_that_brings_its_own_features_is_studied_without_a_picture(
    tmp_path: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path / "data"))
    (tmp_path / "set").mkdir()
    source = clip_retrieval(tmp_path / "set")
    monkeypatch.setitem(plan.STUDIES, "two", study_of(Arm("none"), Arm("short", {"stop_epoch": 1})))
    flags = "--preset locked --epochs 2 --batch-size 64 --threads 1 --seeds 2"
    config = parse(["study", "two", source, "--name", "given", *flags.split()]).config
    study = run_study("two", source, config, name="given", screen=Silent(), seeds_per_split=1)
    assert study.arms[["arm", "split"]].to_numpy().tolist() == [["none", 0], ["short", 0], ["none", 1], ["short", 1]]
    assert study.audit("none").record.config.features == source
    assert trained.members == ["none/f-0", "none/g-0", "short/f-0", "short/g-0"] * 2
