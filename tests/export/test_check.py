import shutil
from pathlib import Path

import pandas as pd
import pytest

from clipmem_core.auditing.folder.store import CAPTION_TABLE, QUARANTINE, SCORES, Audit
from clipmem_core.cli import main
from clipmem_core.export.check_report import write_check
from clipmem_core.utils import columns as c
from tests.audit.small import LOCKED
from tests.export.test_report import Page
from tests.fixtures import HOSTILE, Copy, caption_rows, rewrite, write_swaps, write_words

Captured = pytest.CaptureFixture[str]


def silent(done: int, total: int) -> None:
    """Show no progress."""


@pytest.fixture
def audit(copy: Copy) -> Audit:
    """An audit whose first pair has a wrong word, and the captions of the second fit the third."""
    audit = copy()
    scores = audit.scores
    scores[c.P_WRONG] = 0.1
    scores.loc[:1, c.P_WRONG] = [0.9, 0.8]
    rewrite(audit.folder / SCORES, scores)
    rows = caption_rows(audit)
    rows.loc[0, [c.P_WORD, c.P_WRONG]] = 0.9
    rows.loc[3:5, [c.P_PAIR, c.P_WRONG]] = 0.8
    rewrite(audit.folder / CAPTION_TABLE, rows)
    write_words(audit)
    write_swaps(audit, {1: 2})
    broken = [("images/<b>.png", "b", c.BAD_PICTURE, "empty file")]
    rewrite(audit.folder / QUARANTINE, pd.DataFrame(broken, columns=c.QUARANTINE_COLUMNS))
    return audit


def test_the_page_has_every_pair_as_text_and_needs_no_network(audit: Audit, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_check(audit, path, silent)
    page = Page(path.read_text(encoding="utf-8"))
    assert not page.open
    images = page.attributes("img")
    assert len(images) == len(audit.pairs)
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in images)
    assert all(image["loading"] == "lazy" for image in images)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "base", "form"}
    assert {link["href"][:1] for link in page.attributes("a")} == {"#"}
    assert not any(name.startswith("on") for _, found in page.elements for name in found)
    assert "url(" not in page.data["style"]
    policy = next(found["content"] for found in page.attributes("meta") if "http-equiv" in found)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    texts = " ".join(page.texts)
    assert HOSTILE[0].rpartition(" ")[0] in texts  # its last word is marked
    assert len(page.attributes("u")) == 1
    assert "fox<b>" in page.texts
    assert audit.pairs[c.CAPTIONS][2][0] in page.texts
    assert "images/<b>.png: empty file" in page.texts
    assert set(audit.pairs[c.IMAGE]) <= set(page.texts)


def test_the_table_has_a_row_a_pair_and_the_worst_first(audit: Audit, tmp_path: Path) -> None:
    found = write_check(audit, tmp_path / "report.html", silent)
    table = pd.read_csv(tmp_path / "report.csv")
    ids = audit.pairs[c.PAIR_ID].tolist()
    assert sorted(table[c.PAIR_ID]) == ids
    assert table[c.PAIR_ID][:2].tolist() == ids[:2]
    assert table[c.P_WRONG].is_monotonic_decreasing
    assert table[c.WORD][0] == HOSTILE[0].split()[-1]
    assert table["suggestion"][:2].tolist() == ["fox<b>", audit.pairs[c.CAPTIONS][2][0]]
    assert [row[0] for row in found.worst[:2]] == ["90 %", "80 %"]


def test_new_records_name_trigger_words(
    audit: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = property(lambda record: ["sks"], lambda record, words: None)
    monkeypatch.setattr(type(audit.record), "trigger_words", named, raising=False)
    write_check(audit, tmp_path / "report.html", silent)
    assert "Trigger words: sks." in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_command_reuses_the_audit_and_is_a_gate(
    typed: Path, data: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(typed, data, dirs_exist_ok=True)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    command = ["check", "scenes", *LOCKED]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "nothing to do" in printed
    assert "scenes-check.html" in printed
    assert len(pd.read_csv("scenes-check.csv")) == 330
    assert main([*command, "--fail-above", "0"]) == 1
    assert "failed: " in capsys.readouterr().out


def test_wrong_input_is_refused_before_the_audit(
    data: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.html").write_text("<p>mine")
    (tmp_path / "set").mkdir()
    for words, message in (
        (["nowhere"], "there is no 'nowhere'"),
        (["scenes", "--out", "mine.html"], "mine.html is no report of this command"),
        (["scenes", "--out", "mine.csv"], "must end in .html"),
        (["set", "--out", "set/report.html"], "lies in the data set"),
    ):
        assert main(["check", *words]) == 2
        assert message in capsys.readouterr().err
    assert (tmp_path / "mine.html").read_text() == "<p>mine"
    assert not list(tmp_path.glob("*-check.*"))
