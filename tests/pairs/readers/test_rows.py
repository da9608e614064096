"""Whatever a table holds, every row is in a pair or in quarantine, never in both and never in none."""

import csv
import posixpath
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmem_core.config import InputError, SourceOptions
from clipmem_core.pairs.readers.files import as_name, decode_text, printable, tidy
from clipmem_core.pairs.readers.rows import Row, check_rows, find_fields, merge_rows
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


@pytest.mark.parametrize(
    ("columns", "image", "caption"),
    [
        (["filepath", "caption"], "filepath", "caption"),
        (["title", "filepath"], "filepath", "title"),
        (["File_Name", " TEXT "], "File_Name", " TEXT "),
        (["image_name", " comment_number", " comment"], "image_name", " comment"),
        (["key", "caption", "url"], "url", "caption"),
        (["path", "description", "title"], "path", "title"),
    ],
)
def test_columns_are_known_by_their_usual_names(columns: list[str], image: str, caption: str) -> None:
    fields = find_fields(columns, SourceOptions(), source="a.csv")
    assert (fields.image, fields.caption) == (image, caption)


def test_columns_are_found_once_by_name_first_value_or_flag() -> None:
    fields = find_fields(["id", "image", "caption", "class", "planted"], SourceOptions(), source="a.csv")
    assert (fields.label, fields.pair_id, fields.planted) == ("class", "id", "planted")
    assert sorted(fields.chosen()) == ["caption", "class", "id", "image", "planted"]
    fields = find_fields(["who", "Bild", "caption"], SourceOptions(), source="a", first={"who": "x", "Bild": "a/b.JPG"})
    assert fields.image == "Bild"
    options = SourceOptions(csv_img_key="b", csv_caption_key="label", csv_label_key="caption", csv_id_key="path")
    fields = find_fields(["b", "label", "caption", "path", "image"], options, source="a.csv")
    assert (fields.image, fields.caption, fields.label, fields.pair_id) == ("b", "label", "caption", "path")


@pytest.mark.parametrize("key", ["csv_img_key", "csv_caption_key", "csv_label_key", "csv_id_key"])
def test_a_flag_that_names_no_column_lists_those_there_are(key: str) -> None:
    flag = "--" + key.replace("_", "-")
    with pytest.raises(InputError, match=f"{flag} names column 'gone', but a.csv has the columns 'image', 'caption'"):
        find_fields(["image", "caption"], SourceOptions(**{key: "gone"}), source="a.csv")


def test_a_column_that_cannot_be_guessed_names_its_flag_on_one_short_line() -> None:
    with pytest.raises(InputError, match="hold captions: name it with --csv-caption-key"):
        find_fields(["image", "other"], SourceOptions(), source="a.csv")
    with pytest.raises(InputError, match="hold pictures: name it with --csv-img-key"):
        find_fields(["caption", "other"], SourceOptions(), source="a.csv")
    with pytest.raises(InputError) as caught:
        find_fields(["a\nb" * 1000] * 1000, SourceOptions(), source="a.csv")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


WESTERN = "Café à la crème près de la fenêtre, Grüße aus Köln"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
def test_text_is_read_in_its_encoding(encoding: str) -> None:
    assert decode_text(WESTERN.encode(encoding)) == WESTERN


def test_the_other_byte_order_one_bad_line_and_one_foreign_letter_are_read() -> None:
    assert decode_text(b"\xfe\xff" + WESTERN.encode("utf-16-be")) == WESTERN
    data = "naïve 猫\n".encode() + "déjà vu\n".encode("cp1252") + b"plain\n"
    assert decode_text(data) == "naïve 猫\ndéjà vu\nplain\n"
    assert decode_text(b"Caf\xe9") == "Café"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Привет мир, кошка сидит на столе", "cp1251"),
        ("猫が机の上に座っている写真です", "shift_jis"),
        ("Zażółć gęślą jaźń", "cp1250"),
    ],
)
def test_other_alphabets_are_guessed(text: str, encoding: str) -> None:
    assert decode_text(text.encode(encoding)) == text


@given(st.binary(max_size=200))
def test_any_bytes_give_text_without_nul(data: bytes) -> None:
    assert "\0" not in decode_text(data)


@given(st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=("Cs",))))
def test_tidying_only_strips(text: str) -> None:
    assert tidy(text) == text.strip()


def test_what_no_file_can_hold_is_replaced() -> None:
    assert tidy("a\ud800b\0") == "a\ufffdb"
    assert printable("bad\udcff.jpg").isprintable()
    assert tidy("😀 ") == "😀"


@pytest.mark.parametrize(
    ("value", "name"),
    [(3, "3"), (3.0, "3"), (3.5, "3.5"), (None, None), (float("nan"), None), (" ", None), ("a ", "a")],
)
def test_ids_and_labels_become_names(value: object, name: str | None) -> None:
    assert as_name(value) == name
