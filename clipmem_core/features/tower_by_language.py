"""The text tower that the languages of the captions ask for, and which of them it reads."""

import dataclasses
from collections.abc import Mapping

from clipmem_core.config import AUTO, ENGLISH_TOWER, MULTILINGUAL_TOWER, AuditConfig
from clipmem_core.dataset.languages import NAMES, TOWER_LANGUAGES, mostly_english

_NAMED = 0.005  # share of a language that is named


def with_text_tower(config: AuditConfig, shares: Mapping[str, float]) -> AuditConfig:
    """Choose the text tower of a config with `auto` by the languages of the captions."""
    if config.text_tower != AUTO:
        return config
    english = mostly_english(shares) or config.features
    return dataclasses.replace(config, text_tower=ENGLISH_TOWER if english else MULTILINGUAL_TOWER)


def languages_read(config: AuditConfig) -> list[str]:
    """Return the languages that the locked text tower of an audit reads; empty if unknown."""
    unknown = config.features or not config.lock_text
    return [] if unknown else TOWER_LANGUAGES.get(config.text_tower, [])


def describe_languages(shares: Mapping[str, float], config: AuditConfig) -> str:
    """Return the languages of captions in words, the text tower, and which it does not read."""
    named = [name for name, share in shares.items() if share >= _NAMED]
    listed = ", ".join(f"{NAMES[name]} {100 * shares[name]:.0f} %" for name in named)
    listed = listed or "in no certain language"
    read = languages_read(config)
    if not read:
        return listed
    listed += f"; text tower: {config.text_tower}"
    if unread := [f"{NAMES[name]} is not read" for name in named if name not in read]:
        unread.append("captions are compared as strings of characters only")
        listed += f". {': '.join(unread)}"
    return listed
