from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipmem_core.audit.store import Audit
from clipmem_core.config import InputError
from clipmem_core.export.cleaned import clean
from clipmem_core.review.decisions import KEEP, RECAPTION, REMOVE, open_review
from tests.export.sources import audited, make_source


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    """An audit of ten pairs, not to be changed."""
    folder = tmp_path_factory.mktemp("mine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPMEM_DATA", str(folder / "data"))
        return audited(make_source("csv", folder / "set"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=8, deadline=None)
@given(decisions=st.lists(st.sampled_from([KEEP, REMOVE, RECAPTION, None]), min_size=9, max_size=9))
def test_any_decisions_do_what_a_loop_does(
    mine: Audit, tmp_path_factory: pytest.TempPathFactory, decisions: list[str | None]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPMEM_DATA", str(tmp_path_factory.mktemp("data")))
        review, expected = open_review(mine), []
        for (row, pair), decision in zip(mine.pairs.iterrows(), [*decisions, None], strict=True):
            captions = [f"new {row}", "more"] if decision == RECAPTION else list(pair["captions"])
            if decision:
                review.decide([pair["pair_id"]], decision, captions=captions if decision == RECAPTION else ())
            if decision != REMOVE:
                expected.append((row, pair["pair_id"], captions, decision == RECAPTION))
        result = clean(mine)
    columns = [result.pairs[name].to_pylist() for name in ("row", "pair_id", "captions", "recaptioned")]
    assert list(zip(*columns, strict=True)) == expected
    assert (result.removed, result.recaptioned) == (decisions.count(REMOVE), decisions.count(RECAPTION))
    assert [decisions[row] for row in result.removed_pairs["row"].to_pylist()] == [REMOVE] * result.removed


def test_removing_everything_is_refused(mine: Audit) -> None:
    open_review(mine).decide(mine.pairs["pair_id"].tolist(), REMOVE)
    with pytest.raises(InputError, match="every pair of audit 'mine' is marked for removal"):
        clean(mine)


def test_decisions_on_injected_errors_are_in_no_export(tmp_path: Path) -> None:
    source = make_source("csv", tmp_path / "set")
    clean_audit, injected = audited(source, "clean"), audited(source, "injected", inject_miscaptions=6)
    swapped = injected.pairs.loc[injected.pairs["injected"] == "miscaption", "pair_id"].tolist()
    open_review(injected).decide([swapped[0]], REMOVE)
    open_review(injected).decide([swapped[1]], RECAPTION, captions=["better"])
    result = clean(clean_audit)
    assert (result.removed, result.recaptioned) == (0, 0)
    assert result.notes[-1].startswith("2 pairs have decisions on other captions")
    with pytest.raises(InputError, match="audit 'injected' injected wrong captions"):
        clean(injected)
