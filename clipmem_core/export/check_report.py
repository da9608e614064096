"""The report of the command `check`: every pair of an audit, the worst first, as one HTML file and
as a CSV file beside it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from clipmem_core.auditing.folder.store import PAIRS, SCORES, Audit, read_table
from clipmem_core.auditing.tables.fault_tables import ensure_checks
from clipmem_core.auditing.tables.verdict import summary_lines
from clipmem_core.dataset.checks import CHECKS
from clipmem_core.export.cleaned import PictureProgress
from clipmem_core.export.report import picture_url, render_page
from clipmem_core.review.cards import (
    LIKELY,
    MARKS,
    Explained,
    Marks,
    explain_captions,
    marked,
    percent,
    suspicious_captions,
)
from clipmem_core.review.filters import near_duplicate_groups
from clipmem_core.review.progress_and_repair import read_incidents
from clipmem_core.utils import columns as c
from clipmem_core.utils.io import InputError, replacing, write_frame

_PAIRS_SHOWN = 2000
_NAMES_SHOWN = 12
_CAPTION_LIMIT = 1200
_WORST = 10  # printed rows
_PRINTED = 60  # characters of a printed caption
_COLUMNS = [c.PAIR_ID, c.IMAGE, c.CAPTION, c.P_WRONG, c.REASON, c.WORD, "suggestion"]
# The first bytes of both files, by which the command knows its own
_BEGINNINGS = {".html": "<!doctype html>\n<!-- clipmem check -->", ".csv": '"pair_id","image",'}
_UNCLEAR = "Probably wrong: one of the captions, or a word."
_UNREAD = "Pictures that cannot be read"


@dataclass(frozen=True)
class Found:
    """The result of a check, for a terminal."""

    worst: Sequence[tuple[str, ...]]  # of the columns `head`
    lines: list[str]
    wrong: float  # estimated share of the pairs with a wrong caption; NaN if unknown
    head = ("wrong", "picture", "caption", "reason")

    @property
    def share(self) -> str:
        """The estimated share in words."""
        return "an unknown share is" if pd.isna(self.wrong) else f"{self.wrong:.1%} are"


def check_target(path: Path, source: str) -> None:
    """Refuse a file name that is no HTML file, a file of somebody else, and a place inside the data
    set, whose reader would find the CSV file."""
    if path.suffix.lower() != ".html":
        raise InputError(f"--out {str(path)!r} must end in .html")
    if path.resolve().is_relative_to(Path(source).expanduser().resolve()):
        raise InputError(f"{path} lies in the data set: choose another folder by --out")
    for suffix, beginning in _BEGINNINGS.items():
        file = path.with_suffix(suffix)
        if file.exists() and not file.read_bytes().startswith(beginning.encode()):
            raise InputError(f"{file} is no report of this command: choose another --out")


def write_check(audit: Audit, path: Path, progress: PictureProgress) -> Found:
    """Write the report of a finished audit and the CSV file, and return what it found."""
    record = audit.record
    verdict = audit.verdict
    errors = _errors(audit)
    shown = errors.head(_PAIRS_SHOWN)
    pictures = []
    for image in shown[c.IMAGE]:
        pictures.append(picture_url(record.pictures, image))
        progress(len(pictures), len(shown))
    rows = shown.assign(picture=pictures).to_dict("records")
    findings = list(_findings(audit))
    lines = list(filter(None, summary_lines(verdict)))
    triggers = getattr(record, "trigger_words", [])
    page = render_page(
        "check.html.j2",
        name=audit.name,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        lines=lines,
        causes=read_incidents(audit)[0]["cause"].tolist(),
        triggers=", ".join(triggers),
        tag_lists=getattr(record, "tag_lists", False),
        likely=[row for row in rows if row["likely"]],
        others=[row for row in rows if not row["likely"]],
        findings=findings,
        pairs=len(errors),
        marks=MARKS if any(shown[c.WORD]) else "",
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    write_frame(errors[_COLUMNS], path.with_suffix(".csv"))
    counts = [f"{each['title']}: {each['count']:,}" for each in findings]
    found = verdict["wrong_captions"]
    wrong = float("nan") if found["missing"] else found["all"]["estimate"] / found["of"]
    worst = [
        (row["percent"], row[c.IMAGE], row[c.CAPTION][:_PRINTED], row[c.REASON])
        for row in rows[:_WORST]
    ]
    return Found(worst, [*lines, *counts], wrong)


def _errors(audit: Audit) -> pd.DataFrame:
    """Return the pairs, the worst first, with the columns of the CSV file and those of a row of the
    page."""
    pairs = audit.read_columns(PAIRS, c.PAIR_ID, c.IMAGE, c.CAPTIONS)
    order = [c.P_WRONG, c.SUSPICION]
    pairs[order] = audit.read_columns(SCORES, *order).astype(float)
    pairs = pairs.sort_values(order, ascending=False)
    ids = pairs[c.PAIR_ID].tolist()
    worst = suspicious_captions(audit, ids)
    explained = explain_captions(audit, ids)
    displaced = read_incidents(audit)[1]
    fitting = displaced[displaced["probability"] >= LIKELY].groupby("row")["from_row"].first()
    rows = []
    for row, pair in zip(pairs.index, pairs.to_dict("records"), strict=True):
        about = explained.get(pair[c.PAIR_ID], Explained())
        first = worst.get(pair[c.PAIR_ID], 0)
        likely = pair[c.P_WRONG] >= LIKELY
        reason = about.reasons.get(first, _UNCLEAR if likely else "")
        captions = list(pair[c.CAPTIONS])
        marks = about.marks.get(first, []) if reason else []
        likeliest = [mark for mark in marks if mark["rank"] < 2]  # a word, or sentences
        word = likeliest[0] if likeliest else {}
        better = word["better"][0][0] if word.get("better") else ""
        from_row = int(fitting.get(row, -1))
        other = pairs.loc[from_row] if likely and from_row >= 0 else None
        texts = []
        for number in sorted(range(len(captions)), key=lambda number: number != first):
            why = about.reasons.get(number, "") if number != first and not about.whole else ""
            shown_marks = about.marks.get(number, []) if about.reasons.get(number) else []
            texts.append(
                {
                    "html": _marked(captions[number], shown_marks),
                    "reason": reason if number == first else why,
                    "wrong": number in about.wrong or number == first and likely,
                }
            )
        rows.append(
            {
                c.CAPTION: captions[first],
                c.REASON: reason,
                c.WORD: captions[first][word[c.START] : word[c.END]] if word else "",
                "suggestion": better or ("" if other is None else other[c.CAPTIONS][0]),
                "better": better,
                "other": "" if other is None else other[c.IMAGE],
                "likely": likely,
                "percent": percent(pair[c.P_WRONG]) if pair[c.P_WRONG] >= 0 else "–",
                "texts": texts,
            }
        )
    return pairs.join(pd.DataFrame(rows, index=pairs.index)).round({c.P_WRONG: 4})


def _marked(caption: str, marks: Marks) -> str:
    """Return a caption as HTML, cut if it is very long."""
    text = caption[:_CAPTION_LIMIT]
    text += "…" * (len(text) < len(caption))
    return marked(text, [mark for mark in marks if mark[c.END] <= _CAPTION_LIMIT])


def _findings(audit: Audit) -> Iterator[dict[str, Any]]:
    """Yield what is odd about rows, pictures and captions: title, help, count, and the first
    names."""
    quarantine = audit.quarantine
    named = quarantine[c.SOURCE].astype(str) + ": " + quarantine[c.REASON].astype(str)
    is_picture = quarantine[c.KIND] == c.BAD_PICTURE
    yield from _finding(_UNREAD, "They are not part of this report.", named[is_picture].tolist())
    yield from _finding("Rows that cannot be used", "", named[~is_picture].tolist())
    images = audit.read_columns(PAIRS, c.IMAGE)[c.IMAGE]
    table = read_table(ensure_checks(audit))
    for check in CHECKS.values():
        names = images[table[check.name].fillna(False).astype(bool)].tolist()
        if check.name == "near_duplicate":
            names = [" = ".join(images[rows]) for rows in near_duplicate_groups(audit)]
        yield from _finding(check.label, f"{check.help} {check.advice}", names)


def _finding(title: str, help: str, names: list[str]) -> Iterator[dict[str, Any]]:
    if names:
        names, rest = names[:_NAMES_SHOWN], names[_NAMES_SHOWN:]
        count = len(names) + len(rest)
        yield {"title": title, "help": help, "count": count, "names": names, "rest": len(rest)}
