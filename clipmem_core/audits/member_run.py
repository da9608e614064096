"""An audit's folder and a member's name → what that member works with: its config, its pairs, and what it may see."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.atomic import replacing, whole_archive
from clipmem_core.audits.prepare import pixels_folder, tokens_file
from clipmem_core.audits.settings import config_from
from clipmem_core.audits.store import Audit, read_prepared
from clipmem_core.config import AuditConfig
from clipmem_core.pairs.pixels import open_pixels
from clipmem_core.training.draws import draw_keys
from clipmem_core.training.loop import TrainingData
from clipmem_core.training.mitigation.vocabulary import Vocabulary, pairs_with
from clipmem_core.training.model import tokenize
from clipmem_core.training.names import model_config


@dataclass(frozen=True)
class MemberRun:
    """What a member process works with."""

    audit: Audit
    name: str
    stored: dict[str, Any]  # the audit's config.json
    config: AuditConfig
    pairs: pd.DataFrame
    membership: pd.DataFrame
    data: TrainingData
    vocabulary: Vocabulary | None = None  # once it is trained; None reads every token

    @property
    def folder(self) -> Path:
        return self.audit.member(self.name)

    def read(self, tokens: np.ndarray) -> np.ndarray:
        """Return what the member reads of some tokens once it is trained, [n, context_length]."""
        return tokens if self.vocabulary is None else self.vocabulary.read(tokens)

    @property
    def own(self) -> dict[str, Any]:
        return self.audit.member_file(self.name)


def cached_tokens(model: str, pairs: pd.DataFrame) -> np.ndarray:
    """Return tokens of all captions, int32 [n_captions, context_length], made once for all members."""
    path = tokens_file(model, pairs)
    if not whole_archive(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        tokens = tokenize(model, [caption for own in pairs[c.CAPTIONS] for caption in own])
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, tokens=tokens)
    with np.load(path) as kept:
        return kept["tokens"]


def open_member(folder: Path, name: str) -> MemberRun:
    """Read all that a member needs from its audit's folder."""
    audit = Audit(folder)
    stored, pairs, membership = audit.config, audit.pairs, audit.membership
    config = config_from(stored["config"])
    keys = draw_keys(pairs[c.PAIR_ID].tolist())
    group = membership[c.GROUP].to_numpy()
    if (group == c.CANDIDATE).sum() == (group == c.INDEPENDENT).sum():
        # Candidate k and independent k share every draw, so that f and g differ in the pair alone.
        keys[group == c.INDEPENDENT] = keys[group == c.CANDIDATE]
    tokens, start = tokens_of(pairs, config)
    rows = np.flatnonzero(membership[name].to_numpy())
    known = known_tokens(config, tokens, start, rows)
    data = TrainingData(
        pixels=open_pixels(
            pixels_folder(audit),
            rows=read_prepared(folder).cache_rows,
            root=Path(stored["root"]),
            images=pairs[c.IMAGE].tolist(),
        ),
        tokens=tokens if known is None else dataclasses.replace(known, min_df=config.text_min_df).read(tokens),
        caption_start=start,
        keys=keys,
        rows=rows,
        external=np.flatnonzero(group == c.EXTERNAL),
    )
    return MemberRun(audit, name, stored, config, pairs, membership, data, known)


def vocabulary_of_member(audit: Audit, name: str) -> Vocabulary | None:
    """Return the tokens that a member reads once it is trained; None where it reads every token."""
    config = config_from(audit.config["config"])
    if not after_training(config):
        return None  # before every caption is read for nothing
    return known_tokens(config, *tokens_of(audit.pairs, config), np.flatnonzero(audit.membership[name].to_numpy()))


def tokens_of(pairs: pd.DataFrame, config: AuditConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens of all captions, and the row that each pair's captions start at, int64 [n_pairs + 1]."""
    start = np.concatenate([[0], np.cumsum([len(own) for own in pairs[c.CAPTIONS]])]).astype(np.int64)
    return cached_tokens(config.model, pairs), start


def after_training(config: AuditConfig) -> int:
    """Return in how many trained pairs a token has to be to be read once training is over."""
    return max(config.text_min_df, config.text_forget_df)


def known_tokens(config: AuditConfig, tokens: np.ndarray, start: np.ndarray, rows: np.ndarray) -> Vocabulary | None:
    """Return the tokens that a member knows once it is trained on its pairs; None where it reads every token."""
    if not after_training(config):
        return None
    counts = pairs_with(model_config(config.model), tokens, start, rows, first=config.train_captions)
    return Vocabulary(model_config(config.model), counts, after_training(config))
