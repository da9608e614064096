"""Pairs found by what they mean: those nearest to a pair, or to a text that a member's own text encoder embeds.

Where an audit's text tower is locked, that encoder is the tower and the member's head on it.

Embeddings are means of unit vectors, whose lengths differ. A search is one exact pass over a member's file, by cosine.
"""

import dataclasses
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from clipmem_core.audits.settings import opened, towers_of
from clipmem_core.audits.store import CONFIG, IMAGE_EMBEDDINGS, TEXT_EMBEDDINGS, Audit, read_array
from clipmem_core.config import AuditConfig, InputError
from clipmem_core.review.selection import IMAGE_SIDE, TEXT_SIDE, Selection
from clipmem_core.review.tables import find_row, kept
from clipmem_core.training.names import CHECKPOINT
from clipmem_core.training.vocabulary import Vocabulary

LIMIT = 1000  # pairs that a search finds
ALL_UP_TO = 100_000  # pairs: in a larger audit the first member alone is searched, unless another is named
EMBEDDINGS = {IMAGE_SIDE: IMAGE_EMBEDDINGS, TEXT_SIDE: TEXT_EMBEDDINGS}
_BLOCK_BYTES = 1 << 20  # stays in a core's cache while two products read it
# Building a model touches torch's random state and open_clip's list of models: one page at a time.
_ENCODING = threading.Lock()


def hits(audit: Audit, selection: Selection) -> tuple[np.ndarray, np.ndarray]:
    """Search the embeddings of pictures (`by` image) or captions (`by` text) of one member, or of all.

    A meaning is embedded by the member's own text encoder; `like` is that pair's own embedding, and the pair comes
    first. Both together ask for what lies between them. The same search again costs nothing until the index changes.

    Each member searches its own space; where none is named, the cosines of all are averaged, which finds more: of the
    first ten pairs that 20 words find among OpenClipart's captions, .50 hold the word for four members, .37 for the
    first alone.

    Returns:
        At most `LIMIT` rows int64 and their cosines float32, the closest first; not to be written to.
    """
    if not selection.searched:
        raise ValueError("selection must have a meaning or a pair to be like")
    record = audit.record
    if selection.member or record.pairs > ALL_UP_TO:
        members: tuple[str, ...] = (choose_member(record.members, selection.member),)
    else:
        members = record.members
    return _hits(audit, selection.meaning, selection.like, selection.by, members)


@kept(
    64, paths=lambda audit, meaning, like, side, members: [embeddings_path(audit, member, side) for member in members]
)
def _hits(audit: Audit, meaning: str, like: str, side: str, members: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    asked = {member: _asked(audit, member, meaning, like, side) for member in members}
    found = np.mean([cosines(embeddings_path(audit, member, side), query) for member, query in asked.items()], axis=0)
    rows = top_k(found, LIMIT)
    match = found[rows]
    rows.flags.writeable = match.flags.writeable = False
    return rows, match


def _asked(audit: Audit, member: str, meaning: str, like: str, side: str) -> np.ndarray:
    """Return what is asked for in one member's space, [dim]."""
    path = embeddings_path(audit, member, side)
    asked = [embed_text(audit, meaning, member=member)] if meaning else []
    if like:
        row = find_row(audit, like)
        if row is None:
            raise InputError(f"there is no pair {like!r} in audit {audit.name!r}: take another to search by")
        asked.append(normalized(vectors_at(path, [row])[0]))
    return np.mean(asked, axis=0)


def nearest(audit: Audit, row: int, *, by: str, member: str = "", k: int) -> list[tuple[int, float]]:
    """Return the pairs most like one pair, in one member's space.

    Args:
        audit: a finished audit.
        row: the pair's number.
        by: `image` or `text`: which of its embeddings is compared, with the same of the others.
        member: whose encoders; empty is the audit's first.
        k: how many.

    Returns:
        At most k of (row, cosine), the closest first; the pair itself is left out.
    """
    member = choose_member(audit.record.members, member)
    path = embeddings_path(audit, member, by)
    found = cosines(path, vectors_at(path, [row])[0])
    found[row] = np.nan
    return [(place, float(found[place])) for place in top_k(found, k).tolist()]


def embed_text(audit: Audit, text: str, *, member: str = "") -> np.ndarray:
    """Embed a text as a member of an audit would embed a caption, in full precision.

    Returns:
        Unit vector float32 [dim].
    """
    if not text.strip():
        raise InputError("the text to search for is empty: write what the pictures or captions should be about")
    from clipmem_core.training.model import text_embeddings, tokenize

    config, member = audit.record.config, choose_member(audit.record.members, member)
    if config.features:
        raise InputError(
            f"audit {audit.name!r} has features that were computed elsewhere, and no tower to embed a query with: "
            "take a pair and look for more like it"
        )
    with _ENCODING, _one_thread():
        if config.lock_text:
            model, read = _text_head(audit, member), _text_features(config, text)
        else:
            model, known = _text_encoder(audit, member)
            tokens = tokenize(config.model, [text])
            read = known.read(tokens) if known else tokens
        return normalized(text_embeddings(model, read, precision="fp32", device="cpu")[0])


def checkpoint_path(audit: Audit, member: str) -> Path:
    """Return the file with a member's weights: its own, or the given one that it scores."""
    given = audit.member_record(member).checkpoint
    path = Path(given) if given else audit.member(member) / CHECKPOINT
    if not path.is_file():
        put_back = "put it back" if given else "run the audit again"
        raise InputError(f"checkpoint {path} of member {member} is missing: {put_back}, or search with another member")
    return path


def _own_files(audit: Audit, member: str) -> list[Path]:
    return [audit.folder / CONFIG, checkpoint_path(audit, member)]


@kept(2, paths=_own_files)
def _text_encoder(audit: Audit, member: str) -> tuple[Any, Vocabulary | None]:
    """Return a member's model as it is trained, and the tokens that it then reads.

    Its image encoder, which is most of it, is let go.
    """
    from clipmem_core.audits.member import vocabulary_of_member
    from clipmem_core.training.model import build_model

    config, checkpoint = audit.record.config, str(checkpoint_path(audit, member))
    if config.lock_image:
        return _locked_model(audit, member), vocabulary_of_member(audit, member)
    model = build_model(config.model, loss=config.loss, seed=0, image_size=config.image_size, pretrained=checkpoint)
    model.visual = None
    return model, vocabulary_of_member(audit, member)


@kept(64, paths=_own_files)
def _text_head(audit: Audit, member: str) -> Any:
    """Return a member whose text tower is locked: a head of some 300,000 weights, so that those of all are kept."""
    return _locked_model(audit, member)


def _locked_model(audit: Audit, member: str) -> Any:
    """Return a member with a locked tower as it is trained; its image encoder or head is let go."""
    from clipmem_core.audits.locked import build_member
    from clipmem_core.training.model import load_weights

    config = _for_one_text(audit.record.config)
    model: Any = build_member(config, towers_of(config), seed=0)
    load_weights(model, checkpoint_path(audit, member))
    model.visual = None
    return model


@lru_cache(1024)
def _text_features(config: AuditConfig, text: str) -> np.ndarray:
    """Return what the locked text tower gives of a text, float32 [1, width], which the heads of all members read.

    The tower stays loaded, 90 MB of memory for the built-in one, since loading it takes seconds.
    """

    tower = towers_of(_for_one_text(config)).text
    assert tower is not None
    return opened(tower).embed([text])


def _for_one_text(config: AuditConfig) -> AuditConfig:
    """Return the config that towers are described by on any machine."""
    return dataclasses.replace(config, device="cpu", precision="fp32")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Leave the other cores to the pages of others; a single text needs one for milliseconds."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def choose_member(members: Sequence[str], name: str) -> str:
    """Return the name of a member of an audit, its first where none is named."""
    if name and name not in members:
        raise InputError(f"there is no member {name!r} in this audit (there is: {', '.join(map(str, members))})")
    return name or str(members[0])


def embeddings_path(audit: Audit, member: str, by: str) -> Path:
    """Return the file that holds a member's embeddings of every picture (`image`) or caption (`text`)."""
    if by not in EMBEDDINGS:
        raise ValueError(f"by must be one of {', '.join(EMBEDDINGS)}, not {by!r}")
    return audit.member(member) / EMBEDDINGS[by]


def vectors_of(audit: Audit, member: str, rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return μ_I and μ_T of some pairs, float32 [n_rows, dim]."""
    image, text = (vectors_at(embeddings_path(audit, member, by), rows) for by in EMBEDDINGS)
    return image, text


def vectors_at(path: Path, rows: Sequence[int]) -> np.ndarray:
    """Read the mean embeddings of some pairs from a file, float32 [n_rows, dim]."""
    stored = read_array(path, shared=True)
    for row in rows:
        if not 0 <= row < len(stored):
            raise InputError(f"{path} has no row {row}, only {len(stored):,}: delete it and run the audit again")
    return np.array(stored[rows])


def normalized(values: np.ndarray) -> np.ndarray:
    """Return a vector [dim] at length 1; one without a length stays as it is.

    Example:
        >>> normalized(np.array([3.0, 4.0])).tolist()
        [0.6, 0.8]
    """
    length = float(np.linalg.norm(values))
    return values / length if length else values


def cosines(path: Path, query: np.ndarray) -> np.ndarray:
    """Compare a vector with every row of a file of embeddings, in one pass.

    Args:
        path: of mean embeddings [n_pairs, dim].
        query: any vector of that space, [dim].

    Returns:
        float32 [n_pairs], in [−1, 1] up to rounding; 0 where a vector has no length.
    """
    stored = read_array(path, shared=True)
    n_pairs, dim = stored.shape
    if query.shape != (dim,):
        raise InputError(f"{path} has {dim} dimensions and the query {query.size}: delete it and run the audit again")
    query = normalized(query).astype(np.float32)
    found, size = np.zeros(n_pairs, dtype=np.float32), max(1, _BLOCK_BYTES // (4 * dim))
    for at in range(0, n_pairs, size):
        block = np.asarray(stored[at : at + size])
        lengths = np.sqrt(np.vecdot(block, block))
        np.divide(np.vecdot(block, query), lengths, out=found[at : at + size], where=lengths != 0)
    return found


def top_k(values: np.ndarray, k: int) -> np.ndarray:
    """Return the places of the k highest values, the highest first and of equal ones the first first.

    Args:
        values: [n]; NaN is never among them.
        k: how many at most.

    Example:
        >>> top_k(np.array([0.5, np.nan, 0.9, 0.5]), 2).tolist()
        [2, 0]
    """
    places = np.flatnonzero(~np.isnan(values))
    known = values[places]
    if k <= 0 or not len(known):
        return places[:0]
    least = np.partition(known, -min(k, len(known)))[-min(k, len(known))]
    places = places[known >= least]
    return places[np.argsort(-values[places], kind="stable")][:k]
