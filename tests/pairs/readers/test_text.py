import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipmem_core.pairs.readers.files import as_name, decode_text, printable, tidy

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
