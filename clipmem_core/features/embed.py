"""The features of a data set's pictures and captions: each different one goes through its tower once and is kept."""

import functools
import hashlib
import platform
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from clipmem_core import columns as c
from clipmem_core.atomic import replacing
from clipmem_core.config import InputError, data_folder
from clipmem_core.features.cache import (
    Batches,
    Elsewhere,
    Embedded,
    Progress,
    Wanted,
    cached_features,
    embedded_elsewhere,
    key_rows,
    missing_shards,
    read_asked,
    read_squares,
    to_half,
)
from clipmem_core.features.towers import Opened, Tower, image_tower, text_tower
from clipmem_core.pairs.workers import cores, map_chunks

IMAGE_BATCH = 16  # pictures: larger batches leave the processor's caches, at 192 pixels a fifth slower
TEXT_BATCH = 64
TEXT = "text"
_AGAIN = "put its file back, or run the audit under another name"
_TOKENIZED = 4096  # captions whose tokens are counted at a time
DECODED_BYTES = 1 << 28  # squares that may wait for the tower


@dataclass(frozen=True)
class TextFeatures:
    """Features of captions; those of pair i are rows offsets[i] to offsets[i + 1]."""

    features: np.ndarray  # float16 [n_captions, dim], mapped from the file
    offsets: np.ndarray  # int64 [n_pairs + 1]
    cut: int  # captions that are longer than the tower reads, as often as they come


def features_folder() -> Path:
    """Return the folder that features are kept in."""
    return data_folder() / "cache" / "features"


def image_features(
    pairs: pd.DataFrame,
    root: Path,
    tower: Tower,
    *,
    folder: Path | None = None,
    workers: int | None = None,
    elsewhere: Elsewhere | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> np.ndarray:
    """Return what a locked image tower makes of each pair's picture.

    Pictures are decoded from the data set's own files, in other processes, while the tower computes.

    Args:
        pairs: with the columns image and sha256, of the pictures' bytes.
        root: the folder the references are relative to.
        tower: an image tower.
        folder: the cache's; None takes the one in the data folder.
        workers: processes that decode, and threads that compute; None takes one for each core.
        elsewhere: has shards computed by other processes; None computes them here.
        progress: called with (pictures done, pictures to do).
        say: told what is computed again because a file was broken.

    Returns:
        float16 [n_pairs, dim], mapped from the file.

    Raises:
        InputError: a picture is no longer what it was, or the tower gives no use of a number; one line names it.
    """
    inputs = {name: pairs[name].tolist() for name in (c.IMAGE, c.SHA256)}
    wanted = Wanted(
        tower=tower,
        keys=key_rows(map(bytes.fromhex, inputs[c.SHA256])),
        batch=IMAGE_BATCH,
        arrange=lambda rows: rows,
        embed=_embedder(tower, inputs, root, functools.cache(tower.open), workers, elsewhere),
        name=functools.partial(_name, inputs),
    )
    return cached_features(wanted, folder or features_folder(), progress=progress, say=say)[0]


def text_features(
    captions: Sequence[Sequence[str]],
    tower: Tower,
    *,
    folder: Path | None = None,
    workers: int | None = None,
    elsewhere: Elsewhere | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> TextFeatures:
    """Return what a locked text tower makes of each caption.

    Captions of about the same length share a batch. One that is longer than the tower reads is cut off there.

    Args:
        captions: of each pair.
        tower: a text tower.
        folder, workers, elsewhere, progress: as for pictures.
        say: told how many captions are cut off, and what is computed again because a file was broken.

    Raises:
        InputError: the tower gives no use of a number; one line names the caption.
    """
    texts = [caption for pair in captions for caption in pair]
    opened = functools.cache(tower.open)
    lengths = functools.cache(lambda: token_lengths(opened(), texts))
    inputs = {TEXT: texts}
    wanted = Wanted(
        tower=tower,
        keys=key_rows(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts),
        batch=TEXT_BATCH,
        arrange=lambda rows: rows[np.argsort(lengths()[rows], kind="stable")],
        embed=_embedder(tower, inputs, Path(), opened, workers, elsewhere),
        name=functools.partial(_name, inputs),
        cut=lambda: int((lengths() > tower.context).sum()),
    )
    features, cut = cached_features(wanted, folder or features_folder(), progress=progress, say=say)
    if cut:
        say(f"{cut:,} of {len(texts):,} captions are longer than the {tower.context} tokens that {tower.name} reads")
    return TextFeatures(features, np.cumsum([0, *map(len, captions)], dtype=np.int64), cut)


def token_lengths(opened: Opened, texts: Sequence[str]) -> np.ndarray:
    """Count the tokens of each caption, int32 [n]; equal ones once."""
    assert opened.lengths is not None
    different = list(dict.fromkeys(texts))
    blocks = [opened.lengths(different[at : at + _TOKENIZED]) for at in range(0, len(different), _TOKENIZED)]
    known = dict(zip(different, np.concatenate([np.empty(0, np.int32), *blocks]), strict=True))
    return np.array([known[text] for text in texts], np.int32)


def run_shards(part: Path, names: Sequence[str]) -> None:
    """Compute shards of a folder in this process, with as many threads as it has.

    Raises:
        InputError: the tower is another one here, a picture is no longer what it was, or the tower gives no use of a
            number.
    """
    asked = read_asked(part)
    tower = {"image": image_tower, "text": text_tower}[asked["kind"]](**asked["tower"])
    if tower.key != part.parent.name:
        raise InputError(
            f"the {tower.kind} tower {tower.name} on {platform.node()} is {tower.key} and not {part.parent.name}: "
            "install the same weights and libraries on all machines"
        )
    opened, batch = functools.cache(tower.open), asked["batch"]
    for path, inputs in missing_shards(part, names):
        rows, name = np.arange(len(next(iter(inputs.values())))), functools.partial(_name, inputs)
        batches = [(n, rows[at : at + batch]) for n, at in enumerate(range(0, len(rows), batch))]
        embed = _embedder(tower, inputs, Path(asked["root"]), opened, torch.get_num_threads(), None)
        found = {n: to_half(features, batches[n][1], tower, name) for n, features in embed(part, batches)}
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.save(file, np.concatenate([found[n] for n, _ in batches]))


def _embedder(
    tower: Tower,
    inputs: Mapping[str, Sequence[str]],
    root: Path,
    opened: Callable[[], Opened],
    workers: int | None,
    elsewhere: Elsewhere | None,
) -> Callable[[Path, Batches], Embedded]:
    """Return what embeds batches of rows, of whose inputs each column is given."""

    def embed(part: Path, batches: Batches) -> Embedded:
        if elsewhere is not None:
            size = IMAGE_BATCH if tower.kind == "image" else TEXT_BATCH
            asked = {"kind": tower.kind, "tower": dict(tower.asked), "batch": size, "root": str(root.absolute())}
            return embedded_elsewhere(part, batches, inputs, asked, elsewhere)
        given: Iterator[tuple[int, Any]]
        if tower.kind == "image":
            given = _decoded(batches, inputs[c.IMAGE], inputs[c.SHA256], root, tower, workers or cores())
        else:
            given = ((number, [inputs[TEXT][row] for row in rows]) for number, rows in batches)
        return _embedded(opened().embed, given, 1 if tower.device == "cuda" else workers or cores())

    return embed


def _name(inputs: Mapping[str, Sequence[str]], row: int) -> str:
    """Return whose row it is, for messages."""
    return f"picture {inputs[c.IMAGE][row]!r}" if c.IMAGE in inputs else f"caption {inputs[TEXT][row][:60]!r}"


def _embedded(embed: Callable[[Any], np.ndarray], batches: Iterator[tuple[int, Any]], threads: int) -> Embedded:
    """Embed batches side by side, each by one thread: no thread waits for another, and no number depends on how many
    there are. A few batches at a time are on their way."""
    before = torch.get_num_threads()
    waiting: deque[tuple[int, Future[np.ndarray]]] = deque()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        for number, batch in batches:
            waiting.append((number, pool.submit(embed, batch)))
            if len(waiting) > 2 * threads:
                first, features = waiting.popleft()
                yield first, features.result()
        while waiting:
            first, features = waiting.popleft()
            yield first, features.result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def _decoded(
    batches: Batches, images: Sequence[str], hashes: Sequence[str], root: Path, tower: Tower, workers: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the squares of each batch, uint8 [n_rows, size, size, 3]; few enough are decoded ahead to fit in memory.

    Raises:
        InputError: a picture cannot be decoded any more.
    """
    work = functools.partial(read_squares, root=root, size=tower.size, resize_mode=tower.resize_mode)
    ahead = max(workers, DECODED_BYTES // (IMAGE_BATCH * tower.size**2 * 3))
    for at in range(0, len(batches), ahead):
        part = batches[at : at + ahead]
        whose = {int(row): number for number, rows in part for row in rows}
        left = {number: len(rows) for number, rows in part}
        found: dict[int, np.ndarray] = {}
        items = [(row, images[row], hashes[row]) for row in whose]
        with closing(map_chunks(work, items, workers=workers, chunk=IMAGE_BATCH)) as answers:
            for own, answer in answers:
                for row, square in answer or [(row, "the process decoding it crashed or hung") for row, _, _ in own]:
                    if isinstance(square, str):
                        raise InputError(f"picture {images[row]!r} is no longer to be had ({square}): {_AGAIN}")
                    found[row] = square
                    left[whose[row]] -= 1
                    if not left[whose[row]]:
                        rows = dict(part)[whose[row]]
                        yield whose[row], np.stack([found.pop(int(row)) for row in rows])
