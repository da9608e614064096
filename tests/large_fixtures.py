"""Factories of any size: an audit of a million pairs with random scores, and features of pairs."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from clipmem_core.auditing.folder.store import Audit
from clipmem_core.utils import columns as c
from tests.fixtures import COLOURS, HOSTILE, SHAPES, made_record, made_scores, write_audit

PICTURES = 2000  # distinct ones; pairs share them
SIDE = 224  # pixels
LABELS = 200
HELD_OUT = 0.05  # share of the pairs
INJECTED = {c.MISCAPTION: 0.02, c.VAGUE: 0.01, c.DUPLICATE: 0.005, c.ATYPICAL: 0.002}
CAPTIONS = [0.55, 0.15, 0.1, 0.1, 0.1]  # share of the pairs with 1, 2, … captions
SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]


def make_large_audit(
    data: Path, name: str = "million", *, pairs: int = 1_000_000, seed: int = 0
) -> Audit:
    """Write a finished audit below a data folder, a million pairs in less than a minute, its
    pictures beside it."""
    rng = np.random.default_rng(seed)
    root = data / "sets" / name
    groups = np.where(rng.random(pairs) < HELD_OUT, c.HELD_OUT, c.SCORED)
    groups[: len(HOSTILE)] = c.SCORED
    table = _pairs(_draw_pictures(root, rng, min(PICTURES, pairs)), groups, rng)
    scores = made_scores(table, groups, rng)
    record = made_record(name, root, "ensemble", groups)
    record = dataclasses.replace(record, source=name, dataset_fingerprint=f"{name}-{pairs}-{seed}")
    return write_audit(data / "audits" / name, record, table, scores, groups, rng)


def _draw_pictures(root: Path, rng: np.random.Generator, count: int) -> pd.DataFrame:
    """Draw the pictures, soft blots of colour, and return image and sha256."""
    (root / "images").mkdir(parents=True)
    rows = []
    for number in range(count):
        blots = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        path = root / "images" / f"{number:04d}.jpg"
        blots.resize((SIDE, SIDE * 3 // 4), Image.Resampling.BICUBIC).save(path, quality=80)
        rows.append((f"images/{path.name}", hashlib.sha256(path.read_bytes()).hexdigest()))
    return pd.DataFrame(rows, columns=[c.IMAGE, c.SHA256])


def _pairs(pictures: pd.DataFrame, groups: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    n = len(groups)
    drawn = pictures.iloc[rng.integers(0, len(pictures), n)].reset_index(drop=True)
    label = rng.zipf(1.3, n) % LABELS
    kinds = rng.choice([*INJECTED, None], n, p=[*INJECTED.values(), 1 - sum(INJECTED.values())])
    table = pd.DataFrame(
        {
            c.PAIR_ID: [f"{row // 10_000:05d}/{row:09d}.jpg" for row in range(n)],
            c.IMAGE: drawn[c.IMAGE],
            c.CAPTIONS: _captions(n, rng),
            c.LABEL: pd.Series([_word(number) for number in range(LABELS)])[label].to_numpy(),
            c.WIDTH: SIDE,
            c.HEIGHT: SIDE * 3 // 4,
            c.SHA256: drawn[c.SHA256],
            c.INJECTED: np.where(groups == c.SCORED, kinds, None),
        }
    )
    return table[c.PAIR_COLUMNS]


def _captions(n: int, rng: np.random.Generator) -> pd.Series:
    """Return the captions of n pairs as a column of lists; the first pairs have the hostile
    ones."""
    each = rng.choice(len(CAPTIONS), n, p=CAPTIONS) + 1
    each[: len(HOSTILE)] = 1
    lengths = rng.integers(5, 15, each.sum())
    vocabulary = pa.array([*COLOURS, *SHAPES, *map(_word, range(20_000))])
    drawn = rng.zipf(1.15, lengths.sum()) % len(vocabulary)
    listed = pa.ListArray.from_arrays(_offsets(lengths), vocabulary.take(pa.array(drawn)))
    texts = pc.binary_join(listed, " ")
    texts = pa.concat_arrays([pa.array(HOSTILE), texts[len(HOSTILE) :]])
    return pd.Series(pa.ListArray.from_arrays(_offsets(each), texts).to_pylist())


def _offsets(lengths: np.ndarray) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))


def _word(number: int) -> str:
    """Return a different word for each number."""
    syllables = [SYLLABLES[number % len(SYLLABLES)]]
    while number := number // len(SYLLABLES):
        syllables.append(SYLLABLES[number % len(SYLLABLES)])
    return "".join(syllables)


LATENT = 48  # numbers that a picture and its caption share
SIDE_NOISE = 0.8  # SD added to it on each side; the latent has SD 1
NOISE = 0.3  # SD added to each number of the features
CONCEPTS = 5_000  # pairs of one concept are similar
SPREAD = 0.7  # distance of a pair from its concept; concepts have distance 1
BLOCK = 50_000


def make_features(folder: Path, *, pairs: int, dim: int = 512, seed: int = 0) -> Path:
    """Write the features of pairs, float16 [pairs, dim] a side, and return the path of their
    table."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    concepts = rng.standard_normal((CONCEPTS, LATENT), dtype=np.float32)
    spread = {
        side: rng.standard_normal((LATENT, dim), dtype=np.float32) / LATENT**0.5
        for side in ("image", "text")
    }
    table = folder / "pairs.parquet"
    schema = pa.schema([("image", pa.string()), ("caption", pa.string())])
    with (
        (folder / "image.npy").open("wb") as image,
        (folder / "text.npy").open("wb") as text,
        pq.ParquetWriter(table, schema) as writer,
    ):
        for file in (image, text):
            header = {"descr": "<f2", "fortran_order": False, "shape": (pairs, dim)}
            np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, pairs, BLOCK):
            rows = np.arange(start, min(start + BLOCK, pairs))
            concept = rng.integers(CONCEPTS, size=len(rows))
            pair = rng.standard_normal((len(rows), LATENT), dtype=np.float32)
            latent = (1 - SPREAD**2) ** 0.5 * concepts[concept] + SPREAD * pair
            for side, file in (("image", image), ("text", text)):
                seen = latent + SIDE_NOISE * rng.standard_normal(
                    (len(rows), LATENT), dtype=np.float32
                )
                noise = rng.standard_normal((len(rows), dim), dtype=np.float32)
                file.write((seen @ spread[side] + NOISE * noise).astype(np.float16).tobytes())
            columns = {
                "image": [f"{n // 10_000:03d}/{n:07d}.jpg" for n in rows],
                "caption": [
                    f"a {_word(int(k))} with {_word(n)}"
                    for n, k in zip(rows.tolist(), concept, strict=True)
                ],
            }
            writer.write_table(pa.table(columns))
    return table
