"""Features of pairs as another tool would leave them, in any number: drawn from a latent that both sides share.

    python -m tests.made_features FOLDER [--pairs N] [--dim D] [--seed S]

leaves pairs.parquet, image.npy and text.npy; what memory it takes does not depend on the number of pairs.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro

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


def _main(folder: Annotated[Path, tyro.conf.Positional], pairs: int = 1_000_000, dim: int = 512, seed: int = 0) -> None:
    print(make_features(folder, pairs=pairs, dim=dim, seed=seed))


if __name__ == "__main__":
    tyro.cli(_main, prog="python -m tests.made_features")
