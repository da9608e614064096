"""The report of an audit, one HTML file that needs nothing else: verdict, figure, tables, pictures and decisions."""

import base64
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from clipmem_core.atomic import replacing
from clipmem_core.audits.sample import BASIS
from clipmem_core.audits.store import PAIRS, QUARANTINE, Audit
from clipmem_core.audits.verdict import WHOLE_HEAD, queues, whole_rows
from clipmem_core.columns import GROUP, PAIR_ID
from clipmem_core.exports.cleaned import Progress
from clipmem_core.figures.audit_scores import group_figure
from clipmem_core.files import is_number
from clipmem_core.pairs.pictures import decode
from clipmem_core.pairs.references import read_bytes
from clipmem_core.review.cards import PairCard, cards
from clipmem_core.review.decisions import FOR_OTHER, decision_words, open_review
from clipmem_core.review.overview import (
    BINS,
    detection_table,
    group_bins,
    group_summary,
    join_intervals,
    model_words,
    table,
    utility_table,
)
from clipmem_core.review.overview import rows as rows_of
from clipmem_core.review.rows import audit_root, find_rows
from clipmem_core.review.selection import Selection
from clipmem_core.review.tables import count_rows
from clipmem_core.scores.table import EXPORT, Queue, scores_in
from clipmem_core.shortage import shortage

TEMPLATE = "report.html.j2"
SIDE = 160  # pixels of a thumbnail's longer side
TOP = 50
DECISIONS_SHOWN = 500
CAPTION_LIMIT = 400
_METRICS = {"auroc": "AUROC", "average_precision": "average precision", "precision_at_k": "precision at k"}


class TextTable(NamedTuple):
    """A table under its title; without rows it is not shown."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def write_report(audit: Audit, path: Path, *, progress: Progress | None = None) -> None:
    """Write the report.

    Raises:
        InputError: a file of the audit is missing or broken.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    folder = Path(__file__).parent
    environment = Environment(loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined)
    page = environment.get_template(TEMPLATE).render(plotly=get_plotlyjs(), **_content(audit, progress))
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _content(audit: Audit, progress: Progress | None) -> dict[str, Any]:
    record, verdict, review = audit.record, audit.verdict, open_review(audit)
    of = f", a random sample of {record.sampled_of:,}" if record.sampled_of else ""
    groups = join_intervals(group_summary(audit), table(verdict, "groups"))
    whole = TextTable(f"Counts of all {record.sampled_of:,} pairs", WHOLE_HEAD, whole_rows(verdict), BASIS)
    tables = [whole, _group_table(groups), _detection_table(table(verdict, "detection")), _utility_table(audit.utility)]
    return {
        "name": audit.name,
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "facts": {
            "data set": record.source,
            "pairs": f"{count_rows(audit.folder / PAIRS):,}{of}",
            "quarantined rows": f"{count_rows(audit.folder / QUARANTINE):,}",
            "protocol": record.protocol,
            "members": len(record.members),
            "trained": model_words(record.config),
        },
        "sentence": verdict.get("sentence") or "This audit has no verdict.",
        "checks": rows_of(verdict, "checks"),
        "figure": _figure(groups, group_bins(audit, bins=BINS)),
        "tables": [table for table in tables if table.rows],
        "galleries": _galleries(audit, queues(verdict), progress),
        "counts": review.counts(),
        "decisions": _decision_table(review.table()),
        "settings": TextTable("How this audit was made", ("setting", "value"), list(_flat(record.values))),
        "side": SIDE,
    }


def _group_table(groups: pd.DataFrame) -> TextTable:
    kinds = "; ".join(dict.fromkeys(filter(None, groups["kind"])))
    rows = [
        (row[GROUP], f"{row['n']:,}", *(number(row[name]) for name in ("mean", "low", "high")))
        for row in groups.to_dict("records")
    ]
    note = f"low to high: {kinds}" if kinds else ""
    return TextTable("clipmem by group", ("group", "pairs", "mean", "low", "high"), rows, note)


def _detection_table(detection: pd.DataFrame) -> TextTable:
    shown = detection_table(detection).reindex(columns=["score", *_METRICS], fill_value="")
    title, head = "How well each score finds the planted captions", ("score", *_METRICS.values())
    return TextTable(title, head, shown.to_numpy().tolist())


def _utility_table(utility: pd.DataFrame) -> TextTable:
    wide = utility_table(utility)
    rows = [(name, *map(number, values)) for name, *values in wide.itertuples(index=False, name=None)]
    return TextTable("Utility of the members", list(wide.columns), rows)


def _decision_table(decisions: pd.DataFrame) -> TextTable:
    shown = decisions.head(DECISIONS_SHOWN)
    rows = [
        (
            row[PAIR_ID],
            decision_words(row["decision"], row[FOR_OTHER]),
            *map(_cut, ("\n".join(row["captions"]), row["note"])),
            row["time"],
        )
        for row in shown.to_dict("records")
    ]
    left = len(decisions) - len(shown)
    note = f"{left:,} more are left out: export decisions as CSV for all of them." if left else ""
    return TextTable("Decisions", ("id", "decision", "new captions", "note", "time"), rows, note)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def _figure(groups: pd.DataFrame, bins: pd.DataFrame) -> Any:
    """Return the figure of the groups as plain JSON, transparent, so that it fits a light and a dark page."""
    figure = group_figure(groups, bins)
    clear = "rgba(0, 0, 0, 0)"
    figure.update_layout(template="none", paper_bgcolor=clear, plot_bgcolor=clear, autosize=True)
    figure.update_xaxes(gridcolor="rgba(128, 128, 128, 0.3)", automargin=True)
    figure.update_yaxes(automargin=True)
    return json.loads(str(figure.to_json()))


def _galleries(audit: Audit, named: dict[str, Queue], progress: Progress | None) -> list[dict[str, Any]]:
    found = {order: cards(audit, find_rows(audit, Selection(order=order), page=1, size=TOP)) for order in named}
    root, total, done = audit_root(audit), sum(map(len, found.values())), 0
    galleries: list[dict[str, Any]] = []
    for order, queue in named.items():
        galleries.append({"title": queue.name, "explanation": f"Highest {order} first. {queue.sentence}", "cards": []})
        for card in found[order]:
            galleries[-1]["cards"].append(_card(card, root))
            done += 1
            if progress:
                progress(done, total)
    return [gallery for gallery in galleries if gallery["cards"]]


def _card(card: PairCard, root: Path) -> dict[str, Any]:
    """Return a pair of a gallery, all of it text but the picture, a data URI, empty where it cannot be read."""
    shown = {name: number(card.scores.get(name)) for name in scores_in(EXPORT)}
    facts = {**shown, "group": card.group, "label": card.label or "", "planted": card.planted or ""}
    return {
        "picture": _thumbnail(root, card.image),
        "captions": [_cut(caption) for caption in card.captions],
        "pair_id": _cut(card.pair_id),
        "facts": {name: _cut(value) for name, value in facts.items() if value},
        "decision": card.decision.words if card.decision else "",
    }


def _cut(text: str) -> str:
    return text if len(text) <= CAPTION_LIMIT else f"{text[:CAPTION_LIMIT].rstrip()}…"


def _thumbnail(root: Path, image: str) -> str:
    try:
        picture = decode(read_bytes(root, image), size=SIDE)
    except (OSError, ValueError) as error:  # gone or damaged since: the report says so where the picture would be
        if shortage(error):
            raise
        return ""
    picture.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def number(value: Any, digits: int = 3) -> str:
    """Return a number as text, with a real minus sign, and an empty text for anything else.

    Example:
        >>> number(-0.12345), number(None)
        ('−0.123', '')
    """
    return f"{value:,.{digits}f}".replace("-", "−") if is_number(value) else ""
