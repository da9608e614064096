"""The results of a study as a small CSV, with the commands, machine and seeds that made it."""

from pathlib import Path

import pandas as pd

from clipmem_core.audits.results import machine_line, write_csv
from clipmem_core.columns import ONE_SPLIT
from clipmem_core.studies.aim import all_differences
from clipmem_core.studies.show import sentences
from clipmem_core.studies.store import EPOCH, SEED, StudyFolder
from clipmem_core.studies.typed import commands_of


def result_rows(study: StudyFolder) -> pd.DataFrame:
    """Return a study's results as a tidy table: each arm and measure with its paired difference to a reference; arms
    that leave tokens out have rows for each of the two that they are compared with.

    Of a study that keeps snapshots, rows of each epoch follow: the mean over seeds, lowest and highest.
    """
    rows = all_differences(study.arms, study.asked["reference"])
    times = study.times
    if times.empty:
        return rows
    measures = [name for name in times.columns if name not in ("arm", SEED, EPOCH)]
    long = times.melt(id_vars=["arm", SEED, EPOCH], value_vars=measures, var_name="measure")
    found = long.groupby(["arm", EPOCH, "measure"], sort=False)["value"].agg(["size", "mean", "min", "max"])
    named = {"size": "n", "mean": "value", "min": "low", "max": "high"}
    return pd.concat([rows, found.rename(columns=named).reset_index()], ignore_index=True)


def write_results(study: StudyFolder, path: Path) -> None:
    """Write the table with a head of comment lines that say where it comes from and what came out."""
    asked = study.asked
    config = asked["config"]
    head = [
        *(f"command: {command}" for command in commands_of(study)),
        machine_line(asked["machine"], config),
        f"seeds: {', '.join(str(config['seed'] + number) for number in range(config['seeds']))}",
        f"value: mean over seeds; low, high: 95 % interval over {ONE_SPLIT} of the paired difference to the arm in the "
        "column reference, of an epoch the lowest and highest seed",
        *sentences(study),
    ]
    write_csv(path, head, result_rows(study))
