"""Whether the lab of one audit says what a study over splits of the same set says of the same
settings.

python -m tests.bench.agreement AUDIT STUDY [--out FILE.csv]
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pandas as pd
import tyro

from clipmem_core import columns as c
from clipmem_core.audit.store import open_audit
from clipmem_core.studies.lab import ARM, RETRIEVAL, lab_table
from clipmem_core.studies.results import CLIPMEM_NET, MEASURES, differences
from clipmem_core.studies.study_folder import open_study

COMPARED = (CLIPMEM_NET, c.ATTACK_TPR, RETRIEVAL)


@dataclass(frozen=True)
class Agreement:
    """Compare the lab of an audit with a study of the same set."""

    audit: Annotated[str, tyro.conf.Positional]
    study: Annotated[str, tyro.conf.Positional]
    out: Path | None = None


def main(asked: Agreement) -> None:
    """Print, and write, one row per setting and measure; differences are in percent of the
    baseline."""
    audit = open_audit(asked.audit)
    study = open_study(asked.study)
    arms = list(study.request["arms"])
    tables = [differences(rows) for rows in (lab_table(audit, arms), study.rows)]
    both = tables[0].merge(tables[1], on=[ARM, "measure"], suffixes=("_lab", "_study"))
    rows = []
    for row in both[both["measure"].isin(COMPARED)].to_dict("records"):
        percent = {
            f"{end}_{side}": 100 * row[f"{end}_{side}"] / row[f"baseline_{side}"]
            for side in ("lab", "study")
            for end in ("difference", "low", "high")
        }
        off = abs(percent["difference_lab"] - percent["difference_study"])
        half = (percent["high_study"] - percent["low_study"]) / 2
        # One more split lies within √(n + 1) times the interval of the mean of n splits
        found = {"set": asked.audit, ARM: row[ARM], "measure": MEASURES[row["measure"]]}
        held = {
            "in_interval": off <= half,
            "as_another_split": off <= half * (row["n_study"] + 1) ** 0.5,
        }
        rows.append(found | percent | held)
    table = pd.DataFrame(rows).round(2)
    print(table.to_string(index=False))
    if asked.out:
        table.to_csv(asked.out, index=False)


if __name__ == "__main__":
    main(tyro.cli(Agreement, prog="python -m tests.bench.agreement"))
