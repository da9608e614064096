import numpy as np
import pandas as pd
from clipmem_core.pairs.checks.captions import Captions, of_pairs
from clipmem_core.pairs.checks.pictures import Pictures
from clipmem_core.pairs.checks.table import BY_NAME, CHECKS, VALUES, check_captions, check_table

PAIRS = [["a frog on a pad", "frog"], ["a <b>toad</b> in the mud"], ["IMG_0042.jpg", "a newt in a pond"]]


def test_each_check_says_what_it_is_and_its_name_is_its_own() -> None:
    assert len(BY_NAME) == len(CHECKS)
    assert all(check.label and check.help.endswith((".", ")")) and check.advice.endswith(".") for check in CHECKS)


def test_a_pair_has_what_one_of_its_captions_has() -> None:
    table = check_table(of_pairs(PAIRS), Pictures(), pairs=3)
    assert table["short_caption"].tolist() == [True, False, False]
    assert table["markup"].tolist() == [False, True, False]
    assert table["file_name"].tolist() == [False, False, True]
    assert set(table) == {*BY_NAME, *VALUES}


def test_what_is_not_known_is_null_and_not_false() -> None:
    table = check_table(of_pairs(PAIRS), Pictures(shorter=np.array([10, 100, 0])), pairs=3)
    unknown = ["long_caption", "dark", "blurred", "uniform", "lookalike", *VALUES]
    assert table[unknown].isna().all(axis=None)
    assert table["tiny"].tolist()[:2] == [True, False]


def test_what_is_known_is_found() -> None:
    given = of_pairs(PAIRS)
    captions = Captions(given.texts, given.owner, np.array([False, True, False, False, False]))
    numbers = np.array([0.1, 0.9, 0.9]), np.array([50.0, 1.0, 50.0]), np.array([1.0, np.inf, 0.1])
    pictures = Pictures(np.array([100, 100, 100]), np.array([0, 1, 0]), *numbers)
    table = check_table(captions, pictures, pairs=3)
    found = {name: np.flatnonzero(table[name].to_numpy(bool)).tolist() for name in BY_NAME}
    assert {name: rows for name, rows in found.items() if rows} == {
        "short_caption": [0],
        "long_caption": [0],
        "markup": [1],
        "file_name": [2],
        "dark": [0],
        "uniform": [1],
        "blurred": [2],
        "lookalike": [0, 2],
    }
    assert table.dtypes.map(str).to_dict() == dict.fromkeys(BY_NAME, "boolean") | dict.fromkeys(VALUES, "float32")


def test_no_pair_is_no_row() -> None:
    assert check_table(of_pairs([]), Pictures(), pairs=0).empty
    assert {name: flags.tolist() for name, flags in check_captions(of_pairs([])).items()} == {
        check.name: [] for check in CHECKS if check.of == "captions"
    }
    assert isinstance(check_table(of_pairs([["a frog"]]), Pictures(), pairs=1), pd.DataFrame)
