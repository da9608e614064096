from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipmem_core.audits.store import CONFIG, PAIRS, Audit, write_json
from clipmem_core.config import InputError
from clipmem_core.exports.cleaned import clean
from clipmem_core.review.decisions import KEEP, RECAPTION, REMOVE, open_review
from tests.exports.sources import audited, make_source


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    """An audit of ten pairs, not to be changed."""
    folder = tmp_path_factory.mktemp("mine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPMEM_DATA", str(folder / "data"))
        return audited(make_source("csv", folder / "set"))


def test_without_decisions_it_is_the_audits_pairs(mine: Audit) -> None:
    found = clean(mine)
    assert found.pairs["pair_id"].to_pylist() == mine.pairs["pair_id"].tolist()
    assert found.pairs["captions"].to_pylist() == [list(texts) for texts in mine.pairs["captions"]]
    assert found.pairs["row"].to_pylist() == list(range(10))
    assert (found.kept, found.removed, found.recaptioned) == (10, 0, 0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
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
        found = clean(mine)
    columns = [found.pairs[name].to_pylist() for name in ("row", "pair_id", "captions", "recaptioned")]
    assert list(zip(*columns, strict=True)) == expected
    assert (found.removed, found.recaptioned) == (decisions.count(REMOVE), decisions.count(RECAPTION))
    assert [decisions[row] for row in found.gone["row"].to_pylist()] == [REMOVE] * found.removed


def test_removing_everything_is_refused(mine: Audit) -> None:
    open_review(mine).decide(mine.pairs["pair_id"].tolist(), REMOVE)
    with pytest.raises(InputError, match="every pair of audit 'mine' is to be removed: nothing is left to export"):
        clean(mine)


@pytest.mark.parametrize("content", [None, b"no parquet"])
def test_a_missing_or_broken_table_is_named(tmp_path: Path, content: bytes | None) -> None:
    audit = audited(make_source("csv", tmp_path / "set"))
    (audit.folder / PAIRS).unlink()
    if content:
        (audit.folder / PAIRS).write_bytes(content)
    with pytest.raises(InputError, match=r"pairs.parquet (is missing|cannot be read)"):
        clean(audit)


@pytest.mark.parametrize("fields", [{"root": ""}, {"config": None}])
def test_a_config_that_names_no_data_set_is_refused(tmp_path: Path, fields: dict[str, object]) -> None:
    audit = audited(make_source("csv", tmp_path / "set"))
    write_json(audit.folder / CONFIG, audit.config | fields)
    with pytest.raises(InputError, match=r"config\.json: (root|config) is wrong"):
        clean(audit)


def test_captions_the_audit_did_not_use_are_told(tmp_path: Path) -> None:
    found = clean(audited(make_source("csv", tmp_path / "set"), captions=1))
    assert set(map(len, found.pairs["captions"].to_pylist())) == {1}
    assert "only the first 1 captions of a pair are in it: the audit used no more (--captions)" in found.notes


def test_planted_captions_give_way_to_the_data_sets_own(tmp_path: Path) -> None:
    source = make_source("csv", tmp_path / "set")
    own = audited(source, "own").pairs
    audit = audited(source, "planted", plant_miscaptions=6)
    swapped = np.flatnonzero(audit.pairs["planted"] == "miscaption")
    assert [list(texts) for texts in audit.pairs["captions"]] != [list(texts) for texts in own["captions"]]
    ids = own["pair_id"].tolist()
    removed, recaptioned, untouched = ids[swapped[0]], ids[swapped[1]], ids[swapped[2]]
    review = open_review(audit)
    review.decide([removed], REMOVE)
    review.decide([recaptioned], RECAPTION, captions=["better"])
    found = clean(audit)
    captions = dict(zip(found.pairs["pair_id"].to_pylist(), found.pairs["captions"].to_pylist(), strict=True))
    expected = dict(zip(ids, map(list, own["captions"]), strict=True)) | {recaptioned: ["better"]}
    assert captions == {key: texts for key, texts in expected.items() if key != removed}
    assert captions[untouched] != list(audit.pairs["captions"][swapped[2]])
    assert found.recaptioned == 1
    assert [note.split()[0] for note in found.notes] == ["1", "6", "2"]
    assert "perhaps for the planted caption's sake" in found.notes[2]


def test_planted_captions_of_a_shortened_audit_come_back_shortened(tmp_path: Path) -> None:
    source = make_source("csv", tmp_path / "set")
    own = audited(source, "own", captions=1).pairs
    found = clean(audited(source, "planted", captions=1, plant_miscaptions=10))
    assert found.pairs["captions"].to_pylist() == [list(texts) for texts in own["captions"]]


@pytest.mark.parametrize("change", ["gone", "other caption of a planted pair", "one pair less"])
def test_where_the_own_captions_are_not_to_be_had_it_is_refused(tmp_path: Path, change: str) -> None:
    source = make_source("csv", tmp_path / "set")
    audit = audited(source, plant_miscaptions=10)
    text = source.read_text()
    if change == "gone":
        source.unlink()
    elif change == "one pair less":
        source.write_text("".join(line for line in text.splitlines(keepends=True) if "plain" not in line))
    else:
        source.write_text(text.replace("plain", "plane"))
    with pytest.raises(
        InputError, match="audit 'mine' planted wrong captions, .* without --plant-miscaptions"
    ) as caught:
        clean(audit)
    assert ("there is no" if change == "gone" else "no longer what the audit read") in str(caught.value)
