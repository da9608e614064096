from pathlib import Path

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
        found = clean(mine)
    columns = [found.pairs[name].to_pylist() for name in ("row", "pair_id", "captions", "recaptioned")]
    assert list(zip(*columns, strict=True)) == expected
    assert (found.removed, found.recaptioned) == (decisions.count(REMOVE), decisions.count(RECAPTION))
    assert [decisions[row] for row in found.gone["row"].to_pylist()] == [REMOVE] * found.removed


def test_removing_everything_is_refused(mine: Audit) -> None:
    open_review(mine).decide(mine.pairs["pair_id"].tolist(), REMOVE)
    with pytest.raises(InputError, match="every pair of audit 'mine' is to be removed: nothing is left to export"):
        clean(mine)


def test_a_table_or_config_that_does_not_do_is_named(tmp_path: Path) -> None:
    audit = audited(make_source("csv", tmp_path / "set"))
    config, path = audit.record.values, audit.folder / PAIRS
    for fields in ({"root": ""}, {"config": None}):
        write_json(audit.folder / CONFIG, config | fields)
        with pytest.raises(InputError, match=r"config\.json: (root|config) is wrong"):
            clean(audit)
    write_json(audit.folder / CONFIG, config)
    path.write_bytes(b"no parquet")
    with pytest.raises(InputError, match=r"pairs.parquet cannot be read"):
        clean(audit)
    path.unlink()
    with pytest.raises(InputError, match=r"pairs.parquet is missing"):
        clean(audit)


def test_captions_the_audit_did_not_use_are_told(tmp_path: Path) -> None:
    found = clean(audited(make_source("csv", tmp_path / "set"), captions=1))
    assert set(map(len, found.pairs["captions"].to_pylist())) == {1}
    assert any(note.startswith("only the first 1 captions") for note in found.notes)


@pytest.fixture
def twins(tmp_path: Path) -> tuple[Audit, Audit, list[str]]:
    """Audits of one data set, without and with planted captions, and the ids of the pairs that have those."""
    source = make_source("csv", tmp_path / "set")
    own, planted = audited(source, "own"), audited(source, "planted", plant_miscaptions=6)
    swapped = planted.pairs["planted"] == "miscaption"
    assert open_review(own).path == open_review(planted).path
    return own, planted, planted.pairs.loc[swapped, "pair_id"].tolist()


def captions_of(audit: Audit) -> dict[str, list[str]]:
    return dict(zip(audit.pairs["pair_id"], map(list, audit.pairs["captions"]), strict=True))


def exported(audit: Audit) -> dict[str, list[str]]:
    found = clean(audit).pairs
    return dict(zip(found["pair_id"].to_pylist(), found["captions"].to_pylist(), strict=True))


def test_planted_captions_give_way_to_the_data_sets_own(twins: tuple[Audit, Audit, list[str]]) -> None:
    own, planted, _ = twins
    assert captions_of(planted) != captions_of(own) == exported(planted)
    assert [note.split()[0] for note in clean(planted).notes] == ["1", "6"]


def test_what_was_decided_on_planted_captions_is_in_no_export(twins: tuple[Audit, Audit, list[str]]) -> None:
    own, planted, ids = twins
    review = open_review(planted)
    review.decide([ids[0]], REMOVE)
    review.decide([ids[1]], RECAPTION, captions=["better"])
    for audit in twins[:2]:
        assert exported(audit) == captions_of(own)
        assert (clean(audit).removed, clean(audit).recaptioned) == (0, 0)
        assert clean(audit).notes[-1].startswith("2 pairs were decided on with other captions")


def test_what_was_decided_on_a_pairs_own_captions_is_in_both_exports(twins: tuple[Audit, Audit, list[str]]) -> None:
    own, planted, ids = twins
    plain = next(pair_id for pair_id in own.pairs["pair_id"] if pair_id not in ids)
    open_review(own).decide([ids[0]], REMOVE)
    open_review(own).decide([ids[1]], RECAPTION, captions=["better"])
    open_review(planted).decide([plain], REMOVE)
    kept = {key: texts for key, texts in captions_of(own).items() if key not in (ids[0], plain)}
    for audit in twins[:2]:
        assert exported(audit) == kept | {ids[1]: ["better"]}
        assert not any("decided on" in note for note in clean(audit).notes)


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
