import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from clipmem_core.studies import answers
from clipmem_core.studies.answers import gain_time, half_time
from clipmem_core.studies.compare import COLUMNS, differences, with_lead


def rows(values: dict[str, list[tuple[float, float]]]) -> pd.DataFrame:
    """Arms with (image, text) contributions, one a seed."""
    table = [
        {"arm": arm, "seed": seed, "clipmem_image": image, "clipmem_text": text, "clipmem_candidate": image + text}
        for arm, seeds in values.items()
        for seed, (image, text) in enumerate(seeds)
    ]
    return with_lead(pd.DataFrame(table))


def test_differences_are_taken_seed_by_seed() -> None:
    table = rows({"none": [(0, 1), (0, 2), (0, 3)], "less": [(0, 0.5), (0, 1.4), (0, 2.6)]})
    found = differences(table, "none")
    assert list(found.columns) == COLUMNS
    less = found.query("arm == 'less' and measure == 'clipmem_text'").iloc[0]
    assert (less["n"], less["value"], less["difference"]) == (3, pytest.approx(1.5), pytest.approx(-0.5))
    # Differences −.5, −.6, −.4: SD .1, and t.975 with two degrees of freedom is 4.3027.
    assert less["high"] - less["difference"] == pytest.approx(4.3027 * 0.1 / np.sqrt(3), abs=1e-4)
    none = found.query("arm == 'none' and measure == 'clipmem_text'").iloc[0]
    assert none["difference"] == 0
    assert np.isnan(none["low"])


def test_seeds_that_one_arm_lacks_are_not_compared() -> None:
    table = rows({"none": [(0, 1), (0, 2), (0, 9)], "less": [(0, 0), (0, 1)]})
    less = differences(table, "none").query("arm == 'less' and measure == 'clipmem_text'").iloc[0]
    assert (less["n"], less["difference"]) == (2, -1)
    alone = differences(table.query("arm == 'less'"), "none")
    assert alone.empty


SIZE = {"image-one-text-one": [(0.0, 0.3), (0.01, 0.31), (0.0, 0.32)]}


@pytest.mark.parametrize(
    ("double", "end"),
    [
        ([(0.1, 0.3), (0.1, 0.31), (0.1, 0.32)], "it does not flip."),
        ([(0.5, 0.3), (0.5, 0.31), (0.5, 0.32)], "it flips."),
        ([(0.5, 0.3), (0.1, 0.3), (0.3, 0.32)], "the seeds leave it open."),
        ([(0.1, 0.3), (0.1, 0.31)], "2 seeds are too few to say more."),
    ],
)
def test_size_says_whether_claim_3_flips(double: list[tuple[float, float]], end: str) -> None:
    said = answers.size(rows({**SIZE, "image-double-text-one": double}), pd.DataFrame())
    assert said[0].endswith(end)
    assert len(said) == 3


def test_views_says_what_is_left_without_augmentation_and_that_captions_are_missing() -> None:
    table = rows(
        {
            "crops-normal-captions-1": [(0.0, 0.3), (0.0, 0.31), (0.01, 0.3)],
            "crops-off-captions-1": [(0.1, 0.3), (0.11, 0.31), (0.1, 0.3)],
        }
    )
    first, second, third = answers.views(table, pd.DataFrame())
    assert first.endswith(
        "the text encoder leads all the same, so its share is not only the missing caption augmentation."
    )
    assert "contribution by 0.100 [" in second
    assert third.startswith("This source has one caption a pair")
    more = pd.concat([table, table.assign(arm="crops-normal-captions-all")[:3]])
    assert answers.views(more, pd.DataFrame())[2].startswith("Training on all captions changes the text encoder's")


def times_of(text: list[float], image: list[float]) -> pd.DataFrame:
    one = pd.DataFrame({"epoch": [1, 2, 4], "clipmem_text": text, "clipmem_image": image})
    one = one.assign(arm="none", clipmem_text_external=0.0, clipmem_image_external=0.0)
    return pd.concat([one.assign(seed=seed) for seed in range(3)])


def test_time_says_which_encoder_memorizes_first() -> None:
    # Text is at half of .4 after 1 epoch, image at half of .2 after 3. Text gains half of its .4 in the first epoch and
    # a quarter in each of the two spans after it, at their middles: ½·.5 + ¼·1.5 + ¼·3; image all between 2 and 4.
    first, second, third = answers.time(pd.DataFrame(), times_of([0.2, 0.3, 0.4], [0.0, 0.0, 0.2]))
    assert first == (
        "Which encoder memorizes first? On average the text encoder gained its final contribution at epoch 1.4, "
        "the image encoder at 3.0: 1.625 [1.625, 1.625] epochs later, text first."
    )
    assert "after 1.0 epochs, the image encoder at 3.0: 2.000 [2.000, 2.000] epochs later, text first." in second
    assert (
        third == "At the end of training the contributions are image 0.200 (external pairs 0.000), "
        "text 0.400 (external pairs 0.000)."
    )
    open_end = answers.time(pd.DataFrame(), times_of([0.2, 0.3, 0.4], [0.0, 0.0, -0.1]))
    assert open_end[1].endswith("No seed has a contribution above 0 of both encoders.")


def test_an_offset_that_external_pairs_have_too_is_no_memorization() -> None:
    plain = times_of([0.2, 0.3, 0.4], [0.0, 0.0, 0.2])
    moved = plain.assign(clipmem_image=plain["clipmem_image"] + 0.1, clipmem_image_external=0.1)
    assert answers.time(pd.DataFrame(), moved)[:2] == answers.time(pd.DataFrame(), plain)[:2]


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


def test_no_rows_say_nothing() -> None:
    empty = rows({"other": [(0, 0)]})
    assert [answer(empty, pd.DataFrame()) for answer in (answers.size, answers.views, answers.time)] == [[], [], []]
