import json
from pathlib import Path
from typing import Any

import pytest

from clipmem_core.config import InputError, SourceOptions
from clipmem_core.pairs.table import RawPairs, read_source
from tests.pairs.samples import draw


def read(folder: Path, text: str | bytes, name: str = "captions.jsonl", **options: str) -> RawPairs:
    draw(folder, "a.png", "b.png", "c.png")
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_source(str(path), SourceOptions(**options), data=folder / "data")


def lines(*values: Any) -> str:
    return "\n".join(json.dumps(value) for value in values)


def test_lines_become_pairs(tmp_path: Path) -> None:
    text = lines(
        {"image": "a.png", "captions": ["one", "two"], "label": 3, "pair_id": 7, "planted": "atypical"},
        {"image": "b.png", "captions": " three\u2028still three "},
        {"image": "a.png", "captions": ["two", "four"], "pair_id": 7},
    )
    raw = read(tmp_path, text + "\n\n")
    assert list(raw.pairs.captions) == [["one", "two", "four"], ["three\u2028still three"]]
    assert list(raw.pairs.pair_id) == ["7", "b.png"]
    assert list(raw.pairs.label) == ["3", None]
    assert list(raw.pairs.planted) == ["atypical", None]
    assert (raw.format, raw.rows, len(raw.quarantine)) == ("jsonl", 3, 0)
    text = json.dumps({"image": "a.png", "caption": "x\u2028y\x85z"}, ensure_ascii=False)
    assert list(read(tmp_path, text + "\r\n").pairs.captions) == [["x\u2028y\x85z"]]


def test_every_bad_line_is_quarantined_with_its_number_and_reason(tmp_path: Path) -> None:
    bad = [
        ('{"image": "a.png", ', "line is not JSON"),
        ("[1, 2]", "row is not a JSON object but list"),
        ('"text"', "row is not a JSON object but str"),
        ("[" * 100_000, "nested too deeply"),
        ('{"image": "a.png", "caption": ' + "9" * 5000 + "}", "line is not JSON"),
        ('{"image": "a.png"}', "caption is missing"),
        ('{"image": "a.png", "caption": null}', "caption is missing"),
        ('{"image": "a.png", "caption": NaN}', "caption is missing"),
        ('{"image": "a.png", "caption": ["", null]}', "caption is empty"),
        ('{"image": "a.png", "caption": {"en": "x"}}', "caption is not text"),
        ('{"caption": "x"}', "image reference is missing"),
        ('{"image": ["a.png"], "caption": "x"}', "image reference is not text"),
        ('{"image": "\\u0000", "caption": "x"}', "image reference is empty"),
        ('{"image": "\\ud800.png", "caption": "x"}', "not valid text"),
        ('{"image": "../a.png", "caption": "x"}', "leaves"),
    ]
    text = "\n".join(['{"image": "b.png", "caption": "lone \\ud800 half"}', *(line for line, _ in bad)])
    raw = read(tmp_path, text)
    assert list(raw.pairs.captions) == [["lone \ufffd half"]]
    assert list(raw.quarantine.source) == [f"captions.jsonl:{number}" for number in range(2, 2 + len(bad))]
    for reason, (_, wanted) in zip(raw.quarantine.reason, bad, strict=True):
        assert wanted in reason
        assert "\n" not in reason
    assert raw.rows == 1 + len(bad)


def test_a_json_list_is_read_like_lines_and_so_are_lines_under_the_name_json(tmp_path: Path) -> None:
    values = [{"image": "a.png", "caption": "x"}, {"image": "b.png", "caption": ""}, 5]
    raw = read(tmp_path, json.dumps(values, indent=1), "set.json")
    assert list(raw.pairs.image) == ["a.png"]
    assert list(raw.quarantine.source) == ["set.json:2", "set.json:3"]
    assert raw.format == "json"
    raw = read(tmp_path, lines({"image": "a.png", "caption": "x"}, {"image": "b.png", "caption": "y"}), "set.json")
    assert (raw.format, len(raw.pairs)) == ("jsonl", 2)


@pytest.mark.parametrize("name", ["set.jsonl", "set.json"])
@pytest.mark.parametrize("text", ["no json\nat all", "[1, 2]", "\x00\x01", " "])
def test_a_file_without_objects_is_one_line(tmp_path: Path, text: str, name: str) -> None:
    with pytest.raises(InputError, match="holds no JSON object"):
        read(tmp_path, text, name)


def test_a_json_object_that_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither COCO captions"):
        read(tmp_path, json.dumps({"images": []}), "set.json")
