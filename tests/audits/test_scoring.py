"""From what members leave to the tables: what is given where a part of it cannot be had."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clipmem_core.audits import scoring
from clipmem_core.audits.scoring import Evidence, kept_on_disk, score_table, summary
from clipmem_core.scores.alignment import pair_terms
from clipmem_core.scores.membership import Membership, Sides, paper_membership

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


def test_where_members_map_nothing_is_missing() -> None:
    given = evidence(paper_membership(np.arange(N), seeds=1, seed=0), (5, 5))
    table, split = score_table(given)
    assert split.missing == ""
    assert list(split.fits) == ["f-0"]
    np.testing.assert_allclose(table["clipmem_image"] + table["clipmem_text"], table["clipmem"], atol=1e-5)
    assert summary(given, table, split)["encoders"]["missing"] is None


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
