"""Of a large audit only the first member keeps its embeddings: what is read of the others comes from their heads."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from clipmem_core.audits import blocks, embeddings, member
from clipmem_core.audits.embeddings import Embeddings, indexed_members
from clipmem_core.audits.executor import in_this_process, local_processes
from clipmem_core.audits.progress import member_progress
from clipmem_core.audits.run import run_audit
from clipmem_core.audits.scoring import gather_evidence
from clipmem_core.audits.store import Audit, broken_files, file_sha256
from clipmem_core.config import InputError
from clipmem_core.review import score_breakdown
from clipmem_core.review.maps import mapped_members
from clipmem_core.review.search import embed_text, hits, nearest, vectors_of
from clipmem_core.review.selection import Selection
from clipmem_core.training.heads import Standard
from tests.audits.small import Silent, lowered
from tests.audits.test_given import beside_table, config_of

MEMBERS = ("--members", "4")


def audited(folder: Path, name: str, *flags: str) -> Audit:
    return run_audit(str(folder / "pairs.csv"), config_of(*flags), name=name, screen=Silent(), executor=in_this_process)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("features")
    beside_table(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPMEM_DATA", str(tmp_path_factory.mktemp("data")))
        yield folder


@pytest.fixture(scope="module")
def small(folder: Path) -> Audit:
    """Every member keeps its embeddings."""
    return audited(folder, "small", *MEMBERS)


@pytest.fixture(scope="module")
def large(folder: Path) -> Audit:
    """The same audit, as if it were too large for that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embeddings, "MOST_INDEXED", 100)
        return audited(folder, "large", *MEMBERS)


@pytest.fixture
def _limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "MOST_INDEXED", 100)


@pytest.fixture
def _both(small: Audit, large: Audit, _limit: None) -> None:
    """Both audits, and the limit that the large one was made under."""


@pytest.mark.usefixtures("_limit")
def test_only_the_first_member_of_a_large_audit_keeps_indexes(small: Audit, large: Audit) -> None:
    kept = [sorted(path.parent.name for path in audit.folder.rglob("*.faiss")) for audit in (small, large)]
    assert kept == [[name for name in small.record.members for _ in range(2)], ["r0-f0", "r0-f0"]]
    assert large.finished
    assert broken_files(large.folder) == []
    assert {member_progress(large.folder, name).stage for name in large.record.members} == {"done"}
    assert indexed_members(large) == mapped_members(large) == ["r0-f0"]


@pytest.mark.usefixtures("_both")
def test_scores_utility_and_heads_are_the_same(small: Audit, large: Audit) -> None:
    pd.testing.assert_frame_equal(large.scores, small.scores, atol=1e-4)
    pd.testing.assert_frame_equal(large.utility, small.utility, atol=1e-4)
    for name in small.record.members:
        torch.testing.assert_close(*(torch.load(audit.member(name) / "checkpoint.pt") for audit in (large, small)))


@pytest.mark.usefixtures("_both")
def test_rows_that_are_asked_for_are_those_of_the_index(small: Audit, large: Audit) -> None:
    for given, kept in zip(Embeddings(large).of("r1-f1"), Embeddings(small).of("r1-f1"), strict=True):
        assert (given.shape, given.dtype, given.ndim, len(given)) == (kept.shape, kept.dtype, kept.ndim, len(kept))
        for rows in (slice(None), np.array([7, 3, 200]), slice(30, 90), np.arange(240) % 3 == 0):
            np.testing.assert_allclose(given[rows], kept[rows], atol=1e-2)  # of products in bfloat16


@pytest.mark.usefixtures("_both")
def test_pages_show_the_same_of_members_without_indexes(
    small: Audit, large: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    terms = [score_breakdown.member_terms(audit, 12).set_index("member") for audit in (small, large)]
    numbers = ["positive", "negative_text", "negative_image", "alignment", "similarity"]
    np.testing.assert_allclose(terms[1][numbers], terms[0][numbers], atol=1e-2)
    monkeypatch.setattr(score_breakdown, "LEAST", 0)
    monkeypatch.setattr(score_breakdown, "LEAD", 0)
    found = [score_breakdown.suggested_captions(audit, 12) for audit in (small, large)]
    assert found[0].members == found[1].members
    assert [each.caption for each in found[0].choices] == [each.caption for each in found[1].choices]
    cosines = [[each.cosine for each in own.choices] for own in found]
    np.testing.assert_allclose(cosines[1], cosines[0], atol=1e-2)
    assert found[1].own == pytest.approx(found[0].own, abs=1e-2)


@pytest.mark.usefixtures("_both")
def test_captions_are_suggested_from_a_short_list(large: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_breakdown, "SHORTLIST", 5)
    monkeypatch.setattr(score_breakdown, "BEHIND", 4)
    monkeypatch.setattr(score_breakdown, "LEAST", 0)
    monkeypatch.setattr(score_breakdown, "LEAD", 0)
    assert 2 <= len(score_breakdown.suggested_captions(large, 12, k=30).choices) <= 4


@pytest.mark.usefixtures("_both")
def test_searches_go_over_the_members_that_keep_embeddings(large: Audit, small: Audit) -> None:
    like = large.pairs["pair_id"][5]
    found = hits(large, Selection(like=like, member="r0-f0"))
    for asked in (Selection(like=like),):
        assert np.array_equal(hits(large, asked)[0], found[0])
    assert nearest(large, 5, by="image", k=3) == nearest(small, 5, by="image", member="r0-f0", k=3)
    with pytest.raises(InputError, match=r"there is no member 'r1-f1' in this audit \(there is: r0-f0\)"):
        nearest(large, 5, by="image", member="r1-f1", k=3)
    with pytest.raises(InputError, match="were computed elsewhere, and no tower to embed a query"):
        embed_text(large, "a dog")
    with pytest.raises(InputError):
        vectors_of(large, "r0-f0", [1000])


@pytest.mark.usefixtures("_both")
def test_a_large_audit_grows_and_a_lost_file_is_made_anew(folder: Path, large: Audit) -> None:
    grown = audited(folder, "grown", "--members", "2")
    audited(folder, "grown", *MEMBERS)
    pd.testing.assert_frame_equal(grown.scores, large.scores, atol=1e-4)
    before = {path: file_sha256(path) for path in grown.folder.rglob("members/*/*.*") if path.suffix != ".jsonl"}
    (grown.member("r1-f1") / "utility.json").unlink()
    (grown.member("r0-f0") / "image.faiss").write_bytes(b"broken")
    assert len(broken_files(grown.folder)) == 2
    audited(folder, "grown", *MEMBERS)
    assert {path: file_sha256(path) for path in before} == before
    assert broken_files(grown.folder) == []


def measuring(monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """Have blocks be of 64 pairs, and kill what measures more than some; return where those begin that are measured."""
    measured = list[int]()

    def measure(members: blocks.Members, block: range) -> tuple[np.ndarray, np.ndarray]:
        if len(measured) == most:
            raise InputError("killed")
        measured.append(block.start)
        return own(members, block)

    own = blocks.measure
    monkeypatch.setattr(blocks, "BLOCK", 64)
    monkeypatch.setattr(blocks, "measure", measure)
    return measured


@pytest.mark.usefixtures("_both")
def test_scoring_that_was_killed_goes_on_with_the_next_block(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        assert measuring(patch, 9) == []
        whole = audited(folder, "whole", *MEMBERS)
    for name, members, start in (("killed", "4", 0), ("killed", "4", 64), ("other", "2", 0)):
        with monkeypatch.context() as patch:
            measured = measuring(patch, 1)
            with pytest.raises(InputError, match="killed"):
                audited(folder, name, "--members", members)
        assert measured == [start]
    for name, left in (("killed", [128, 192]), ("other", [0, 64, 128, 192])):  # the other one has grown since
        with monkeypatch.context() as patch:
            measured = measuring(patch, 9)
            audit = audited(folder, name, *MEMBERS)
        assert measured == left
        assert not (audit.folder / blocks.BLOCKS).exists()
        pd.testing.assert_frame_equal(audit.scores, whole.scores, check_exact=True)


@pytest.mark.usefixtures("_both")
def test_blocks_that_other_processes_measure_are_the_same(large: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    measured, said = measuring(monkeypatch, 4), list[str]()
    here, there = gather_evidence(large), gather_evidence(large, said.append, lowered(local_processes, at_once=1))
    assert (measured, said[-1]) == ([0, 64, 128, 192], "scored 240 of 240 pairs")
    for own, other in zip(here.terms, there.terms, strict=True):
        for name, values in own.items():
            np.testing.assert_allclose(other[name], values, atol=1e-5)
    assert here.compared is not None
    assert there.compared is not None
    np.testing.assert_allclose(here.compared.parts, there.compared.parts, atol=1e-5)
    np.testing.assert_allclose(here.compared.out, there.compared.out, atol=1e-5)
    assert not list(large.folder.glob(f"{blocks.BLOCKS}*"))  # of a finished audit nothing is kept


@pytest.mark.usefixtures("_both")
def test_an_audit_whose_members_all_keep_embeddings_still_opens_above_the_limit(small: Audit) -> None:
    assert indexed_members(small) == list(small.record.members)
    assert all(isinstance(rows, np.memmap) for name in small.record.members for rows in Embeddings(small).of(name))


@pytest.mark.usefixtures("_limit")
def test_without_the_features_nothing_is_computed_and_the_line_says_so(
    folder: Path, large: Audit, tmp_path: Path
) -> None:
    moved = Audit(Path(shutil.copytree(large.folder, tmp_path / "moved")))
    (moved.folder / ".prepared.npz").unlink()
    with pytest.raises(InputError, match=r"\.prepared\.npz"):
        Embeddings(moved).of("r1-f1")


def test_members_of_a_process_share_what_they_read_and_a_checkpoint_is_fitted_to_nothing(
    small: Audit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    audit = Audit(Path(shutil.copytree(small.folder, tmp_path / "again")))
    opened, fitted = list[Path](), list[int]()
    open_shared, fit = member.open_shared, Standard.of
    monkeypatch.setattr(member, "open_shared", lambda folder: opened.append(folder) or open_shared(folder))
    monkeypatch.setattr(Standard, "of", lambda features: fitted.append(features.shape[1]) or fit(features))
    for name in audit.record.members:
        for path in [*audit.member(name).glob("*.faiss"), audit.member(name) / "utility.json"]:
            path.unlink()
    member.run_members(audit.folder, audit.record.members)
    assert (len(opened), fitted) == (1, [])
    for name in audit.record.members:
        for path in [*audit.member(name).glob("[!.]*")]:
            if path.name != "config.json":
                path.unlink()
    member.run_members(audit.folder, audit.record.members)
    assert (len(opened), fitted) == (2, [24, 16])
    for name in audit.record.members:
        for file in ("checkpoint.pt", "text.faiss", "utility.json"):
            assert file_sha256(audit.member(name) / file) == file_sha256(small.member(name) / file)
