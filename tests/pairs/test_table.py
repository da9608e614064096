import json
from pathlib import Path

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmem_core.config import InputError, SourceOptions
from clipmem_core.pairs.table import FORMATS, RawPairs, read_source
from tests.pairs.samples import draw

TABLE = "image,caption\na.png,x\n"
COCO = '{"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 1, "caption": "x"}]}'


def read(source: Path | str, *, data: Path = Path("data")) -> RawPairs:
    return read_source(str(source), SourceOptions(), data=data)


def read_or_message(path: Path) -> tuple[RawPairs | None, str]:
    try:
        return read(path), ""
    except InputError as error:
        return None, str(error)


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        ({"captions.csv": TABLE}, "csv"),
        ({"anything.tsv": TABLE.replace(",", "\t")}, "tsv"),
        ({"metadata.jsonl": '{"file_name": "a.png", "text": "x"}'}, "jsonl"),
        ({"captions.csv": TABLE, "scores.csv": "a,b\n", "stats.json": "{}"}, "csv"),
        (
            {"captions.json": COCO},
            "coco",
        ),
        ({"captions.json": '[{"image": "a.png", "caption": "x"}]', "info.json": "{"}, "json"),
        ({"a.txt": "x", "info.json": '{"a": 1}', ".captions.csv": TABLE}, "folder"),
    ],
)
def test_the_captions_of_a_folder_are_found(tmp_path: Path, files: dict[str, str], chosen: str) -> None:
    draw(tmp_path, "a.png")
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    raw = read(tmp_path)
    assert (raw.format, raw.root) == (chosen, tmp_path)
    assert list(raw.pairs.captions) == [["x"]]


DAMAGED = {
    "set.csv": 'image,caption,id\na.png,"x, ""y""",1\nb.png,é,2\n'.encode(),
    "set.jsonl": b'{"image": "a.png", "caption": "x"}\n{"image": "b.png", "captions": ["y"], "id": 2}\n',
    "set.json": COCO.encode(),
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damaged")
    draw(folder, "a.png", "b.png")
    with webdataset.TarWriter(str(folder / "set.tar")) as writer:
        for key in ("a", "b"):
            writer.write({"__key__": key, "png": b"x" * 600, "txt": "x", "json": {"caption": "y"}})
    return folder


@settings(max_examples=60)
@given(
    name=st.sampled_from([*DAMAGED, "set.tar"]), cut=st.floats(0, 1), size=st.integers(0, 40), put=st.binary(max_size=6)
)
def test_a_damaged_file_is_read_or_refused_in_one_line(
    pictures: Path, name: str, cut: float, size: int, put: bytes
) -> None:
    data = DAMAGED.get(name) or (pictures / "set.tar").read_bytes()
    at = int(cut * len(data))
    path = pictures / f"damaged-{name}"
    path.write_bytes(data[:at] + put + data[at + size :])
    raw, message = read_or_message(path)
    assert "\n" not in message
    if raw is None:
        return
    assert raw.pairs.pair_id.is_unique
    assert raw.rows >= len(raw.pairs) + len(raw.quarantine)
    assert all(raw.quarantine.reason)


@pytest.mark.parametrize("source", ["gone.csv", "gone", "gone/", "a/b/c", "", "x" * 5000, "nul\0"])
def test_what_is_not_there_names_it_and_the_formats(tmp_path: Path, source: str) -> None:
    with pytest.raises(InputError) as caught:
        read(f"{tmp_path}/none/{source}")
    assert source[:20].strip("/\0") in str(caught.value)
    assert FORMATS in str(caught.value) or "too long" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["set.xlsx", "set", "set.tar.gz", "empty.csv"])
def test_an_unknown_or_empty_file_names_the_formats(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"" if name.startswith("empty") else b"data")
    with pytest.raises(InputError, match="of a known format: give a CSV|is empty: give a CSV") as caught:
        read(tmp_path / name)
    assert FORMATS in str(caught.value)


def test_a_folder_without_a_table_names_the_formats_and_one_of_several_asks_for_one(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    with pytest.raises(InputError, match="holds no data set") as caught:
        read(tmp_path)
    assert FORMATS in str(caught.value)
    for name in ("train.csv", "test.csv"):
        (tmp_path / name).write_text(TABLE)
    with pytest.raises(InputError, match=r"several tables \(test.csv, train.csv\): give the one to read itself"):
        read(tmp_path)


def test_a_file_that_cannot_be_opened_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "set.csv").write_text(TABLE)

    def refuse(path: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match="set.csv cannot be read: Permission denied"):
        read(tmp_path / "set.csv")


def test_the_drawn_set_is_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def draw_scenes(folder: Path, *, pairs: int, seed: int) -> None:
        calls.append((pairs, seed))
        draw(folder, *(f"images/{at}.png" for at in range(pairs)))
        lines = [{"image": f"images/{at}.png", "captions": ["x", "y"], "planted": "vague"} for at in range(pairs)]
        (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))

    monkeypatch.setattr("clipmem_core.pairs.scenes.drawing.draw_scenes", draw_scenes)
    for _ in range(2):
        raw = read_source("scenes", SourceOptions(scenes_pairs=3, scenes_seed=5), data=tmp_path)
        assert (raw.format, raw.root, len(raw.pairs)) == ("scenes", tmp_path / "sets/scenes-3-5", 3)
        assert list(raw.pairs.planted) == ["vague"] * 3
    assert calls == [(3, 5)]
