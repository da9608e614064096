"""What a pass over pictures has found so far is there again after a kill."""

from pathlib import Path

from clipmem_core.pairs.journal import Journal
from clipmem_core.pairs.pictures import Fact, broken

FACTS = {4: Fact(3, 2, "ab", None, b"\0\xff"), 0: broken("no picture — at all")}


def test_facts_that_were_noted_are_there_again_and_a_line_that_was_cut_off_is_not(tmp_path: Path) -> None:
    path, pixels = tmp_path / "journal.jsonl", tmp_path / "pixels.npy"
    pixels.touch()
    first = Journal(path, pixels)
    first.add(FACTS)
    assert not path.exists()
    first.note()
    with path.open("a", encoding="utf-8") as file:
        file.write('[7, 3, 2, "cd", nu')
    second = Journal(path, pixels)
    assert second.facts == FACTS
    second.add({9: FACTS[4]})
    second.note()
    assert Journal(path, pixels).facts == FACTS | {9: FACTS[4]}


def test_without_a_file_nothing_is_kept(tmp_path: Path) -> None:
    journal = Journal(None, None)
    journal.add(FACTS)
    journal.note()
    assert (journal.facts, list(tmp_path.iterdir())) == (FACTS, [])
