"""A finished audit's files, tables and columns: what tools outside this code read."""

import hashlib
import json

import faiss
import pandas as pd

from clipmem_core.auditing.folder.store import VERSION, Audit
from tests.audit.small import PAIRS

MEMBER_FILES = (
    "config.json checkpoint.pt log.jsonl image.faiss text.faiss trajectory.npy utility.json"
)
SCORES = (
    "pair_id group n_in n_out clipmem clipmem_relative se p_value q_value clipmem_shrunk "
    "alignment_in alignment_out positive_in positive_out negative_text_in negative_text_out "
    "negative_image_in negative_image_out similarity_in similarity_out clipmem_image clipmem_text "
    "sslmem_image sslmem_text misfit learned fit_out p_wrong "
    "p_check p_pair p_caption p_word suspicion review_place fit_second"
)
CHECKS = (
    "empty_caption short_caption long_caption markup gibberish other_script other_language "
    "file_name model_output repeated_caption dark blurred uniform tiny near_duplicate brightness "
    "contrast sharpness near_duplicate_of"
)


def files(audit: Audit) -> list[str]:
    found = [
        path for path in audit.folder.rglob("*") if path.is_file() and not path.name.startswith(".")
    ]
    return sorted(path.relative_to(audit.folder).as_posix() for path in found)


def test_the_folder_holds_these_files_and_no_others(audit: Audit) -> None:
    tables = "pairs quarantine membership scores captions utility incidents incident_pairs checks"
    names = [f"{name}.parquet" for name in tables.split()]
    names += [f"{name}.json" for name in ["config", "verdict", "seconds", "p_wrong", "manifest"]]
    of_member = MEMBER_FILES.split()
    if audit.pairs["captions"].map(len).max() > 1:
        of_member.append("captions.npy")
    for member in audit.record.members:
        names += [f"members/{member}/{file}" for file in of_member]
    assert files(audit) == sorted(names)


def test_the_manifest_is_written_last_with_the_hash_of_every_file(audit: Audit) -> None:
    listed = json.loads((audit.folder / "manifest.json").read_text())
    names = set(files(audit)) - {"manifest.json", "seconds.json", "checks.parquet"}
    hashes = {
        name: hashlib.sha256((audit.folder / name).read_bytes()).hexdigest() for name in names
    }
    assert listed == {"version": VERSION, "files": hashes}
    assert max(files(audit), key=lambda name: (audit.folder / name).stat().st_mtime_ns) == (
        "manifest.json"
    )


def test_tables_have_these_columns_and_one_row_order(audit: Audit) -> None:
    checks = pd.read_parquet(audit.folder / "checks.parquet")
    pairs = "pair_id image captions label width height sha256 injected"
    assert audit.pairs.columns.tolist() == pairs.split()
    assert audit.quarantine.columns.tolist() == ["source", "pair_id", "kind", "reason"]
    assert audit.membership.columns.tolist() == ["pair_id", "group", *audit.record.members]
    assert audit.scores.columns.tolist() == SCORES.split()
    assert audit.utility.columns.tolist() == ["member", "metric", "value"]
    assert checks.columns.tolist() == ["pair_id", *CHECKS.split()]
    near_duplicates = checks.pop("near_duplicate_of")
    assert checks.notna().all(axis=None)  # everything of this set is known
    assert (near_duplicates.notna() == checks["near_duplicate"]).all()
    ids = audit.pairs["pair_id"].tolist()
    assert len(set(ids)) == PAIRS
    for table in (audit.membership, audit.scores, checks):
        assert table["pair_id"].tolist() == ids
    assert audit.scores["group"].tolist() == audit.membership["group"].tolist()
    for name in audit.record.members:
        for file in ("image.faiss", "text.faiss"):
            index = faiss.read_index(str(audit.member(name) / file))
            assert (type(index), index.ntotal) == (faiss.IndexFlatIP, PAIRS)


def test_the_config_says_all_that_the_numbers_depend_on(audit: Audit) -> None:
    stored = json.loads((audit.folder / "config.json").read_text())
    libraries = {"torch", "open_clip_torch", "faiss-cpu", "numpy", "pillow", "python"}
    assert libraries <= set(stored["versions"])
    assert "auto" not in (stored["config"] | {"rounds": ""}).values()  # decided by the scores
    for name in stored["members"]:
        member = json.loads((audit.member(name) / "config.json").read_text())
        assert member["seed"] == stored["seeds"][name]
