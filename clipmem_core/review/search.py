"""Search by meaning: the pairs nearest to a pair, or to a text that a member's text encoder embeds.

With a locked text tower, that encoder is the tower and the member's head. Embeddings are means of unit vectors, whose
lengths differ. A search is one exact pass over a member's file, by cosine.
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
ALL_UP_TO = 100_000  # pairs; in a larger audit only the first or the named member is searched
EMBEDDINGS = {IMAGE_SIDE: IMAGE_EMBEDDINGS, TEXT_SIDE: TEXT_EMBEDDINGS}
_BLOCK_BYTES = 1 << 20  # fits a core's cache
# Building a model touches torch's random state and open_clip's list of models: one page at a time.
_ENCODING = threading.Lock()
_ONE_TEXT: dict[str, Any] = {"device": "cpu", "precision": "fp32"}  # towers on any machine


def hits(audit: Audit, selection: Selection) -> tuple[np.ndarray, np.ndarray]:
    """Search the embeddings of pictures (`by` image) or captions (`by` text) of one member, or of all.

    A meaning is embedded by the member's text encoder; `like` is that pair's embedding; both together are averaged.
    Each member has its own space. Without a named one, the cosines of all are averaged, which finds more: of the first
    ten pairs found for 20 words among OpenClipart's captions, .50 have the word for four members, .37 for the first
    alone.

    Returns:
        At most `LIMIT` rows int64 and their cosines float32, the closest first; not to be written to.
    """
    if not selection.searched:
        raise ValueError("selection must have a meaning or a pair to be like")
    record = audit.record
    members = tuple(record.members)
    if selection.member or record.pairs > ALL_UP_TO:
        members = (choose_member(record.members, selection.member),)
    return _hits(audit, selection.meaning, selection.like, selection.by, members)


@kept(
    64, paths=lambda audit, meaning, like, side, members: [embeddings_path(audit, member, side) for member in members]
)
def _hits(audit: Audit, meaning: str, like: str, side: str, members: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    found = []
    for member in members:
        path = embeddings_path(audit, member, side)
        queries = [embed_text(audit, meaning, member=member)] if meaning else []
        if like:
            row = find_row(audit, like)
            if row is None:
                raise InputError(f"there is no pair {like!r} in audit {audit.name!r}: take another to search by")
            queries.append(normalized(vectors_at(path, [row])[0]))
        found.append(cosines(path, np.mean(queries, axis=0)))
    mean = np.mean(found, axis=0)
    rows = top_k(mean, LIMIT)
    return rows, mean[rows]


def nearest(audit: Audit, row: int, *, by: str, member: str = "", k: int) -> list[tuple[int, float]]:
    """Return at most k pairs most like one pair as (row, cosine) in one member's space, the closest first.

    `by` is `image` or `text`: which embeddings are compared. Without a member, it is the audit's first.
    """
    member = choose_member(audit.record.members, member)
    path = embeddings_path(audit, member, by)
    found = cosines(path, vectors_at(path, [row])[0])
    found[row] = np.nan
    return [(place, float(found[place])) for place in top_k(found, k).tolist()]


def embed_text(audit: Audit, text: str, *, member: str = "") -> np.ndarray:
    """Embed a text as a member of an audit embeds a caption, in full precision: a unit vector float32 [dim]."""
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
    """Return the file with a member's weights: trained here, or the given checkpoint that it scores."""
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
    """Return a member's model without its image encoder, which is most of it, and its vocabulary."""
    from clipmem_core.audits.member import vocabulary_of_member
    from clipmem_core.training.model import build_model

    config, checkpoint = audit.record.config, str(checkpoint_path(audit, member))
    if config.lock_image:
        return _locked_model(audit, member), vocabulary_of_member(audit, member)
    model = build_model(config.model, loss=config.loss, seed=0, image_size=config.image_size, pretrained=checkpoint)
    model.visual = None
    return model, vocabulary_of_member(audit, member)


def _locked_model(audit: Audit, member: str) -> Any:
    """Return a member with a locked tower, without its image encoder or head."""
    from clipmem_core.audits.locked import build_member
    from clipmem_core.training.model import load_weights

    config = dataclasses.replace(audit.record.config, **_ONE_TEXT)
    model: Any = build_member(config, towers_of(config), seed=0)
    load_weights(model, checkpoint_path(audit, member))
    model.visual = None
    return model


_text_head = kept(64, paths=_own_files)(_locked_model)  # some 300,000 weights: those of all members are cached


@lru_cache(1024)
def _text_features(config: AuditConfig, text: str) -> np.ndarray:
    """Return the locked text tower's features of a text, float32 [1, width], which the heads of all members read.

    The tower stays loaded, 90 MB of memory for the built-in one, since loading it takes seconds.
    """
    tower = towers_of(dataclasses.replace(config, **_ONE_TEXT)).text
    assert tower is not None
    return opened(tower).embed([text])


@contextmanager
def _one_thread() -> Iterator[None]:
    """Leave the other cores to other pages; a single text needs one for milliseconds."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def choose_member(members: Sequence[str], name: str) -> str:
    """Check the name of a member of an audit; the first for an empty name."""
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
    """Return a vector [dim] at length 1; a zero vector stays as it is."""
    length = float(np.linalg.norm(values))
    return values / length if length else values


def cosines(path: Path, query: np.ndarray, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
    """Return the cosines float32 [n_rows] of a vector with each row of a file of embeddings, or with some rows."""
    stored = read_array(path, shared=True)[rows]
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
    """Return the places of at most k of the highest values [n], without NaN, the highest first, ties by place."""
    places = np.flatnonzero(~np.isnan(values))
    known = values[places]
    if k <= 0 or not len(known):
        return places[:0]
    least = np.partition(known, -min(k, len(known)))[-min(k, len(known))]
    places = places[known >= least]
    return places[np.argsort(-values[places], kind="stable")][:k]
