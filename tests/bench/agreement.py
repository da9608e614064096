"""Whether the lab of one audit says what a study over splits of the same set says of the same
settings.

python -m tests.bench.agreement AUDIT STUDY [--out FILE.csv]
"""

from dataclasses import dataclass
from typing import Annotated

import pandas as pd
import tyro

from clipmem_core.auditing.folder.store import Audit
from clipmem_core.lab.experiment import CLIPMEM_NET, MEASURE_LABELS, Study, differences, titles_of
from clipmem_core.lab.mitigated import RETRIEVAL, SETTING, lab_table
from clipmem_core.utils import columns as c
from tests.bench import save_table

COMPARED = (CLIPMEM_NET, c.ATTACK_TPR, RETRIEVAL)


@dataclass(frozen=True)
class Agreement:
    """Compare the lab of an audit with a study of the same set."""

    audit: Annotated[str, tyro.conf.Positional]
    study: Annotated[str, tyro.conf.Positional]
    out: str = ""


def main(asked: Agreement) -> None:
    """Print, and write, one row per setting and measure; differences are in percent of the
    baseline."""
    audit = Audit.open(asked.audit)
    of_study = Study.open(asked.study).rows
    settings = list(titles_of(of_study))
    tables = [differences(rows) for rows in (lab_table(audit, settings), of_study)]
    both = tables[0].merge(tables[1], on=[SETTING, "measure"], suffixes=("_lab", "_study"))
    both = both[both["measure"].isin(COMPARED)]
    table = pd.DataFrame({"set": asked.audit, SETTING: both[SETTING]})
    table["measure"] = both["measure"].map(MEASURE_LABELS)
    for side in ("lab", "study"):
        for end in ("difference", "low", "high"):
            table[f"{end}_{side}"] = 100 * both[f"{end}_{side}"] / both[f"baseline_{side}"]
    off = (table["difference_lab"] - table["difference_study"]).abs()
    half = (table["high_study"] - table["low_study"]) / 2
    # One more split lies within √(n + 1) times the interval of the mean of n splits
    table["in_interval"] = off <= half
    table["as_another_split"] = off <= half * (both["n_study"] + 1) ** 0.5
    save_table(table.round(2), asked.out)


if __name__ == "__main__":
    main(tyro.cli(Agreement, prog="python -m tests.bench.agreement"))
