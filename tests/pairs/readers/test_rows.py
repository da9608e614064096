"""Whatever a table holds, every row is in a pair or in quarantine, never in both and never in none."""

import csv
import posixpath
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmem_core.config import SourceOptions
from clipmem_core.pairs.readers.rows import Row, check_rows, merge_rows
from clipmem_core.pairs.table import read_source
from tests.pairs.samples import draw

IMAGES = ["a.png", "./a.png", "sub/b.png", "sub\\b.png", "c.png", "gone.png", "../a.png", "/a.png", "", "nan", "sub"]
CAPTIONS = ["one", "two", " one ", "", "  ", "NaN", 'a "quoted", one', "two\nlines", "é"]


def merged(*rows: Row) -> tuple[int, list[dict[str, Any]], list[dict[str, Any]]]:
    """Return how many rows there were, the pairs and the quarantine."""
    checked = check_rows(rows)
    pairs, quarantine = merge_rows(checked, Path(), files=False)
    return len(checked), pairs.to_pylist(), quarantine.to_pylist()


LINES = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["1", "2", "a.png", ""]), st.sampled_from(IMAGES), st.sampled_from(CAPTIONS)),
        st.lists(st.sampled_from(["x", "1"]), min_size=1, max_size=5).filter(lambda row: len(row) != 3),
    ),
    max_size=12,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("set")
    draw(path, "a.png", "sub/b.png", "c.png")
    return path


@settings(max_examples=40)
@given(lines=LINES)
def test_rows_are_pairs_and_quarantine(folder: Path, lines: list[list[str]]) -> None:
    starts = []
    with (folder / "captions.csv").open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["id", "image", "caption"])
        line = 2
        for row in lines:
            starts.append(line)
            writer.writerow(row)
            line += 1 + sum(value.count("\n") for value in row)
    raw = read_source(str(folder / "captions.csv"), SourceOptions(), data=folder)
    refused = Counter(raw.quarantine.source)
    assert raw.rows == len(lines)
    assert set(refused) <= {f"captions.csv:{start}" for start in starts}
    assert all(count == 1 for count in refused.values())
    used = [row for start, row in zip(starts, lines, strict=True) if f"captions.csv:{start}" not in refused]
    wanted: dict[str, list[str]] = {}
    for _, image, caption in used:
        texts = wanted.setdefault(posixpath.normpath(image.replace("\\", "/")), [])
        if caption.strip() not in texts:
            texts.append(caption.strip())
    assert dict(zip(raw.pairs.image, raw.pairs.captions, strict=True)) == wanted
    assert raw.pairs.pair_id.is_unique
    assert raw.rows == len(used) + len(raw.quarantine)


@given(st.lists(st.lists(st.sampled_from(["x", "y", "", " ", None]), max_size=4), max_size=6))
def test_an_empty_entry_among_captions_is_a_row_of_its_own(lists: list[list[str | None]]) -> None:
    rows = [Row(f"t:{at}", f"{at}.png", entries) for at, entries in enumerate(lists)]
    total, pairs, quarantine = merged(*rows)
    full = [entries for entries in lists if any(entry and entry.strip() for entry in entries)]
    empty_beside = sum(not (entry and entry.strip()) for entries in full for entry in entries)
    assert len(pairs) == len(full)
    assert len(quarantine) == empty_beside + len(lists) - len(full)
    assert total == len(pairs) + len(quarantine)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (Row("t", "a.png", 5), "caption is not text but int"),
        (Row("t", "a.png", ["x", {}]), "caption is not text but dict"),
        (Row("t", 5, "x"), "image reference is not text but int"),
        (Row("t", None, "x"), "image reference is missing"),
        (Row("t", float("nan"), "x"), "image reference is missing"),
        (Row("t", "a.png", None), "caption is missing"),
        (Row("t", "a.png", float("nan")), "caption is missing"),
        (Row("t", "a\ud800.png", "x"), "not valid text"),
        (Row("t", "a.png", []), "caption is empty"),
        (Row("t", reason="as the reader says"), "as the reader says"),
    ],
)
def test_values_of_the_wrong_kind_are_quarantined(row: Row, reason: str) -> None:
    total, pairs, quarantine = merged(row)
    assert (total, len(pairs)) == (1, 0)
    assert reason in quarantine[0]["reason"]


def test_an_id_is_free_again_when_its_first_row_is_refused() -> None:
    rows = [
        Row("t:1", "a.png", "", pair_id=1),
        Row("t:2", "b.png", "x", pair_id=1.0),
        Row("t:3", "b.png", "y", pair_id="2"),
    ]
    total, pairs, quarantine = merged(*rows)
    assert [(pair["pair_id"], pair["captions"]) for pair in pairs] == [("1", ["x", "y"])]
    assert (total, [row["source"] for row in quarantine]) == (3, ["t:1"])
