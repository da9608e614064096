"""From the outputs of members to tables and verdict."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from clipmem_core.auditing.tables.scoring import gather_evidence
from clipmem_core.auditing.tables.verdict import make_verdict
from clipmem_core.config import AuditConfig
from clipmem_core.scores import score_tables
from clipmem_core.scores.registry import Score
from clipmem_core.utils.draws import draw_keys, hashed
from clipmem_core.utils.ragged import Ragged
from tests.audit.small import PAIRS, embeddings
from tests.shared import Made


def test_every_caption_has_a_row_with_the_cosine_of_members_that_never_saw_it(made: Made) -> None:
    audit = made.ensemble
    table = pd.read_parquet(audit.folder / "captions.parquet")
    texts = audit.pairs.explode("captions")
    assert table["caption_row"].tolist() == list(range(len(texts)))
    assert table["pair_id"].tolist() == texts["pair_id"].tolist()
    assert table["caption"].tolist() == texts.groupby("pair_id").cumcount().tolist()
    group = audit.membership.set_index("pair_id")["group"][table["pair_id"]].to_numpy()
    assert table["learned"][group == "held-out"].isna().all()
    assert table["learned"][group == "scored"].isna().mean() < 0.2  # 10 epochs of five captions
    assert table[["similarity_out", "margin_out", "p_wrong"]].notna().all(axis=None)
    total = np.zeros(PAIRS)
    out = ~audit.membership[list(audit.record.members)].to_numpy()
    for name, is_out in zip(audit.record.members, out.T, strict=True):
        image, text = embeddings(audit, name)
        total += is_out * (image * text).sum(axis=1) / np.linalg.norm(image, axis=1)
    means = table.groupby("pair_id", sort=False)["similarity_out"].mean()
    np.testing.assert_allclose(means, total / out.sum(axis=1), atol=1e-5)
    alone = pd.read_parquet(made.paper.folder / "captions.parquet")  # one caption a pair
    np.testing.assert_array_equal(alone["similarity_out"], made.paper.scores["similarity_out"])


def test_learned_is_that_of_the_epochs_that_drew_the_caption(made: Made) -> None:
    audit = made.ensemble
    name = "r0-f1"
    pairs = audit.pairs
    trained = np.flatnonzero(audit.membership[name])
    trajectory = np.load(audit.member(name) / "trajectory.npy")[:, :, 1].astype(float)
    stored = np.load(audit.member(name) / "captions.npy")["learned"]
    start = np.cumsum([0, *map(len, pairs["captions"])])
    keys = draw_keys(pairs["pair_id"].tolist())
    for row in trained[:5]:
        n_captions = len(pairs["captions"][row])
        by_caption: list[list[float]] = [[] for _ in range(n_captions)]
        for epoch, values in enumerate(trajectory):
            drawn = int(hashed(keys[row : row + 1], audit.record.seeds[name], "caption", epoch)[0])
            by_caption[drawn % n_captions].append(values[row] - values[trained].mean())
        expected = [np.mean(values or np.nan) for values in by_caption]
        np.testing.assert_allclose(stored[start[row] : start[row + 1]], expected, atol=1e-4)


def test_an_added_score_is_computed_from_those_it_needs(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    gap = Score("gap", needs=("similarity_in", "similarity_out"), compute=np.subtract)
    monkeypatch.setitem(score_tables.BY_NAME, "gap", gap)
    monkeypatch.setattr(score_tables, "SCORE_COLUMNS", [*score_tables.SCORE_COLUMNS, "gap"])
    pairs = made.ensemble.pairs
    of_pairs = Ragged.of_lists(pairs["captions"].tolist())
    scores, *_ = score_tables.score_table(gather_evidence(made.ensemble, pairs, of_pairs))
    assert scores["gap"].notna().sum() == scores["similarity_in"].notna().sum() > 0
    np.testing.assert_array_equal(scores["gap"], scores["similarity_in"] - scores["similarity_out"])


GOOD = {
    "groups": [{"group": "scored", "mean": 0.3}, {"group": "held-out", "mean": 0.01}],
    "injected": [],
    "detection": [],
    "membership_auroc": 0.9,
    "ranking_stability": 0.7,
    "ranking_reliability": 0.82,
    "held_out_pairs": 100,
    "held_out_sd": 0.1,
}


def verdict_of(
    *, recall: float = 0.5, protocol: str = "ensemble", **changes: Any
) -> dict[str, Any]:
    rows = [
        ("f-0", "image_to_text_R@5", recall),
        ("f-0", "text_to_image_R@5", recall),
        ("f-0", "zero_shot", 0.9),
    ]
    utility = pd.DataFrame(rows, columns=["member", "metric", "value"])
    config = AuditConfig(protocol=protocol)
    return make_verdict(GOOD | changes, utility, config, towers={}, cut=0)


@pytest.mark.parametrize(
    ("place", "changes", "good"),
    [
        # Members generalise: chance at 5 of 100 is .05, so a tenth of the way from there to 1 is
        # .145.
        (0, {"recall": 0.144}, False),
        (0, {"recall": 0.146}, True),
        # The ranking is stable: by Spearman-Brown, halves that agree to .5 have a reliability of 2
        # · .5 / 1.5.
        (2, {"ranking_reliability": 1 / 1.5}, True),
        (2, {"ranking_reliability": 0.66}, False),
        (2, {"ranking_reliability": None}, None),
        # Memorization is measurable.
        (3, {"membership_auroc": 0.55}, True),
        (3, {"membership_auroc": 0.54}, False),
    ],
)
def test_a_check_passes_from_its_bound_on_and_gives_advice_otherwise(
    place: int, changes: dict[str, Any], good: bool | None
) -> None:
    verdict = verdict_of(**changes)
    assert verdict["checks"][place]["good"] is good
    assert not (good and verdict["checks"][place]["advice"])
    assert [check["good"] for check in verdict_of()["checks"]] == [True] * 4


@pytest.mark.parametrize(
    ("protocol", "groups", "good"),
    [
        ("ensemble", {"scored": 0.3, "held-out": 0.029}, True),
        ("ensemble", {"scored": 0.3, "held-out": -0.031}, False),
        (
            "ensemble",
            {"scored": 0.01, "held-out": 0.029},
            True,
        ),  # within three standard errors of 0: .1 / √100 each
        ("ensemble", {"scored": 0.01, "held-out": 0.031}, False),
        ("paper", {"candidate": 0.3, "independent": -0.3, "shared": 0.05, "held-out": 0.0}, False),
        ("ensemble", {"scored": 0.3, "shared": None, "held-out": 0.0}, True),
    ],
)
def test_pairs_that_nobody_memorized_score_within_a_tenth_of_the_effect(
    protocol: str, groups: dict[str, float | None], good: bool
) -> None:
    rows = [{"group": name, "mean": mean} for name, mean in groups.items()]
    assert verdict_of(protocol=protocol, groups=rows)["checks"][1]["good"] is good
