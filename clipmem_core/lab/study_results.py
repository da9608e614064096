"""The folder of a study, and results of mitigations: paired differences of every setting to the
baseline, a sentence a setting; tables on a terminal and as CSV, also of benchmarks.

<data>/studies/<name>/   study.json: the request · settings.parquet: the rows of `lab_table` of
                         each split · audits/split-<number>/: its baseline, and in mitigations/
                         its settings

In the lab of one audit the differences are paired by member, in a study by split: the members of a
split are averaged.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from typing_extensions import TypedDict

from clipmem_core.auditing.folder.store import Audit, Inner, Named, inside, read_table, write_table
from clipmem_core.auditing.run.console import make_table, plain
from clipmem_core.config import AuditConfig
from clipmem_core.dataset.source import DRAWN
from clipmem_core.lab import mitigated
from clipmem_core.lab.mitigated import AGAINST, RETRIEVAL, SECONDS, SETTING, lab_table
from clipmem_core.lab.setting import BASELINE, Setting, control_of
from clipmem_core.review.wrong_captions import write_effect
from clipmem_core.scores.seeds import (
    MIN_REPLICATES,
    holm,
    interval_text,
    paired_difference,
    seed_interval,
)
from clipmem_core.utils import columns as c
from clipmem_core.utils.io import read_json

SPLIT = "split"
STUDY = "study.json"
SETTINGS = "settings.parquet"
MEASURE = "measure"
_REPAIR = "delete it and run the study again; trained members stay"
CHANGES = Path(__file__).parents[2] / "data" / "results" / "switches.csv"  # in git


class StudyFile(TypedDict):
    """The fields of study.json."""

    study: str
    source: str
    config: AuditConfig
    splits: int
    settings: dict[Inner, str]  # the title of each setting
    machine: dict[str, str | int]


@dataclass(frozen=True)
class StudyFolder(Named):
    """One study's folder. Tables are read on access."""

    KIND = "study"
    PARENT = "studies"
    FIRST = STUDY

    @property
    def request(self) -> dict[str, Any]:
        """The content of study.json; its config as an `AuditConfig`."""
        return read_json(self.folder / STUDY, StudyFile, repair=_REPAIR)

    @property
    def rows(self) -> pd.DataFrame:
        """One row per finished split, setting and member."""
        return read_table(self.folder / SETTINGS, repair=_REPAIR)

    def audit(self, split: int) -> Audit:
        """Return the audit of a split."""
        return Audit(inside(self.folder, f"audits/split-{split}"))

    def write_rows(self, splits: int) -> None:
        """Write settings.parquet from the audits of the first `splits` splits."""
        settings = [*self.request["settings"], BASELINE]
        tables = [
            lab_table(self.audit(split), settings).assign(**{SPLIT: split})
            for split in range(splits)
        ]
        write_table(self.folder / SETTINGS, pd.concat(tables, ignore_index=True))


CLIPMEM_NET = "clipmem_net"  # clipmem less that of held-out pairs, which no member trains on
MEMORIZATIONS = {
    CLIPMEM_NET: "memorization",
    c.ATTACK_TPR: "attack TPR at 1 % FPR",
    c.ATTACK_AUROC: "attack AUROC",
    mitigated.MEMBERSHIP_AUROC: "membership AUROC",
}
AUROCS = (c.ATTACK_AUROC, mitigated.MEMBERSHIP_AUROC)
PARTS = {c.CLIPMEM_IMAGE: "image part", c.CLIPMEM_TEXT: "text part"}
UTILITIES = {RETRIEVAL: "retrieval", "linear_probe": "linear probe", "zero_shot": "zero-shot"}
MEASURE_LABELS = MEMORIZATIONS | PARTS | UTILITIES | {SECONDS: "seconds"}
# The measures on a terminal
_SHOWN = (CLIPMEM_NET, c.ATTACK_TPR, *PARTS, RETRIEVAL)
OF_MEMBERS = "members of this audit"
OF_SPLITS = c.SPLITS
_COLUMNS = [SETTING, MEASURE, "n", "value", "baseline", "difference", "low", "high", "p_value"]
P_OF_ALL = "p_of_all"
SIGNIFICANCE = 0.05  # of Holm's p


def differences(rows: pd.DataFrame) -> pd.DataFrame:
    """Compare every setting with the baseline by member, or by split if the rows have splits: a row
    per setting and measure.

    Columns: `n` members or splits, the means `value` of the setting and `baseline` on the same,
    their `difference` with its 95 % interval and p value, and the p value corrected for the number
    of settings by Holm's method. The rows of `none` have the interval of their own mean, less the
    mean.
    """
    if rows.empty:
        return pd.DataFrame(columns=[*_COLUMNS, P_OF_ALL])
    over = SPLIT if SPLIT in rows else c.MEMBER
    rows = rows.assign(**{CLIPMEM_NET: rows[c.CLIPMEM] - rows[mitigated.CLIPMEM_HELD_OUT]})
    measures = [name for name in MEASURE_LABELS if name in rows]
    means = [
        rows[rows[SETTING] == names].groupby([AGAINST, over], sort=False)[measures].mean()
        for names in (rows[AGAINST], BASELINE)
    ]
    both: Any = pd.concat(means, axis=1, join="inner", keys=["value", "baseline"]).astype(float)
    compared = []
    for (setting, measure), paired in both.stack().dropna().groupby(level=[0, 2], sort=False):
        value = paired["value"]
        difference = paired_difference(value, paired["baseline"])
        test = [difference.low, difference.high, difference.p_value]
        if setting == BASELINE:
            test = [*(np.array(seed_interval(value)) - value.mean()), np.nan]
        elif difference.n < MIN_REPLICATES:
            test = [np.nan] * 3
        compared.append([setting, measure, difference.n, *paired.mean(), difference.mean, *test])
    table = pd.DataFrame(compared, columns=_COLUMNS)
    by_measure = table.groupby(MEASURE)["p_value"]
    return table.assign(**{P_OF_ALL: by_measure.transform(lambda p: holm(p.to_numpy()))})


def front(points: pd.DataFrame, x: str, y: str) -> list[str]:
    """Return the Pareto-optimal settings by ascending x: small x and large y are better."""
    points = points.dropna(subset=[x, y]).sort_values(x, kind="stable")
    best = points.groupby(x)[y].max().cummax()
    gains = best[best.diff() != 0]  # where a larger x has a larger y than any smaller one
    return points.loc[points[y] == points[x].map(gains), SETTING].tolist()


def relative(row: Any) -> str:
    """Return a difference with its interval in percent of the baseline: −34 % [−36, −33]; as it is
    if the interval is wider than the baseline, which then is no different from 0."""
    in_percent = row["baseline"] > max(0.0, np.nan_to_num(row["high"] - row["low"]))
    scale, unit, spec = (100 / row["baseline"], " %", "+z.1f") if in_percent else (1.0, "", "+z.3f")
    difference, low, high = (scale * row[name] for name in ("difference", "low", "high"))
    return interval_text(difference, low, high, spec, unit)


def sentence_of(compared: pd.DataFrame, setting: str, title: str) -> str:
    """Say how a setting changes memorization, an attack and retrieval."""
    rows = compared[compared[SETTING] == setting].set_index(MEASURE).to_dict("index")
    parts = []
    if net := rows.get(CLIPMEM_NET):
        parts.append(f"memorization {relative(net)}")
    if attack := rows.get(c.ATTACK_TPR):
        after, before = (f"{100 * attack[name]:.0f} %" for name in ("value", "baseline"))
        parts.append(f"an attacker finds {after} of the training pairs instead of {before}")
    if retrieval := rows.get(RETRIEVAL):
        parts.append(f"retrieval {relative(retrieval)}")
    return f"{title}: {', '.join(parts)}."


def store_effect(audit: Audit, setting: Setting) -> None:
    """Write what a setting of decisions and its control change, for report and certificate, if all
    members are finished."""
    control = control_of(setting)
    effects = {}
    for each in filter(None, (setting, control)):
        if len(mitigated.compared_members(audit, each.name)) < len(mitigated.paired_members(audit)):
            return
        compared = differences(mitigated.lab_table(audit, [each.name, mitigated.BASELINE]))
        rows = compared[compared[SETTING] == each.name].set_index(MEASURE)
        measures = rows[["n", "value", "baseline", "difference", "low", "high"]]
        measured = measures.index.intersection([CLIPMEM_NET, c.ATTACK_TPR, RETRIEVAL])
        effects[each.title] = {
            "statement": sentence_of(compared, each.name, each.title),
            "measures": measures.loc[measured].to_dict("index"),
        }
    write_effect(audit, setting.decided.fingerprint, effects)


def usual_changes(audit: Audit) -> pd.DataFrame:
    """Return what switches of the page Mitigations changed in the project's own studies, in percent
    of the baseline, on data and members like those of an audit: locked towers or trained encoders,
    synthetic or real pictures.

    Columns: encoders (locked or trained), pictures, switch, clipmem_net, retrieval.
    """
    config = audit.record.config
    encoders = {2: "locked", 0: "trained"}.get(config.lock_image + config.lock_text)
    if config.unlock:
        encoders = "unlocked"  # no study yet
    rows = pd.read_csv(CHANGES, comment="#")
    synthetic = (rows["pictures"] == "synthetic") == (audit.record.format == DRAWN)
    return rows[(rows["encoders"] == encoders) & synthetic]


def mitigate_command(audit: Audit, setting: Setting) -> str:
    """Return the command that trains a setting of an audit."""
    return shlex.join(["python", "-m", "clipmem_core", "mitigate", audit.name, *setting.flags])


def show_differences(rows: pd.DataFrame, titles: dict[str, str]) -> None:
    """Print the table of an audit's lab or of a study, and a sentence a setting."""
    compared = differences(rows)
    over = OF_SPLITS if SPLIT in rows else OF_MEMBERS
    title = (
        f"differences from the baseline, with half their 95 % interval over {over}; *: other than "
        "0, corrected for the number of settings (Holm)"
    )
    shown = compared[compared[MEASURE].isin(_SHOWN)]
    texts = [_cell_text(row) for row in shown.to_dict("records")]
    shown = shown.assign(text=texts, measure=shown[MEASURE].map(MEASURE_LABELS))
    print_table(title, table_of_texts(shown, SETTING, MEASURE))
    for setting, name in titles.items():
        if (compared[SETTING] == setting).any():
            print_line(sentence_of(compared, setting, name), style="bold")


def _cell_text(row: dict[Any, Any]) -> str:
    if row[SETTING] == BASELINE:
        return f"{row['value']:.3f}"
    half = "" if np.isnan(row["low"]) else f" ± {(row['high'] - row['low']) / 2:.3f}"
    return f"{row['difference']:+.3f}{half}{'*' if row[P_OF_ALL] < SIGNIFICANCE else ''}"


def write_study_results(study: StudyFolder, path: Path, *, command: str) -> None:
    """Write the differences of a study as a CSV file, with a sentence a setting."""
    request = study.request
    compared = differences(study.rows)
    seeds = [str(study.audit(split).record.config.seed) for split in range(request["splits"])]
    head = [
        *origin(command, request, ", ".join(seeds)),
        f"value: mean over splits; low, high: 95 % interval over {OF_SPLITS} of the paired "
        f"difference to {BASELINE}; n: how many; p_of_all: Holm's p",
        *(sentence_of(compared, setting, title) for setting, title in request["settings"].items()),
    ]
    write_csv(path, head, compared)


# --- Tables of studies and benchmarks

_console = Console(highlight=False)


def table_of_texts(rows: pd.DataFrame, index: str, columns: str) -> pd.DataFrame:
    """Return the column `text` of some rows as a table, in the order of the rows."""
    table = rows.pivot(index=index, columns=columns, values="text")
    table = table.reindex(index=rows[index].unique(), columns=rows[columns].unique())
    return table.fillna("–").reset_index()


def print_table(title: str, table: pd.DataFrame) -> None:
    """Print a table of texts; all columns but the first are aligned right."""
    columns = table.columns.tolist()
    _console.print(make_table(title, table.to_dict("records"), columns, right=columns[1:]))


def print_line(text: str, *, style: str = "") -> None:
    """Print a line of foreign text."""
    _console.print(plain(text), style=style, soft_wrap=True)


def origin(command: str, request: Any, seeds: str) -> list[str]:
    """Return lines on where the results of an experiment are from: the command, the machine and how
    the config uses it, and the seeds."""
    machine, config = request["machine"], request["config"]
    return [
        f"command: {command}",
        f"machine: {machine['processor']}, {machine['cores']} cores; {config.device}, "
        f"{config.precision}, {config.threads} threads a member",
        f"seeds: {seeds}",
    ]


def write_csv(path: Path, head: Sequence[str], rows: pd.DataFrame) -> None:
    """Write a table below comment lines."""
    body = rows.to_csv(index=False, float_format="%.5g")
    path.write_text("".join(f"# {line}\n" for line in head) + body, encoding="utf-8")
