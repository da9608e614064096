"""The report of an audit as one self-contained HTML file: verdict, figure, tables, pictures and
decisions."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from clipmem_core.auditing.folder.store import Audit
from clipmem_core.auditing.tables.verdict import queues as verdict_queues
from clipmem_core.figures import group_figure
from clipmem_core.review import overview as o
from clipmem_core.review.cards import (
    FirstCaption,
    PairCard,
    cards,
    data_url,
    first_captions,
    make_jpeg,
    marked,
    marks_note,
)
from clipmem_core.review.decisions import open_review
from clipmem_core.review.filters import find_rows
from clipmem_core.review.progress_and_repair import (
    incident_states,
    incidents_line,
    read_effect,
    state_words,
    wrong_lines,
)
from clipmem_core.review.views import Selection
from clipmem_core.scores.registry import EXPORT_SCORES
from clipmem_core.utils.columns import CLIPMEM, GROUP, P_WRONG, PAIR_ID, group_words
from clipmem_core.utils.io import shortage

_SIDE = 160  # pixels of a thumbnail's longer side
_SHOWN = 50  # pairs of a gallery
_FIRST = 6  # of them not folded
DECISIONS_SHOWN = 500
_CAPTION_LIMIT = 400


class TextTable(NamedTuple):
    """A table with a title, omitted if it has no rows."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def render_report(audit: Audit) -> str:
    """Return the report of an audit as HTML."""
    record = audit.record
    verdict = audit.verdict
    groups = o.group_table(audit)
    decisions = open_review(audit).table()
    sample = f", a random sample of {record.sampled_of:,}" if record.sampled_of else ""
    settings = [
        (str(name), value) for name, value in pd.json_normalize(record.values).iloc[0].items()
    ]
    figure = group_figure(groups, o.group_bins(audit))
    clear = "rgba(0, 0, 0, 0)"  # for a light or dark page
    figure.update_layout(template="none", paper_bgcolor=clear, plot_bgcolor=clear, autosize=True)
    figure.update_xaxes(gridcolor="rgba(128, 128, 128, 0.3)", automargin=True)
    figure.update_yaxes(automargin=True)
    return render_page(
        "report.html.j2",
        plotly=get_plotlyjs(),
        name=audit.name,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        facts={
            "data set": record.source,
            "pairs": f"{audit.record.pairs:,}{sample}",
            "quarantined rows": f"{len(audit.quarantine):,}",
            "protocol": record.protocol,
            "members": len(record.members),
            "trained": o.model_words(record.config),
        },
        lines=[*wrong_lines(audit), *(each["statement"] for each in read_effect(audit).values())],
        faults=incidents_line(audit),
        incidents=[(row.cause, state_words(row)) for row in incident_states(audit).itertuples()],
        sentence=verdict["sentence"],
        checks=verdict["checks"],
        figure=json.loads(str(figure.to_json())),
        tables=[each for each in _tables(audit, groups) if each.rows],
        galleries=_galleries(audit),
        counts=decisions["decision"].value_counts().to_dict(),
        decisions=_decision_table(decisions),
        settings=TextTable("How this audit was made", ("setting", "value"), settings),
        first=_FIRST,
    )


def render_page(template: str, **values: Any) -> str:
    """Return a page: a template of this folder with values, which are text."""
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    return environment.get_template(template).render(side=_SIDE, **values)


def _tables(audit: Audit, groups: pd.DataFrame) -> list[TextTable]:
    utility = o.member_utility(audit.utility)
    kinds = "; ".join(dict.fromkeys(filter(None, groups["kind"])))
    by_group = [
        (
            group_words(row[GROUP]),
            f"{row['n']:,}",
            *map(three_decimals, (row["mean"], row["low"], row["high"])),
        )
        for row in groups.to_dict("records")
    ]
    by_member = [(name, *map(three_decimals, values)) for name, *values in utility.to_numpy()]
    note = f"low to high: {kinds}" if kinds else ""
    return [
        TextTable("clipmem by group", ("group", "pairs", "mean", "low", "high"), by_group, note),
        TextTable("Utility of the members", list(utility.columns), by_member),
    ]


def _decision_table(decisions: pd.DataFrame) -> TextTable:
    rows = []
    for row in decisions.head(DECISIONS_SHOWN).to_dict("records"):
        captions = _cut("\n".join(row["captions"]))
        rows.append((row[PAIR_ID], row["decision"] or "", captions, _cut(row["note"]), row["time"]))
    omitted = len(decisions) - len(rows)
    more = f"Not shown: {omitted:,} more. Export the decisions as CSV for all."
    return TextTable(
        "Decisions",
        ("id", "decision", "new captions", "note", "time"),
        rows,
        more if omitted else "",
    )


def _galleries(audit: Audit) -> list[dict[str, Any]]:
    galleries = []
    for order, queue in reversed(verdict_queues(audit.verdict).items()):
        shown, note = top_pairs(audit, order, _SHOWN)
        if shown:
            line = o.memorization_line(audit.verdict) if order == CLIPMEM else ""
            explanation = f"{line} {queue.sentence} {note}"
            galleries.append({"title": queue.name, "explanation": explanation, "cards": shown})
    return galleries


def top_pairs(audit: Audit, order: str, size: int) -> tuple[list[dict[str, Any]], str]:
    """Return the first pairs of an order, each with its texts and its picture, and what marks in
    their captions mean."""
    selection = Selection(order=order)
    top = cards(audit, find_rows(audit, selection, size=size))
    firsts = first_captions(audit, top, selection)
    shown = [_card(card, audit.record.pictures, firsts[card.pair_id]) for card in top]
    return shown, marks_note(firsts)


def _card(card: PairCard, root: Path, first_caption: FirstCaption) -> dict[str, Any]:
    """Return a pair's texts, one caption first and its words marked, and its picture."""
    first, marks, reason = first_caption
    decision = card.decision.decision or ""
    facts = {
        name: three_decimals(card.scores.get(name))
        for name in EXPORT_SCORES
        if name != P_WRONG or not decision
    }
    facts |= {
        "group": group_words(card.group),
        "label": card.label or "",
        "injected": card.injected or "",
    }
    facts |= {f"{mark['word']} →": " ".join(mark["better"][0]) for mark in marks if mark["better"]}
    captions = [_cut(caption) for caption in (*card.current[first:], *card.current[:first])]
    return {
        "picture": picture_url(root, card.image),
        "captions": captions,
        "marked": marked(captions[0], marks) if captions else "",
        "reason": reason,
        "pair_id": _cut(card.pair_id),
        "facts": {name: _cut(value) for name, value in facts.items() if value},
        "decision": decision,
    }


def picture_url(root: Path, image: str) -> str:
    """Return a small picture as a URL that holds it, empty if it cannot be read."""
    try:
        return data_url(make_jpeg(root, image, _SIDE))
    except (OSError, ValueError) as error:  # missing or damaged
        if shortage(error):
            raise
        return ""


def _cut(text: str) -> str:
    return text if len(text) <= _CAPTION_LIMIT else f"{text[:_CAPTION_LIMIT].rstrip()}…"


def three_decimals(value: Any) -> str:
    """Return a number with three decimals as text; empty for anything else."""
    return "" if pd.isna(value) else f"{value:,.3f}".replace("-", "−")
