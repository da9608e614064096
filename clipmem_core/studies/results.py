"""The results of a study: paired differences of every arm to the reference arm, a sentence an arm, tables and a CSV.

Seeds that share a split are averaged first. The intervals of a study with one split are over its training seeds.
"""

import functools
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from clipmem_core import columns as c
from clipmem_core.audit.console import machine_line, make_table, plain, write_csv
from clipmem_core.config import InputError
from clipmem_core.io import reading
from clipmem_core.scores.seeds import MIN_REPLICATES, holm, paired_difference
from clipmem_core.studies import study_folder as s
from clipmem_core.studies.arm import NONE
from clipmem_core.studies.plan import command_of
from clipmem_core.studies.study_folder import ARM, RETRIEVAL, SEED, SPLIT, StudyFolder

TEXT_LEAD = "text_minus_image"
CLIPMEM_NET = "clipmem_net"  # clipmem of candidates minus that of external pairs, which no member trains on
MEASURES = (
    *(s.CLIPMEM_CANDIDATE, CLIPMEM_NET, s.MEMBERSHIP_AUROC, c.ATTACK_AUROC, c.ATTACK_TPR),
    *(c.CLIPMEM_IMAGE, c.CLIPMEM_TEXT, TEXT_LEAD),
    *(RETRIEVAL, "linear_probe", "zero_shot"),
    *(s.SAMPLES_SEEN, s.SECONDS, s.PEAK_MB),
)
NEEDED = (SEED, s.CLIPMEM_CANDIDATE, s.MEMBERSHIP_AUROC, c.CLIPMEM_IMAGE, c.CLIPMEM_TEXT, RETRIEVAL)
COLUMNS = [
    *(ARM, "measure", "n", "value", "difference", "low", "high", "p_value"),
    *("arms", "low_of_all", "high_of_all", "p_of_all"),
]
LEVEL = 0.05  # of Holm's p
# The measures on a terminal, with their short names.
SHOWN = {s.CLIPMEM_CANDIDATE: "clipmem", s.MEMBERSHIP_AUROC: "AUROC", TEXT_LEAD: "text − image", RETRIEVAL: "retrieval"}
RESULTS = Path(__file__).parents[2] / "data" / "results"


def rows_of(study: StudyFolder) -> pd.DataFrame:
    """Return a row per finished arm and seed, with the text encoder's lead and clipmem beyond that of external ones."""
    arms = study.arms
    if arms.empty:
        return arms
    if missing := [name for name in NEEDED if name not in arms]:
        raise InputError(f"{study.folder / s.ARMS} lacks {', '.join(missing)}: {s.HINT}")
    arms = arms.assign(**{TEXT_LEAD: arms[c.CLIPMEM_TEXT] - arms[c.CLIPMEM_IMAGE]})
    if s.CLIPMEM_EXTERNAL in arms:
        arms[CLIPMEM_NET] = arms[s.CLIPMEM_CANDIDATE] - arms[s.CLIPMEM_EXTERNAL]
    return arms


def replicates(table: pd.DataFrame) -> str:
    """Return the replicates of a study's intervals: splits, or training seeds of one split."""
    return c.SPLITS if SPLIT in table else c.ONE_SPLIT


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """Compare every arm with the reference arm `none`, seed by seed, in one row per arm and measure.

    Columns: `n` shared splits (with one split, seeds), `value` the arm's mean, `difference` to the reference with 95 %
    interval and p value, and the same corrected for the number of `arms`: Bonferroni's t and Holm's p.
    """
    arms = list(dict.fromkeys(table[ARM]))
    if NONE not in arms:
        return pd.DataFrame(columns=COLUMNS)
    many = len(arms) - 1
    replicate = table.drop_duplicates(SEED).set_index(SEED)[SPLIT] if SPLIT in table else None
    shared = table.loc[table[ARM] == NONE, SEED]
    compared = {}  # measure → values and differences by seed or split and arm
    for measure in (name for name in MEASURES if name in table and table[name].notna().any()):
        wide = table.pivot(index=SEED, columns=ARM, values=measure).astype(float)
        paired = wide.sub(wide[NONE], axis=0)
        compared[measure] = wide.loc[shared], paired if replicate is None else paired.groupby(replicate).mean()
    rows = []
    for arm in arms:
        for measure, (values, paired) in compared.items():
            values_by_split = paired[arm].dropna().to_numpy()
            if not len(values_by_split):
                continue
            single, simultaneous = (
                paired_difference(values_by_split, np.zeros_like(values_by_split), level=1 - LEVEL / count)
                for count in (1, max(many, 1))
            )
            tested = [single.low, single.high, single.p_value, many, simultaneous.low, simultaneous.high]
            if arm == NONE:
                tested = [np.nan, np.nan, np.nan, many, np.nan, np.nan]
            rows.append([arm, measure, single.n, values[arm].mean(), single.mean, *tested])
    tidy = pd.DataFrame(rows, columns=COLUMNS[:-1])
    corrected = tidy.groupby("measure", sort=False)["p_value"].transform(lambda p: holm(p.to_numpy()))
    return tidy.assign(**{COLUMNS[-1]: corrected.astype(float)})


def front(points: pd.DataFrame, x: str, y: str) -> list[str]:
    """Return the Pareto-optimal arms by ascending x: small x and large y are better."""
    points = points.dropna(subset=[x, y]).sort_values([x, y], ascending=[True, False], kind="stable")
    optimal, best, x_of_best = [], -np.inf, np.nan
    for arm, best_x, value in points[[ARM, x, y]].itertuples(index=False, name=None):
        if value > best or (value == best and best_x == x_of_best):
            optimal.append(str(arm))
            best, x_of_best = value, best_x
    return optimal


def sentence_of(compared: pd.DataFrame, arm: str) -> str:
    """Say how an arm changes memorization and retrieval, where Holm's p is below .05."""
    rows = compared[compared[ARM] == arm].set_index("measure")
    words = {s.CLIPMEM_CANDIDATE: "memorization", RETRIEVAL: RETRIEVAL}
    parts = []
    for measure, word in words.items():
        if measure not in rows.index:
            continue
        row = rows.loc[measure]
        if row["n"] < MIN_REPLICATES:
            return f"{arm}: fewer than {MIN_REPLICATES} replicates, too few to compare."
        base, change = row["value"] - row["difference"], abs(row["difference"])
        if row["p_of_all"] < LEVEL:
            amount = f"{100 * change / base:.0f} %" if base > 0 else f"{change:.3f}"
            parts.append(f"{amount} {'more' if row['difference'] > 0 else 'less'} {word}")
        else:
            parts.append(f"{word} unchanged")
    return f"{arm}: {', '.join(parts)}."


def sentences(study: StudyFolder) -> list[str]:
    """Return a sentence per arm."""
    compared = differences(rows_of(study))
    return [sentence_of(compared, arm) for arm in dict.fromkeys(compared[ARM]) if arm != NONE]


def show_study(study: StudyFolder) -> None:
    """Print a study's tables and its sentences."""
    console, rows = Console(highlight=False), rows_of(study)
    if len(rows):
        compared = differences(rows)
        title = (
            f"{NONE} (n = {compared['n'].max()}), and paired differences to it with half their 95 % interval over "
            f"{replicates(rows)}; *: other than 0 after Holm's correction for all arms"
        )
        cells = compared.assign(cell=[_cell(row) for row in compared.to_dict("records")])
        wide = cells.pivot(index=ARM, columns="measure", values="cell").reindex(compared[ARM].unique())
        print_table(console, title, wide.reindex(columns=list(SHOWN)).fillna("–").rename(columns=SHOWN).reset_index())
    for sentence in sentences(study):
        console.print(plain(sentence), style="bold", soft_wrap=True)
    console.print(plain(str(study.folder)), soft_wrap=True)


def _cell(row: dict[Any, Any]) -> str:
    if row[ARM] == NONE:
        return f"{row['value']:.3f}"
    half = "" if np.isnan(row["low"]) else f" ± {(row['high'] - row['low']) / 2:.3f}"
    return f"{row['difference']:+.3f}{half}{'*' if row['p_of_all'] < LEVEL else ''}"


def print_table(console: Console, title: str, table: pd.DataFrame) -> None:
    """Print a table of strings; all columns but the first are aligned right."""
    names = list(map(str, table))
    console.print(make_table(title, table.set_axis(names, axis=1).to_dict("records"), names, right=names[1:]))


def write_results(study: StudyFolder, path: Path) -> None:
    """Write the results as a CSV with a header of comment lines: command, machine, seeds, and sentences."""
    if study.arms.empty:
        raise InputError(f"study {study.name!r} has no result yet: run the same command to resume it")
    request = study.request
    config = request["config"]
    head = [
        f"command: {command_of(study)}",
        machine_line(request["machine"], config),
        f"seeds: {', '.join(str(config['seed'] + number) for number in range(config['seeds']))}",
        f"value: mean over seeds; low, high: 95 % interval over {replicates(study.arms)} of the paired difference to "
        "the arm in the column reference; n: how many; low_of_all, high_of_all: the same for all arms at once "
        "(Bonferroni's t); p_of_all: Holm's p",
        *sentences(study),
    ]
    write_csv(path, head, differences(rows_of(study)).assign(reference=NONE))


@dataclass(frozen=True, eq=False)
class ReferenceStudy:
    """A table of data/results: means and paired differences, without single seeds."""

    name: str
    plan: str
    title: str
    over: str  # the replicates of its intervals
    rows: pd.DataFrame  # the columns of `differences` to the reference arm; NaN in older tables


def reference_studies(plans: Sequence[str]) -> list[ReferenceStudy]:
    """Return the stored studies of some plans, those over splits first."""
    studies = [read_reference(path) for path in sorted(RESULTS.glob("study-*.csv"))]
    of_plans = [study for study in studies if study.plan in plans]
    return sorted(of_plans, key=lambda study: (plans.index(study.plan), not study.over.startswith("splits")))


@functools.lru_cache(maxsize=64)
def read_reference(path: Path) -> ReferenceStudy:
    """Read a table of results."""
    with reading(path, repair="download the file again with the code"):
        lines = path.read_text(encoding="utf-8").splitlines()
        table = pd.read_csv(path, comment="#", dtype={ARM: str})
        pairs = [line.removeprefix("# ").partition(": ") for line in reversed(lines) if line.startswith("#")]
        head = {name: value for name, _, value in pairs}  # of several commands the first
        plan, source, *_ = shlex.split(head["command"].partition("clipmem_core study ")[2])
        seeds, value, machine = head["seeds"].count(",") + 1, head["value"], head["machine"].partition(";")[0]
        if "reference" in table:
            table = table[table["reference"] == NONE]
        if "p_of_all" not in table and "p_value" in table:
            table["p_of_all"] = table.groupby("measure")["p_value"].transform(lambda p: holm(p.to_numpy()))
    preset = re.search(r"--preset[ =](\S+)", head["command"])
    place, name = Path(source), path.stem.removeprefix("study-")
    if place.stem == "captions":  # take the name of the data set from its folder or the table
        place = Path(place.parent.name or name.split("-")[1])
    over = value.partition("interval over ")[2].partition(" of the paired")[0]
    counted = f"{seeds} {'splits' if over.startswith('splits') else 'seeds of one split'}"
    title = f"reference study: {place.stem}, preset {preset[1] if preset else 'small'}, {machine}, {counted}"
    rows = table.reindex(columns=COLUMNS).reset_index(drop=True)
    return ReferenceStudy(name, plan, title, over, rows)
