"""captions.parquet of a finished audit, recomputed from the members' embeddings and trajectories."""

import json

import numpy as np
import pandas as pd
import pytest

from clipmem_core.audits.captions import NOT_KEPT, SEVERAL, caption_table
from clipmem_core.audits.prepare import membership_of
from clipmem_core.audits.store import Audit
from clipmem_core.draws import CAPTION, draw_keys, hashed
from clipmem_core.scores.membership import Sides
from tests.audits.small import vectors
from tests.conftest import Made


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
