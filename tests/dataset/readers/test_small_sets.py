"""Small sets as people have them: LoRA folders, a shop's catalogue, a saved site."""

import json
from pathlib import Path

import pytest

from clipmem_core.config import SourceOptions
from clipmem_core.dataset.source import RawPairs, read_source
from clipmem_core.utils.io import InputError
from tests.dataset.samples import check_reasons, draw, read


def captions(raw: RawPairs) -> dict[str, list[str]]:
    return dict(zip(raw.pairs.image, raw.pairs.captions, strict=True))


def test_a_json_beside_a_picture_has_its_caption_under_any_usual_name(tmp_path: Path) -> None:
    fields = {"a": {"Caption": "one"}, "b": {"text": ["two"]}, "c": {"description": "3"}}
    draw(tmp_path, "a.png", "b.png", "c.png", "d.png", "e.png", "f.png")
    for name, values in fields.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"width": 8, **values}))
    (tmp_path / "d.json").write_text('{"width": 8}')
    (tmp_path / "e.json").write_text("{")
    (tmp_path / "f.json").write_text("[1]")
    (tmp_path / "g.json").write_text("{}")
    raw = read(tmp_path)
    assert captions(raw) == {"a.png": ["one"], "b.png": ["two"], "c.png": ["3"]}
    wanted = {
        "d.png": "caption is empty",
        "e.png": "not JSON",
        "f.png": "not a JSON object",
        "g.json": "no picture of the same name",
    }
    check_reasons(raw, wanted)


def test_of_two_texts_that_differ_one_is_used_and_the_other_named(tmp_path: Path) -> None:
    draw(tmp_path, "a.png", "b.png", "c.png", "d.png")
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text("a dog\n")
    (tmp_path / "a.caption").write_text("a cat")
    (tmp_path / "b.caption").write_text("a dog")
    (tmp_path / "b.json").write_text('{"caption": "a dog ", "url": "x"}')
    (tmp_path / "c.json").write_text('{"width": 8}')
    (tmp_path / "d.txt").write_text("")
    (tmp_path / "d.caption").write_text("an owl")
    raw = read(tmp_path)
    texts = [["a dog"]] * 3 + [["an owl"]]
    assert list(raw.pairs.captions) == texts
    check_reasons(raw, {"a.caption": "differs from a.txt, which is used"})


def test_a_folder_with_metadata_lists_its_pictures(tmp_path: Path) -> None:
    draw(tmp_path, "a.png", "deep/b.png", "deep/c.png")
    rows = [{"file_name": "a.png", "text": "one"}, {"file_name": "./deep/b.png", "text": "two"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    raw = read(tmp_path)
    assert captions(raw) == {"a.png": ["one"], "deep/b.png": ["two"]}
    check_reasons(raw, {"deep/c.png": "metadata.jsonl does not list it"})


def test_folders_of_kohya_are_one_set_without_labels(tmp_path: Path) -> None:
    names = ["img/10_sks dog/a", "img/10_sks dog/b", "img/1_dog/a", "img/1_dog/silent"]
    draw(tmp_path, *(f"{name}.png" for name in names))
    for name in names[:3]:
        (tmp_path / f"{name}.txt").write_text(f"text of {name[-1]}")
    raw = read(tmp_path, caption_template="a photo of a {label}")
    assert sorted(raw.pairs.image) == sorted(f"{name}.png" for name in names[:3])
    assert set(raw.pairs.label) == {None}
    check_reasons(raw, {"img/1_dog/silent.png": "no caption file"})


@pytest.mark.parametrize("header", ["id,file,alt", "ID,Image Src,Image Alt Text"])
def test_a_catalogue_with_alt_texts_is_read(tmp_path: Path, header: str) -> None:
    draw(tmp_path, "a.png", "b.png")
    (tmp_path / "catalogue.csv").write_text(f"{header}\n7,a.png,a red mug\n8,b.png,\n")
    raw = read(tmp_path)
    assert raw.pairs[["pair_id", "image", "captions"]].to_numpy().tolist() == [
        ["7", "a.png", ["a red mug"]]
    ]
    check_reasons(raw, {"catalogue.csv:3": "caption is empty"})


def test_pictures_by_url_are_quarantined_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "alt.csv").write_text("url,alt_text\nhttps://example.org/a.jpg,a red mug\n")
    check_reasons(read(tmp_path), {"alt.csv:2": "image is a URL: download the pictures"})


PAGE = """<!DOCTYPE html><html><body><h1>Pets</h1>
<img src="/img/a.png?w=300" alt="A  red&amp;white
dog">
<figure><img src="../img/b%20b.png" alt=""><figcaption>An <b>owl</b> asleep</figcaption></figure>
<figure><img src="../img/c.png" alt="a mug"><figcaption>ignored</figcaption></figure>
<img src="../img/line.png" alt="">
<img src="../img/line.png">
<img src="https://example.org/x.png" alt="far">
<img src="//cdn.example.org/x.png" alt="far">
<img src="../img/gone.png" alt="gone">
<img src="data:image/png;base64,xx" alt="inside">
<img src="../../out.png" alt="outside">
<figure><figure><img src="../img/d.png"></figure><figcaption>outer
"""


def test_a_saved_site_gives_alt_texts_and_figcaptions(tmp_path: Path) -> None:
    site = tmp_path / "site"
    draw(site, *(f"img/{name}.png" for name in ("a", "b b", "c", "d", "line")))
    draw(tmp_path, "out.png")
    (site / "blog").mkdir()
    (site / "blog/pets.html").write_text(PAGE, encoding="utf-8")
    (site / "index.htm").write_bytes("<img src='img/a.png' alt='Ein Hündchen'>".encode("cp1252"))
    (site / "robots.txt").write_text("x")
    raw = read(site)
    assert (raw.format, raw.root) == ("html", site)
    assert captions(raw) == {
        "img/a.png": ["A red&white dog", "Ein Hündchen"],
        "img/b b.png": ["An owl asleep"],
        "img/c.png": ["a mug"],
        "img/d.png": ["outer"],
    }
    wanted = {
        6: "no alt text and no figcaption",
        7: "no alt text and no figcaption",
        8: "image is a URL",
        9: "image is a URL",
        10: "No such file",
        11: "inside the page",
        12: "leaves",
    }
    check_reasons(raw, {f"blog/pets.html:{line}": reason for line, reason in wanted.items()})


def test_one_page_is_read_with_the_pictures_beside_it(tmp_path: Path) -> None:
    draw(tmp_path, "Pets_files/a.png")
    page = tmp_path / "Pets.html"
    page.write_text(
        '<img data-src="./Pets_files/a.png" src="data:image/gif;base64,xx" alt="a dog">'
    )
    assert captions(read(page)) == {"Pets_files/a.png": ["a dog"]}
    page.write_text("<p>no picture")
    assert read(page).rows == 0


def test_texts_of_other_encodings_are_decoded_or_named(tmp_path: Path) -> None:
    texts = {
        "a": "Ein Hündchen".encode("cp1252"),
        "b": "Ein Hündchen, 犬".encode("utf-16"),
        "c": b"\xfe\xff" + "une fenêtre".encode("utf-16-be"),
        "d": "Собака на траве".encode("cp1251"),
        "e": "草の上の犬".encode("shift-jis"),
        "f": b"\xff\xfea\0\x00",
        "g": "Собака".encode(),
    }
    draw(tmp_path, *(f"{name}.png" for name in texts))
    for name, data in texts.items():
        (tmp_path / f"{name}.txt").write_bytes(data)
    said: list[str] = []
    raw = read_source(str(tmp_path), SourceOptions(), data=tmp_path, say=said.append)
    assert captions(raw) == {
        "a.png": ["Ein Hündchen"],
        "b.png": ["Ein Hündchen, 犬"],
        "c.png": ["une fenêtre"],
        "g.png": ["Собака"],
    }
    check_reasons(raw, {f"{name}.png": "neither UTF-8 nor" for name in "def"})
    (note,) = said
    assert "3 caption files" in note
    assert "a.txt" in note
    (tmp_path / "table.csv").write_bytes("image,caption\r\na.png,Hündchen\r\n".encode("utf-16"))
    assert captions(read(tmp_path / "table.csv")) == {"a.png": ["Hündchen"]}


def test_a_folder_without_a_caption_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match="no data set of a known format"):
        read(tmp_path)
