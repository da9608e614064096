"""The cleaned data set after any decisions, and the second audit of it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from clipmem_core.auditing.folder.prepare import grow
from clipmem_core.auditing.folder.store import Audit
from clipmem_core.export.cleaned import clean
from clipmem_core.export.formats import FORMATS, export_audit
from clipmem_core.export.reaudit import (
    COMPARISON,
    is_outdated,
    list_reaudits,
    read_comparison,
    reaudit,
)
from clipmem_core.review.decisions import RECAPTION, REMOVE, open_review
from clipmem_core.utils.io import InputError
from tests.audit.small import Silent
from tests.export.sources import audited, make_source


def test_decisions_on_injected_errors_are_in_no_export(tmp_path: Path) -> None:
    source = make_source("csv", tmp_path / "set")
    clean_audit = audited(source, "clean")
    injected = audited(source, "injected", inject_miscaptions=6)
    swapped = injected.pairs.loc[injected.pairs["injected"] == "miscaption", "pair_id"].tolist()
    open_review(injected).decide([swapped[0]], REMOVE)
    open_review(injected).decide([swapped[1]], RECAPTION, captions=["better"])
    result = clean(clean_audit)
    assert (len(result.removed), result.recaptioned) == (0, 0)
    assert result.notes[-1].startswith("2 decisions")
    with pytest.raises(InputError, match="audit 'injected' injected wrong captions"):
        clean(injected)


RECALLS = [f"{way}_R@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)]


@pytest.fixture(scope="module")
def loop(typed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a small audit of locked towers, and that of the set without ten of its
    pairs."""
    folder = tmp_path_factory.mktemp("loop")
    shutil.copytree(typed, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPMEM_DATA", str(folder))
        audit = Audit(folder / "audits/scenes")
        table = audit.membership
        scored = table.loc[table["group"] == "scored", "pair_id"].tolist()
        open_review(audit).decide(scored[:10], REMOVE)
        open_review(audit).decide(scored[10:12], RECAPTION, captions=["something else"])
        reaudit(audit, "second", Silent())
    return folder


@pytest.fixture
def both(loop: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Audit, Audit]:
    monkeypatch.setenv("CLIPMEM_DATA", str(loop))
    return Audit(loop / "audits/scenes"), Audit(loop / "audits/second")


def test_members_train_on_the_same_pairs_less_the_removed_ones(both: tuple[Audit, Audit]) -> None:
    first, second = both
    table = first.membership.set_index("pair_id").loc[second.pairs["pair_id"]]
    assert second.membership.set_index("pair_id").equals(table)
    assert len(table) == len(first.membership) - 10
    assert (second.record.seeds, second.record.reaudit_of) == (first.record.seeds, "scenes")
    with pytest.raises(InputError, match="has the members of audit 'scenes'"):
        grow(second, replace(second.record.config, members=16))


def test_the_comparison_has_the_values_of_both_audits(
    both: tuple[Audit, Audit],
) -> None:
    measured = read_comparison(both[1])
    assert measured is not None
    assert (measured.removed, measured.recaptioned, measured.members) == (10, 2, 8)
    held_out = (both[0].membership["group"] == "held-out").sum()
    assert measured.held_out == measured.held_out_then == held_out
    for audit, recall in zip(both, (measured.retrieval.then, measured.retrieval.now), strict=True):
        utility = audit.utility.set_index("metric")["value"]
        # every pair has five captions, and no held-out one has changed
        assert recall == pytest.approx(utility[utility.index.isin(RECALLS)].mean(), abs=1e-6)
    then, now = (audit.pairs.set_index("pair_id")["captions"].map(tuple) for audit in both)
    same = then.index[then == now.reindex(then.index)]
    assert len(same) == len(then) - 12
    for audit, clipmem in zip(both, (measured.clipmem.then, measured.clipmem.now), strict=True):
        scores = audit.scores.set_index("pair_id").loc[same].query("group == 'scored'")
        assert clipmem == pytest.approx(scores["clipmem"].mean(), abs=1e-5)
    trained = both[0].membership[list(both[0].record.members)].to_numpy().sum()
    assert measured.trained_less == pytest.approx(40 / trained)


def test_the_same_call_does_nothing_and_a_lost_comparison_is_made_anew(
    both: tuple[Audit, Audit],
) -> None:
    path = both[1].folder / COMPARISON
    before = json.loads(path.read_text())
    screen = Silent()
    path.unlink()
    reaudit(both[0], "second", screen)
    assert "it is finished: nothing to do" in screen.lines
    assert json.loads(path.read_text()) == before
    assert list_reaudits(both[0]) == ["second"]
    assert not is_outdated(both[0], "second")


def test_a_name_of_something_else_is_refused(both: tuple[Audit, Audit]) -> None:
    for name in ("scenes", "scenes-330-0"):
        with pytest.raises(InputError, match=f"'{name}' is another audit or data set already"):
            reaudit(both[0], name, Silent())


@pytest.mark.parametrize("format", ["csv", "folder", "datacomp"])
def test_pictures_that_were_exchanged_since_the_audit_are_named(
    format: str, tmp_path: Path, data: Path
) -> None:
    source = make_source("folder", tmp_path / "set")
    audit = audited(source)
    names = audit.pairs["image"][3:5].tolist()
    open_review(audit).decide([names[0]], REMOVE)
    out = tmp_path / f"out{FORMATS[format].suffixes[0]}"
    assert "changed" not in str(export_audit(audit, format, out).notes)
    first, second = (source / name for name in names)
    exchanged = first.with_name("exchanged")
    for path, target in ((first, exchanged), (second, first), (exchanged, second)):
        path.rename(target)
    notes = export_audit(audit, format, out, overwrite=True).notes
    assert [names[0] in note and names[1] in note for note in notes if "2 pictures" in note] == [
        True
    ]


def test_captions_that_were_corrected_in_the_source_are_counted(tmp_path: Path) -> None:
    source = make_source("csv", tmp_path / "set")
    audit = audited(source)
    table = pd.read_csv(source, keep_default_na=False)
    for corrected in ([], [1, 2]):
        table.loc[corrected, "caption"] = "corrected"
        table.sample(frac=1, random_state=0).to_csv(source, index=False)
        counts = [note.split()[0] for note in clean(audit).notes if str(source) in note]
        assert counts == ["2"] * bool(corrected)
