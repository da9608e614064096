"""The folder of an experiment on the method, and the tables of studies and benchmarks. Without
torch, for the dashboard.

An experiment has one run for each split of the pairs and each setting. A run trains or audits,
measures, and adds rows to one table. Studies compare settings of the members over splits,
benchmarks compare detectors over injections of errors.

    <data>/studies|benchmarks/<name>/
      config.json, pairs.parquet and more   the data set, as an audit that is not trained
      audits/<run>/                         the audit of a split; deleted in a benchmark
      rows/<run>.parquet                    the rows of a finished run
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core.auditing.folder import prepare
from clipmem_core.auditing.folder.store import (
    Audit,
    Record,
    inside,
    read_prepared,
    read_table,
    write_table,
)
from clipmem_core.dataset.injected_errors import WORD_KINDS
from clipmem_core.dataset.pictures import Pixels
from clipmem_core.dataset.source import RawPairs
from clipmem_core.lab import mitigated
from clipmem_core.lab.mitigated import AGAINST, RETRIEVAL, SECONDS, SETTING
from clipmem_core.lab.setting import BASELINE, Setting, control_of
from clipmem_core.review.progress_and_repair import write_effect
from clipmem_core.scores.metrics import (
    AVERAGE_PRECISION,
    MIN_REPLICATES,
    PRECISION_AT_K,
    ROC_AUC,
    detection_table,
    holm,
    interval_text,
    numbers_reviewed,
    over_seeds,
    paired_difference,
    precision_curve,
    seed_interval,
)
from clipmem_core.scores.registry import DETECTION_SCORES
from clipmem_core.utils import columns as c

SEED = "seed"
SPLIT = "split"
TITLE = "title"
MEASURE = "measure"
_REPAIR = "delete it and run the experiment again"


@dataclass(frozen=True)
class Experiment(Audit):
    """The folder of an experiment: its data set as an audit that is not trained, and the rows of
    finished runs. Files are read on access."""

    KIND = "comparison"
    PARENT = "studies"

    def audit(self, run: str) -> Audit:
        """Return the audit of a run."""
        return Audit(inside(self.folder, f"audits/{run}"))

    def rows_file(self, run: str) -> Path:
        """Return the file with the rows of a run, which exists if the run is finished."""
        return inside(self.folder, f"rows/{run}.parquet")

    @property
    def rows_files(self) -> list[Path]:
        """The files of all finished runs, in the order in which they finished."""
        paths = (self.folder / "rows").glob("[!.]*.parquet")
        return sorted(paths, key=lambda path: path.stat().st_mtime_ns)

    @property
    def rows(self) -> pd.DataFrame:
        """The rows of all finished runs."""
        tables = [read_table(path, repair=_REPAIR) for path in self.rows_files]
        return pd.concat([pd.DataFrame(), *tables], ignore_index=True)

    def add_rows(self, run: str, rows: pd.DataFrame) -> None:
        """Write the rows of a run, which marks the run as finished."""
        path = self.rows_file(run)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_table(path, rows)

    @property
    def data_set(self) -> prepare.DataSet:
        """The stored data set."""
        record = self.record
        pairs = self.pairs
        quarantine = self.quarantine
        prepared = read_prepared(self.folder)
        grouped = pairs.assign(**{c.GROUP_KEY: prepared.groups.astype(str)})
        counts = record.repeated_captions, record.sampled_of
        raw = RawPairs(record.pictures, record.format, len(pairs), grouped, quarantine, *counts)
        folder = prepare.pixels_folder(self)
        pixels = Pixels(folder, prepared.cache_rows, record.config.cache_size)
        return prepare.DataSet(raw, pairs, quarantine, prepared.clusters, pixels)


class Study(Experiment):
    """A study: one row for each split, setting and member, as of `setting_rows`, with the title of
    the setting."""

    KIND = "study"


class Benchmark(Experiment):
    """A benchmark: one row for each injection and detector."""

    KIND = "benchmark"
    PARENT = "benchmarks"

    @property
    def rows(self) -> pd.DataFrame:
        """One row for each finished injection and detector: kind, share, seed, lists of the numbers
        of pairs reviewed and of the precision at them, and the other measures. `absent` is why an
        injection had too few suitable pairs."""
        columns = [*_CELL, DETECTOR, ABSENT, *_CURVE, *SHORT]
        return super().rows.reindex(columns=columns)


# --- Differences of settings from the baseline

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
OF_MEMBERS = "members of this audit"
OF_SPLITS = c.SPLITS
_COLUMNS = [SETTING, MEASURE, "n", "value", "baseline", "difference", "low", "high", "p_value"]
P_OF_ALL = "p_of_all"
SIGNIFICANCE = 0.05  # of Holm's p


def differences(rows: pd.DataFrame) -> pd.DataFrame:
    """Compare every setting with the baseline by member, or by split if the rows have splits: a row
    for each setting and measure.

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
    return table.assign(p_of_all=by_measure.transform(lambda p: holm(p.to_numpy())))


def titles_of(rows: pd.DataFrame) -> dict[str, str]:
    """Return the titles of the settings in the rows of a study, by their names."""
    rows = rows[rows[AGAINST] != BASELINE]
    return dict(zip(rows[AGAINST], rows[TITLE], strict=True))


def front(points: pd.DataFrame, x: str, y: str) -> list[str]:
    """Return the Pareto-optimal settings by ascending x: small x and large y are better."""
    points = points.dropna(subset=[x, y]).sort_values([x, y], ascending=[True, False])
    return points.loc[points[y] == points[y].cummax(), SETTING].tolist()


def relative(row: Any) -> str:
    """Return a difference with its interval in percent of the baseline, −34 % [−36, −33]; in the
    unit of the measure if the interval is wider than the baseline, which may then be 0."""
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
    """Write how a setting of decisions and its control change memorization and utility, for report
    and certificate, if all members are finished."""
    effects = {}
    for each in filter(None, (setting, control_of(setting))):
        if mitigated.compared_members(audit, each.name) != mitigated.paired_members(audit):
            return
        compared = differences(mitigated.lab_table(audit, [each.name, BASELINE]))
        rows = compared[compared[SETTING] == each.name].set_index(MEASURE)
        measures = rows[rows.index.isin([CLIPMEM_NET, c.ATTACK_TPR, RETRIEVAL])]
        measures = measures[["n", "value", "baseline", "difference", "low", "high"]]
        effects[each.title] = {
            "statement": sentence_of(compared, each.name, each.title),
            "measures": measures.dropna(axis=1).to_dict("index"),
        }
    write_effect(audit, setting.decided.fingerprint, effects)


# --- Detectors of wrong captions, by errors injected in a benchmark or in one audit

MISFIT_SECOND = "misfit_second"
# Detectors by a second round of training, and the corresponding ones of the first round
SECOND_ROUND = {MISFIT_SECOND: c.MISFIT, c.FIT_SECOND: c.FIT_OUT}
RANDOM_DETECTOR = "random"
REFERENCE_DETECTOR = c.MISFIT  # the one that benchmarks compare the others with
# Detectors of wrong pairs that benchmarks compare
DETECTORS = (
    *(c.SUSPICION, c.MISFIT, MISFIT_SECOND, c.SIMILARITY_IN, c.SIMILARITY_OUT, c.FIT_OUT),
    c.FIT_SECOND,
    *(c.LEARNED, c.CLIPMEM, RANDOM_DETECTOR),
)
KIND = "kind"
SHARE = "share"
DETECTOR = "detector"
ABSENT = "absent"
_CELL = [KIND, SHARE, SEED]
_CURVE = ["number", "precision"]
SHORT = {
    ROC_AUC: "AUROC",
    AVERAGE_PRECISION: "AP",
    PRECISION_AT_K: "P@50",
    # changed captions among the pairs reviewed first
    "found_100": "found in: 100",
    "found_500": "found in: 500",
    "found_1000": "found in: 1,000",
    "caption_auroc": "captions: AUROC",
    "caption_average_precision": "captions: AP",
    **{f"caption_auroc_{kind}": f"captions, AUROC: {kind}" for kind in WORD_KINDS},
    "sum_over_wrong": "captions: Σ p / wrong",
    "incidents_named": "incidents: kind named",
    "incidents_repaired": "incidents: pairs repaired",
    "incidents_wrongly": "incidents: repairs that are wrong",
    "incidents_false": "incidents: not planted",
    "review_covered": "review: interval holds",
    "review_one_slip": "review: moved by one slip",
    "review_six_slips": "review: moved by six slips",
}
OVER = "over_reference"
_INTERVAL = ["mean", "low", "high"]
_OVER_COLUMNS = [OVER, f"{OVER}_low", f"{OVER}_high"]
TABLE_COLUMNS = [KIND, SHARE, DETECTOR, MEASURE, "n", *_INTERVAL, *_OVER_COLUMNS]
OF_INJECTIONS = "95 % over injections (Student's t)"


def absent_kinds(rows: pd.DataFrame) -> list[str]:
    """Return the kinds of error with too few suitable pairs in the rows of a benchmark, with the
    reason."""
    reasons = rows.dropna(subset=ABSENT).groupby(KIND)[ABSENT].first()
    return [f"{kind}: {reason}" for kind, reason in reasons.items()]


def benchmark_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Average each measure of each detector over injections, and compare it with that of
    `REFERENCE_DETECTOR` on the same injections.

    Intervals are Student's t over injections; NaN below three. `over_reference` is the mean of the
    paired differences detector − reference.
    """
    rows = rows.dropna(subset=DETECTOR)
    if rows.empty:
        return pd.DataFrame(columns=TABLE_COLUMNS)
    by = [KIND, SHARE, DETECTOR, MEASURE]
    values = rows.set_index([*_CELL, DETECTOR])[list(SHORT)]
    values = values.astype(float).rename_axis(columns=MEASURE)
    over = values - values.xs(REFERENCE_DETECTOR, level=DETECTOR)
    long = pd.concat([values.stack(), over.stack()], axis=1, keys=["value", OVER]).reset_index()
    table = over_seeds(long, by=by, measure="value")
    over = over_seeds(long, by=by, measure=OVER).drop(columns="n")
    return table.merge(over.set_axis([*by, *_OVER_COLUMNS], axis=1), on=by, how="left")


def mean_curves(rows: pd.DataFrame) -> pd.DataFrame:
    """Average the precision by number of reviewed pairs over injections: kind, share, detector,
    number, precision. Injections differ by a few scored pairs, so numbers are averaged too."""
    points = rows.dropna(subset="precision").explode(_CURVE)
    points[_CURVE] = points[_CURVE].astype(float)
    by = [KIND, SHARE, DETECTOR, points.groupby(level=0).cumcount()]
    means = points.groupby(by, sort=False)[_CURVE].mean()
    return means.round({"number": 0}).reset_index()


def cell_text(row: dict[Any, Any]) -> str:
    """Return a mean with its interval, and ▲ or ▼ where it is above or below that of the reference:
    the interval of the paired difference excludes 0."""
    digits = 1 if row[MEASURE].startswith("found") else 3
    text = interval_text(row["mean"], row["low"], row["high"], f".{digits}f")
    if row[f"{OVER}_low"] > 0:
        return f"{text} ▲"
    return f"{text} ▼" if row[f"{OVER}_high"] < 0 else text


def benchmarks_of(audit: Audit) -> list[Benchmark]:
    """Return the benchmarks on an audit's data set, those with the same pairs first."""
    mine = audit.record
    on_set = [each for each in Benchmark.every() if each.record.root == mine.root]
    return sorted(
        (each for each in on_set if each.rows_files),
        key=lambda each: each.record.dataset_fingerprint != mine.dataset_fingerprint,
    )


def oriented(table: pd.DataFrame) -> pd.DataFrame:
    """Return the detectors in a table of scores, larger more suspicious."""
    directions = [score.direction for score in DETECTION_SCORES.values()]
    return table[list(DETECTION_SCORES)].astype(float) * directions


def detected_errors(scores: pd.DataFrame, truth: np.ndarray) -> pd.DataFrame:
    """Measure how well each detector, a column of `scores`, ranks the wrong pairs first (`truth`).

    Return a row for each detector: the metrics of `detection_table`, and the precision by the
    number of reviewed pairs."""
    values = {str(name): column.to_numpy(float) for name, column in scores.items()}
    numbers = numbers_reviewed(len(truth))
    curves = [precision_curve(each, truth, numbers).round(4).tolist() for each in values.values()]
    detected = detection_table(values, truth, n_boot=1).set_index("score")
    detected["number"] = [numbers.tolist()] * len(curves)
    detected["precision"] = curves
    return detected.rename_axis(DETECTOR)


# --- Tables on a terminal and in files


def table_of_texts(rows: pd.DataFrame, index: str, columns: str) -> pd.DataFrame:
    """Return the column `text` of some rows as a table, in the order of the rows."""
    table = rows.pivot(index=index, columns=columns, values="text")
    table = table.reindex(index=rows[index].unique(), columns=rows[columns].unique())
    return table.fillna("–").reset_index()


def print_table(table: pd.DataFrame) -> None:
    """Print a table, numbers with three decimals, and an empty line."""
    print(table.round(3).to_string(index=False), end="\n\n")


def write_results(
    path: Path,
    command: str,
    record: Record,
    rows: pd.DataFrame,
    table: pd.DataFrame,
    notes: Sequence[str] = (),
) -> None:
    """Write a table from the rows of an experiment as CSV, below the command that made it, the
    machine and how the config uses it, the seeds, and notes."""
    machine = record.machine
    config = record.config
    head = [
        f"command: {command}",
        f"machine: {machine['processor']}, {machine['cores']} cores; {config.device}, "
        f"{config.precision}, {config.threads} threads a member",
        f"seeds: {', '.join(map(str, sorted(rows[SEED].unique())))}",
        *notes,
    ]
    write_csv(path, head, table)


def write_csv(path: Path, head: Sequence[str], rows: pd.DataFrame) -> None:
    """Write a table below comment lines."""
    body = rows.to_csv(index=False, float_format="%.5g")
    path.write_text("".join(f"# {line}\n" for line in head) + body, encoding="utf-8")
