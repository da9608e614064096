"""Embeds texts and pictures with the towers and members of an audit, in this process or in one of
its own."""

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import numpy as np
from pebble import ProcessExpired, ProcessPool

from clipmem_core.auditing.folder.settings import member_towers, resolve_device, towers_of
from clipmem_core.auditing.folder.store import CONFIG, Audit
from clipmem_core.auditing.run.executor import open_pool
from clipmem_core.config import AuditConfig
from clipmem_core.mitigations import Vocabulary
from clipmem_core.review.queries import cached
from clipmem_core.training.names import CHECKPOINT
from clipmem_core.utils.embeddings import unit
from clipmem_core.utils.io import InputError

_TYPED = 2  # texts at most, which a page asks about
_ON_CPU: dict[str, Any] = {"device": "cpu", "precision": "fp32"}  # of heads and encoders

_uses_process = False
_pool: ProcessPool | None = None
_opening = Lock()  # of the process, by several threads


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


def embed_texts(audit: Audit, texts: Sequence[str], member: str) -> np.ndarray:
    """Embed texts with a member's text encoder, in full precision: unit vectors float32 [n,
    dim]."""
    config = audit.record.config
    import torch

    from clipmem_core.training.model import text_embeddings, tokenize

    # few texts are too little work to share: threads that wait for a busy core take .5 s
    torch.set_num_threads(1)
    model, vocabulary = _open_member(audit, member)
    if config.lock_text and config.unlock:
        inputs = activations_of(config, texts)
    elif config.lock_text:
        inputs = text_features_of(config, texts)
    else:
        inputs = tokenize(config.model, texts)
        inputs = vocabulary.read(inputs) if vocabulary else inputs
    return unit(text_embeddings(model, inputs, precision="fp32", device="cpu"))


def embed_pictures(audit: Audit, features: np.ndarray, member: str) -> np.ndarray:
    """Embed features of pictures with a member's head, in full precision: unit vectors float32 [n,
    dim]."""
    import torch

    from clipmem_core.training.model import encode_image

    with torch.inference_mode():
        torch.set_num_threads(1)
        model, _ = _open_member(audit, member)
        return encode_image(model, torch.from_numpy(features).float()).numpy()


def checkpoint_path(audit: Audit, member: str) -> Path:
    """Return the file with a member's weights."""
    path = audit.member(member) / CHECKPOINT
    if not path.is_file():
        raise InputError(
            f"checkpoint {path} of member {member} is missing: run the audit again, or search "
            "with another member"
        )
    return path


@cached(16, paths=lambda audit, member: [audit.folder / CONFIG, checkpoint_path(audit, member)])
def _open_member(audit: Audit, member: str) -> tuple[Any, Vocabulary | None]:
    """Return a member's model without a trained image encoder, and its vocabulary."""
    from clipmem_core.auditing.run.member import build_member, vocabulary_of_member
    from clipmem_core.training.model import load_weights

    config = dataclasses.replace(audit.record.config, **_ON_CPU)
    model: Any = build_member(config, member_towers(config), seed=0)
    load_weights(model, checkpoint_path(audit, member))
    if not config.lock_image:
        model.visual = None
    return model, vocabulary_of_member(audit, member)


def activations_of(config: AuditConfig, texts: Sequence[str]) -> np.ndarray:
    """Return the activations of texts where the text tower is cut, float32 [n, positions · width],
    each computed alone: those of a batch have one length."""
    text = towers_here(config, member_towers).text
    return np.concatenate([text.opened.embed([each]) for each in texts])


def text_features_of(config: AuditConfig, texts: Sequence[str]) -> np.ndarray:
    """Return the locked text tower's features of texts, float32 [n, width]; those of more than a
    few, which were typed, are cached on disk."""
    if len(texts) <= _TYPED:
        return np.concatenate([features_of_text(config, text) for text in texts])
    from clipmem_core.features.embed import FeatureExtractor  # torch

    return FeatureExtractor(towers_here(config).text).captions(texts)[:].astype(np.float32)


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
