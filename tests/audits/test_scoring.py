"""From what members leave to the tables: what is given where a part of it cannot be had."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clipmem_core.audits import scoring
from clipmem_core.audits.prepare import membership_of
from clipmem_core.audits.scoring import NOT_KEPT, SEVERAL, Evidence, caption_table, kept_on_disk, score_table, summary
from clipmem_core.audits.store import Audit
from clipmem_core.draws import CAPTION, draw_keys, hashed
from clipmem_core.scores.alignment import pair_terms
from clipmem_core.scores.membership import Membership, Sides, paper_membership
from tests.audits.small import vectors
from tests.conftest import Made

N = 220


def evidence(membership: Membership, widths: tuple[int, int]) -> Evidence:
    rng = np.random.default_rng(0)
    image, text = ([rng.normal(size=(N, width)).astype(np.float32) for width in widths] for _ in range(2))
    external = membership.group == "external"
    return Evidence(
        pairs=pd.DataFrame({"pair_id": [str(row) for row in range(N)], "planted": None}),
        sides=Sides(membership, "paper", 0),
        views=2,
        terms=[pair_terms(a, b, external) for a, b in zip(image, text, strict=True)],
        image=image,
        text=text,
        logit_scales=[10.0] * len(membership.members),
        log_probability=[],
        n_captions=np.ones(N, dtype=int),
    )


def without_shared(drawn: Membership) -> Membership:
    group = np.where(drawn.group == "shared", "candidate", drawn.group)
    return Membership(group, drawn.members, drawn.trained)


@pytest.mark.parametrize(
    ("widths", "shared", "why"),
    [((5, 6), True, "one width, not in [5, 6]"), ((5, 5), False, "at least 2 shared pairs, found 0")],
)
def test_without_a_map_the_parts_are_missing_and_every_other_score_is_there(
    widths: tuple[int, int], shared: bool, why: str
) -> None:
    drawn = paper_membership(np.arange(N), seeds=1, seed=0)
    given = evidence(drawn if shared else without_shared(drawn), widths)
    table, split = score_table(given)
    assert why in split.missing
    parts = ["clipmem_image", "clipmem_text"]
    assert table[parts].isna().all(axis=None)
    assert table[["clipmem", "alignment_in", "alignment_out", "sslmem_image"]].notna().all(axis=None)
    told = summary(given, table, split)
    assert told["encoders"]["missing"] == split.missing
    assert told["encoders"]["image"] is None
    assert told["membership_auroc"] is not None


def test_large_arrays_are_held_in_files_without_a_name_and_change_no_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = evidence(paper_membership(np.arange(N), seeds=1, seed=0), (5, 5))
    table, _ = score_table(given)
    monkeypatch.setattr(scoring, "MAPPED_FROM", 8 * N)
    assert isinstance(kept_on_disk(np.arange(N), tmp_path).base, np.memmap)
    mapped, _ = score_table(replace(given, folder=tmp_path))
    pd.testing.assert_frame_equal(mapped, table)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def table(made: Made) -> pd.DataFrame:
    return pd.read_parquet(made.ensemble.folder / "captions.parquet")


def sides_of(audit: Audit) -> Sides:
    return Sides(membership_of(audit.membership), audit.record.protocol, audit.record.config.seed)


def test_every_caption_has_a_row_in_the_order_of_the_pairs(made: Made, table: pd.DataFrame) -> None:
    pairs = made.ensemble.pairs
    assert table["pair_id"].tolist() == [row.pair_id for row in pairs.itertuples() for _ in row.captions]
    assert table["caption"].tolist() == [place for own in pairs["captions"] for place in range(len(own))]
    group = dict(zip(pairs["pair_id"], made.ensemble.membership["group"], strict=True))
    external = table["pair_id"].map(group) == "external"
    assert table.loc[external, "learned"].isna().all()
    assert table[["similarity_out", "margin_out", "gap"]].notna().all(axis=None)
    undrawn = table.loc[~external, "learned"].isna()
    assert undrawn.mean() < 0.03  # 20 epochs of five captions: .8²⁰ is 1 %
    assert table["misfit"].notna().all()
    assert json.loads((made.ensemble.folder / "verdict.json").read_text())["captions_missing"] is None


def test_the_mean_over_a_pairs_captions_is_what_its_mean_embeddings_say(made: Made, table: pd.DataFrame) -> None:
    audit = made.ensemble
    total, count = np.zeros(400), np.zeros(400)
    for name in audit.record.members:
        image, text = (vectors(audit.member(name) / f"{kind}.npy") for kind in ("image", "text"))
        out = ~audit.membership[name].to_numpy()
        total[out] += (image * text).sum(axis=1)[out] / np.linalg.norm(image, axis=1)[out]
        count += out
    found = table.groupby("pair_id", sort=False)["similarity_out"].mean()
    np.testing.assert_allclose(found, total / count, atol=1e-5)


def test_learned_is_that_of_the_epochs_that_drew_the_caption(made: Made) -> None:
    audit, name = made.ensemble, "r0-f1"
    pairs = audit.pairs
    trajectory = np.load(audit.member(name) / "trajectory.npy")[:, :, 1].astype(float)
    trained = np.flatnonzero(audit.membership[name])
    stored = np.load(audit.member(name) / "captions.npy")[:, 2]
    start = np.cumsum([0, *map(len, pairs["captions"])])
    keys = draw_keys(pairs["pair_id"].tolist())
    for row in trained[:5]:
        own: dict[int, list[float]] = {}
        for epoch, values in enumerate(trajectory):
            drawn = int(hashed(keys[row : row + 1], audit.record.seeds[name], CAPTION, epoch)[0])
            drawn %= len(pairs["captions"][row])
            own.setdefault(drawn, []).append(values[row] - values[trained].mean())
        for place in range(len(pairs["captions"][row])):
            expected = np.mean(own[place]) if place in own else np.nan
            np.testing.assert_allclose(stored[start[row] + place], expected, atol=1e-4)


def test_without_several_captions_or_what_members_leave_there_is_no_table_but_a_reason(made: Made) -> None:
    audit = made.paper
    assert not (audit.folder / "captions.parquet").exists()
    assert caption_table(audit, np.ones(400, int), sides_of(audit)) == (None, SEVERAL)
    assert caption_table(audit, np.full(400, 2), sides_of(audit)) == (None, NOT_KEPT)
