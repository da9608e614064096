"""WebDataset shards as the webdataset library and img2dataset write them, and damaged ones."""

import json
from pathlib import Path
from typing import Any

import pytest
import webdataset

from clipmem_core.dataset.containers import read_bytes
from tests.dataset.samples import check_reasons, picture_bytes, read, write_tar


def write(path: Path, samples: list[dict[str, Any]]) -> None:
    with webdataset.TarWriter(str(path)) as writer:
        for sample in samples:
            writer.write(sample)


def sample(key: str, shade: int, *, kind: str = "png", **rest: Any) -> dict[str, Any]:
    return {
        "__key__": key,
        kind: picture_bytes(shade, format={"jpg": "JPEG"}.get(kind, kind.upper())),
        **rest,
    }


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Three shards as the webdataset library writes them."""
    folder = tmp_path / "set"
    folder.mkdir()
    meta = {"caption": "a cat", "key": "000", "label": "cat"}
    first = sample("000", 0, kind="jpg", txt="a cat", json=meta)
    write(folder / "s-000.tar", [first, sample("001", 1, kind="jpeg", txt="  two\nlines ")])
    meta = {"captions": ["x", "y"], "pair_id": "p", "injected": "vague"}
    second = sample("000", 2, kind="webp", json=meta)
    write(folder / "s-001.tar", [second, sample("deep/er/é", 3, txt="é", cls=7)])
    write(folder / "s-002.tar", [sample("000", 4, txt="last")])
    return folder


@pytest.mark.parametrize("form", ["", "s-{000..002}.tar"])
def test_shards_written_by_webdataset_are_read(shards: Path, form: str) -> None:
    raw = read(shards / form)
    assert raw.root == shards
    names = ["000.tar/000.jpg", "000.tar/001.jpeg", "001.tar/000.webp", "001.tar/deep/er/é.png"]
    assert list(raw.pairs.image) == [f"s-{name}" for name in (*names, "002.tar/000.png")]
    assert list(raw.pairs.captions) == [["a cat"], ["two\nlines"], ["x", "y"], ["é"], ["last"]]
    assert list(raw.pairs.label) == ["cat", None, None, "7", None]
    assert list(raw.pairs.pair_id)[2::2] == ["p", "s-002.tar/000.png"]
    assert raw.pairs.injected[2] == "vague"
    assert (raw.format, raw.rows, len(raw.quarantine)) == ("webdataset", 5, 0)
    assert read_bytes(raw.root, raw.pairs.image[3]) == picture_bytes(3)


def test_the_json_gives_what_flags_choose_and_no_wrong_label_of_img2dataset(tmp_path: Path) -> None:
    meta = {"caption": "wrong", "words": "right", "kind": "k", "url_id": 5}
    write(tmp_path / "a.tar", [sample("0", 0, txt="wrong", json=meta)])
    raw = read(
        tmp_path / "a.tar", csv_caption_key="words", csv_label_key="kind", csv_id_key="url_id"
    )
    assert raw.pairs.iloc[0][["pair_id", "captions", "label"]].tolist() == ["5", ["right"], "k"]
    # as img2dataset writes: its `key` is no label
    meta = {"caption": "a dog", "key": "1"}
    write_tar(tmp_path / "0.tar", {"1.jpg": picture_bytes(), "1.json": json.dumps(meta)})
    pairs = read(tmp_path / "0.tar").pairs
    assert pairs.iloc[0].tolist() == ["0.tar/1.jpg", "0.tar/1.jpg", ["a dog"], None, None, None]


def test_every_bad_sample_is_quarantined_with_its_reason(tmp_path: Path) -> None:
    picture = picture_bytes()
    texts = {
        "good.txt": "Café".encode("cp1252"),
        "empty.txt": " \n",
        "null.json": '{"caption": null}',
        "number.json": '{"caption": 5}',
        "broken.json": "{",
        "list.json": "[1]",
    }
    texts |= dict.fromkeys(["../climb.txt", "back\\slash.txt", "twin.txt", "broken.txt"], "x")
    texts |= dict.fromkeys(["README", "no-picture.txt"], "x")
    names = ["good", "no-text", "empty", "null", "number", "../climb", "back\\slash", "twin"]
    names += ["broken", "list"]
    pictures = [(f"{name}.jpg", picture) for name in names]
    again = [("twin.png", picture), ("good.jpg", b"second"), ("a.tar/inner.jpg", b"")]
    write_tar(tmp_path / "a.tar", [*pictures, *texts.items(), *again])
    raw = read(tmp_path / "a.tar")
    assert list(raw.pairs.image) == ["a.tar/good.jpg", "a.tar/twin.jpg"]
    assert list(raw.pairs.captions) == [["Café"], ["x"]]
    assert read_bytes(raw.root, "a.tar/good.jpg") == picture
    expected = {
        "no-text.jpg": "no caption",
        "no-picture": "no picture, only no-picture.txt",
        "empty.jpg": "caption is empty",
        "null.jpg": "no caption",
        "number.jpg": "caption is not text",
        "../climb.jpg": "leaves",
        "back\\slash.jpg": "cannot be written",
        "twin.png": "no caption",
        "broken.jpg": "not JSON",
        "good.jpg": "comes twice",
        "list.jpg": "list.json is not a JSON object",
        "README": "no picture",
        "a.tar/inner.jpg": "no caption",
    }
    check_reasons(raw, {f"a.tar/{name}": reason for name, reason in expected.items()})


def test_a_truncated_shard_gives_what_came_before_the_cut(tmp_path: Path) -> None:
    whole = tmp_path / "whole.tar"
    write_tar(whole, {f"{key}.{kind}": b"x" * 700 for key in range(3) for kind in ("jpg", "txt")})
    data = whole.read_bytes()
    path = tmp_path / "cut.tar"
    member = 512 + 1024
    for cut in (4 * member + 600, 4 * member):  # in data, at a member
        path.write_bytes(data[:cut])
        raw = read(path)
        assert list(raw.pairs.image) == ["cut.tar/0.jpg", "cut.tar/1.jpg"]
        check_reasons(raw, {"cut.tar": "cut off or damaged"})


def test_a_bad_shard_among_good_ones_is_one_row(shards: Path, tmp_path: Path) -> None:
    (shards / "s-000.tar").write_bytes(b"no tar")
    (shards / "s-001.tar").rename(tmp_path / "outside.tar")
    (shards / "s-001.tar").symlink_to(tmp_path / "outside.tar")
    raw = read(shards / "s-{000..003}.tar")
    assert list(raw.pairs.image) == ["s-002.tar/000.png"]
    reasons = {"s-000": "not an uncompressed tar", "s-001": "link that", "s-003": "No such file"}
    check_reasons(raw, {f"{name}.tar": reason for name, reason in reasons.items()})
