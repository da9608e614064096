"""Faults of a pipeline that need no model, or only which pairs are probably wrong: repeated
captions and pictures, text that is no caption, sorted captions, and bad sources."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import scipy

from clipmem_core.dataset.checks import Captions, caption_hashes, not_captions
from clipmem_core.scores.metrics import holm
from clipmem_core.utils import columns as c

# A caption of so many pictures, or a picture with so many captions, is a fault if it also repeats
# _REPEATED_FACTOR times as often as the tenth most repeated one: series of up to 13 pictures share
# a title, and all generic captions are about equally common.
_REPEATED = 20
_REPEATED_SHARE = 0.001  # of all
_REPEATED_FACTOR = 3
_USUAL = 10
# Flags of a check are a fault from this number and share of pairs (no caption is output of a model
# by nature), or if they exceed the others by this number in a stretch of rows, which chance does at
# a share of 2 % in 1 of 10¹⁰ sets.
_FEWEST = 5
_TEXT_SHARE = 0.02
_STRETCH = 10
# Checks of texts that are no captions (`not_captions`), and of languages
_TEXT_CHECKS = (
    *("model_output", c.RECURRING_TEXT, "empty_caption", "markup", "gibberish", "file_name"),
    *("other_language", "other_script"),
)
_SORTED = 30  # rows
_ASCENDING = 0.98  # of the neighbours in a sorted list
_SOURCE_P = 0.01  # after Holm's correction
_SOURCE_WRONG = 10  # pairs
_SOURCE_FACTOR = 2  # times the rate of all other pairs


@dataclass(frozen=True, eq=False)
class Fault:
    """A fault of a pipeline: the pairs it concerns, and facts about them."""

    kind: str
    rows: np.ndarray  # int64 [n], rows of pairs.parquet, ascending
    evidence: float  # larger is stronger
    # numbers and texts by name, which the kind decides
    facts: dict[str, Any] = field(default_factory=dict)
    # first row and end of the stretch with most of the rows; None if they are scattered
    stretch: tuple[int, int] | None = None


def caption_reasons(captions: Captions, clusters: np.ndarray) -> np.ndarray:
    """Return why each text is no caption of its picture, empty for captions, object [n_captions]:
    its form, or a picture that far more different captions have than usual.

    Args:
        captions: of all pairs.
        clusters: near-duplicates share a number, int64 [n_pairs].
    """
    reasons = not_captions(captions.texts)
    firsts = np.unique(captions.owner, return_index=True)[1]
    for rows, _ in _repeated(clusters, caption_hashes(captions)[firsts]):
        reasons[np.isin(captions.owner, rows) & (reasons == "")] = c.REPEATED_PICTURE
    return reasons


def text_faults(
    pairs: pd.DataFrame, clusters: np.ndarray, checks: pd.DataFrame, reasons: np.ndarray
) -> list[Fault]:
    """Return repeated captions and pictures, texts that are no captions, and captions of other
    languages. A pair counts for one of them.

    Args:
        pairs: with the columns image and captions, in the order of the source.
        clusters: near-duplicates share a number, int64 [n_pairs].
        checks: flags by name of the check, [n_pairs]; others than those of languages are not read.
        reasons: the check that says that each text is no caption, or empty, [n_captions].
    """
    n = len(pairs)
    captions = Captions.from_pairs(pairs[c.CAPTIONS].tolist())
    hashes = caption_hashes(captions)
    firsts = np.unique(captions.owner, return_index=True)[1]
    explained = np.zeros(n, bool)
    faults = []
    for kind, keys, others, owner in (
        ("repeated caption", hashes, clusters[captions.owner], captions.owner),
        ("repeated picture", clusters, hashes[firsts], np.arange(n)),
    ):
        for positions, count in _repeated(keys, others):
            rows = np.unique(owner[positions])
            explained[rows] = True
            facts = {
                "count": count,
                "caption": captions.texts[positions[0]],
                "image": pairs[c.IMAGE].iloc[rows[0]],
            }
            faults.append(Fault(kind, rows, len(rows), facts, _stretch(rows, n)[1]))
    for name in _TEXT_CHECKS:
        if name in checks:
            flags = checks[name].fillna(False).to_numpy(bool)
        else:
            flags = np.bincount(captions.owner, reasons == name, minlength=n) > 0
        rows = np.flatnonzero(flags & ~explained)
        excess, stretch = _stretch(rows, n)
        share = _TEXT_SHARE if name == "other_script" else 0
        if len(rows) >= max(_FEWEST, share * n) or excess >= _STRETCH:
            explained[rows] = True
            facts = {"check": name, "pairs": n}
            if name == "other_language":
                others = captions.other_languages[np.isin(captions.owner, rows)]
                facts["languages"] = Counter(filter(None, others.tolist()))
            faults.append(Fault("text", rows, len(rows), facts, stretch))
    return faults


def sorted_captions(pairs: pd.DataFrame) -> list[Fault]:
    """Return the fault that captions were sorted apart from their pictures, if they are in
    alphabetical order."""
    n = len(pairs)
    texts = [captions[0].casefold() for captions in pairs[c.CAPTIONS]]
    names = [os.path.basename(image).casefold() for image in pairs[c.IMAGE]]
    named = sum(name[:3] == text[:3] for name, text in zip(names, texts, strict=True))
    if not ascending(texts) or 2 * named >= n:
        return []
    return [Fault("sorted", np.arange(n), n)]


def _repeated(keys: np.ndarray, others: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Yield the positions of each key with unusually many distinct values of `others`, and the
    number of these values."""
    n = len(np.unique(others))
    counts = pd.Series(others).groupby(keys).nunique().sort_values(ascending=False)
    # of few captions each is a class name, unless it is the only one
    usual = counts.iloc[_USUAL - 1] if len(counts) >= _USUAL else n * (len(counts) > 1)
    limit = max(_REPEATED, _REPEATED_SHARE * n, _REPEATED_FACTOR * usual)
    often = counts.index[counts >= limit]
    rest = np.count_nonzero(~np.isin(keys, often))
    if 2 * (len(counts) - len(often)) >= rest:  # else most captions are names of classes
        for key in often:
            yield np.flatnonzero(keys == key), int(counts[key])


def _stretch(rows: np.ndarray, n: int) -> tuple[int, tuple[int, int] | None]:
    """Find the stretch in which the rows outnumber the others by most. Return by how many, and the
    stretch unless chance explains it."""
    score = np.full(n + 1, -1)
    score[rows + 1] = 1
    score[0] = 0
    score = score.cumsum()
    excess = score - np.minimum.accumulate(score)
    end = int(excess.argmax())
    largest = int(excess[end])
    if largest < _STRETCH:
        return largest, None
    return largest, (int(np.flatnonzero(score[:end] == score[end] - largest)[-1]), end)


def bad_sources(pairs: pd.DataFrame, wrong: np.ndarray) -> list[Fault]:
    """Return labels, folders and shards with a higher rate of wrong pairs than all other pairs, by
    Fisher's exact test; the pairs of the worst one do not count for the next.

    Args: pairs with the columns image and label; pairs that are probably wrong for no other reason,
    bool [n_pairs].
    """
    wrong = wrong.copy()
    n = len(pairs)
    columns = [("label", pairs[c.LABEL].dropna())]
    folders = pairs[c.IMAGE].map(os.path.dirname)
    while folders.nunique() > 1:
        columns.append(("folder", folders))
        folders = folders.map(os.path.dirname)
    sources = pd.concat([f"{name} " + values.astype(str) for name, values in columns])
    rows = sources.index.to_numpy(np.int64)
    codes, names = pd.factorize(sources)
    sizes = np.bincount(codes)
    faults = []
    while total := np.count_nonzero(wrong):
        found = np.bincount(codes, wrong[rows]).astype(int)
        p_values = scipy.stats.hypergeom.sf(found - 1, n, total, sizes)
        elsewhere = (total - found) / np.maximum(n - sizes, 1)
        rate = found / sizes
        bad = (holm(p_values) <= _SOURCE_P) & (found >= _SOURCE_WRONG)
        bad &= rate >= _SOURCE_FACTOR * elsewhere
        if not bad.any():
            break
        worst = int(np.where(bad, p_values, 2).argmin())
        concerned = np.intersect1d(rows[codes == worst], np.flatnonzero(wrong))
        wrong[concerned] = False
        facts = {
            "source": names[worst],
            "pairs": int(sizes[worst]),
            "percent": 100 * rate[worst],
            "elsewhere": 100 * elsewhere[worst],  # percent
        }
        evidence = -float(np.log10(max(p_values[worst], 1e-300)))
        faults.append(Fault("source", concerned, evidence, facts))
    return faults


def ascending_stretches(texts: Sequence[str]) -> list[np.ndarray]:
    """Return the rows of stretches of 30 texts or more in alphabetical order without case."""
    values = np.array([text.casefold() for text in texts], object)
    breaks = np.flatnonzero(values[:-1] > values[1:]) + 1
    stretches = np.split(np.arange(len(texts)), breaks)
    return [rows for rows in stretches if len(rows) >= _SORTED and ascending(values[rows].tolist())]


def ascending(texts: Sequence[str]) -> bool:
    """Tell whether texts, most of them different, are in alphabetical order without case."""
    values = np.array([text.casefold() for text in texts], object)
    different = np.count_nonzero(values[:-1] != values[1:])
    rising = np.count_nonzero(values[:-1] < values[1:])
    enough = different >= max(_FEWEST, len(texts) / 2)
    return bool(enough and rising >= _ASCENDING * different)
