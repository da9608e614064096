"""From what members leave to the tables: scores that cannot be computed, and those of single captions."""

import numpy as np
import pandas as pd

from clipmem_core.audit.scoring import Evidence, score_table, summary
from clipmem_core.draws import CAPTION, draw_keys, hashed
from clipmem_core.scores.alignment import pair_terms
from clipmem_core.scores.membership import Membership, Sides, paper_membership
from tests.audit.small import vectors
from tests.conftest import Made

N = 220


def evidence(membership: Membership, widths: tuple[int, int]) -> Evidence:
    rng = np.random.default_rng(0)
    image, text = ([rng.normal(size=(N, width)).astype(np.float32) for width in widths] for _ in range(2))
    external = membership.group == "external"
    return Evidence(
        pairs=pd.DataFrame({"pair_id": [str(row) for row in range(N)], "injected": None}),
        sides=Sides(membership, "paper", 0),
        views=2,
        terms=[pair_terms(a, b, external) for a, b in zip(image, text, strict=True)],
        image=image,
        text=text,
        logit_scales=[10.0] * len(membership.members),
        log_probability=[],
        n_captions=np.ones(N, dtype=int),
    )


def test_embeddings_that_cannot_be_mapped_cost_only_the_encoders_parts() -> None:
    inputs = evidence(paper_membership(np.arange(N), seeds=1, seed=0), (5, 6))
    table, split = score_table(inputs)
    assert "one width" in split["missing"]
    assert table[["clipmem_image", "clipmem_text"]].isna().all(axis=None)
    assert table[["clipmem", "alignment_in", "alignment_out", "sslmem_image"]].notna().all(axis=None)
    assert summary(inputs, table, split)["encoders"]["image"] is None


def test_every_caption_has_a_row_with_the_cosine_of_members_that_never_saw_it(made: Made) -> None:
    audit = made.ensemble
    table = pd.read_parquet(audit.folder / "captions.parquet")
    assert table["pair_id"].tolist() == [row.pair_id for row in audit.pairs.itertuples() for _ in row.captions]
    assert table["caption"].tolist() == [
        number for captions in audit.pairs["captions"] for number in range(len(captions))
    ]
    external = table["pair_id"].isin(audit.pairs["pair_id"][audit.membership["group"] == "external"])
    assert table.loc[external, "learned"].isna().all()
    assert table[["similarity_out", "margin_out", "gap", "misfit"]].notna().all(axis=None)
    assert table.loc[~external, "learned"].isna().mean() < 0.2  # 10 epochs of up to five captions
    total, count = np.zeros(400), np.zeros(400)
    for name in audit.record.members:
        image, text = (vectors(audit.member(name) / f"{kind}.npy") for kind in ("image", "text"))
        out = ~audit.membership[name].to_numpy()
        total[out] += (image * text).sum(axis=1)[out] / np.linalg.norm(image, axis=1)[out]
        count += out
    means = table.groupby("pair_id", sort=False)["similarity_out"].mean()
    np.testing.assert_allclose(means, total / count, atol=1e-5)
    assert not (made.paper.folder / "captions.parquet").exists()  # one caption a pair


def test_learned_is_that_of_the_epochs_that_drew_the_caption(made: Made) -> None:
    audit, name = made.ensemble, "r0-f1"
    pairs, trained = audit.pairs, np.flatnonzero(audit.membership[name])
    trajectory = np.load(audit.member(name) / "trajectory.npy")[:, :, 1].astype(float)
    stored = np.load(audit.member(name) / "captions.npy")[:, 2]
    start = np.cumsum([0, *map(len, pairs["captions"])])
    keys = draw_keys(pairs["pair_id"].tolist())
    for row in trained[:5]:
        by_caption: dict[int, list[float]] = {}
        for epoch, values in enumerate(trajectory):
            drawn = int(hashed(keys[row : row + 1], audit.record.seeds[name], CAPTION, epoch)[0])
            by_caption.setdefault(drawn % len(pairs["captions"][row]), []).append(values[row] - values[trained].mean())
        expected = [np.mean(by_caption.get(number, np.nan)) for number in range(len(pairs["captions"][row]))]
        np.testing.assert_allclose(stored[start[row] : start[row + 1]], expected, atol=1e-4)
