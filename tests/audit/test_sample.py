"""Audits of a random sample: which pairs are in it, and what is said of the whole set."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from clipmem_core import columns as c
from clipmem_core.audit.pipeline import run_audit
from clipmem_core.audit.prepare import sampled
from clipmem_core.audit.scoring import UNUSABLE
from clipmem_core.audit.store import CHECK_TABLE, Audit
from clipmem_core.audit.verdict import WRONG
from clipmem_core.config import AuditConfig
from clipmem_core.dataset.checks import CHECKS
from clipmem_core.dataset.source import RawPairs
from clipmem_core.scores.prevalence import whole_count
from tests.audit.small import Silent
from tests.audit.test_precomputed import config_of

PAIRS, SAMPLE = 700, 400


def _raw(ids: list[str]) -> RawPairs:
    pairs = pd.DataFrame({c.PAIR_ID: ids, c.CAPTIONS: [["a"]] * len(ids)})
    return RawPairs(Path("/"), "csv", len(ids), pairs, pd.DataFrame())


def _drawn(ids: list[str], *, sample: int = 300, seed: int = 0) -> list[str]:
    raw, rows = sampled(_raw(ids), AuditConfig(sample=sample, seed=seed))
    assert raw.pairs[c.PAIR_ID].tolist() == [ids[row] for row in rows]
    assert raw.drawn_of == len(ids)
    return raw.pairs[c.PAIR_ID].tolist()


def test_a_sample_follows_ids_and_seed_and_hardly_changes_with_other_rows() -> None:
    ids = [f"{n:04d}.jpg" for n in range(1_000)]
    drawn = _drawn(ids)
    assert len(drawn) == len(set(drawn)) == 300
    assert drawn == sorted(drawn)  # in the order of the source
    assert set(_drawn(ids[::-1])) == set(drawn)
    assert set(drawn) - set(ids[:100]) <= set(_drawn(ids[100:]))
    assert set(drawn) < set(_drawn(ids, sample=400))
    assert len(set(drawn) & set(_drawn(ids, seed=1))) < 150


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Features of 700 pairs; rows 0 to 19 are of no use, and every seventh caption is a file name."""
    home, rng = tmp_path_factory.mktemp("features"), np.random.default_rng(0)
    latent = rng.normal(size=(PAIRS, 16))
    for name in ("image", "text"):
        values = latent @ rng.normal(size=(16, 24)) + 0.1 * rng.normal(size=(PAIRS, 24))
        values[:20] = np.nan
        np.save(home / f"{name}.npy", values.astype(np.float32))
    captions = [f"IMG_{n:04d}.jpg" if n % 7 == 0 else f"a caption about number {n}" for n in range(PAIRS)]
    table = pd.DataFrame({"filepath": [f"{n:03d}.jpg" for n in range(PAIRS)], "title": captions})
    table.to_csv(home / "pairs.csv", index=False)
    return str(home / "pairs.csv")


@pytest.fixture
def audit(source: str, data: Path) -> Audit:
    return run_audit(source, config_of("--sample", str(SAMPLE)), name="part", screen=Silent())


def test_an_audit_of_a_sample_says_so_and_counts_the_whole_set(audit: Audit) -> None:
    record, verdict = audit.record, audit.verdict
    assert (record.pairs, record.sampled_of) == (SAMPLE, PAIRS - 20)
    told = verdict["sample"]
    assert (told["pairs"], told["of"]) == (SAMPLE, PAIRS - 20)
    counts = {row["count"]: row for row in told["counts"]}
    unusable = counts[UNUSABLE]  # found while the table was read, which all of it was
    assert (unusable["found"], unusable["whole"]) == (0, 20)
    flags = pq.read_table(audit.folder / CHECK_TABLE).to_pandas()["file_name"]
    wanted = whole_count(int(flags.sum()), SAMPLE, PAIRS - 20)
    own = counts[CHECKS["file_name"].label]
    assert (own["found"], own["whole"], own["low"], own["high"]) == pytest.approx((flags.sum(), *wanted), abs=0.05)
    assert own["low"] <= 97 <= own["high"]  # of rows 20 to 699, those divisible by 7
    estimate = verdict["wrong_captions"]["estimate"]
    assert counts[WRONG]["whole"] == pytest.approx(estimate * (PAIRS - 20) / counts[WRONG]["among"], abs=0.1)
    assert counts[WRONG]["among"] == SAMPLE
