"""A finished audit's files, tables and columns: what tools outside this code read."""

import hashlib
import json
import math
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipmem_core.audits.store import VERSION, Audit
from tests.conftest import Made

MEMBER_FILES = {
    "config.json",
    "checkpoint.pt",
    "log.jsonl",
    "image.npy",
    "text.npy",
    "trajectory.npy",
    "utility.json",
}
SCORES = (
    "pair_id group n_in n_out clipmem clipmem_relative se p_value q_value clipmem_shrunk alignment_in alignment_out "
    "positive_in positive_out negative_text_in negative_text_out negative_image_in negative_image_out "
    "similarity_in similarity_out clipmem_image clipmem_text sslmem_image sslmem_text misfit learned "
    "log_probability_out csls_out csls_swapped csls_near p_wrong review_place log_probability_second"
)
CHECKS = (
    "empty_caption short_caption long_caption markup gibberish other_script file_name repeated_caption "
    "dark blurred uniform tiny lookalike"
)
RECALLS = {f"{way}_R@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)}


def files(audit: Audit) -> list[str]:
    found = [path for path in audit.folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return sorted(path.relative_to(audit.folder).as_posix() for path in found)


def test_the_folder_holds_these_files_and_no_others(audit: Audit) -> None:
    tables = {f"{name}.parquet" for name in ("pairs", "quarantine", "membership", "scores", "utility")}
    member_files = set(MEMBER_FILES)
    if audit.pairs["captions"].map(len).max() > 1:
        tables, member_files = tables | {"captions.parquet"}, member_files | {"captions.npy"}
    members = {f"members/{name}/{file}" for name in audit.record.members for file in member_files}
    others = {"config.json", "verdict.json", "manifest.json", "checks.parquet"}
    assert set(files(audit)) == tables | members | others


def test_the_manifest_has_the_hash_and_the_size_of_every_file(audit: Audit) -> None:
    listed = json.loads((audit.folder / "manifest.json").read_text())
    contents = {
        name: (audit.folder / name).read_bytes()
        for name in files(audit)
        if name not in ("manifest.json", "checks.parquet")
    }
    assert listed == {
        "version": VERSION,
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
        "sizes": {name: len(content) for name, content in contents.items()},
    }


def test_the_manifest_is_the_last_file_written(audit: Audit) -> None:
    times = {name: (audit.folder / name).stat().st_mtime_ns for name in files(audit)}
    assert max(times, key=lambda name: times[name]) == "manifest.json"


def test_tables_have_these_columns_in_this_order(audit: Audit) -> None:
    members = list(audit.record.members)
    assert audit.pairs.columns.tolist() == shlex.split("pair_id image captions label width height sha256 planted")
    assert audit.quarantine.columns.tolist() == ["source", "pair_id", "reason"]
    assert audit.membership.columns.tolist() == ["pair_id", "group", *members]
    assert audit.scores.columns.tolist() == SCORES.split(" ")
    assert audit.utility.columns.tolist() == ["member", "metric", "value"]


def test_columns_have_types_that_any_reader_knows(audit: Audit) -> None:
    pairs = pq.read_schema(audit.folder / "pairs.parquet")
    assert pa.types.is_list(pairs.field("captions").type)
    assert pa.types.is_string(pairs.field("captions").type.value_type)
    for name in ("pair_id", "image", "label", "sha256", "planted"):
        assert str(pairs.field(name).type) in ("string", "large_string"), name
    membership = pq.read_schema(audit.folder / "membership.parquet")
    assert all(membership.field(name).type == pa.bool_() for name in audit.record.members)
    scores = pq.read_schema(audit.folder / "scores.parquet")
    assert {str(scores.field(name).type) for name in ("n_in", "n_out")} == {"int64"}
    assert {str(field.type) for field in list(scores)[4:]} == {"double"}


def test_missing_numbers_are_null_and_not_nan(made: Made) -> None:
    table = pq.read_table(made.paper.folder / "scores.parquet")
    shared = pa.compute.equal(table["group"], "shared")
    for name in ("q_value", "similarity_out"):
        assert table.filter(shared)[name].null_count == table.filter(shared).num_rows


def test_all_tables_and_embeddings_share_one_row_order(audit: Audit) -> None:
    ids = audit.pairs["pair_id"].tolist()
    assert len(ids) == len(set(ids)) == 400
    assert audit.membership["pair_id"].tolist() == ids
    assert audit.scores["pair_id"].tolist() == ids
    assert audit.scores["group"].tolist() == audit.membership["group"].tolist()
    for name in audit.record.members:
        for file in ("image.npy", "text.npy"):
            vectors = np.load(audit.member(name) / file)
            assert (vectors.dtype, vectors.ndim, len(vectors)) == (np.float32, 2, 400)


def test_pairs_lead_to_their_pictures(audit: Audit) -> None:
    root = Path(audit.record.root)
    for row in audit.pairs.iloc[::57].itertuples():
        assert hashlib.sha256((root / row.image).read_bytes()).hexdigest() == row.sha256
        assert len(row.captions) >= 1
    assert set(audit.pairs["planted"].dropna()) == {"miscaption", "vague", "duplicate", "atypical"}


def test_groups_have_the_sizes_of_the_protocol(made: Made) -> None:
    paper = made.paper.membership["group"].value_counts().to_dict()
    assert paper == {"shared": 250, "candidate": 50, "independent": 50, "external": 50}
    assert made.ensemble.membership["group"].value_counts().to_dict() == {"scored": 350, "external": 50}


def test_members_of_the_paper_train_on_its_groups(made: Made) -> None:
    table = made.paper.membership
    for name, groups in (("f-0", ["shared", "candidate"]), ("g-0", ["shared", "independent"])):
        assert np.array_equal(table[name], table["group"].isin(groups))


def test_every_scored_pair_is_left_out_once_a_repeat(made: Made) -> None:
    table = made.ensemble.membership
    scored = (table["group"] == "scored").to_numpy()
    for repeat in ("r0", "r1"):
        trained = table[[f"{repeat}-f0", f"{repeat}-f1"]].to_numpy().sum(axis=1)
        assert np.array_equal(trained, np.where(scored, 1, 0))


def test_n_in_and_n_out_count_the_members_that_saw_a_pair(audit: Audit) -> None:
    trained = audit.membership[list(audit.record.members)].to_numpy()
    assert np.array_equal(audit.scores["n_in"], trained.sum(axis=1))
    assert np.array_equal(audit.scores["n_out"], (~trained).sum(axis=1))


def test_a_trajectory_has_a_number_where_the_member_trained_and_nowhere_else(audit: Audit) -> None:
    for name in audit.record.members:
        trajectory = np.load(audit.member(name) / "trajectory.npy")
        assert trajectory.dtype == np.float16
        assert trajectory.shape == (audit.record.config.epochs, 400, 2)
        trained = np.broadcast_to(audit.membership[name].to_numpy()[:, None], trajectory.shape)
        assert np.array_equal(~np.isnan(trajectory), trained)
        assert (np.abs(trajectory[..., 0][trained[..., 0]]) <= 1).all()
        assert (trajectory[..., 1][trained[..., 0]] <= 0).all()


def test_the_log_is_one_json_object_a_line_up_to_the_last_step(audit: Audit) -> None:
    for name in audit.record.members:
        lines = [json.loads(line) for line in (audit.member(name) / "log.jsonl").read_text().splitlines()]
        steps = [line["step"] for line in lines]
        assert steps == sorted(set(steps))
        assert steps[-1] == lines[-1]["steps"]
        assert {"loss", "samples_per_second", "epoch"} <= set(lines[-1])


def test_the_config_says_all_that_the_numbers_depend_on(audit: Audit) -> None:
    stored = json.loads((audit.folder / "config.json").read_text())
    assert stored == audit.record.values
    assert {"fingerprint", "dataset_fingerprint", "seeds", "threads", "members", "protocol"} <= set(stored)
    assert {"torch", "open_clip_torch", "faiss-cpu", "numpy", "pillow", "python"} <= set(stored["versions"])
    assert stored["threads"] == 1
    assert stored["external_pairs"] == 50  # the gallery of retrieval
    assert "auto" not in (stored["config"] | {"rounds": ""}).values()  # decided by the scores
    assert list(stored["seeds"]) == stored["members"]
    for name in stored["members"]:
        own = json.loads((audit.member(name) / "config.json").read_text())
        assert (own["member"], own["seed"]) == (name, stored["seeds"][name])


def test_utility_has_every_metric_of_every_member(audit: Audit) -> None:
    attacked = {"attack_auroc", "attack_TPR@0.01"} if len(audit.record.members) > 2 else set()  # .1 % needs 1,000 pairs
    for name, rows in audit.utility.groupby("member"):
        assert set(rows["metric"]) == RECALLS | {"linear_probe", "zero_shot"} | attacked, name
        assert rows["value"].between(0, 1).all()
    assert audit.utility["member"].unique().tolist() == list(audit.record.members)


def test_the_verdict_is_plain_json(audit: Audit) -> None:
    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    verdict = json.loads((audit.folder / "verdict.json").read_text(), parse_constant=refuse)
    assert verdict["sentence"].endswith(".")
    assert {"misfit", "clipmem", "similarity_out"} <= set(verdict["uses"])
    assert {group["group"] for group in verdict["groups"]} == set(audit.membership["group"])
    assert all(math.isfinite(value) for value in verdict["utility"].values())
    assert pd.DataFrame(verdict["planted"])["n"].sum() == audit.scores["group"].isin(["candidate", "scored"]).sum()


def test_the_checks_have_a_row_a_pair_in_the_order_of_the_tables(audit: Audit) -> None:
    table = pq.read_table(audit.folder / "checks.parquet")
    assert table["pair_id"].to_pylist() == audit.pairs["pair_id"].tolist()
    values = ["brightness", "contrast", "sharpness"]
    assert table.column_names == ["pair_id", *CHECKS.split(), *values, "lookalike_of"]
    assert {str(table.schema.field(name).type) for name in CHECKS.split()} == {"bool"}
    assert table.drop_columns(["lookalike_of"]).to_pandas().notna().all(axis=None)  # all is known of this one
    twins = table["lookalike_of"].to_pandas()
    assert (twins.notna() == table["lookalike"].to_pandas()).all()
