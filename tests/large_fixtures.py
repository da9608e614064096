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

from clipmem_core import columns as c
from clipmem_core.audits.prepare import membership_table
from clipmem_core.audits.store import (
    CONFIG,
    IMAGE_EMBEDDINGS,
    MEMBERSHIP,
    PAIRS,
    QUARANTINE,
    SCORES,
    TEXT_EMBEDDINGS,
    UTILITY,
    VERDICT,
    Audit,
    MemberRecord,
    write_json,
    write_manifest,
    write_table,
)
from clipmem_core.training.names import CHECKPOINT
from tests.fixtures import (
    COLOURS,
    HOSTILE,
    MEMBERS,
    SHAPES,
    made_membership,
    made_quarantine,
    made_record,
    made_scores,
    made_utility,
    made_verdict,
)

PICTURES = 2000  # distinct ones; pairs share them
SIDE = 224  # pixels
LABELS = 200
DIM = 64  # of the model `tiny`
EXTERNAL = 0.05  # share of the pairs
PLANTED = {c.MISCAPTION: 0.02, c.VAGUE: 0.01, c.DUPLICATE: 0.005, c.ATYPICAL: 0.002}
CAPTIONS = [0.55, 0.15, 0.1, 0.1, 0.1]  # share of the pairs with 1, 2, … captions
SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiouö"]


def make_large_audit(
    data: Path, name: str = "million", *, pairs: int = 1_000_000, seed: int = 0, embeddings: bool = False
) -> Audit:
    """Write a finished audit below a data folder, its pictures beside it.

    Args:
        data: the folder; the audit is `audits/<name>` and its data set `sets/<name>` in it.
        name: the audit's.
        pairs: how many; a million takes less than a minute.
        seed: what everything is drawn from.
        embeddings: also write members: an untrained model and embeddings, 2 GB for a million pairs.
    """
    rng, members = np.random.default_rng(seed), MEMBERS["ensemble"]
    root, folder = data / "sets" / name, data / "audits" / name
    folder.mkdir(parents=True)
    groups = np.where(rng.random(pairs) < EXTERNAL, c.EXTERNAL, c.SCORED)
    groups[: len(HOSTILE)] = c.SCORED
    table = _pairs(_draw_pictures(root, rng, min(PICTURES, pairs)), groups, rng)
    scores = made_scores(table, groups, rng)
    record = made_record(name, root, "ensemble", groups)
    record = dataclasses.replace(record, source=name, dataset_fingerprint=f"{name}-{pairs}-{seed}")
    write_json(folder / CONFIG, record.values)
    write_table(folder / PAIRS, table)
    write_table(folder / QUARANTINE, made_quarantine())
    write_table(folder / MEMBERSHIP, membership_table(table, made_membership(groups, "ensemble", rng)))
    write_table(folder / SCORES, scores)
    utility = made_utility(members, rng)
    write_table(folder / UTILITY, utility)
    write_json(folder / VERDICT, made_verdict(scores, utility, record.config))
    for member in members if embeddings else []:
        _write_member(folder / "members" / member, pairs, rng)
    write_manifest(folder)
    return Audit(folder)


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
    kinds = rng.choice([*PLANTED, None], n, p=[*PLANTED.values(), 1 - sum(PLANTED.values())])
    table = pd.DataFrame(
        {
            c.PAIR_ID: [f"{row // 10_000:05d}/{row:09d}.jpg" for row in range(n)],
            c.IMAGE: drawn[c.IMAGE],
            c.CAPTIONS: _captions(n, rng),
            c.LABEL: pd.Series(_words(LABELS))[label].to_numpy(),
            c.WIDTH: SIDE,
            c.HEIGHT: SIDE * 3 // 4,
            c.SHA256: drawn[c.SHA256],
            c.PLANTED: np.where(groups == c.SCORED, kinds, None),
        }
    )
    return table[c.PAIR_COLUMNS]


def _captions(n: int, rng: np.random.Generator) -> pd.Series:
    """Return the captions of n pairs as a column of lists; the first pairs have the hostile ones."""
    each = rng.choice(len(CAPTIONS), n, p=CAPTIONS) + 1
    each[: len(HOSTILE)] = 1
    lengths = rng.integers(5, 15, each.sum())
    vocabulary = pa.array([*COLOURS, *SHAPES, *_words(20_000)])
    drawn = rng.zipf(1.15, lengths.sum()) % len(vocabulary)
    listed = pa.ListArray.from_arrays(_offsets(lengths), vocabulary.take(pa.array(drawn)))
    texts = pc.binary_join(listed, " ")
    texts = pa.concat_arrays([pa.array(HOSTILE), texts[len(HOSTILE) :]])
    return pd.Series(pa.ListArray.from_arrays(_offsets(each), texts).to_pylist())


def _offsets(lengths: np.ndarray) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))


def _words(n: int) -> list[str]:
    """Return n different words."""
    base = len(SYLLABLES)
    return [
        SYLLABLES[k % base] + SYLLABLES[k // base % base] + (SYLLABLES[k // base**2 - 1] if k >= base**2 else "")
        for k in range(n)
    ]


def _write_member(folder: Path, n: int, rng: np.random.Generator) -> None:
    """Write an untrained model and random unit vectors; a caption lies near its picture."""
    from clipmem_core.training.model import build_model
    from clipmem_core.training.trainer import save_atomically

    folder.mkdir(parents=True)
    write_json(folder / CONFIG, MemberRecord(folder.name, 0, "", "tiny", 0, {}).values)
    save_atomically(build_model("tiny", loss="clip", seed=0).state_dict(), folder / CHECKPOINT)
    images = rng.standard_normal((n, DIM), dtype=np.float32)
    np.save(folder / IMAGE_EMBEDDINGS, _unit(images))
    np.save(folder / TEXT_EMBEDDINGS, _unit(images + rng.standard_normal((n, DIM), dtype=np.float32)))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


LATENT = 48  # numbers that a picture and its caption share
OWN = 0.8  # SD of what each side adds to it, beside a latent of SD 1
NOISE = 0.3  # SD of what each number of the features adds
CONCEPTS = 5_000  # what pairs are about; pairs of one concept are alike
APART = 0.7  # how far a pair is from its concept, of a distance between concepts of 1
BLOCK = 50_000
WORDS = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]


def make_features(folder: Path, *, pairs: int, dim: int = 512, seed: int = 0) -> Path:
    """Write a table of pairs and the features of both sides, float16 [pairs, dim], a row each.

    Returns:
        The table.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    concepts = rng.standard_normal((CONCEPTS, LATENT), dtype=np.float32)
    spread = {side: rng.standard_normal((LATENT, dim), dtype=np.float32) / LATENT**0.5 for side in ("image", "text")}
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
            own = rng.standard_normal((len(rows), LATENT), dtype=np.float32)
            latent = (1 - APART**2) ** 0.5 * concepts[concept] + APART * own
            for side, file in (("image", image), ("text", text)):
                seen = latent + OWN * rng.standard_normal((len(rows), LATENT), dtype=np.float32)
                noise = rng.standard_normal((len(rows), dim), dtype=np.float32)
                file.write((seen @ spread[side] + NOISE * noise).astype(np.float16).tobytes())
            said = [_caption(n, int(about)) for n, about in zip(rows.tolist(), concept, strict=True)]
            writer.write_table(pa.table({"image": [f"{n // 10_000:03d}/{n:07d}.jpg" for n in rows], "caption": said}))
    return table


def _caption(number: int, concept: int) -> str:
    """Return words for a concept, and one that is the pair's own."""
    return f"a {_word(concept)} with {_word(number)}"


def _word(number: int) -> str:
    syllables = [WORDS[number % len(WORDS)]]
    while number := number // len(WORDS):
        syllables.append(WORDS[number % len(WORDS)])
    return "".join(syllables)
