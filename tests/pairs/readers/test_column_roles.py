import pytest

from clipmem_core.config import InputError, SourceOptions
from clipmem_core.pairs.readers.rows import find_fields


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
