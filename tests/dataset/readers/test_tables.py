"""CSV, TSV, JSON Lines, JSON lists and COCO captions become pairs, or rows in quarantine with a
reason."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmem_core.dataset.containers import read_bytes
from clipmem_core.dataset.source import RawPairs
from tests.dataset.samples import check_reasons, draw, picture_bytes, read


def table(folder: Path, text: str | bytes, name: str = "captions.csv") -> Path:
    draw(folder, "a.png", "b.png", "c.png")
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def captions(raw: RawPairs) -> dict[str, list[str]]:
    return dict(zip(raw.pairs.image, raw.pairs.captions, strict=True))


@pytest.mark.parametrize("separator", [",", "\t", "|"])
def test_a_table_written_by_pandas_is_read_whatever_its_separator(
    tmp_path: Path, separator: str
) -> None:
    texts = [
        "a cat, sitting; really | so",
        'she said "hi"',
        "two\nlines\r\nand a\ttab" + "x" * 10**6,
    ]
    frame = pd.DataFrame({"filepath": ["a.png", "b.png", "c.png"], "title": texts, "label": 1})
    draw(tmp_path, *frame.filepath)
    frame.to_csv(tmp_path / "set.csv", sep=separator)
    raw = read(tmp_path / "set.csv")
    assert captions(raw) == {name: [text] for name, text in zip(frame.filepath, texts, strict=True)}
    assert list(raw.pairs.label) == ["1"] * 3
    assert (raw.rows, len(raw.quarantine), raw.root) == (3, 0, tmp_path)
    assert raw.format == ("tsv" if separator == "\t" else "csv")


@pytest.mark.parametrize(("encoding", "end"), [("cp1252", "\r\n"), ("utf-8-sig", "\n")])
def test_encodings_and_line_ends_are_read(tmp_path: Path, encoding: str, end: str) -> None:
    text = end.join(["image,caption", "a.png,Café à la crème", "b.png,Grüße aus Köln", ""])
    expected = {"a.png": ["Café à la crème"], "b.png": ["Grüße aus Köln"]}
    assert captions(read(table(tmp_path, text.encode(encoding)))) == expected


def test_several_rows_of_one_picture_are_its_captions_and_an_id_belongs_to_one_picture(
    tmp_path: Path,
) -> None:
    rows = "a.png,two,,\nb.png,x,dog,vague\na.png,one,cat,other\n./a.png,two,fox,miscaption"
    raw = read(table(tmp_path, f"image,caption,label,injected\n{rows}"))
    assert raw.pairs.drop(columns="group_key").to_numpy().tolist() == [
        ["a.png", "a.png", ["two", "one"], "cat", "miscaption"],
        ["b.png", "b.png", ["x"], "dog", "vague"],
    ]
    assert (raw.rows, len(raw.quarantine), raw.repeated) == (4, 0, 1)
    rows = "1,a.png,\n1,b.png,y\n1,a.png,z\n1,b.png,v\n,c.png,w\n"
    raw = read(table(tmp_path, f"id,image,caption\n{rows}"))
    assert list(raw.pairs.pair_id) == ["1", "c.png"]  # free again where its first row was refused
    assert captions(raw) == {"b.png": ["y", "v"], "c.png": ["w"]}
    reasons = {2: "caption is empty", 4: "already belongs to 'b.png'"}
    check_reasons(raw, {f"captions.csv:{line}": reason for line, reason in reasons.items()})


def test_every_bad_row_is_quarantined_with_its_line_and_reason(tmp_path: Path) -> None:
    bad = {
        "a.png": "row has 1 columns",
        "a.png,x,y": "row has 3 columns",
        "a.png,  ": "caption is empty",
        ",x": "image reference is empty",
        "a.png,nan": "caption is empty",
        "/etc/passwd,x": "absolute",
        "../a.png,x": "leaves",
        "gone.png,x": "No such file",
        "https://example.org/a.png,x": "URL",
        "link.png,x": "link that leaves",
        "a\0.png,x": "not valid text",
        'a.png,"never closed': "quotes do not add up",
    }
    draw(tmp_path, "set/a.png", "set/b.png", "out.png")
    (tmp_path / "set/link.png").symlink_to(tmp_path / "out.png")
    lines = ["image,caption", "a.png,good", *bad, 'b.png,"quoted, well"']
    raw = read(table(tmp_path / "set", "\n".join(lines)))
    assert captions(raw) == {"a.png": ["good"], "b.png": ["quoted, well"]}
    expected = {f"captions.csv:{line}": reason for line, reason in enumerate(bad.values(), start=3)}
    check_reasons(raw, expected)


CELLS = st.text('",a ', max_size=6)


@given(st.lists(CELLS, max_size=8))
@settings(max_examples=60)
def test_stray_quotes_lose_no_good_row_before_or_after_them(
    tmp_path_factory: pytest.TempPathFactory, cells: list[str]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "quotes"
    lines = ["image,caption", "a.png,first", *cells, 'b.png,"last"']
    raw = read(table(folder, "\n".join(lines)))
    assert captions(raw) == {"a.png": ["first"], "b.png": ["last"]}
    assert raw.rows == 2 + len(raw.quarantine)


def test_quotes_in_texts_are_read_and_many_stray_ones_take_linear_time(tmp_path: Path) -> None:
    text = 'image\tcaption\na.png\t"Hello" he said\nb.png\t5" screen\n'
    raw = read(table(tmp_path, text, "captions.tsv"))
    assert captions(raw) == {"a.png": ['"Hello" he said'], "b.png": ['5" screen']}
    raw = read(table(tmp_path, 'image, caption\na.png, "one, two"\n'))
    assert captions(raw) == {"a.png": ["one, two"]}
    raw = read(table(tmp_path, "image,caption\na.png,x\n" + 'a","c\n' * 30_000))
    assert (raw.rows, len(raw.pairs), len(raw.quarantine)) == (30_001, 1, 30_000)


def lines(*values: Any) -> str:
    return "\n".join(json.dumps(value, ensure_ascii=False) for value in values)


def test_json_lines_become_pairs(tmp_path: Path) -> None:
    first = {"captions": ["one", "two"], "label": 3, "pair_id": 7, "injected": "atypical"}
    text = lines(
        {"image": "a.png", **first},
        {"image": "b.png", "captions": " three\u2028still three\x85 "},
        {"image": "a.png", "captions": ["two", "four"], "pair_id": 7},
    )
    raw = read(table(tmp_path, text + "\r\n\n", "captions.jsonl"))
    assert raw.pairs.drop(columns="group_key").to_numpy().tolist() == [
        ["7", "a.png", ["one", "two", "four"], "3", "atypical"],
        ["b.png", "b.png", ["three\u2028still three"], None, None],
    ]
    assert (raw.format, raw.rows, len(raw.quarantine)) == ("jsonl", 3, 0)


def test_every_bad_json_line_is_quarantined_with_its_number_and_reason(tmp_path: Path) -> None:
    bad = {
        '{"image": "a.png", ': "not JSON",
        "[1]": "row is not a JSON object but list",
        "[" * 100_000: "not JSON",
        '{"image": "a.png", "caption": NaN}': "caption is empty",
        '{"image": "a.png", "caption": ["", null]}': "caption is empty",
        '{"image": "a.png", "caption": {"en": "x"}}': "caption is not text",
        '{"image": "\\ud800.png", "caption": "x"}': "not valid text",
    }
    text = "\n".join(['{"image": "b.png", "caption": "lone \\ud800 half"}', *bad])
    raw = read(table(tmp_path, text, "captions.jsonl"))
    assert list(raw.pairs.captions) == [["lone \ufffd half"]]
    reasons = {f"captions.jsonl:{line}": reason for line, reason in enumerate(bad.values(), 2)}
    check_reasons(raw, reasons)
    assert not raw.quarantine.reason.str.contains("\n").any()


def test_a_json_list_is_read_like_lines_and_so_are_lines_under_the_name_json(
    tmp_path: Path,
) -> None:
    values = [{"image": "a.png", "caption": "x"}, {"image": "b.png", "caption": ""}, 5]
    raw = read(table(tmp_path, json.dumps(values, indent=1), "set.json"))
    assert (raw.format, list(raw.pairs.image)) == ("json", ["a.png"])
    check_reasons(raw, {"set.json:2": "empty", "set.json:3": "not a JSON object"})
    text = lines({"image": "a.png", "caption": "x"}, {"image": "b.png", "caption": "y"})
    raw = read(table(tmp_path, text, "set.json"))
    assert (raw.format, len(raw.pairs)) == ("jsonl", 2)


IMAGES = [
    {"id": 11, "file_name": "a.png"},
    {"id": 12, "file_name": "b.png", "pair_id": "my id", "label": "cat"},
]
ANNOTATIONS = [
    {"id": 1, "image_id": 12, "caption": "b one"},
    {"id": 2, "image_id": 11, "caption": "a one\n"},
    {"id": 3, "image_id": 12, "caption": "b two"},
]


def read_coco(path: Path, images: Any, annotations: Any, *, image_folder: str = "") -> RawPairs:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"info": {}, "images": images, "annotations": annotations}))
    return read(path, image_folder=image_folder)


@pytest.mark.parametrize(
    ("file", "pictures", "flag"),
    [
        ("captions.json", "", ""),
        ("captions.json", "images", ""),
        ("texts/captions.json", "pictures/train", "../pictures/train"),
    ],
)
def test_coco_captions_find_their_pictures(
    tmp_path: Path, file: str, pictures: str, flag: str
) -> None:
    draw(tmp_path / pictures, "a.png", "b.png")
    raw = read_coco(tmp_path / file, IMAGES, ANNOTATIONS, image_folder=flag)
    assert raw.root == (tmp_path / pictures).resolve()
    assert captions(raw) == {"b.png": ["b one", "b two"], "a.png": ["a one"]}
    assert list(raw.pairs.pair_id) == ["my id", "11"]
    assert list(raw.pairs.label) == ["cat", None]
    assert (raw.format, raw.rows, len(raw.quarantine)) == ("coco", 3, 0)
    assert read_bytes(raw.root, raw.pairs.image[0]) == picture_bytes(1)


def test_every_bad_coco_entry_is_quarantined_with_its_place_and_reason(tmp_path: Path) -> None:
    draw(tmp_path / "images", "a.png", "b.png")
    names = {13: None, 14: "../outside.png", 15: "gone.png"}
    bad_images = [{"id": 11, "file_name": "other.png"}, {"file_name": "a.png"}, {"id": None}]
    named = [{"id": key, "file_name": name} for key, name in names.items()]
    keys: list[Any] = [99, [11], *names]
    texts = [{"image_id": key, "caption": "x"} for key in keys]
    texts = [{"image_id": 11, "caption": "good"}, *texts, {"image_id": 11}, {"caption": "x"}]
    raw = read_coco(tmp_path / "captions.json", [*IMAGES, *bad_images, *named], texts)
    assert list(raw.pairs.captions) == [["good"]]
    reasons = ["belongs to no image"] * 2 + ["reference is missing", "leaves", "No such file"]
    reasons += ["caption is empty", "belongs to no image"]
    expected = {f"annotations[{at}]": reason for at, reason in enumerate(reasons, start=1)}
    expected |= dict.fromkeys(["images[1]", "images[2]", "images[3]"], "caption is empty")
    expected["images[4]"] = "reference is missing"
    check_reasons(raw, {f"captions.json: {entry}": reason for entry, reason in expected.items()})
