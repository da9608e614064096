"""An audit's folder and a member's name → what that member works with: its config, its pairs, and what it may see."""

import dataclasses
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.atomic import replacing
from clipmem_core.audits.settings import config_from
from clipmem_core.audits.store import Audit, read_prepared
from clipmem_core.config import AuditConfig, data_folder, fingerprint
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


def cached_tokens(model: str, captions: list[str]) -> np.ndarray:
    """Return tokens of captions, int32 [n_captions, context_length], made once for all members."""
    key = fingerprint([model_config(model)["text_cfg"], version("open_clip_torch"), captions])
    path = data_folder() / "cache" / "tokens" / f"{key}.npy"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        tokens = tokenize(model, captions)
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.save(file, tokens)
    return np.load(path)


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
    known = known_tokens(config, after_training(config), tokens, start, rows)
    data = TrainingData(
        pixels=open_pixels(
            data_folder() / stored["pixels"],
            rows=read_prepared(folder)[0],
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
    config, pairs = config_from(audit.config["config"]), audit.pairs
    rows = np.flatnonzero(audit.membership[name].to_numpy())
    return known_tokens(config, after_training(config), *tokens_of(pairs, config), rows)


def tokens_of(pairs: pd.DataFrame, config: AuditConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens of all captions, and the row that each pair's captions start at, int64 [n_pairs + 1]."""
    captions = [caption for own in pairs[c.CAPTIONS] for caption in own]
    start = np.concatenate([[0], np.cumsum([len(own) for own in pairs[c.CAPTIONS]])]).astype(np.int64)
    return cached_tokens(config.model, captions), start


def after_training(config: AuditConfig) -> int:
    """Return in how many trained pairs a token has to be to be read once training is over."""
    return max(config.text_min_df, config.text_forget_df)


def known_tokens(
    config: AuditConfig, min_df: int, tokens: np.ndarray, start: np.ndarray, rows: np.ndarray
) -> Vocabulary | None:
    """Return the tokens that a member knows by the pairs it trains on; None where it reads every token."""
    if not min_df:
        return None
    counts = pairs_with(model_config(config.model), tokens, start, rows, first=config.train_captions)
    return Vocabulary(model_config(config.model), counts, min_df)
