"""Audits of features that were computed elsewhere, in each form they come in, without a picture."""

import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clipmem_core.audit.pipeline import run_audit
from clipmem_core.audit.prepare import pixels_folder, precomputed_features
from clipmem_core.audit.store import Audit
from clipmem_core.cli import main, parse
from clipmem_core.config import AuditConfig, InputError
from clipmem_core.review.search import hits
from clipmem_core.review.selection import Selection
from tests.audit.small import Silent

PAIRS = 240
FLAGS = shlex.split("--preset locked --folds 2 --members 2 --epochs 2 --batch-size 64 --threads 1")
IDS = [f"pictures/{n:03d}.jpg" for n in range(PAIRS)]
CAPTIONS = [f"a caption of {n}" for n in range(PAIRS)]
Form = Callable[[Path], str]


def drawn(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features that share a latent, float32 [n, 24] and [n, 16]."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(PAIRS, 16))
    image, text = (latent @ rng.normal(size=(16, width)) + 0.1 * rng.normal(size=(PAIRS, width)) for width in (24, 16))
    return image.astype(np.float32), text.astype(np.float32)


def clip_retrieval(folder: Path) -> str:
    image, text = drawn()
    for name in ("img_emb", "text_emb", "metadata"):
        (folder / name).mkdir()
    for part, rows in enumerate((slice(0, 100), slice(100, PAIRS))):
        np.save(folder / "img_emb" / f"img_emb_{part}.npy", image[rows])
        np.save(folder / "text_emb" / f"text_emb_{part}.npy", text[rows])
        table = pd.DataFrame({"image_path": IDS[rows], "caption": CAPTIONS[rows]})
        table.to_parquet(folder / "metadata" / f"metadata_{part}.parquet")
    return str(folder)


def beside_table(folder: Path) -> str:
    image, text = drawn()
    pd.DataFrame({"filepath": IDS, "title": CAPTIONS}).to_csv(folder / "pairs.csv", index=False)
    np.save(folder / "image.npy", image)
    np.save(folder / "text.npy", text)
    return str(folder / "pairs.csv")


def config_of(*flags: str) -> AuditConfig:
    return parse(["audit", "SOURCE", *FLAGS, *flags]).config


def audit_of(source: str, *flags: str) -> Audit:
    return run_audit(source, config_of(*flags), name="given", screen=Silent())


@pytest.fixture
def folder(tmp_path: Path, data: Path) -> Path:
    (tmp_path / "set").mkdir()
    return tmp_path / "set"


@pytest.mark.parametrize("form", [clip_retrieval, beside_table])
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
    for stored, features in zip(precomputed_features(audit, pixels_folder(audit)), drawn(), strict=True):
        np.testing.assert_array_equal(stored, features.astype(np.float16))
    rows, _ = hits(audit, Selection(like=IDS[3]))
    assert rows[0] == 3
    with pytest.raises(InputError, match="cannot embed a text"):
        hits(audit, Selection(meaning="a red car"))


def test_rows_keep_their_features_if_captions_are_injected_and_near_duplicates_dropped(folder: Path) -> None:
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
    image_stored, text_stored = precomputed_features(audit, pixels_folder(audit))
    np.testing.assert_array_equal(image_stored[:], image.astype(np.float16)[rows])
    np.testing.assert_array_equal(text_stored[np.arange(len(rows))], text.astype(np.float16)[owner])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "text.npy").unlink(), "text.npy is missing"),
        (lambda folder: np.save(folder / "text.npy", drawn()[1][:-1]), "text.npy has 239 features, but"),
        (lambda folder: np.save(folder / "image.npy", np.zeros((PAIRS, 4), np.float16)), "all 240 rows were skipped"),
    ],
)
def test_features_that_do_not_fit_are_one_line(
    folder: Path, spoil: Callable[[Path], object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = beside_table(folder)
    spoil(folder)
    assert main(["audit", source, "--name", "given", *FLAGS, "--features", str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (folder.parent / "data" / "audits" / "given").exists()
