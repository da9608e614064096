"""Comparison of a score between two audits."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from clipmem_core.auditing.folder.store import PAIRS, SCORES, Audit
from clipmem_core.config import as_dict, flat
from clipmem_core.review.queries import CAPTION_KEY, ROW, cached, fetch
from clipmem_core.scores.seeds import Difference, paired_difference
from clipmem_core.utils.columns import GROUP, PAIR_ID

POINTS = 5_000  # pairs in a scatter plot
CHANGED = 96  # pairs that changed most


@dataclass(frozen=True)
class Comparison:
    """A score in two audits, over the pairs with the same pair_id. Differences are other − one."""

    column: str
    n_common: int
    n_scored: int  # common pairs with a score in both
    only_one: int
    only_other: int
    edited: int  # common pairs with other captions or another picture
    regrouped: int  # common pairs in another group of the same protocol
    spearman: float  # NaN for constant scores
    change: Difference | None  # paired by pair; None without pairs scored in both
    # pair_id, row_one, row_other, one, other, difference, group_one, group_other of pairs that stay
    # in their group, the largest change first
    changed: pd.DataFrame
    points: pd.DataFrame  # the same of a random sample


@cached(
    4, SCORES, PAIRS, paths=lambda one, other, column: [other.folder / SCORES, other.folder / PAIRS]
)
def compare(one: Audit, other: Audit, column: str) -> Comparison:
    """Compare a score of two audits pair by pair."""
    content = f"SELECT hash({CAPTION_KEY}, sha256) AS content FROM parquet ORDER BY {ROW}"
    tables = []
    for audit in (one, other):
        table = audit.read_columns(SCORES, PAIR_ID, GROUP, column)
        table["score"] = table.pop(column).astype(float)
        table["content"] = fetch(audit.folder / PAIRS, content)["content"].to_numpy()
        tables.append(table.reset_index(names="row"))
    joined = tables[0].merge(tables[1], on=PAIR_ID, suffixes=("_one", "_other"))
    joined = joined.rename(columns={"score_one": "one", "score_other": "other"})
    joined["difference"] = joined["other"] - joined["one"]
    edited = joined.pop("content_one") != joined.pop("content_other")
    same_protocol = one.record.protocol == other.record.protocol
    regrouped = (joined["group_one"] != joined["group_other"]) & same_protocol
    finite = np.isfinite(joined["difference"])
    scored = joined[finite]
    stayed = joined[finite & ~regrouped]
    largest = stayed.sort_values("difference", key=lambda values: -values.abs(), kind="stable")
    sample = scored.sample(min(len(scored), POINTS), random_state=0).sort_index()
    values = scored["one"].to_numpy(), scored["other"].to_numpy()
    return Comparison(
        column=column,
        n_common=len(joined),
        n_scored=len(scored),
        only_one=len(tables[0]) - len(joined),
        only_other=len(tables[1]) - len(joined),
        edited=int(edited.sum()),
        regrouped=int(regrouped.sum()),
        spearman=scored["one"].corr(scored["other"], method="spearman"),
        change=paired_difference(values[1], values[0]) if len(scored) else None,
        changed=largest[:CHANGED].reset_index(drop=True),
        points=sample.reset_index(drop=True),
    )


@cached(1000, PAIRS, paths=lambda one, other: [other.folder / PAIRS])
def count_common(one: Audit, other: Audit) -> int:
    """Return the number of pairs of an audit that another one has with the same picture."""
    pictures = fetch(other.folder / PAIRS, "SELECT pair_id, sha256 FROM parquet")
    query = "SELECT 1 FROM parquet SEMI JOIN pictures USING (pair_id, sha256)"
    return fetch(one.folder / PAIRS, query, pictures=pictures).num_rows


def changed_settings(one: Audit, other: Audit) -> pd.DataFrame:
    """Return the settings that differ between two audits: setting, first, second, as text."""
    first, second = (flat(as_dict(audit.record.config)) for audit in (one, other))
    table = pd.DataFrame({"first": first, "second": second}, dtype=object)
    table = table[table["first"] != table["second"]]
    return table.where(table.notna() & (table != ""), "–").astype(str).reset_index(names="setting")
