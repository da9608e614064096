"""The cleaned data set after any decisions, and the second audit of it."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from clipmem_core.auditing.folder.prepare import grow
from clipmem_core.auditing.folder.store import Audit
from clipmem_core.export.cleaned import clean
from clipmem_core.export.reaudit import is_outdated, list_reaudits, reaudit
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
    with pytest.raises(InputError, match="audit 'injected' injected wrong captions"):
        clean(injected)


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


def test_the_same_call_does_nothing(both: tuple[Audit, Audit]) -> None:
    screen = Silent()
    reaudit(both[0], "second", screen)
    assert "it is finished: nothing to do" in screen.lines
    assert list_reaudits(both[0]) == ["second"]
    assert not is_outdated(both[0], "second")


def test_a_name_of_something_else_is_refused(both: tuple[Audit, Audit]) -> None:
    for name in ("scenes", "scenes-330-0"):
        with pytest.raises(InputError, match=f"'{name}' is another audit or data set already"):
            reaudit(both[0], name, Silent())
