"""Search by meaning: the pairs closest to a text or to another pair, by captions or pictures.

A text is embedded by the locked tower or by the members of the audit. The dashboard does this in a
second process, so that its server does not load torch.
"""

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from pathlib import Path
from threading import Lock, Thread
from typing import Any, NamedTuple

import numpy as np
from pebble import ProcessExpired, ProcessPool

from clipmem_core.auditing.folder.prepare import caption_features, membership_of, sides_of
from clipmem_core.auditing.folder.settings import member_towers, resolve_device, towers_of
from clipmem_core.auditing.folder.store import (
    CONFIG,
    IMAGE_EMBEDDINGS,
    MEMBERSHIP,
    PAIRS,
    SENTENCE_TABLE,
    TEXT_EMBEDDINGS,
    Audit,
    open_embeddings,
    read_captions,
)
from clipmem_core.auditing.run.executor import open_pool
from clipmem_core.config import AuditConfig
from clipmem_core.dataset.languages import NAMES, is_read
from clipmem_core.features.tower_by_language import languages_read
from clipmem_core.mitigations import Vocabulary
from clipmem_core.review.queries import cached, find_row
from clipmem_core.review.views import CAPTION, PICTURE
from clipmem_core.scores.membership import MemberSides
from clipmem_core.training import CHECKPOINT
from clipmem_core.utils.embeddings import Vectors, unit
from clipmem_core.utils.io import InputError
from clipmem_core.utils.ragged import Ragged

LIMIT = 1000  # pairs in the result of a search
ALL_UP_TO = 100_000  # pairs; in a larger audit the embeddings of the first member are searched
ENCODERS = 4  # members whose trained text encoders are searched
SIDES = {PICTURE: IMAGE_EMBEDDINGS, CAPTION: TEXT_EMBEDDINGS}  # file of a member
_ON_CPU: dict[str, Any] = {"device": "cpu", "precision": "fp32"}  # of heads and encoders

_uses_process = False
_pool: ProcessPool | None = None
_opening = Lock()  # of the process, by several threads


class Hits(NamedTuple):
    """The pairs that a search found, the closest first."""

    rows: np.ndarray  # int64 [n]
    similarity: np.ndarray  # cosines, float32 [n]
    captions: np.ndarray  # number of the caption that matched, int64 [n]; -1 if none did


def search(
    audit: Audit, text: str = "", *, like: str = "", by: str = CAPTION, k: int = LIMIT
) -> Hits:
    """Return at most k pairs that are closest to a text, to the pair with the id `like`, or to the
    mean of both.

    By caption, the features of a locked text tower are compared, and the best caption of a pair
    counts. Otherwise, and by picture, embeddings of members are compared, and their cosines
    averaged: of ten hits for words of OpenClipart .50 were right with four members, .37 with one.
    """
    config = audit.record.config
    row = find_row(audit, like) if like else None
    if by not in SIDES:
        raise InputError(f"by must be {CAPTION!r} or {PICTURE!r}, not {by!r}")
    if like and row is None:
        raise InputError(
            f"there is no pair {like!r} in audit {audit.name!r}: choose another to search by"
        )
    if not like and not text.strip():
        raise InputError(
            "the text to search for is empty: write what the pictures or captions should be about"
        )
    if text and config.features:
        raise InputError(
            f"audit {audit.name!r} has precomputed features and cannot embed a text: search by "
            "a pair"
        )
    languages = languages_read(config)
    if not is_read(text, languages):
        only = ", ".join(NAMES[name] for name in languages)
        raise InputError(f"{config.text_tower} reads {only} only, not {text!r}: search in English")
    if by == CAPTION and (config.lock_text or config.features):
        found = _by_features(audit, text, row)
    else:
        most = 1 if audit.record.pairs > ALL_UP_TO else None if config.lock_text else ENCODERS
        found = _by_embeddings(audit, text, row, SIDES[by], tuple(audit.record.members[:most]))
    return Hits(*(values[:k] for values in found))


@cached(64, CONFIG, PAIRS)
def _by_features(audit: Audit, text: str, row: int | None) -> Hits:
    """Search the features of captions."""
    features, of_pairs = features_of_captions(audit)
    start = of_pairs.start
    queries = [unit(run(features_of_text, audit.record.config, text))[0]] if text else []
    if row is not None:
        queries.append(unit(features[start[row] : start[row + 1]].astype(np.float32)).mean(axis=0))
    query = np.mean(queries, axis=0)
    by_caption = Vectors(features.index).cosines(query)[features.rows]
    best = np.maximum.reduceat(by_caption, of_pairs.first)
    rows = _closest(best, row)
    texts = [by_caption[start[each] : start[each + 1]].argmax() for each in rows]
    captions = np.array(texts, np.int64)
    if audit.record.sentences:
        numbers = audit.read_columns(SENTENCE_TABLE, "caption")["caption"].to_numpy()
        captions = numbers[start[rows] + captions]
    return Hits(rows, best[rows], captions)


@cached(2, CONFIG, PAIRS)
def features_of_captions(audit: Audit) -> tuple[Vectors, Ragged]:
    """Return the features of all captions, and the captions of each pair."""
    return caption_features(audit), read_captions(audit)


@cached(
    64, paths=lambda audit, _, __, file, members: [audit.member(name) / file for name in members]
)
def _by_embeddings(
    audit: Audit, text: str, row: int | None, file: str, members: tuple[str, ...]
) -> Hits:
    """Search the members' embeddings of pictures or captions, a file of each."""
    by_member = []
    for member in members:
        vectors = open_embeddings(audit.member(member) / file)
        queries = [run(embed_texts, audit, [text], member)[0]] if text else []
        if row is not None:
            queries.append(unit(vectors[[row]])[0])
        by_member.append(vectors.cosines(np.mean(queries, axis=0)))
    mean = np.mean(by_member, axis=0)
    rows = _closest(mean, row)
    return Hits(rows, mean[rows], np.full(len(rows), -1))


def _closest(cosines: np.ndarray, itself: int | None) -> np.ndarray:
    """Return the rows of the highest cosines, ties in row order, without a pair itself."""
    rows = np.argsort(-cosines, kind="stable")[: LIMIT + 1]
    return rows[rows != itself][:LIMIT]


@cached(2, MEMBERSHIP)
def read_sides(audit: Audit) -> MemberSides:
    """Return which members train on each pair."""
    return sides_of(audit, audit.record.config, membership_of(audit.membership))


def use_process() -> None:
    """Run what needs torch in a process of its own, which the first call starts, so that the
    dashboard's server does not load torch and the towers."""
    global _uses_process
    _uses_process = True


def run(work: Callable[..., Any], *args: Any) -> Any:
    """Call a function that needs torch."""
    if not _uses_process:
        return work(*args)
    try:
        return _schedule(work, args).result()
    except (ProcessExpired, BrokenProcessPool) as error:
        raise InputError("the process that embeds texts was ended: try again") from error


def prepare(work: Callable[..., Any], *args: Any) -> None:
    """Call a function in the process without waiting, so that later calls find torch and the towers
    loaded."""
    if _uses_process:  # a new process has to wait for the import of torch
        Thread(target=_schedule, args=(work, args), daemon=True).start()


def _schedule(work: Callable[..., Any], args: Sequence[Any]) -> Any:
    """Hand a function to the process; start it first if there is none or it was killed."""
    global _pool
    with _opening:
        if _pool is None or not _pool.active:
            _pool = open_pool(1)
        return _pool.schedule(work, args=args)


def embed_texts(
    audit: Audit, texts: Sequence[str], member: str, features: np.ndarray | None = None
) -> np.ndarray:
    """Embed texts with a member's text encoder, in full precision: unit vectors float32 [n, dim].

    `features`: those of the texts by the locked text tower, if they are computed already.
    """
    from clipmem_core.training.model import text_embeddings, tokenize

    config = audit.record.config
    model, vocabulary = open_member(audit, member)
    if config.lock_text and config.unlock:
        # Activations where the tower is cut, of each text alone: those of a batch have one length
        opened = towers_here(config, member_towers).text.opened
        inputs = np.concatenate([opened.embed([text]) for text in texts])
    elif config.lock_text:
        each = (features_of_text(config, text) for text in texts)
        inputs = np.concatenate([*each]) if features is None else features
    else:
        inputs = tokenize(config.model, texts)
        inputs = vocabulary.read(inputs) if vocabulary else inputs
    return unit(text_embeddings(model, inputs, dataclasses.replace(config, **_ON_CPU)))


def _checkpoint(audit: Audit, member: str) -> Path:
    return audit.member(member) / CHECKPOINT


@cached(16, paths=lambda audit, member: [audit.folder / CONFIG, _checkpoint(audit, member)])
def open_member(audit: Audit, member: str) -> tuple[Any, Vocabulary | None]:
    """Return a member's model without a trained image encoder, and its vocabulary."""
    import torch

    from clipmem_core.auditing.run.member import build_member, vocabulary_of_member
    from clipmem_core.training.model import load_weights

    # few texts are too little work to share: threads that wait for a busy core take .5 s
    torch.set_num_threads(1)
    config = dataclasses.replace(audit.record.config, **_ON_CPU)
    model: Any = build_member(config, member_towers(config), seed=0)
    load_weights(model, _checkpoint(audit, member))
    if not config.lock_image:
        model.visual = None
    return model, vocabulary_of_member(audit, member)


@lru_cache(1024)
def features_of_text(config: AuditConfig, text: str) -> np.ndarray:
    """Return the locked text tower's features of a text, float32 [1, width]."""
    return towers_here(config).text.opened.embed([text])


def towers_here(config: AuditConfig, towers: Callable[[AuditConfig], Any] = towers_of) -> Any:
    """Return the locked towers as the audit opened them, whose features are cached; on the
    processor if this machine has no GPU. They stay loaded once they are open."""
    if resolve_device("auto") == "cpu":
        config = dataclasses.replace(config, device="cpu")
    return towers(config)
