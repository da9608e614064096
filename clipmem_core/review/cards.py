"""The pairs of an audit with their scores and decisions: as cards for a page, and as pandas frames."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audit.check_table import ensure_checks
from clipmem_core.audit.store import CAPTION_TABLE, PAIRS, SCORES, WORD_TABLE, Audit, read_table
from clipmem_core.config import InputError
from clipmem_core.review.decisions import Decision, open_review
from clipmem_core.review.queries import fetch_numbered, fetch_pairs, mismatched_tables, number
from clipmem_core.review.search import hits
from clipmem_core.review.selection import Selection
from clipmem_core.scores.registry import BY_NAME, CARD, EXPORT, PAIR, ROW, scores_in

SHOWN = tuple(dict.fromkeys(name for place in (CARD, ROW, PAIR, EXPORT) for name in scores_in(place)))
OWN_CAPTIONS = "own_captions"
# scores of single captions: column of a list of them, by score
LISTED = {name: f"{name}_by_caption" for name in (c.SIMILARITY_OUT, c.WORD_MISFIT, c.MISFIT)}
SURPRISING, STRONG, STRONGEST = 1, 2, 3  # surprise of a marked word, in nats: its line is dotted, solid or double
MARKED = 3  # words of a caption at most
MARKS = "Underlined words are unlikely with the picture and the other words."
_UNSEARCHED = Selection()


@dataclass(frozen=True)
class PairCard:
    """One pair as a page shows it. A score is None if the audit has none; `match` is None without a search."""

    row: int
    pair_id: str
    image: str
    captions: tuple[str, ...]
    label: str | None
    injected: str | None
    group: str
    scores: dict[str, float | None]
    match: float | None = None
    decision: Decision | None = None


def cards(audit: Audit, rows: Sequence[int], selection: Selection = _UNSEARCHED) -> list[PairCard]:
    """Return the cards of some pairs, in the order of `rows`."""
    names = list(dict.fromkeys([*SHOWN, *([selection.order] if selection.order in BY_NAME else [])]))
    scores = fetch_numbered(audit.folder / SCORES, [f'"{c.PAIR_ID}"', f'"{c.GROUP}"', *map(number, names)], rows)
    columns = (c.PAIR_ID, c.IMAGE, c.CAPTIONS, c.LABEL, c.INJECTED)
    pairs = fetch_numbered(audit.folder / PAIRS, [f'"{column}"' for column in columns], rows)
    for row in rows:
        if row not in scores and row not in pairs:
            raise InputError(f"audit {audit.name!r} has no row {row}: open the pair from the gallery again")
        if row not in scores or row not in pairs or scores[row][0] != pairs[row][0]:
            raise mismatched_tables(audit)
    decisions = open_review(audit).decisions([pairs[row][0] for row in rows])
    hit_rows, match = hits(audit, selection) if selection.searched else (np.empty(0), np.empty(0))
    matches = dict(zip(hit_rows.tolist(), match.tolist(), strict=True))
    shown = []
    for row in rows:
        (pair_id, image, captions, label, injected), (_, group, *values) = pairs[row], scores[row]
        numbers = {name: value if math.isfinite(value) else None for name, value in zip(names, values, strict=True)}
        facts = (row, pair_id, image, tuple(map(str, captions or ())), label, injected, group, numbers)
        shown.append(PairCard(*facts, matches.get(row), decisions.get(pair_id)))
    return shown


class Word(NamedTuple):
    """A word of a caption under the word model: columns of words.parquet."""

    caption: int
    start: int
    word: str
    probability: float
    surprise: float
    better: list[str]
    better_probability: list[float]

    @property
    def likelier(self) -> str:
        """The likelier words with their probabilities."""
        return ", ".join(f"{word} {p:.0%}" for word, p in zip(self.better, self.better_probability, strict=True))

    @property
    def correction(self) -> str:
        """The likeliest correction; empty without a likelier word."""
        return f"{self.word} → {self.better[0]}" if self.better else ""


WorstCaption: TypeAlias = tuple[int, list[Word]]  # its number in the pair, and its surprising words


def caption_words(audit: Audit, pair_ids: Sequence[str], least: float = SURPRISING) -> dict[str, list[Word]]:
    """Return the words of pairs with at least a surprise, the most surprising first; empty without a word model."""
    words: dict[str, list[Word]] = {pair_id: [] for pair_id in pair_ids}
    columns = [f"coalesce({name}, []) AS {name}" if name.startswith(c.BETTER) else name for name in Word._fields]
    end = f"WHERE {c.SURPRISE} >= {least} ORDER BY {c.SURPRISE} DESC, {c.POSITION}"
    for pair_id, *values in zip(*_optional(audit, WORD_TABLE, columns, pair_ids, end=end).values(), strict=True):
        words[pair_id].append(Word(*values))
    return words


def worst_captions(audit: Audit, pair_ids: Sequence[str]) -> dict[str, WorstCaption]:
    """Return number and surprising words of the caption with the highest misfit of each pair that has one."""
    words, worst = caption_words(audit, pair_ids), [f"arg_max({c.CAPTION}, {c.MISFIT}) AS worst"]
    end = f"WHERE isfinite({c.MISFIT}) GROUP BY {c.PAIR_ID}"
    return {
        pair_id: (number, [word for word in words[pair_id] if word.caption == number][:MARKED])
        for pair_id, number in zip(*_optional(audit, CAPTION_TABLE, worst, pair_ids, end=end).values(), strict=True)
    }


def _optional(
    audit: Audit, name: str, columns: Sequence[str], pair_ids: Sequence[str], *, end: str
) -> dict[str, list[Any]]:
    """Return pair_id and columns of pairs in a table as lists, which are empty if the audit has no such table."""
    path = audit.folder / name
    return fetch_pairs(path, columns, pair_ids, end=end).to_pydict() if path.is_file() else {c.PAIR_ID: []}


def marked(caption: str, words: Sequence[Word]) -> str:
    """Return a caption as HTML, escaped, its surprising words underlined; likelier words are shown on hover."""
    parts, end = [], 0
    for word in sorted(words, key=lambda word: word.start):
        line = "double" if word.surprise >= STRONGEST else "solid" if word.surprise >= STRONG else "dotted"
        title = html.escape(f"unlikely: {word.probability:.1%}; likelier: {word.likelier}")
        style = f"text-decoration: underline {line} #d9730d 2px; text-underline-offset: .2em"
        stop = word.start + len(word.word)
        parts += [html.escape(caption[end : word.start]), f'<u style="{style}" title="{title}">']
        parts += [html.escape(caption[word.start : stop]), "</u>"]
        end = stop
    return "".join([*parts, html.escape(caption[end:])])


def listed_scores(audit: Audit, pair_ids: Sequence[str]) -> pd.DataFrame:
    """Return pair_id and own_captions of those of some pairs that the audit has.

    If the audit scores single captions, the columns `LISTED` have a list of their scores, None for a missing one.
    """
    pairs = fetch_pairs(audit.folder / PAIRS, [f'"{c.CAPTIONS}" AS {OWN_CAPTIONS}'], pair_ids).to_pydict()
    lists = [
        f'list(CASE WHEN isfinite("{name}") THEN "{name}" END ORDER BY "{c.CAPTION}") AS {listed}'
        for name, listed in LISTED.items()
    ]
    scores = _optional(audit, CAPTION_TABLE, lists, pair_ids, end=f'GROUP BY "{c.PAIR_ID}"')
    return pd.DataFrame(pairs, dtype=object).merge(pd.DataFrame(scores, dtype=object), on=c.PAIR_ID, how="left")


class AuditFrames(Audit):
    """A finished audit as pandas tables, read on access; pairs, scores and membership have the same order."""

    @property
    def decisions(self) -> pd.DataFrame:
        """One row for each pair with a decision or a note, the newest first."""
        return open_review(self).table()

    @property
    def checks(self) -> pd.DataFrame:
        """One row a pair: the results of the checks that need no model, computed if they are missing."""
        return read_table(ensure_checks(self))

    @property
    def captions(self) -> pd.DataFrame:
        """One row a caption: pair_id, number within the pair, caption, and the scores of single captions if any."""
        exploded = self.pairs[[c.PAIR_ID, c.CAPTIONS]].explode(c.CAPTIONS, ignore_index=True)
        table = exploded.rename(columns={c.CAPTIONS: "caption"})
        table.insert(1, "number", exploded.groupby(c.PAIR_ID, sort=False).cumcount())
        path = self.folder / CAPTION_TABLE
        if not path.is_file():
            return table
        scores = read_table(path).rename(columns={c.CAPTION: "number"})
        return table.merge(scores, on=[c.PAIR_ID, "number"], how="left")

    def table(self) -> pd.DataFrame:
        """Return pairs, scores and decisions in one row a pair.

        `filepath` is the picture's file, None if it lies in a shard or table; then come the columns of `pairs`, those
        of `scores`, `decision` (keep, remove, recaption; NaN if undecided) and `note`.
        """
        pairs = self.pairs
        root = self.record.pictures
        files = [str(root / image) if (root / image).is_file() else None for image in pairs[c.IMAGE]]
        pairs.insert(1, "filepath", pd.Series(files, dtype=object))
        joined = pd.concat([pairs, self.scores.drop(columns=[c.PAIR_ID])], axis=1)  # all tables have one order
        return joined.merge(self.decisions[[c.PAIR_ID, "decision", "note"]], on=c.PAIR_ID, how="left")


def open_frames(name: str) -> AuditFrames:
    """Return a finished audit's frames; `clipmem_core.open_audit` is this."""
    audit = AuditFrames.open(name)
    if not audit.finished:
        raise InputError(f"audit {name!r} is not finished: run it again to resume it")
    return audit
