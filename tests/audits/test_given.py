"""Audits of features that were computed elsewhere, in each form they come in: no picture is there."""

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clipmem_core.audits.prepare import (
    given_features,
    holds_features,
    pixels_folder,
)
from clipmem_core.audits.run import ensure_pixels, run_audit
from clipmem_core.audits.store import Audit
from clipmem_core.commands import main, parse
from clipmem_core.config import AuditConfig, InputError
from clipmem_core.review.search import hits
from clipmem_core.review.selection import Selection
from tests.audits.small import Silent

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
    for part, rows in enumerate((slice(0, 100), slice(100, PAIRS))):
        table = pd.DataFrame({"image_path": IDS[rows], "caption": CAPTIONS[rows]})
        for name, ending, save in (
            ("img_emb", "npy", lambda path, rows=rows: np.save(path, image[rows])),
            ("text_emb", "npy", lambda path, rows=rows: np.save(path, text[rows])),
            ("metadata", "parquet", lambda path, table=table: table.to_parquet(path)),
        ):
            (folder / name).mkdir(exist_ok=True)
            save(folder / name / f"{name}_{part}.{ending}")
    return str(folder)


def datacomp(folder: Path) -> str:
    image, text = drawn()
    for name, rows in (("00ab", slice(0, 100)), ("01cd", slice(100, PAIRS))):
        pd.DataFrame({"uid": IDS[rows], "url": "https://example.org/a.jpg", "text": CAPTIONS[rows]}).to_parquet(
            folder / f"{name}.parquet"
        )
        np.savez(folder / f"{name}.npz", l14_img=image[rows], l14_txt=text[rows])
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


@pytest.mark.parametrize("form", [clip_retrieval, datacomp, beside_table])
def test_a_source_with_features_of_its_own_is_audited_without_a_picture(folder: Path, form: Form) -> None:
    source = form(folder)
    assert holds_features(source)
    audit = audit_of(source)
    assert audit.finished
    assert audit.record.config.features == source
    assert audit.scores["pair_id"].tolist() == audit.pairs["pair_id"].tolist() == IDS
    assert audit.scores["clipmem"].notna().all()
    for found, features in zip(given_features(audit, pixels_folder(audit)), drawn(), strict=True):
        np.testing.assert_array_equal(found, features.astype(np.float16))
    again = Silent()
    run_audit(source, config_of(), name="given", screen=again)
    assert again.lines[-1] == "it is finished: nothing to do"


def test_a_planted_caption_brings_its_features_along(folder: Path) -> None:
    audit = audit_of(beside_table(folder), "--plant-miscaptions", "40")
    captions = [own[0] for own in audit.pairs["captions"]]
    whose = np.array([CAPTIONS.index(caption) for caption in captions])
    assert (whose != np.arange(PAIRS)).sum() == 40
    image, text = given_features(audit, pixels_folder(audit))
    np.testing.assert_array_equal(image[:], drawn()[0].astype(np.float16))
    np.testing.assert_array_equal(text[np.arange(PAIRS)], drawn()[1].astype(np.float16)[whose])


def test_look_alikes_by_features_are_set_aside_and_the_rest_keep_their_own(folder: Path) -> None:
    source = beside_table(folder)
    image, text = drawn()
    image[200:220] = image[:20] * np.float32(1.001)
    np.save(folder / "image.npy", image)
    audit = audit_of(source, "--drop-lookalikes")
    kept = np.r_[0:200, 220:PAIRS]
    assert audit.pairs["pair_id"].tolist() == [IDS[n] for n in kept]
    assert audit.quarantine["reason"].tolist() == [f"look-alike of {IDS[n]}" for n in range(20)]
    found = given_features(audit, pixels_folder(audit))
    np.testing.assert_array_equal(found[0][:], image.astype(np.float16)[kept])
    np.testing.assert_array_equal(found[1][:], text.astype(np.float16)[kept])


def test_what_is_kept_of_the_features_is_read_again_where_it_is_gone(folder: Path) -> None:
    audit = audit_of(beside_table(folder), "--drop-lookalikes")
    before, kept = (audit.folder / ".prepared.npz").read_bytes(), pixels_folder(audit)
    shutil.rmtree(kept)
    screen = Silent()
    ensure_pixels(audit, screen)
    assert screen.lines == [f"{kept} is broken or missing: reading the features again"]
    assert pixels_folder(audit) == kept
    assert np.load(audit.folder / ".prepared.npz")["cache_rows"].tolist() == list(range(PAIRS))
    assert before
    np.save(folder / "image.npy", drawn(seed=1)[0])
    shutil.rmtree(kept)
    with pytest.raises(InputError, match="have changed since audit 'given' began: take another --name"):
        ensure_pixels(audit, screen)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "text.npy").unlink(), "text.npy is missing"),
        (lambda folder: np.save(folder / "text.npy", drawn()[1][:-1]), "text.npy has 239 features, but"),
        (lambda folder: (folder / "image.npy").write_bytes(b"\x93NUMPY"), "image.npy is cut off or damaged"),
        (lambda folder: np.save(folder / "image.npy", np.zeros((PAIRS, 4), np.float16)), "nothing is left of 240 rows"),
        (lambda folder: np.save(folder / "image.npy", drawn()[0][:, 0]), r"must hold numbers [n, dim], not float32"),
    ],
)
def test_features_that_do_not_fit_are_one_line(
    folder: Path, spoil: Callable[[Path], object], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = beside_table(folder)
    spoil(folder)
    assert main(["audit", source, "--name", "given", *FLAGS, "--features", str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (folder.parent / "data" / "audits" / "given").exists()


@pytest.mark.parametrize("form", [clip_retrieval, datacomp, beside_table])
def test_inspect_says_what_is_in_features_and_keeps_nothing(
    folder: Path, form: Form, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", form(folder)]) == 0
    shown = capsys.readouterr().out
    assert "pairs that can be used   240" in shown
    assert "24 numbers a picture" in shown
    assert not list(data.rglob("*.npy"))


def test_a_search_by_words_says_that_no_query_can_be_embedded(folder: Path) -> None:
    audit = audit_of(clip_retrieval(folder))
    with pytest.raises(InputError, match="no tower to embed a query with: take a pair and look for more like it"):
        hits(audit, Selection(meaning="a red car"))
    rows, _ = hits(audit, Selection(like=IDS[3]))
    assert rows[0] == 3
