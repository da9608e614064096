"""The pairs of an audit with their scores and decisions, as cards for a page, and what is probably
wrong with their captions."""

import base64
import html
import io
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd

from clipmem_core.auditing.folder.store import (
    CAPTION_TABLE,
    PAIRS,
    SCORES,
    SENTENCE_TABLE,
    WORD_TABLE,
    Audit,
)
from clipmem_core.dataset.containers import read_bytes
from clipmem_core.dataset.pictures import decode
from clipmem_core.review.decisions import Decision, open_review
from clipmem_core.review.queries import CAPTION_KEY, fetch_numbered, fetch_pairs, number_sql
from clipmem_core.review.search import search
from clipmem_core.review.views import RANDOM, Selection
from clipmem_core.scores.registry import BY_NAME
from clipmem_core.utils.columns import (
    CAPTION,
    CHECK,
    END,
    MARGIN_OUT,
    P_CAPTION,
    P_CHECK,
    P_PAIR,
    P_WORD,
    P_WRONG,
    PAIR_ID,
    PARTS,
    RECURRING_TEXT,
    REPEATED_PICTURE,
    REVIEW_PLACE,
    SENTENCE,
    SIMILARITY_OUT,
    START,
    SUSPICION,
    WORD,
)
from clipmem_core.utils.io import InputError

OWN_CAPTIONS = "own_captions"
REPLACES = "replaces"  # optional column: the caption of the pair that a candidate would replace
Marks: TypeAlias = list[dict[str, Any]]  # unlikely words and wrong sentences of a caption
# position of the caption in `current`, its unlikely words, and what is wrong with it
FirstCaption: TypeAlias = tuple[int, Marks, str]
PROBABILITIES = (P_WRONG, *PARTS)
# scores of single captions: column of a list of them, by score
LISTED = {name: f"{name}_by_caption" for name in (*PROBABILITIES, SIMILARITY_OUT, MARGIN_OUT)}
# The part of p_wrong that is largest, in tables
WRONG_WORDS = {P_CHECK: "no caption", P_PAIR: "all captions", P_CAPTION: "caption", P_WORD: "word"}
# What is probably wrong with a caption, by the largest part of its p_wrong; if that is p_check, by
# the reason of `CHECK`
REASONS = {
    "file_name": "No caption, but a file name.",
    "model_output": "No caption, but an answer or error of a captioning service, or a placeholder.",
    "markup": "Markup instead of a caption.",
    "gibberish": "Gibberish.",
    "empty_caption": "No caption: no word in it.",
    REPEATED_PICTURE: "Probably a placeholder picture: many different captions have it.",
    RECURRING_TEXT: "Says nothing about the picture: the text recurs and fits no picture.",
    "unread": "Not read by the text tower",
    "pair": "All captions probably belong to another picture ({sure}).",
    "unsure": "Probably wrong ({sure}): another picture's caption, or one word.",
    "caption": "This caption probably belongs to another picture ({sure}).",
    "word": "One word is probably wrong{word} ({sure}).",
}
MARKED = 3  # words of a caption at most
_LINES = ("none", "dotted", "solid", "double")
MARKS = (
    "Underlined words are unlikely with the picture and the other words; an underlined sentence "
    "probably is of another picture's caption."
)
# orders in which the worst caption of a pair says what is wrong
BY_CAPTION = (SUSPICION, REVIEW_PLACE, P_WRONG)
LIKELY = 0.5  # probability from which a caption is probably wrong
_UNSEARCHED = Selection()
# Limits of a weak to a strong mark, in nats: 1, 2.5 and 4. `repaired` is the probability that the
# caption is right with the likeliest word, if it is wrong as it is with probability `p_wrong`.
_WORDS = [
    'caption, start, start + length(word) AS "end", word, probability, better_probability',
    # likelier words begin as the word does
    """
        if(word[1] != lower(word[1]), [upper(other[1]) || other[2:] for other in better], better)
        AS better
    """,
    "(surprise > 1)::INT + (surprise > 2.5)::INT + (surprise > 4)::INT AS strength",
    "row_number() OVER (PARTITION BY pair_id, caption ORDER BY surprise DESC) AS rank",
    "p_wrong * better_probability[1] / greatest(1 - probability, 1e-9) AS repaired",
]
# One of `REASONS`, or the reason of `CHECK`; null if the caption is probably right
_FAULTS = [
    f"caption, {number_sql(P_WRONG)} AS wrong",
    *(f"nullif({number_sql(name)}, 'nan'::DOUBLE) AS {name}_part" for name in PARTS),
    "greatest(p_check_part, p_pair_part, p_caption_part, p_word_part) AS largest",
    f"""
        CASE WHEN NOT (isfinite(wrong) AND wrong >= {LIKELY}) THEN if(read, NULL, 'unread')
        WHEN p_check_part = largest THEN "{CHECK}"
        WHEN p_pair_part = largest AND count(*) OVER (PARTITION BY pair_id) > 1 THEN 'pair'
        WHEN largest < {LIKELY} THEN 'unsure'
        WHEN p_word_part = largest THEN 'word' ELSE 'caption' END AS fault
    """,
]
_MOST_SURPRISING = f"WHERE surprise > 1 QUALIFY rank <= {MARKED} ORDER BY caption, start"
# A wrong sentence has the strongest mark
_SENTENCES = [
    f"""
    caption, sentence, start, "end", p_caption, {len(_LINES) - 1} AS strength, 0 AS rank,
    [] AS better, '' AS word
"""
]
_WRONG_SENTENCES = f"WHERE p_caption > {LIKELY} ORDER BY caption, start"
_MOST_SUSPICIOUS = (
    "first(caption ORDER BY p_wrong DESC NULLS LAST, similarity_out NULLS LAST, caption) AS number"
)


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
    matched: int  # number of the caption that a search matched, -1: none
    decision: Decision

    @property
    def current(self) -> tuple[str, ...]:
        """The captions after recaptions and replacements."""
        return self.decision.captions or self.captions


def cards(audit: Audit, rows: Sequence[int], selection: Selection = _UNSEARCHED) -> list[PairCard]:
    """Return the cards of some pairs, in the order of `rows`."""
    columns = ["pair_id", CAPTION_KEY, "image", "captions", "label", "injected"]
    pairs = fetch_numbered(audit.folder / PAIRS, columns, rows)
    values = [f"CASE WHEN isfinite({score}) THEN {score} END" for score in map(number_sql, BY_NAME)]
    scores = fetch_numbered(audit.folder / SCORES, ['"group"', *values], rows)
    if missing := set(rows) - set(pairs):
        raise InputError(
            f"audit {audit.name!r} has no row {min(missing)}: open the pair from the gallery again"
        )
    decisions = open_review(audit).decisions([pair_id for pair_id, *_ in pairs.values()])
    matches = {}
    if selection.searched:
        found = search(audit, selection.meaning, like=selection.like, by=selection.by)
        matched_captions = zip(found.similarity.tolist(), found.captions.tolist(), strict=True)
        matches = dict(zip(found.rows.tolist(), matched_captions, strict=True))
    shown = []
    for row in rows:
        pair_id, key, image, captions, label, injected = pairs[row]
        group, *of_scores = scores[row]
        by_name = dict(zip(BY_NAME, of_scores, strict=True))
        texts = tuple(captions)
        match, matched = matches.get(row, (None, -1))
        facts = row, pair_id, key, image, texts, label, injected
        shown.append(PairCard(*facts, group, by_name, match, matched, decisions[pair_id]))
    return shown


def shown_score(order: str) -> str:
    """Return the score that pairs show in an order: p_wrong if the most likely wrong ones
    come first, and in reviews."""
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
    path = audit.folder / CAPTION_TABLE
    table = fetch_pairs(path, [_MOST_SUSPICIOUS], pair_ids, end="GROUP BY pair_id")
    return {row[PAIR_ID]: row["number"] for row in table.to_pylist()}


@dataclass
class Explained:
    """What is probably wrong with the captions of a pair."""

    reasons: dict[int, str] = field(default_factory=dict)  # by number of the caption
    # unlikely words and wrong sentences, by number of the caption
    marks: dict[int, Marks] = field(default_factory=dict)
    wrong: tuple[int, ...] = ()  # numbers of the captions that are probably wrong
    whole: bool = False  # all captions are wrong, or the picture is a placeholder


def explain_captions(audit: Audit, pair_ids: Sequence[str]) -> dict[str, Explained]:
    """Return what is probably wrong with the captions of some pairs, by pair_id.

    The reason of a caption names the largest part of p_wrong. A caption of another picture has no
    marked words. A mark has start and end (in characters), strength (how many limits the word
    exceeds), rank (1: the least likely word of the caption), and better: the likeliest word at this
    position with its probability. better is empty unless that word makes the caption probably
    right, and likelier right than it is.
    """
    explained = defaultdict[str, Explained](Explained)
    scores = _by_caption(audit, CAPTION_TABLE, _FAULTS, "", pair_ids)
    words = _by_caption(audit, WORD_TABLE, _WORDS, _MOST_SURPRISING, pair_ids)
    for (pair_id, caption), of_caption in words.items():
        right = 1 - scores[pair_id, caption][0]["wrong"] if scores else 0.0
        explained[pair_id].marks[caption] = [_word_mark(word, right) for word in of_caption]
    for (pair_id, caption), (row,) in scores.items():
        pair = explained[pair_id]
        fault = row["fault"]
        if fault is None:
            continue
        worst = [f": {word[WORD]}" for word in words[pair_id, caption] if word["rank"] == 1]
        sure = percent(row["wrong"])
        pair.reasons[caption] = REASONS[fault].format(sure=sure, word="".join(worst))
        if fault != "unread":
            pair.wrong += (caption,)
            pair.whole |= fault in ("pair", REPEATED_PICTURE)
            if fault not in ("word", "unsure"):
                pair.marks.pop(caption, None)
    sentences = _by_caption(audit, SENTENCE_TABLE, _SENTENCES, _WRONG_SENTENCES, pair_ids)
    for (pair_id, caption), of_caption in sentences.items():
        numbers = " and ".join(f"{mark[SENTENCE] + 1:,}" for mark in of_caption)
        pair = explained[pair_id]
        pair.reasons[caption] = f"Probably of another picture's caption: sentence {numbers}"
        outside = [
            word
            for word in pair.marks.get(caption, [])
            if all(word[END] <= mark[START] or mark[END] <= word[START] for mark in of_caption)
        ]
        for mark in of_caption:
            mark["hint"] = f"probably of another picture's caption ({percent(mark[P_CAPTION])})"
        pair.marks[caption] = sorted([*outside, *of_caption], key=lambda mark: mark[START])
    return explained


def _by_caption(
    audit: Audit, table: str, columns: Sequence[str], end: str, pair_ids: Sequence[str]
) -> dict[tuple[str, int], Marks]:
    """Return rows of a table of words or sentences by pair_id and number of the caption."""
    rows = defaultdict[tuple[str, int], Marks](list)
    for row in fetch_pairs(audit.folder / table, columns, pair_ids, end=end).to_pylist():
        rows[row[PAIR_ID], row[CAPTION]].append(row)
    return rows


def _word_mark(row: dict[str, Any], right: float) -> dict[str, Any]:
    """Return the mark of an unlikely word; `right`: the probability that its caption is right."""
    likelier = zip(row["better"] or [], row["better_probability"] or [], strict=True)
    better = [(word, percent(probability)) for word, probability in likelier]
    listed = f"; likelier: {', '.join(map(' '.join, better[:MARKED]))}" if better else ""
    is_repaired = (row["repaired"] or 0) > max(right, LIKELY)
    return row | {
        "hint": f"unlikely: {percent(row['probability'])}{listed}",
        "better": better[:1] if is_repaired else [],
    }


def percent(probability: float) -> str:
    """Return a probability in percent."""
    if not 0.001 <= probability <= 0.995:
        return "under 0.1 %" if probability < 0.001 else "over 99 %"
    return f"{100 * probability:.{0 if probability >= 0.1 else 1}f} %"


def first_captions(
    audit: Audit, shown: Sequence[PairCard], selection: Selection
) -> dict[str, FirstCaption]:
    """Return the current caption to show first of each card by pair_id.

    A search shows the caption that it matched, a filter by words the first caption with these
    words, every other order the caption most likely wrong. In the orders `BY_CAPTION` a caption has
    its unlikely words and the reason, unless it was changed.
    """
    ids = [card.pair_id for card in shown]
    worst = suspicious_captions(audit, ids)
    explained = explain_captions(audit, ids) if selection.order in BY_CAPTION else {}
    searched = _folded(selection.words).split()
    firsts = dict[str, FirstCaption]()
    for card in shown:
        with_words = (
            number
            for number, text in enumerate(map(_folded, card.captions))
            if searched and all(word in text for word in searched)
        )
        number = card.matched
        if number < 0:
            number = next(with_words, worst.get(card.pair_id, 0))
        text = card.captions[number]
        if text in card.current:
            about = explained.get(card.pair_id, Explained())
            reason = about.reasons.get(number, "")
            firsts[card.pair_id] = card.current.index(text), about.marks.get(number, []), reason
        else:
            firsts[card.pair_id] = min(number, len(card.current) - 1), [], ""
    return firsts


def caption_shown(captions: Sequence[str], first: FirstCaption) -> tuple[str, Marks, list[str]]:
    """Return the most suspicious caption, from its first marked sentence on, its marks, and what is
    wrong with likelier words."""
    number, marks, reason = first
    caption = captions[number]
    if start := next((mark[START] for mark in marks if SENTENCE in mark), 0):
        caption = f"… {caption[start:]}"
        later = [mark for mark in marks if mark[START] >= start]
        marks = [mark | {end: mark[end] + 2 - start for end in (START, END)} for mark in later]
    better = [f"{mark['word']} → {mark['better'][0][0]}" for mark in marks if mark["better"]]
    return caption, marks, [reason, *better] if reason else better


def marks_note(firsts: Mapping[str, FirstCaption]) -> str:
    """Return the note on underlined words and sentences; empty if none is underlined."""
    return MARKS if any(marks for _, marks, _ in firsts.values()) else ""


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).upper().lower()


def marked(caption: str, words: Sequence[dict[str, Any]]) -> str:
    """Return a caption as escaped HTML, its unlikely words underlined, with likelier words on
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
    pairs = fetch_pairs(audit.folder / PAIRS, [f"captions AS {OWN_CAPTIONS}"], pair_ids)
    lists = [
        f"list(CASE WHEN isfinite({name}) THEN {name} END ORDER BY caption) AS {listed}"
        for name, listed in LISTED.items()
    ]
    scores = fetch_pairs(audit.folder / CAPTION_TABLE, lists, pair_ids, end="GROUP BY pair_id")
    table = pd.DataFrame(pairs.to_pydict(), dtype=object)
    return table.merge(pd.DataFrame(scores.to_pydict(), dtype=object), on=PAIR_ID, how="left")
