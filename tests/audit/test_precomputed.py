"""Audits of precomputed features, in each form they come in, without a picture, and audits of a
random sample."""

import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clipmem_core.auditing.folder.prepare import precomputed_features, sampled
from clipmem_core.auditing.folder.store import Audit
from clipmem_core.auditing.run.pipeline import run_audit
from clipmem_core.cli import main, parse_command
from clipmem_core.config import AuditConfig
from clipmem_core.dataset.source import RawPairs
from clipmem_core.review.search import search
from clipmem_core.utils import columns as c
from clipmem_core.utils.io import InputError
from tests.audit.small import Silent
from tests.features.test_precomputed import clip_retrieval

PAIRS = 240
FLAGS = shlex.split("--preset locked --folds 2 --members 2 --epochs 2 --batch-size 64 --threads 1")
IDS = [f"pictures/{n:03d}.jpg" for n in range(PAIRS)]
CAPTIONS = [f"a caption of {n}" for n in range(PAIRS)]
Form = Callable[[Path], str]


def drawn(pairs: int = PAIRS) -> tuple[np.ndarray, np.ndarray]:
    """Features that share a latent, float32 [n, 24] and [n, 16]."""
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(pairs, 16))
    image, text = (
        latent @ rng.normal(size=(16, width)) + 0.1 * rng.normal(size=(pairs, width))
        for width in (24, 16)
    )
    return image.astype(np.float32), text.astype(np.float32)


def two_parts(folder: Path) -> str:
    return str(clip_retrieval(folder, *drawn(), IDS, CAPTIONS))


def beside_table(folder: Path) -> str:
    return write_table(folder, *drawn(), CAPTIONS)


def write_table(folder: Path, image: np.ndarray, text: np.ndarray, captions: list[str]) -> str:
    ids = [f"pictures/{n:03d}.jpg" for n in range(len(captions))]
    pd.DataFrame({"filepath": ids, "title": captions}).to_csv(folder / "pairs.csv", index=False)
    np.save(folder / "image.npy", image)
    np.save(folder / "text.npy", text)
    return str(folder / "pairs.csv")


def config_of(*flags: str) -> AuditConfig:
    return parse_command(["audit", "SOURCE", *FLAGS, *flags]).config


def audit_of(source: str, *flags: str) -> Audit:
    return run_audit(source, config_of(*flags), name="a", screen=Silent())


@pytest.fixture
def folder(tmp_path: Path, data: Path) -> Path:
    (tmp_path / "set").mkdir()
    return tmp_path / "set"


@pytest.mark.parametrize("form", [two_parts, beside_table])
def test_a_source_with_features_is_inspected_and_audited_without_a_picture(
    folder: Path, form: Form, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = form(folder)
    assert main(["inspect", source]) == 0
    assert "240" in capsys.readouterr().out
    assert not list(data.rglob("*.npy"))
    audit = audit_of(source)
    assert audit.record.config.features == source
    assert audit.scores["pair_id"].tolist() == audit.pairs["pair_id"].tolist() == IDS
    assert audit.scores["clipmem"].notna().all()
    for stored, features in zip(precomputed_features(audit), drawn(), strict=True):
        np.testing.assert_array_equal(stored, features.astype(np.float16))
    with pytest.raises(InputError, match="cannot embed a text"):
        search(audit, "a red car")


def test_rows_keep_their_features_if_captions_are_injected_and_near_duplicates_dropped(
    folder: Path,
) -> None:
    source = beside_table(folder)
    image, text = drawn()
    image[200:220] = image[:20] * np.float32(1.001)
    np.save(folder / "image.npy", image)
    audit = audit_of(source, "--drop-near-duplicates", "--inject-miscaptions", "40")
    rows = np.r_[0:200, 220:PAIRS]
    assert audit.pairs["pair_id"].tolist() == [IDS[n] for n in rows]
    assert audit.quarantine["reason"].tolist() == [f"near-duplicate of {IDS[n]}" for n in range(20)]
    owner = np.array([CAPTIONS.index(captions[0]) for captions in audit.pairs["captions"]])
    assert (owner != rows).sum() == 40
    image_stored, text_stored = precomputed_features(audit)
    np.testing.assert_array_equal(image_stored[:], image.astype(np.float16)[rows])
    np.testing.assert_array_equal(text_stored[np.arange(len(rows))], text.astype(np.float16)[owner])


SOURCE_PAIRS = 700
SAMPLE = 400


def test_a_sample_follows_ids_and_seed() -> None:
    def drawn(ids: list[str], sample: int = 300, seed: int = 0) -> set[str]:
        pairs = pd.DataFrame({c.PAIR_ID: ids})
        raw = RawPairs(Path("/"), "csv", len(ids), pairs, pd.DataFrame())
        return set(sampled(raw, AuditConfig(sample=sample, seed=seed))[0].pairs[c.PAIR_ID])

    ids = [f"{n:04d}.jpg" for n in range(1_000)]
    first = drawn(ids)
    assert len(first) == 300
    assert drawn(ids[::-1]) == first < drawn(ids, sample=400)
    assert len(first & drawn(ids, seed=1)) < 150


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Features of 700 pairs; rows 0 to 19 are of no use."""
    image, text = drawn(SOURCE_PAIRS)
    image[:20] = text[:20] = np.nan
    captions = [f"a caption about number {n}" for n in range(SOURCE_PAIRS)]
    return write_table(tmp_path_factory.mktemp("features"), image, text, captions)


def test_an_audit_of_a_sample_says_so(source: str, data: Path) -> None:
    audit = audit_of(source, "--sample", str(SAMPLE))
    record = audit.record
    verdict = audit.verdict
    assert (record.pairs, record.sampled_of) == (SAMPLE, SOURCE_PAIRS - 20)
    assert verdict["sample"] == {"pairs": SAMPLE, "of": SOURCE_PAIRS - 20}
    assert any("a random sample of 680" in check["sentence"] for check in verdict["checks"])
