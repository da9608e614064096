"""The pairs of an audit with their scores and decisions, as cards for a page."""

import base64
import html
import io
import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from clipmem_core.audit.store import (
    CAPTION_TABLE,
    PAIRS,
    SCORES,
    SENTENCE_TABLE,
    WORD_TABLE,
    Audit,
)
from clipmem_core.columns import (
    BETTER,
    BETTER_PROBABILITY,
    CAPTION,
    CAPTIONS,
    END,
    GROUP,
    IMAGE,
    INJECTED,
    LABEL,
    MARGIN_OUT,
    P_CAPTION,
    P_PAIR,
    P_WORD,
    P_WRONG,
    PAIR_ID,
    PROBABILITY,
    READ,
    REVIEW_PLACE,
    SENTENCE,
    SIMILARITY_OUT,
    START,
    SURPRISE,
    SUSPICION,
    WORD,
)
from clipmem_core.dataset.pictures import decode
from clipmem_core.dataset.readers.containers import read_bytes
from clipmem_core.io import InputError
from clipmem_core.review.decisions import Decision, open_review
from clipmem_core.review.queries import (
    CAPTION_KEY,
    fetch_numbered,
    fetch_pairs,
    mismatched_tables,
    number_sql,
)
from clipmem_core.review.search import search
from clipmem_core.review.selection import RANDOM, Selection
from clipmem_core.scores.registry import BY_NAME

OWN_CAPTIONS = "own_captions"
Marks: TypeAlias = list[dict[str, Any]]  # surprising words and wrong sentences of a caption
# the caption's place in `current`, its surprising words, and what is wrong with it
FirstCaption: TypeAlias = tuple[int, Marks, str]
PARTS = (P_WRONG, P_PAIR, P_CAPTION, P_WORD)
# scores of single captions: column of a list of them, by score
LISTED = {name: f"{name}_by_caption" for name in (*PARTS, SIMILARITY_OUT, MARGIN_OUT)}
# words of a caption at most; limits of a weak to a strong mark, in nats
MARKED = 3
_SURPRISE = (1.0, 2.5, 4.0)
_LINES = ("none", "dotted", "solid", "double")
MARKS = "Underlined words are unlikely with the picture and the other words."
SENTENCE_MARKS = "Underlined sentences are probably of another picture's caption."
# orders in which the worst caption of a pair says what is wrong
BY_CAPTION = (SUSPICION, REVIEW_PLACE, P_WRONG)
LIKELY = 0.5  # probability from which a caption is probably wrong
_UNSEARCHED = Selection()


@dataclass(frozen=True)
class PairCard:
    """One pair as a page shows it. A score is None if the audit has none; `match` is None without a
    search."""

    row: int
    pair_id: str
    caption_key: int
    image: str
    captions: tuple[str, ...]
    label: str | None
    injected: str | None
    group: str
    scores: dict[str, float | None]
    match: float | None
    matched: int | None  # number of the caption that a search matched
    decision: Decision

    @property
    def current(self) -> tuple[str, ...]:
        """The captions after recaptions and replacements."""
        return self.decision.captions or self.captions


def cards(audit: Audit, rows: Sequence[int], selection: Selection = _UNSEARCHED) -> list[PairCard]:
    """Return the cards of some pairs, in the order of `rows`."""
    columns = [CAPTION_KEY, PAIR_ID, IMAGE, CAPTIONS, LABEL, INJECTED]
    pairs = fetch_numbered(audit.folder / PAIRS, columns, rows)
    columns = [PAIR_ID, f'"{GROUP}"', *map(number_sql, BY_NAME)]
    scores = fetch_numbered(audit.folder / SCORES, columns, rows)
    for row in rows:
        if row not in pairs:
            raise InputError(
                f"audit {audit.name!r} has no row {row}: open the pair from the gallery again"
            )
        if row not in scores or scores[row][0] != pairs[row][1]:
            raise mismatched_tables(audit)
    decisions = open_review(audit).decisions([pairs[row][1] for row in rows])
    matches: dict[int, tuple[float, int | None]] = {}
    if selection.searched:
        found = search(audit, selection.meaning, like=selection.like, by=selection.by)
        for row, cosine, caption in zip(*map(np.ndarray.tolist, found), strict=True):
            matches[row] = cosine, None if caption == -1 else caption
    shown = []
    for row in rows:
        key, pair_id, image, captions, label, injected = pairs[row]
        _, group, *values = scores[row]
        match, matched = matches.get(row, (None, None))
        card = PairCard(
            row=row,
            pair_id=pair_id,
            caption_key=key,
            image=image,
            captions=tuple(map(str, captions or ())),
            label=label,
            injected=injected,
            group=group,
            scores={
                name: value if math.isfinite(value) else None
                for name, value in zip(BY_NAME, values, strict=True)
            },
            match=match,
            matched=matched,
            decision=decisions.get(pair_id, Decision(pair_id)),
        )
        shown.append(card)
    return shown


def shown_score(order: str) -> str:
    """Return the score that pairs show in an order: p_wrong in the orders of suspicion and of
    reviews."""
    return P_WRONG if order in (*BY_CAPTION, RANDOM) else order


def make_jpeg(root: Path, image: str, side: int) -> bytes:
    """Return a picture as a JPEG of at most `side` pixels."""
    picture = decode(read_bytes(root, image), least=side)[0]
    file = io.BytesIO()
    picture.thumbnail((side, side))
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()


def data_url(jpeg: bytes) -> str:
    """Return a URL that holds a JPEG itself."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def suspicious_captions(audit: Audit, pair_ids: Sequence[str]) -> dict[str, int]:
    """Return the number of the caption with the highest p_wrong, else the lowest similarity_out, of
    some pairs."""
    order = f"{P_WRONG} DESC NULLS LAST, {SIMILARITY_OUT} NULLS LAST, {CAPTION}"
    first = f"first({CAPTION} ORDER BY {order}) AS number"
    table = fetch_pairs(
        audit.folder / CAPTION_TABLE, [first], pair_ids, end=f'GROUP BY "{PAIR_ID}"'
    )
    return {row[PAIR_ID]: row["number"] for row in table.to_pylist()}


def explain_captions(
    audit: Audit, pair_ids: Sequence[str]
) -> tuple[dict[str, dict[int, str]], dict[str, dict[int, Marks]]]:
    """Return what is probably wrong with the captions of some pairs, and their surprising words, by
    pair and caption.

    The caption of another picture has no such words. start and end of a word count characters.
    strength is the number of limits in `SURPRISE` that it exceeds, rank is 1 for the most
    surprising word. better has the likeliest word in its place, in its case, and its probability,
    if the caption is likelier right with it than as it is, and probably right with it.
    """
    reasons = dict[str, dict[int, str]]()
    marks = _surprising_words(audit, pair_ids)
    columns = [CAPTION, READ, *(f"{number_sql(name)} AS {name}" for name in PARTS)]
    for row in fetch_pairs(audit.folder / CAPTION_TABLE, columns, pair_ids).to_pylist():
        pair_id = row[PAIR_ID]
        caption = row[CAPTION]
        right = 1 - row[P_WRONG]
        of_pair = marks.get(pair_id, {})
        other = row[P_PAIR] + row[P_CAPTION]
        for word in of_pair.get(caption, []):
            if not word.pop("repaired") > max(right, LIKELY):
                word["better"] = []
        if not row[READ]:
            reasons.setdefault(pair_id, {})[caption] = "Not read by the text tower"
        if not right <= 1 - LIKELY:
            continue
        if max(other, row[P_WORD]) < LIKELY:
            reason = (
                f"Probably wrong ({percent(1 - right)}): another picture's caption, or one word"
            )
        elif other > row[P_WORD]:
            reason = f"Probably another picture's caption ({percent(other)})"
            of_pair.pop(caption, None)
        else:
            worst = [word[WORD] for word in of_pair.get(caption, []) if word["rank"] == 1]
            reason = (
                f"One word is probably wrong{''.join(f': {word}' for word in worst)} "
                f"({percent(row[P_WORD])})"
            )
        reasons.setdefault(pair_id, {})[caption] = reason
    for (pair_id, caption), sentences in _wrong_sentences(audit, pair_ids).items():
        numbers = " and ".join(f"{mark[SENTENCE] + 1:,}" for mark in sentences)
        which = f"Sentence {numbers} is" if len(sentences) == 1 else f"Sentences {numbers} are"
        reasons.setdefault(pair_id, {})[caption] = f"{which} probably of another picture's caption"
        others = [
            word
            for word in marks.get(pair_id, {}).get(caption, [])
            if all(word["end"] <= mark[START] or mark["end"] <= word[START] for mark in sentences)
        ]
        listed = sorted([*others, *sentences], key=lambda mark: mark[START])
        marks.setdefault(pair_id, {})[caption] = listed
    return reasons, marks


def _wrong_sentences(audit: Audit, pair_ids: Sequence[str]) -> dict[tuple[str, int], Marks]:
    """Return marks for the sentences that probably belong to another picture, by pair and
    caption."""
    columns = [f'"{name}"' for name in (CAPTION, SENTENCE, START, END, P_CAPTION)]
    end = f'WHERE "{P_CAPTION}" > {LIKELY} ORDER BY "{CAPTION}", "{START}"'
    shown = dict[tuple[str, int], Marks]()
    for row in fetch_pairs(audit.folder / SENTENCE_TABLE, columns, pair_ids, end=end).to_pylist():
        hint = f"probably of another picture's caption ({percent(row[P_CAPTION])})"
        mark = row | {"strength": len(_SURPRISE), "hint": hint, "rank": 0, "better": [], WORD: ""}
        shown.setdefault((row[PAIR_ID], row[CAPTION]), []).append(mark)
    return shown


def _surprising_words(audit: Audit, pair_ids: Sequence[str]) -> dict[str, dict[int, Marks]]:
    """Return the most surprising words; repaired is the probability that the caption is right with
    a likelier word."""
    shown = dict[str, dict[int, Marks]]()
    rank = (
        f'row_number() OVER (PARTITION BY "{PAIR_ID}", "{CAPTION}" '
        f'ORDER BY "{SURPRISE}" DESC) AS rank'
    )
    repaired = (
        f'coalesce("{P_WRONG}" * "{BETTER_PROBABILITY}"[1] '
        f'/ greatest(1 - "{PROBABILITY}", 1e-9), 0) AS repaired'
    )
    columns = [CAPTION, START, WORD, SURPRISE, PROBABILITY, BETTER, BETTER_PROBABILITY]
    columns += [rank, repaired]
    end = (
        f'WHERE "{SURPRISE}" > {_SURPRISE[0]} QUALIFY rank <= {MARKED} '
        f'ORDER BY "{CAPTION}", "{START}"'
    )
    for row in fetch_pairs(audit.folder / WORD_TABLE, columns, pair_ids, end=end).to_pylist():
        word = row[WORD]
        likelier = row[BETTER] or []
        if word[:1].isupper():
            likelier = [other[:1].upper() + other[1:] for other in likelier]
        better = list(zip(likelier, map(percent, row[BETTER_PROBABILITY] or []), strict=True))
        listed = f"; likelier: {', '.join(map(' '.join, better[:MARKED]))}" if better else ""
        hint = f"unlikely: {percent(row[PROBABILITY])}{listed}"
        strength = sum(row[SURPRISE] > low for low in _SURPRISE)
        mark = row | {
            "end": row[START] + len(word),
            "strength": strength,
            "hint": hint,
            "better": better[:1],
        }
        shown.setdefault(row[PAIR_ID], {}).setdefault(row[CAPTION], []).append(mark)
    return shown


def percent(probability: float) -> str:
    """Return a probability in percent."""
    if not 0.001 <= probability <= 0.995:
        return "under 0.1 %" if probability < 0.001 else "over 99 %"
    return f"{100 * probability:.{0 if probability >= 0.1 else 1}f} %"


def first_captions(
    audit: Audit, shown: Sequence[PairCard], selection: Selection
) -> dict[str, FirstCaption]:
    """Return the current caption to show first of each card by pair_id.

    That is the caption that a search matched, else the first with the words of a filter, else the
    suspicious one. In the orders `BY_CAPTION` it has its surprising words and what is wrong, unless
    it was changed.
    """
    ids = [card.pair_id for card in shown]
    worst = suspicious_captions(audit, ids)
    firsts = dict[str, FirstCaption]()
    reasons, marks = explain_captions(audit, ids) if selection.order in BY_CAPTION else ({}, {})
    searched = _folded(selection.words).split()
    for card in shown:
        number = card.matched
        if number is None and searched:
            number = next(
                (
                    place
                    for place, text in enumerate(map(_folded, card.captions))
                    if all(word in text for word in searched)
                ),
                None,
            )
        if number is None:
            number = worst.get(card.pair_id, 0)
        text = "".join(card.captions[number : number + 1])
        if text in card.current:
            words = marks.get(card.pair_id, {}).get(number, [])
            reason = reasons.get(card.pair_id, {}).get(number, "")
            firsts[card.pair_id] = card.current.index(text), words, reason
        else:
            firsts[card.pair_id] = min(number, len(card.current) - 1), [], ""
    return firsts


def from_sentence(caption: str, marks: Marks) -> tuple[str, Marks]:
    """Return the part of a caption from its first marked sentence on, and the marks in it."""
    first = next((mark[START] for mark in marks if SENTENCE in mark), 0)
    if not first:
        return caption, marks
    moved = 2 - first
    later = [mark for mark in marks if mark[START] >= first]
    moved_marks = [mark | {name: mark[name] + moved for name in (START, END)} for mark in later]
    return f"… {caption[first:]}", moved_marks


def marks_note(firsts: Mapping[str, FirstCaption]) -> str:
    """Return the note on underlined words and sentences; empty if none is underlined."""
    of_sentences = {SENTENCE in mark for _, marks, _ in firsts.values() for mark in marks}
    notes = {False: MARKS, True: SENTENCE_MARKS}
    return " ".join(notes[each] for each in sorted(of_sentences))


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).upper().lower()


def marked(caption: str, words: Sequence[dict[str, Any]]) -> str:
    """Return a caption as escaped HTML, its surprising words underlined, with likelier words on
    hover."""
    parts = []
    done = 0
    for word in words:
        style = (
            f"text-decoration: underline {_LINES[word['strength']]} #d9660a 2px; "
            "text-underline-offset: .2em"
        )
        text = html.escape(caption[word["start"] : word["end"]])
        title = html.escape(word["hint"])
        parts += [
            html.escape(caption[done : word["start"]]),
            f'<u style="{style}" title="{title}">{text}</u>',
        ]
        done = word["end"]
    return "".join([*parts, html.escape(caption[done:])])


def listed_scores(audit: Audit, pair_ids: Sequence[str]) -> pd.DataFrame:
    """Return pair_id and own_captions of some pairs, and the lists `LISTED` of the scores of their
    captions if any."""
    pairs = fetch_pairs(audit.folder / PAIRS, [f"{CAPTIONS} AS {OWN_CAPTIONS}"], pair_ids)
    table = pd.DataFrame(pairs.to_pydict(), dtype=object)
    lists = [
        f'list(CASE WHEN isfinite("{name}") THEN "{name}" END ORDER BY "{CAPTION}") AS {listed}'
        for name, listed in LISTED.items()
    ]
    scores = fetch_pairs(audit.folder / CAPTION_TABLE, lists, pair_ids, end=f'GROUP BY "{PAIR_ID}"')
    return table.merge(pd.DataFrame(scores.to_pydict(), dtype=object), on=PAIR_ID, how="left")
