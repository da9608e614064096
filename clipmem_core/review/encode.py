"""A text → its unit embedding under a member's own text encoder, which is rebuilt from the member's checkpoint."""

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from clipmem_core.audits.store import Audit
from clipmem_core.config import InputError
from clipmem_core.review.nearest import choose_member, unit
from clipmem_core.review.tables import Stamp, stamp
from clipmem_core.training.files import CHECKPOINT
from clipmem_core.training.mitigation.vocabulary import Vocabulary

KEPT = 2  # text encoders in memory at a time
# Building a model touches torch's random state and open_clip's list of models: one page at a time.
_ENCODING = threading.Lock()


def embed_text(audit: Audit, text: str, *, member: str = "") -> np.ndarray:
    """Embed a text as a member of an audit would embed a caption, in full precision.

    Args:
        audit: a finished audit.
        text: what to look for.
        member: whose text encoder; empty is the audit's first.

    Returns:
        Unit vector float32 [dim].

    Raises:
        InputError: the text is empty, there is no such member, or its checkpoint is missing or does not load.
    """
    if not text.strip():
        raise InputError("the text to search for is empty: write what the pictures or captions should be about")
    name = choose_member(audit.record.members, member)
    config, checkpoint = audit.record.config, checkpoint_path(audit, name)
    from clipmem_core.training.embed import text_embeddings
    from clipmem_core.training.model import tokenize

    with _ENCODING, _one_thread():
        model = _text_encoder(config.model, config.loss, config.image_size, checkpoint, stamp(checkpoint))
        known = _vocabulary(audit, name, stamp(checkpoint))
        tokens = tokenize(config.model, [text])
        read = known.read(tokens) if known else tokens
        return unit(text_embeddings(model, read, precision="fp32", device="cpu")[0])


def checkpoint_path(audit: Audit, member: str) -> Path:
    """Return the file with a member's weights: its own, or the given one that it scores.

    Raises:
        InputError: it is not there.
    """
    given = audit.member_record(member).checkpoint
    path = Path(given) if given else audit.member(member) / CHECKPOINT
    if not path.is_file():
        put_back = "put it back" if given else "run the audit again"
        raise InputError(f"checkpoint {path} of member {member} is missing: {put_back}, or search with another member")
    return path


@functools.lru_cache(maxsize=KEPT)
def _text_encoder(name: str, loss: str, image_size: int, checkpoint: Path, stamp: Stamp) -> Any:
    """Load a model and let its image encoder go, which is most of it; a file that changed is loaded anew."""
    from clipmem_core.training.model import build_model

    model = build_model(name, loss=loss, seed=0, image_size=image_size, pretrained=str(checkpoint))
    model.visual = None
    return model


@functools.lru_cache(maxsize=KEPT)
def _vocabulary(audit: Audit, member: str, stamp: Stamp) -> Vocabulary | None:
    """Return the tokens that a member reads once it is trained, counted anew where its checkpoint changed."""
    from clipmem_core.audits.member import vocabulary_of_member

    return vocabulary_of_member(audit, member)


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
