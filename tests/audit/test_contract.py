"""A finished audit's files, tables and columns: what tools outside this code read."""

import hashlib
import json
import shlex

import faiss
import pyarrow.parquet as pq

from clipmem_core.auditing.folder.store import VERSION, Audit

MEMBER_FILES = (
    "config.json checkpoint.pt log.jsonl image.faiss text.faiss trajectory.npy utility.json"
)
SCORES = (
    "pair_id group n_in n_out clipmem clipmem_relative se p_value q_value clipmem_shrunk "
    "alignment_in alignment_out positive_in positive_out negative_text_in negative_text_out "
    "negative_image_in negative_image_out similarity_in similarity_out clipmem_image clipmem_text "
    "sslmem_image sslmem_text misfit learned log_probability_out csls_out csls_swapped p_wrong "
    "p_check p_pair p_caption p_word suspicion review_place log_probability_second"
)
CHECKS = (
    "empty_caption short_caption long_caption markup gibberish other_script other_language "
    "file_name model_output repeated_caption dark blurred uniform tiny near_duplicate"
)
RECALLS = {f"{way}_R@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)}


def files(audit: Audit) -> list[str]:
    found = [
        path for path in audit.folder.rglob("*") if path.is_file() and not path.name.startswith(".")
    ]
    return sorted(path.relative_to(audit.folder).as_posix() for path in found)


def test_the_folder_holds_these_files_and_no_others(audit: Audit) -> None:
    tables = {
        f"{name}.parquet"
        for name in ("pairs", "quarantine", "membership", "scores", "captions", "utility")
    } | {"incidents.parquet", "incident_pairs.parquet"}
    member_files = set(MEMBER_FILES.split(" "))
    if audit.pairs["captions"].map(len).max() > 1:
        member_files |= {"captions.npy"}
    members = {f"members/{name}/{file}" for name in audit.record.members for file in member_files}
    others = {"config.json", "verdict.json", "seconds.json", "p_wrong.json", "manifest.json"}
    others |= {"checks.parquet"}
    assert set(files(audit)) == tables | members | others


def test_the_manifest_is_written_last_with_the_hash_of_every_file(audit: Audit) -> None:
    listed = json.loads((audit.folder / "manifest.json").read_text())
    contents = {
        name: (audit.folder / name).read_bytes()
        for name in files(audit)
        if name not in ("manifest.json", "seconds.json", "checks.parquet")
    }
    assert listed == {
        "version": VERSION,
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
    }
    times = {name: (audit.folder / name).stat().st_mtime_ns for name in files(audit)}
    assert max(times, key=lambda name: times[name]) == "manifest.json"


def test_tables_have_these_columns_in_this_order(audit: Audit) -> None:
    members = list(audit.record.members)
    assert audit.pairs.columns.tolist() == shlex.split(
        "pair_id image captions label width height sha256 injected"
    )
    assert audit.quarantine.columns.tolist() == ["source", "pair_id", "kind", "reason"]
    assert audit.membership.columns.tolist() == ["pair_id", "group", *members]
    assert audit.scores.columns.tolist() == SCORES.split(" ")
    assert audit.utility.columns.tolist() == ["member", "metric", "value"]


def test_all_tables_and_embeddings_share_one_row_order(audit: Audit) -> None:
    ids = audit.pairs["pair_id"].tolist()
    assert len(ids) == len(set(ids)) == 400
    assert audit.membership["pair_id"].tolist() == ids
    assert audit.scores["pair_id"].tolist() == ids
    assert audit.scores["group"].tolist() == audit.membership["group"].tolist()
    for name in audit.record.members:
        for file in ("image.faiss", "text.faiss"):
            index = faiss.read_index(str(audit.member(name) / file))
            assert (type(index), index.ntotal) == (faiss.IndexFlatIP, 400)


def test_the_config_says_all_that_the_numbers_depend_on(audit: Audit) -> None:
    stored = json.loads((audit.folder / "config.json").read_text())
    libraries = {"torch", "open_clip_torch", "faiss-cpu", "numpy", "pillow", "python"}
    assert libraries <= set(stored["versions"])
    assert "auto" not in (stored["config"] | {"rounds": ""}).values()  # decided by the scores
    for name in stored["members"]:
        assert audit.member_record(name).seed == stored["seeds"][name]


def test_the_checks_have_a_row_a_pair_in_the_order_of_the_tables(audit: Audit) -> None:
    table = pq.read_table(audit.folder / "checks.parquet").to_pandas()
    assert table["pair_id"].tolist() == audit.pairs["pair_id"].tolist()
    values = ["brightness", "contrast", "sharpness"]
    assert table.columns.tolist() == ["pair_id", *CHECKS.split(), *values, "near_duplicate_of"]
    twins = table.pop("near_duplicate_of")
    assert table.notna().all(axis=None)  # everything of this set is known
    assert (twins.notna() == table["near_duplicate"]).all()
