from collections.abc import Callable

import pytest

from clipmem_core.audits.store import Audit, write_table
from clipmem_core.review.rows import count_pairs, find_rows
from clipmem_core.review.selection import Selection

Copy = Callable[..., Audit]
EVERY = 10_000


@pytest.mark.parametrize(
    ("caption", "words", "found"),
    [
        ("Ein großer ΣΊΣΥΦΟΣ", "GROSSER", False),
        ("Ein großer ΣΊΣΥΦΟΣ", "σίσυφος GROßER", True),
        ("cafe\u0301 au lait", "CAFÉ", True),
        ("one\ntwo", "on two", True),
        ("one two", "onetwo", False),
        ("50% of a_b 'c' \"d\" \\e", "% _ ' \" \\", True),
        ("abc", "%", False),
        ("abc", "a.c", False),
        ("𝔘𝔫𝔦 👩‍👧", "👩‍👧", True),
        ("abc", "\ud800", False),
        ("abc", " \t ", True),
    ],
)
def test_words_are_found_as_they_are_written(copy: Copy, caption: str, words: str, found: bool) -> None:
    audit = copy()
    captions = [["nothing"]] * 99 + [["first", caption, "last"]]
    write_table(audit.folder / "pairs.parquet", audit.pairs.assign(captions=captions))
    shown = find_rows(audit, Selection(words=words), page=1, size=EVERY)
    assert (99 in shown) == found
    assert len(shown) == (100 if not words.split() else found)


def test_no_word_reaches_from_one_caption_into_the_next(copy: Copy) -> None:
    audit = copy()
    write_table(audit.folder / "pairs.parquet", audit.pairs.assign(captions=[["red", "circle"]] * 99 + [[]]))
    assert count_pairs(audit, Selection(words="redcircle")) == 0
    assert count_pairs(audit, Selection(words="circle red")) == 99
