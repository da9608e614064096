"""What a study says, on rows whose differences were worked out by hand."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from clipmem_core.studies import conclusions
from clipmem_core.studies.conclusions import gain_time, half_time
from clipmem_core.studies.effects import with_lead

NOTHING = pd.DataFrame()


def rows(values: dict[str, list[tuple[float, ...]]], *names: str) -> pd.DataFrame:
    """Arms with values of these columns, one a seed."""
    table = [
        {"arm": arm, "seed": seed, **dict(zip(names, numbers, strict=True))}
        for arm, seeds in values.items()
        for seed, numbers in enumerate(seeds)
    ]
    return with_lead(pd.DataFrame(table))


def parts(values: dict[str, list[tuple[float, ...]]]) -> pd.DataFrame:
    """Arms with (image, text) contributions."""
    return rows(values, "clipmem_image", "clipmem_text")


def judged(values: dict[str, list[tuple[float, ...]]]) -> pd.DataFrame:
    """Arms with (clipmem, AUROC, retrieval)."""
    return rows(
        {arm: [(*own, 0.0, own[0], 0.01 * seed) for seed, own in enumerate(seeds)] for arm, seeds in values.items()},
        *("clipmem_candidate", "membership_auroc", "retrieval", "clipmem_image", "clipmem_text", "clipmem_external"),
    )


SIZE = {"image-one-text-one": [(0.0, 0.3), (0.01, 0.31), (0.0, 0.32)]}


@pytest.mark.parametrize(
    ("double", "end"),
    [
        ([(0.1, 0.3), (0.1, 0.31), (0.1, 0.32)], "it does not flip."),
        ([(0.5, 0.3), (0.5, 0.31), (0.5, 0.32)], "it flips."),
        ([(0.5, 0.3), (0.1, 0.3), (0.3, 0.32)], "the seeds leave it open."),
        ([(0.1, 0.3), (0.1, 0.31)], "2 replicates are too few to say more."),
    ],
)
def test_size_says_whether_claim_3_flips(double: list[tuple[float, float]], end: str) -> None:
    said = conclusions.size(parts({**SIZE, "image-double-text-one": double}), NOTHING)
    assert said[0].endswith(end)
    assert len(said) == 3


def test_views_says_what_is_left_without_augmentation_and_that_captions_are_missing() -> None:
    table = parts(
        {
            "crops-normal-captions-1": [(0.0, 0.3), (0.0, 0.31), (0.01, 0.3)],
            "crops-off-captions-1": [(0.1, 0.3), (0.11, 0.31), (0.1, 0.3)],
        }
    )
    first, second, third = conclusions.views(table, NOTHING)
    assert first.endswith(
        "the text encoder leads all the same, so its share is not only the missing caption augmentation."
    )
    assert "contribution by 0.100 [" in second
    assert third.startswith("This source has one caption a pair")
    more = pd.concat([table, table.assign(arm="crops-normal-captions-all")[:3]])
    assert conclusions.views(more, NOTHING)[2].startswith("Training on all captions changes the text encoder's")


def times_of(text: list[float], image: list[float]) -> pd.DataFrame:
    one = pd.DataFrame({"epoch": [1, 2, 4], "clipmem_text": text, "clipmem_image": image})
    one = one.assign(arm="none", clipmem_text_external=0.0, clipmem_image_external=0.0)
    return pd.concat([one.assign(seed=seed) for seed in range(3)])


def test_time_says_when_to_stop_where_retrieval_was_kept_on_the_way() -> None:
    rows = {
        "seed": 0,
        "epoch": [1, 2, 3, 4],
        "clipmem_candidate": [0.1, 0.2, 0.3, 0.4],
        "clipmem_external": [0.0, 0.0, 0.05, 0.1],
        "retrieval": [0.30, 0.495, 0.50, 0.45],
        "clipmem_image": 0.1,
        "clipmem_text": 0.2,
        "clipmem_image_external": 0.0,
        "clipmem_text_external": 0.0,
    }
    last = conclusions.time(pd.DataFrame(), pd.DataFrame(rows))[-1]
    assert last.endswith(
        "Retrieval on external pairs is best after epoch 3 (0.500), and within 2\u00a0% of that after epoch 2, where "
        "clipmem is 0.200; clipmem less that of external pairs is 0.250 after epoch 3 and 0.300 at the end."
    )
    assert "Retrieval" not in conclusions.time(pd.DataFrame(), pd.DataFrame(rows).drop(columns="retrieval"))[-1]


def test_time_says_which_encoder_memorizes_first() -> None:
    # Text is at half of .4 after 1 epoch, image at half of .2 after 3. Text gains half of its .4 in the first epoch and
    # a quarter in each of the two spans after it, at their middles: ½·.5 + ¼·1.5 + ¼·3; image all between 2 and 4.
    first, second, third = conclusions.time(pd.DataFrame(), times_of([0.2, 0.3, 0.4], [0.0, 0.0, 0.2]))
    assert first == (
        "Which encoder memorizes first? On average the text encoder gained its final contribution at epoch 1.4, "
        "the image encoder at 3.0: 1.625 [1.625, 1.625] epochs later, text first."
    )
    assert "after 1.0 epochs, the image encoder at 3.0: 2.000 [2.000, 2.000] epochs later, text first." in second
    assert (
        third == "At the end of training the contributions are image 0.200 (external pairs 0.000), "
        "text 0.400 (external pairs 0.000)."
    )
    open_end = conclusions.time(pd.DataFrame(), times_of([0.2, 0.3, 0.4], [0.0, 0.0, -0.1]))
    assert open_end[1].endswith("No seed has a contribution above 0 of both encoders.")


def test_an_offset_that_external_pairs_have_too_is_no_memorization() -> None:
    plain = times_of([0.2, 0.3, 0.4], [0.0, 0.0, 0.2])
    moved = plain.assign(clipmem_image=plain["clipmem_image"] + 0.1, clipmem_image_external=0.1)
    assert conclusions.time(pd.DataFrame(), moved)[:2] == conclusions.time(pd.DataFrame(), plain)[:2]


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_the_mean_time_of_gain_is_the_mean_over_the_gains(gains: list[float]) -> None:
    values = np.cumsum(gains)
    assume(values[-1] > 0.01)
    middles = np.arange(len(gains)) + 0.5
    expected = float(np.sum(middles * gains) / values[-1])
    assert gain_time(np.arange(len(gains)) + 1, values) == pytest.approx(expected)
    assert np.isnan(gain_time(np.array([1, 2]), np.array([0.5, -0.1])))


def test_half_of_the_final_value_must_be_held_for_good() -> None:
    assert half_time(np.array([2, 1, 4]), np.array([0.1, 0.6, 0.8])) == pytest.approx(2 + 2 * 0.3 / 0.7)
    assert half_time(np.array([1]), np.array([1.0])) == 0.5
    assert np.isnan(half_time(np.array([1, 2]), np.array([0.5, -0.1])))


NONE = [(0.40, 0.90, 0.50), (0.41, 0.91, 0.51), (0.39, 0.89, 0.49)]


def moved(clipmem: float, auroc: float, retrieval: float, noise: float = 0.001) -> list[tuple[float, float, float]]:
    return [
        (a + clipmem + sign * noise, b + auroc + sign * noise, e + retrieval + sign * noise)
        for (a, b, e), sign in zip(NONE, (-1, 0, 1), strict=True)
    ]


@pytest.mark.parametrize(
    ("change", "memorization", "utility"),
    [
        ((-0.1, -0.1, 0.05), "reproduced", "reproduced"),
        ((0.1, 0.1, -0.05), "not reproduced, it is the other way round", "not reproduced, it is the other way round"),
        ((0.0001, 0.0, -0.0001), "inside the noise", "inside the noise"),
    ],
)
def test_a_claim_is_judged_in_both_halves(change: tuple[float, float, float], memorization: str, utility: str) -> None:
    said = conclusions.text_noise(judged({"none": NONE, "text-noise-0.15": moved(*change)}), NOTHING)[0]
    first, second = said.split("; ")
    assert f", {memorization}" in first
    assert f", {utility}" in second
    assert first.startswith("Claim 5 (")


def test_differences_are_told_with_their_intervals() -> None:
    said = conclusions.captions(judged({"none": NONE, "captions-5": moved(-0.1, -0.05, 0.02)}), NOTHING)
    # Differences −.101, −.100, −.099: SD .001, and t.975 with two degrees of freedom is 4.3027.
    half = 4.3027 * 0.001 / np.sqrt(3)
    assert f"mean clipmem −0.100 [−{0.1 + half:.3f}, −{0.1 - half:.3f}], reproduced" in said[0]
    assert said[1].startswith("The least mean clipmem is that of captions-5 against none: mean clipmem −0.100")
    assert "It could have seen changes of" in said[1]


def test_the_least_is_judged_seed_by_seed_and_not_by_which_seeds_an_arm_has() -> None:
    # The last seed of none is the lowest: an arm that has only this one lies below none without lowering anything.
    table = judged({"none": NONE, "captions-3": moved(-0.005, 0, 0), "captions-5": moved(0, 0, 0)})
    table = table[~((table["arm"] == "captions-5") & (table["seed"] < 2))]
    assert table.groupby("arm")["clipmem_candidate"].mean().idxmin() == "captions-5"
    assert "is that of captions-3 against none: mean clipmem −0.005" in conclusions.captions(table, NOTHING)[-1]


def test_where_no_arm_lowers_memorization_none_is_said_to() -> None:
    table = judged({"none": NONE, "captions-3": moved(0.1, 0, 0), "captions-5": moved(0.2, 0, 0)})
    said = conclusions.captions(table, NOTHING)[-1]
    assert said.startswith("No arm has less than none; nearest: captions-3 against none: mean clipmem +0.100")


def test_two_seeds_say_no_more_than_they_can() -> None:
    table = judged({"none": NONE[:2], "text-noise-0.15": moved(-0.1, -0.1, 0.1)[:2]})
    assert "2 replicates are too few to say more" in conclusions.text_noise(table, NOTHING)[0]
    alone = judged({"none": NONE[:1], "text-noise-0.15": moved(-0.1, -0.1, 0.1)[:1]})
    assert "mean clipmem −0.101, 1 replicate is too few" in conclusions.text_noise(alone, NOTHING)[0]


def test_removal_is_held_against_chance_and_similarity_at_the_same_n() -> None:
    table = judged(
        {
            "none": NONE,
            "clipmem-50": moved(0, 0, 0.01),
            "similarity_in-50": moved(0, 0, 0.02),
            "random-50": moved(0, 0, 0.0),
            "clipmem-100": moved(0, 0, 0.03),
            "random-100": moved(0, 0, -0.01),
        }
    )
    said = conclusions.removal(table, NOTHING)
    assert "at clipmem-100 against none: retrieval +0.030" in said[0]
    assert said[1].startswith("Retrieval by clipmem minus by random, as many pairs taken out: +0.010")
    assert "at 50, +0.040" in said[1]
    assert said[2] == (
        "Retrieval by clipmem minus by similarity_in, as many pairs taken out: −0.010 [−0.010, −0.010] at 50."
    )


def test_the_aim_is_reached_where_all_three_hold() -> None:
    table = judged(
        {
            "none": NONE,
            "good": moved(-0.12, -0.02, -0.005),
            "costly": moved(-0.2, -0.1, -0.04),
            "weak": moved(-0.05, -0.1, 0.1),
            "scaled": moved(-0.2, 0.01, 0.0),  # all alignments half as large tell members apart as before
        }
    )
    first, second, third, *_ = conclusions.combined(table, NOTHING)
    assert first.endswith("is reached by good.")
    assert second.startswith("good against none: mean clipmem −0.120")
    assert third == "With intervals that hold for all 4 arms at once (Bonferroni's t) good still reaches it."
    missed = conclusions.combined(table[table["arm"].isin(["none", "costly", "weak"])], NOTHING)[0]
    # costly loses .04 + .0025 of .5, 3.5 points too much; weak takes away 12.5 %, half of what is wanted. Of clipmem
    # costly takes away .2 − .0025 of .4.
    assert missed.endswith(
        "is reached by no arm; nearest: costly with at least 49\u00a0% less clipmem and "
        "up to 8\u00a0% of retrieval lost."
    )
    few = conclusions.combined(table[table["seed"] < 2], NOTHING)[0]
    assert few.endswith("needs 3 replicates, and clipmem and retrieval of none above 0, to be judged.")


def test_no_rows_say_nothing() -> None:
    table = judged({"other": NONE})
    questions = ("size", "views", "time", "captions", "text_noise", "removal", "combined")
    assert [getattr(conclusions, question)(table, NOTHING) for question in questions] == [[]] * 7


def test_arms_that_forget_are_told_beside_what_forgets_only_what_was_never_trained() -> None:
    values = {
        "none": NONE,
        "forget-untrained": moved(-0.01, -0.01, 0.02),
        "forget-rare-words": moved(-0.2, -0.1, -0.02),
        "mask": moved(-0.01, 0, 0),
    }
    table = judged(values)
    table["text_forget_df"] = table["arm"].map({"forget-untrained": 1.0, "forget-rare-words": 3.0})
    first, *_, why, lift, beside = conclusions.combined(table, NOTHING)
    assert "is reached by no arm" in first  # .02 of .5 is less than a twentieth; .04 of .52 is more
    assert "they are judged against forget-untrained, which leaves out only those" in why
    assert lift.startswith("forget-untrained against none: mean clipmem −0.010")
    assert beside.startswith("forget-rare-words against forget-untrained: mean clipmem −0.190")
    assert "retrieval −0.040 [" in beside
    before = conclusions.combined(table[table["arm"] != "forget-untrained"], NOTHING)
    assert before[0].endswith("is reached by forget-rare-words.")
    assert "has not run here: against none, forget-rare-words may look better than they are." in before[-1]
    assert "random vectors" not in " ".join(conclusions.combined(table[table["text_forget_df"].isna()], NOTHING))
