import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import webdataset
from webdataset.tariterators import group_by_keys, tar_file_expander

from clipmem_core.config import InputError, SourceOptions
from clipmem_core.pairs.references import read_bytes
from clipmem_core.pairs.table import RawPairs, read_source
from tests.pairs.samples import picture_bytes, write_tar


def read(source: Path, **options: str) -> RawPairs:
    return read_source(str(source), SourceOptions(**options), data=source.parent)


def write(path: Path, samples: list[dict[str, Any]]) -> None:
    with webdataset.TarWriter(str(path)) as writer:
        for sample in samples:
            writer.write(sample)


def sample(key: str, shade: int, *, kind: str = "png", **rest: Any) -> dict[str, Any]:
    return {"__key__": key, kind: picture_bytes(shade, format={"jpg": "JPEG"}.get(kind, kind.upper())), **rest}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Three shards as the webdataset library writes them."""
    folder = tmp_path / "set"
    folder.mkdir()
    write(
        folder / "s-000.tar",
        [
            sample("000", 0, kind="jpg", txt="a cat", json={"caption": "a cat", "key": "000", "label": "cat"}),
            sample("001", 1, kind="jpeg", txt="  two\nlines "),
        ],
    )
    write(
        folder / "s-001.tar",
        [
            sample("000", 2, kind="webp", json={"captions": ["x", "y"], "pair_id": "p", "planted": "vague"}),
            sample("deep/er/é", 3, txt="é", cls=7),
        ],
    )
    write(folder / "s-002.tar", [sample("000", 4, txt="last")])
    return folder


@pytest.mark.parametrize("form", ["", "s-{000..002}.tar", "{s-000,s-001,s-002}.tar"])
def test_shards_written_by_webdataset_are_read(shards: Path, form: str) -> None:
    raw = read(shards / form)
    assert raw.root == shards
    assert list(raw.pairs.image) == [
        "s-000.tar/000.jpg",
        "s-000.tar/001.jpeg",
        "s-001.tar/000.webp",
        "s-001.tar/deep/er/é.png",
        "s-002.tar/000.png",
    ]
    assert list(raw.pairs.captions) == [["a cat"], ["two\nlines"], ["x", "y"], ["é"], ["last"]]
    assert list(raw.pairs.label) == ["cat", None, None, "7", None]
    assert raw.pairs.pair_id[2] == "p"
    assert raw.pairs.pair_id[4] == "s-002.tar/000.png"
    assert raw.pairs.planted[2] == "vague"
    assert (raw.format, raw.rows, len(raw.quarantine)) == ("webdataset", 5, 0)
    theirs = []
    for path in sorted(shards.glob("*.tar")):
        with path.open("rb") as stream:
            entries = group_by_keys(tar_file_expander([{"url": str(path), "stream": stream}]))
            theirs += [entry[kind] for entry in entries for kind in ("jpg", "jpeg", "webp", "png") if kind in entry]
    assert [read_bytes(raw.root, image) for image in raw.pairs.image] == theirs


def test_one_shard_alone_is_a_data_set_also_through_a_link(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "link.tar").symlink_to(shards / "s-002.tar")
    for path in (shards / "s-002.tar", tmp_path / "link.tar"):
        raw = read(path)
        assert list(raw.pairs.image) == ["s-002.tar/000.png"]
        assert len(read_bytes(raw.root, raw.pairs.image[0])) > 0


def test_the_json_gives_what_flags_choose_and_no_wrong_label_of_img2dataset(tmp_path: Path) -> None:
    meta = {"caption": "wrong", "words": "right", "kind": "k", "url_id": 5}
    write(tmp_path / "a.tar", [sample("0", 0, txt="wrong", json=meta)])
    raw = read(tmp_path / "a.tar", csv_caption_key="words", csv_label_key="kind", csv_id_key="url_id")
    assert raw.pairs.iloc[0][["pair_id", "captions", "label"]].tolist() == ["5", ["right"], "k"]
    meta = {"caption": "a dog", "url": "https://example.org/1.jpg", "key": "000000001", "status": "success", "width": 8}
    write_tar(
        tmp_path / "0.tar",
        {"000000001.jpg": picture_bytes(), "000000001.json": json.dumps(meta), "000000001.txt": "a dog"},
    )
    pairs = read(tmp_path / "0.tar").pairs
    assert pairs.iloc[0].tolist() == ["0.tar/000000001.jpg", "0.tar/000000001.jpg", ["a dog"], None, None]


def test_every_bad_sample_is_quarantined_with_its_reason(tmp_path: Path) -> None:
    picture = picture_bytes()
    bad = {
        "no-text.jpg": picture,
        "no-picture.txt": "x",
        "empty.jpg": picture,
        "empty.txt": " \n",
        "null.jpg": picture,
        "null.json": '{"caption": null}',
        "number.jpg": picture,
        "number.json": '{"caption": 5}',
        "../climb.jpg": picture,
        "../climb.txt": "x",
        "back\\slash.jpg": picture,
        "back\\slash.txt": "x",
        "twin.jpg": picture,
        "twin.txt": "x",
        "twin.png": picture,
        "broken.jpg": picture,
        "broken.txt": "kept",
        "broken.json": "{",
        "README": "hello",
    }
    write_tar(tmp_path / "a.tar", {"good.jpg": picture, "good.txt": "Café".encode("cp1252"), **bad})
    raw = read(tmp_path / "a.tar")
    assert list(raw.pairs.image) == ["a.tar/good.jpg", "a.tar/twin.jpg", "a.tar/broken.jpg"]
    assert list(raw.pairs.captions) == [["Café"], ["x"], ["kept"]]
    wanted = {
        "a.tar/no-text.jpg": "no caption",
        "a.tar/no-picture": "no picture, only no-picture.txt",
        "a.tar/empty.jpg": "caption is empty",
        "a.tar/null.jpg": "no caption",
        "a.tar/number.jpg": "caption is not text",
        "a.tar/../climb.jpg": "leaves",
        "a.tar/back\\slash.jpg": "cannot be written",
        "a.tar/twin.png": "no caption",
        "a.tar/broken.json": "not JSON",
        "a.tar/README": "no picture",
    }
    found = dict(zip(raw.quarantine.source, raw.quarantine.reason, strict=True))
    assert set(found) == set(wanted)
    for source, reason in wanted.items():
        assert reason in found[source]
    assert raw.rows == len(raw.pairs) + len(raw.quarantine)


def test_a_member_that_comes_twice_is_used_once(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, data in [("a.jpg", b"first"), ("a.txt", b"x"), ("a.jpg", b"second")]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    raw = read(tmp_path / "a.tar")
    assert read_bytes(raw.root, raw.pairs.image[0]) == b"first"
    assert "comes twice" in raw.quarantine.reason[0]
    assert raw.rows == 2


def test_a_truncated_shard_gives_what_came_before_the_cut(tmp_path: Path) -> None:
    whole = tmp_path / "whole.tar"
    write_tar(whole, {f"{key}.{kind}": b"x" * 700 for key in range(3) for kind in ("jpg", "txt")})
    data = whole.read_bytes()
    member = 512 + 1024
    cuts = {"in-data": 4 * member + 600, "in-header": 4 * member + 100, "at-member": 4 * member}
    for name, cut in cuts.items():
        path = tmp_path / f"{name}.tar"
        path.write_bytes(data[:cut])
        raw = read(path)
        assert list(raw.pairs.image) == [f"{name}.tar/0.jpg", f"{name}.tar/1.jpg"]
        assert list(raw.quarantine.source) == [f"{name}.tar"]
        assert "cut off or damaged" in raw.quarantine.reason[0]
    path.write_bytes(data[: 5 * member + 600])
    raw = read(path)
    assert [reason.split(":")[0] for reason in raw.quarantine.reason] == [
        "sample has no caption",
        "tar is cut off or damaged",
    ]
    path.write_bytes(data[:member] + b"\xff" * 512 + data[member + 512 :])
    assert "cut off or damaged" in read(path).quarantine.reason.iloc[-1]


def test_a_bad_shard_among_good_ones_is_one_row(shards: Path, tmp_path: Path) -> None:
    (shards / "s-000.tar").write_bytes(b"no tar")
    (shards / "s-001.tar").rename(tmp_path / "outside.tar")
    (shards / "s-001.tar").symlink_to(tmp_path / "outside.tar")
    raw = read(shards / "s-{000..003}.tar")
    assert list(raw.pairs.image) == ["s-002.tar/000.png"]
    assert list(raw.quarantine.source) == ["s-000.tar", "s-001.tar", "s-003.tar"]
    for reason, wanted in zip(
        raw.quarantine.reason, ["not an uncompressed tar", "link that leaves", "No such file"], strict=True
    ):
        assert wanted in reason
    assert raw.rows == 4


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.tar", b"no tar"), ("a.tar", b"\x1f\x8b" + b"x" * 600), ("a-{00..01}.tar", None), ("{0..3.tar", None)],
)
def test_shards_of_which_none_is_readable_are_one_line(tmp_path: Path, name: str, data: bytes | None) -> None:
    if data:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match="none of the .* shards can be used|braces cannot be expanded") as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)
