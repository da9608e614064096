"""The decisions on an audit's pairs as a CSV or Parquet table, with the picture and the scores behind each."""

import json
from csv import QUOTE_NONNUMERIC  # a lone \r must be quoted too
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from clipmem_core.atomic import replacing
from clipmem_core.audits.store import PAIRS, SCORES, Audit
from clipmem_core.columns import CAPTIONS, IMAGE, LABEL, PAIR_ID
from clipmem_core.review.decisions import FOR_OTHER, open_review
from clipmem_core.scores.table import EXPORT, scores_in

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a cell begins with that a spreadsheet would compute


def write_decisions(audit: Audit, path: Path) -> tuple[str, ...]:
    """Write every pair with a decision or a note; in CSV the new captions are a JSON list.

    Columns: those of the review's table, then image, label and the scores to take away, of this audit. In CSV a
    text that a spreadsheet would take for a formula begins with a single quote.

    Returns:
        What is not in it: decisions on other captions than the audit shows.
    """
    decisions = open_review(audit).table()
    away = decisions.pop(FOR_OTHER).notna()
    table = with_scores(audit, decisions[~away | (decisions["note"] != "")])
    with replacing(path) as temporary:
        if path.suffix.lower() == ".parquet":
            lists = pa.array([list(texts) for texts in table[CAPTIONS]], pa.list_(pa.string()))
            rest = pa.Table.from_pandas(table.drop(columns=CAPTIONS), preserve_index=False)
            pq.write_table(rest.add_column(2, CAPTIONS, lists), temporary)
        else:
            texts = [json.dumps(list(texts), ensure_ascii=False) for texts in table[CAPTIONS]]
            table.assign(**{CAPTIONS: texts}).map(_plain).to_csv(temporary, index=False, quoting=QUOTE_NONNUMERIC)
    left = f"{away.sum():,} decisions on other captions of a pair, as where mistakes are planted, are not in it"
    return (left,) if away.any() else ()


def _plain(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def with_scores(audit: Audit, decisions: pd.DataFrame) -> pd.DataFrame:
    """Add picture, label and scores to decisions; empty where the audit does not have the pair."""
    ids = decisions[PAIR_ID].tolist()
    files = [(PAIRS, [PAIR_ID, IMAGE, LABEL]), (SCORES, [PAIR_ID, *scores_in(EXPORT)])]
    for name, columns in files:
        known = pq.read_table(audit.folder / name, columns=columns, filters=[(PAIR_ID, "in", ids)] if ids else None)
        found = known.slice(0, None if ids else 0).to_pandas()
        decisions = decisions.merge(found, on=PAIR_ID, how="left")
    return decisions
