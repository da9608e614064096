"""The incidents of an audit: faults of the pipeline that explain many wrong captions at once, each
with its probable cause and the pairs whose captions belong to others."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audit import store
from clipmem_core.audit.store import Audit
from clipmem_core.dataset.faults import Fault, ascending
from clipmem_core.scores.displaced import EXCHANGE, REVERSAL, SHIFT, DisplacedRun

NUMBER = "number"


def displaced(runs: Sequence[DisplacedRun]) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs that runs explain, and the probability of it, [n] each."""
    rows = np.concatenate([np.empty(0, int), *(run.rows for run in runs)])
    probability = np.concatenate([np.empty(0), *(run.probability for run in runs)])
    likely = probability >= store.DISPLACED
    return rows[likely], probability[likely]


def write_incidents(
    audit: Audit, runs: Sequence[DisplacedRun], faults: Sequence[Fault], swaps: DisplacedRun
) -> None:
    """Write incidents.parquet, the largest first, and incident_pairs.parquet; number 0 are single
    swaps, which are no incident."""
    captions = audit.read_columns(store.PAIRS, c.CAPTIONS)[c.CAPTIONS].tolist()
    found: list[tuple[str, np.ndarray, float, str, DisplacedRun | None]] = [
        *((run.kind, run.rows, run.score, cause_of(run, captions), run) for run in runs),
        *((each.kind, each.rows, each.evidence, each.cause, None) for each in faults),
    ]
    incidents = []
    pairs = [pd.DataFrame({NUMBER: [], "row": [], "from_row": []}, dtype=int)]
    pairs[0]["probability"] = np.empty(0)
    found.sort(key=lambda each: -len(each[1]))
    for number, (kind, rows, evidence, cause, run) in enumerate(found, start=1):
        table = pd.DataFrame({NUMBER: number, "row": rows, "from_row": -1, "probability": np.nan})
        if run:
            table["from_row"] = run.partners
            table["probability"] = run.probability
        repairs = int((table["probability"] >= store.DISPLACED).sum())
        ends = int(rows.min()) + 1, int(rows.max()) + 1
        incidents.append((number, kind, len(rows), *ends, float(evidence), repairs, cause))
        pairs.append(table)
        if run and kind == SHIFT:  # the pairs behind it, whose captions were overwritten
            step = int(run.partners[0] - run.rows[0])
            lost = rows.max() + 1 + np.arange(step) if step > 0 else rows.min() + np.arange(step, 0)
            lost = {NUMBER: number, "row": lost, "from_row": -1, "probability": np.nan}
            pairs.append(pd.DataFrame(lost))
    single = {"row": swaps.rows, "from_row": swaps.partners, "probability": swaps.probability}
    pairs.append(pd.DataFrame({NUMBER: 0} | single))
    store.write_table(
        audit.folder / store.INCIDENTS, pd.DataFrame(incidents, columns=c.INCIDENT_COLUMNS)
    )
    table = pd.concat(pairs, ignore_index=True)
    store.write_table(audit.folder / store.INCIDENT_PAIRS, table)


def cause_of(run: DisplacedRun, captions: Sequence[Sequence[str]]) -> str:
    """Return the probable cause of a run among pairs with these captions, in one or two
    sentences."""
    first, last, n = int(run.rows.min()) + 1, int(run.rows.max()) + 1, len(run.rows)
    if run.kind == SHIFT:
        step = int(run.partners[0] - run.rows[0])
        late = "late" if step > 0 else "early"
        where = "above" if step > 0 else "below"
        size = "one row" if abs(step) == 1 else f"{abs(step):,} rows"
        return (
            f"Captions are {size} {late} from pair {first:,} to {last:,}: {n:,} pairs. Each "
            f"caption fits the picture {size} {where}."
        )
    if run.kind == EXCHANGE:
        step = int(abs(run.partners[0] - run.rows[0]))
        block = run.rows[run.rows < run.partners]
        ends = f"{int(block.min()) + 1:,} to {int(block.max()) + 1:,}"
        others = f"{int(block.min()) + step + 1:,} to {int(block.max()) + step + 1:,}"
        return f"The captions of pairs {ends} and {others} are exchanged: {n:,} pairs."
    if run.kind == REVERSAL:
        return f"The captions from pair {first:,} to {last:,} are in reverse order: {n:,} pairs."
    where = f"from pair {first:,} to {last:,}"
    if ascending([captions[row][0] for row in run.rows]):
        return f"The captions {where} are in alphabetical order, and belong to other pairs there."
    return f"Nearly all captions {where} belong to other pairs there."
