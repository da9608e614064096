import csv
from pathlib import Path

import pandas as pd
import pytest

from clipmem_core.config import InputError, SourceOptions
from clipmem_core.pairs.table import RawPairs, read_source
from tests.pairs.samples import draw


def read(path: Path, **options: str) -> RawPairs:
    return read_source(str(path), SourceOptions(**options), data=path.parent / "data")


def table(folder: Path, text: str | bytes, name: str = "captions.csv") -> Path:
    draw(folder, "a.png", "b.png", "c.png")
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def captions(raw: RawPairs) -> dict[str, list[str]]:
    return dict(zip(raw.pairs.image, raw.pairs.captions, strict=True))


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_a_table_written_by_pandas_is_read_whatever_its_separator(tmp_path: Path, separator: str) -> None:
    texts = ["a cat, sitting; really | so", 'she said "hi"', "two\nlines\r\nand a\ttab"]
    frame = pd.DataFrame({"filepath": ["a.png", "b.png", "c.png"], "title": texts, "label": [1, 2, 1]})
    draw(tmp_path, *frame.filepath)
    frame.to_csv(tmp_path / "set.csv", sep=separator)
    raw = read(tmp_path / "set.csv")
    assert captions(raw) == {name: [text] for name, text in zip(frame.filepath, texts, strict=True)}
    assert list(raw.pairs.label) == ["1", "2", "1"]
    assert (raw.rows, len(raw.quarantine), raw.root) == (3, 0, tmp_path)
    assert raw.format == ("tsv" if separator == "\t" else "csv")


@pytest.mark.parametrize(("encoding", "end"), [("utf-8-sig", "\n"), ("utf-16", "\r\n"), ("cp1252", "\r\n")])
def test_encodings_and_line_ends_are_read(tmp_path: Path, encoding: str, end: str) -> None:
    text = end.join(["image,caption", "a.png,Café à la crème", "b.png,Grüße aus Köln", ""])
    assert captions(read(table(tmp_path, text.encode(encoding)))) == {
        "a.png": ["Café à la crème"],
        "b.png": ["Grüße aus Köln"],
    }


def test_several_rows_of_one_picture_are_its_captions_in_order_and_an_id_is_of_the_first_that_bears_it(
    tmp_path: Path,
) -> None:
    text = (
        "image,caption,label,planted\na.png,two,,\nb.png,x,dog,vague\na.png,one,cat,other\n./a.png,two,fox,miscaption\n"
    )
    raw = read(table(tmp_path, text))
    assert captions(raw) == {"a.png": ["two", "one"], "b.png": ["x"]}
    assert list(raw.pairs.pair_id) == ["a.png", "b.png"]
    assert list(raw.pairs.label) == ["cat", "dog"]
    assert list(raw.pairs.planted) == ["miscaption", "vague"]
    assert (raw.rows, len(raw.quarantine)) == (4, 0)
    raw = read(table(tmp_path, "id,image,caption\n1,a.png,x\n1,b.png,y\n1,a.png,z\n,c.png,w\n"))
    assert list(raw.pairs.pair_id) == ["1", "c.png"]
    assert captions(raw) == {"a.png": ["x", "z"], "c.png": ["w"]}
    assert list(raw.quarantine.pair_id) == ["1"]
    assert "already belongs to 'a.png'" in raw.quarantine.reason[0]


def test_every_bad_row_is_quarantined_with_its_line_and_reason(tmp_path: Path) -> None:
    bad = {
        3: ("a.png", "row has 1 columns"),
        4: ("a.png,x,y", "row has 3 columns"),
        5: ("a.png,  ", "caption is empty"),
        6: (",x", "image reference is empty"),
        7: ("NaN,x", "image reference is missing"),
        8: ("a.png,nan", "caption is missing"),
        9: ("/etc/passwd,x", "absolute"),
        10: ("../a.png,x", "leaves"),
        11: ("..%2fa.png,x", "leaves"),
        12: ("..\\a.png,x", "leaves"),
        13: ("gone.png,x", "no such picture"),
        14: ("https://example.org/a.png,x", "URL"),
        15: ("link.png,x", "link that leaves"),
        16: ('a.png,"open" x', "quotes do not add up"),
    }
    text = "\n".join(["image,caption", "a.png,good", *(row for row, _ in bad.values()), "b.png,last"])
    draw(tmp_path, "set/a.png", "set/b.png", "out.png")
    (tmp_path / "set/link.png").symlink_to(tmp_path / "out.png")
    raw = read(table(tmp_path / "set", text))
    assert captions(raw) == {"a.png": ["good"], "b.png": ["last"]}
    assert list(raw.quarantine.source) == [f"captions.csv:{line}" for line in bad]
    for reason, (_, wanted) in zip(raw.quarantine.reason, bad.values(), strict=True):
        assert wanted in reason
    assert raw.rows == 16 == 2 + len(raw.quarantine)


def test_a_stray_quote_costs_its_own_line_and_quotes_that_belong_to_the_text_stay(tmp_path: Path) -> None:
    raw = read(table(tmp_path, 'image,caption\na.png,"never closed\nb.png,fine\nc.png,"quoted, well"\n'))
    assert captions(raw) == {"b.png": ["fine"], "c.png": ["quoted, well"]}
    assert list(raw.quarantine.source) == ["captions.csv:2"]
    raw = read(table(tmp_path, 'image,caption\na.png,fine\nb.png,"never closed'))
    assert (captions(raw), len(raw.quarantine)) == ({"a.png": ["fine"]}, 1)
    raw = read(table(tmp_path, 'image\tcaption\na.png\t"Hello" he said\nb.png\t5" screen\n', "captions.tsv"))
    assert captions(raw) == {"a.png": ['"Hello" he said'], "b.png": ['5" screen']}
    raw = read(table(tmp_path, 'image, caption\na.png, "one, two"\n'))
    assert captions(raw) == {"a.png": ["one, two"]}


def test_captions_of_any_length_are_kept(tmp_path: Path) -> None:
    long, enormous = " ".join(["word"] * 10_000), "x" * 1_000_000
    previous = csv.field_size_limit()
    raw = read(table(tmp_path, f"image,caption\na.png,x\nb.png,{long}\nc.png,{enormous}\n"))
    assert captions(raw) == {"a.png": ["x"], "b.png": [long], "c.png": [enormous]}
    assert csv.field_size_limit() == previous


def test_flags_choose_columns_and_separator(tmp_path: Path) -> None:
    path = table(tmp_path, "picture~words~caption\na.png~right~wrong\n")
    raw = read(path, csv_separator="~", csv_caption_key="words", csv_img_key="picture")
    assert captions(raw) == {"a.png": ["right"]}
    path = table(tmp_path, "image\tcaption\na.png\tx, y\n")
    assert captions(read(path, csv_separator="\\t")) == {"a.png": ["x, y"]}


@pytest.mark.parametrize("separator", ["ab", '"', "\n"])
def test_a_separator_that_is_none_is_refused(tmp_path: Path, separator: str) -> None:
    with pytest.raises(InputError, match="--csv-separator must be one character"):
        read(table(tmp_path, "image,caption\na.png,x\n"), csv_separator=separator)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"\n\n", "no header line"),
        (b'"open,caption\n', "name it with --csv"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x01\xff\xfe" * 50, "name it with --csv"),
        (b"a.png,a cat\nb.png,a dog\n", "name it with --csv-caption-key"),
    ],
)
def test_a_file_that_is_no_table_is_one_line(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read(table(tmp_path, data))
    assert "\n" not in str(caught.value)


def test_a_table_of_the_header_alone_has_no_pairs_and_one_of_an_open_quote_is_refused(tmp_path: Path) -> None:
    raw = read(table(tmp_path, "image,caption\n"))
    assert (raw.rows, len(raw.pairs), len(raw.quarantine)) == (0, 0, 0)
    assert list(raw.pairs.columns) == ["pair_id", "image", "captions", "label", "planted"]
    assert list(raw.quarantine.columns) == ["source", "pair_id", "reason"]
    with pytest.raises(InputError, match="no header line: quotes do not add up"):
        read(table(tmp_path, '"image,caption\na.png,x\n'), csv_separator=",")
