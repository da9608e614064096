"""Search by meaning: the pairs closest by cosine to a pair, or to a text that a member's text encoder embeds."""

import dataclasses
import gc
import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from clipmem_core.audit.settings import towers_of
from clipmem_core.audit.store import CONFIG, IMAGE_EMBEDDINGS, TEXT_EMBEDDINGS, Audit, read_array
from clipmem_core.config import AuditConfig, InputError
from clipmem_core.mitigations import Vocabulary
from clipmem_core.review.queries import cached, find_row
from clipmem_core.review.selection import IMAGE_SIDE, TEXT_SIDE, Selection
from clipmem_core.scores.alignment import unit
from clipmem_core.training.names import CHECKPOINT

LIMIT = 1000  # pairs in the result of a search
ALL_UP_TO = 100_000  # pairs; in a larger audit one member is searched, by default the first
EMBEDDINGS = {IMAGE_SIDE: IMAGE_EMBEDDINGS, TEXT_SIDE: TEXT_EMBEDDINGS}
_ENCODING = threading.Lock()  # building a model changes global state of torch and open_clip
_ON_CPU: dict[str, Any] = {"device": "cpu", "precision": "fp32"}


def hits(audit: Audit, selection: Selection) -> tuple[np.ndarray, np.ndarray]:
    """Search the embeddings of pictures or captions; return at most `LIMIT` rows and their cosines, the closest first.

    The query is the embedding of the meaning or of the pair `like`, or the mean of both. Without a named member the
    cosines of all are averaged: .50 of ten hits for words of OpenClipart were right with four members, .37 with one.
    """
    record = audit.record
    members = tuple(record.members)
    if selection.member or record.pairs > ALL_UP_TO:
        members = (choose_member(record.members, selection.member),)
    return _hits(audit, selection.meaning, selection.like, selection.by, members)


@cached(64, paths=lambda audit, meaning, like, by, members: [embeddings_path(audit, name, by) for name in members])
def _hits(audit: Audit, meaning: str, like: str, side: str, members: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    by_member = []
    for member in members:
        path = embeddings_path(audit, member, side)
        queries = [embed_text(audit, meaning, member=member)] if meaning else []
        if like:
            row = find_row(audit, like)
            if row is None:
                raise InputError(f"there is no pair {like!r} in audit {audit.name!r}: choose another to search by")
            queries.append(unit(vectors_at(path, [row]))[0])
        by_member.append(cosines(path, np.mean(queries, axis=0)))
    mean = np.mean(by_member, axis=0)
    rows = top_k(mean, LIMIT)
    return rows, mean[rows]


def embed_text(audit: Audit, text: str, *, member: str = "") -> np.ndarray:
    """Embed a text with a member's text encoder, in full precision: a unit vector float32 [dim]."""
    if not text.strip():
        raise InputError("the text to search for is empty: write what the pictures or captions should be about")
    import torch

    from clipmem_core.training.model import text_embeddings, tokenize

    config, member = audit.record.config, choose_member(audit.record.members, member)
    if config.features:
        raise InputError(f"audit {audit.name!r} has precomputed features and cannot embed a text: search by a pair")
    with _ENCODING:
        torch.set_num_threads(1)  # one text is too little work to share: threads that wait for a busy core take .5 s
        if config.lock_text:
            model, inputs = _text_head(audit, member), _text_features(config, text)
        else:
            model, vocabulary = _text_encoder(audit, member)
            inputs = tokenize(config.model, [text])
            inputs = vocabulary.read(inputs) if vocabulary else inputs
        _freeze_libraries()
        return unit(text_embeddings(model, inputs, precision="fp32", device="cpu"))[0]


@lru_cache(1)
def _freeze_libraries() -> None:
    """Exclude all that is loaded from garbage collection: Streamlit collects after each script, .3 s with torch."""
    gc.collect()
    gc.freeze()


def checkpoint_path(audit: Audit, member: str) -> Path:
    """Return the file with a member's weights, trained by the audit or supplied with --checkpoints."""
    supplied = audit.member_record(member).checkpoint
    path = Path(supplied) if supplied else audit.member(member) / CHECKPOINT
    if not path.is_file():
        advice = "put it back" if supplied else "run the audit again"
        raise InputError(f"checkpoint {path} of member {member} is missing: {advice}, or search with another member")
    return path


def _member_files(audit: Audit, member: str) -> list[Path]:
    return [audit.folder / CONFIG, checkpoint_path(audit, member)]


@cached(2, paths=_member_files)
def _text_encoder(audit: Audit, member: str) -> tuple[Any, Vocabulary | None]:
    """Return a member's model without its image encoder, and its vocabulary."""
    from clipmem_core.audit.member import vocabulary_of_member
    from clipmem_core.training.model import build_model

    config, checkpoint = audit.record.config, str(checkpoint_path(audit, member))
    if config.lock_image:
        return _locked_model(audit, member), vocabulary_of_member(audit, member)
    model = build_model(config.model, loss=config.loss, seed=0, image_size=config.image_size, pretrained=checkpoint)
    model.visual = None
    return model, vocabulary_of_member(audit, member)


def _locked_model(audit: Audit, member: str) -> Any:
    """Return a member with a locked tower, without its image encoder or head."""
    from clipmem_core.audit.member import build_member
    from clipmem_core.training.model import load_weights

    config = dataclasses.replace(audit.record.config, **_ON_CPU)
    model: Any = build_member(config, towers_of(config), seed=0)
    load_weights(model, checkpoint_path(audit, member))
    model.visual = None
    return model


_text_head = cached(64, paths=_member_files)(_locked_model)  # 300,000 weights each: all members are cached


@lru_cache(1024)
def _text_features(config: AuditConfig, text: str) -> np.ndarray:
    """Return the locked text tower's features of a text, float32 [1, width]; the tower stays loaded."""
    tower = towers_of(dataclasses.replace(config, **_ON_CPU)).text
    assert tower is not None
    return tower.open().embed([text])


def choose_member(members: Sequence[str], name: str) -> str:
    """Check the name of a member; an empty name is the first member."""
    if name and name not in members:
        raise InputError(f"there is no member {name!r} in this audit, only {', '.join(map(str, members))}")
    return name or str(members[0])


def embeddings_path(audit: Audit, member: str, by: str) -> Path:
    """Return the file of a member's embeddings of pictures (`image`) or captions (`text`)."""
    return audit.member(member) / EMBEDDINGS[by]


def vectors_at(path: Path, rows: Sequence[int]) -> np.ndarray:
    """Read the mean embeddings of some pairs from a file, float32 [n_rows, dim]."""
    stored = read_array(path, shared=True)
    for row in rows:
        if not 0 <= row < len(stored):
            raise InputError(f"{path} has no row {row}, only {len(stored):,}: delete it and run the audit again")
    return np.array(stored[rows])


def cosines(path: Path, query: np.ndarray, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
    """Return the cosines float32 [n_rows] of a vector with each row of a file of embeddings, or with some rows."""
    stored = read_array(path, shared=True)[rows]
    products = np.vecdot(stored, unit(query[None])[0].astype(np.float32))
    lengths = np.sqrt(np.vecdot(stored, stored))
    return np.divide(products, lengths, out=np.zeros(len(stored), np.float32), where=lengths != 0)


def top_k(values: np.ndarray, k: int) -> np.ndarray:
    """Return the indices of the k highest of values [n] without NaN, the highest first, ties by index."""
    order = np.argsort(-values, kind="stable")[: max(k, 0)]  # NaN comes last
    return order[~np.isnan(values[order])]
