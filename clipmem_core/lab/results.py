"""Results of audits, studies and benchmarks as tables: printed, and as CSV files with the command,
the machine and the seeds."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
from rich.console import Console

from clipmem_core import columns as c
from clipmem_core.audit.console import make_table
from clipmem_core.audit.settings import typed, typed_flags
from clipmem_core.audit.store import Audit
from clipmem_core.audit.verdict import RELIABILITY
from clipmem_core.config import AuditConfig, affecting, as_dict

MEASURES = (
    "auroc",
    "average_precision",
    "precision_at_k",
    "auroc_difference",
    "average_precision_difference",
)


def print_table(console: Console, title: str, table: pd.DataFrame) -> None:
    """Print a table of strings; all columns but the first are aligned right."""
    columns = table.columns.tolist()
    console.print(make_table(title, table.to_dict("records"), columns, right=columns[1:]))


def reproducing_command(
    words: Sequence[str], config: AuditConfig, defaults: Mapping[str, Any] = MappingProxyType({})
) -> str:
    """Return the command that reproduces a run: its words, and the fields of the config that differ
    from its preset or from the command's own `defaults`."""
    values = as_dict(config)
    fields = typed(values) | {name: values[name] for name in defaults}
    # Without fields that depend on the machine or follow from others
    omitted = [*affecting("machine")]
    if config.protocol == "paper" or config.members == 2 * config.folds:
        omitted.append("members")
    flags = {
        name: value
        for name, value in fields.items()
        if name not in omitted and (name not in defaults or value != defaults[name])
    }
    start = ["python", "-m", "clipmem_core", *words, f"--preset={config.preset}"]
    return shlex.join([*start, *typed_flags(flags)])


def result_rows(audit: Audit) -> pd.DataFrame:
    """Return an audit's results as a tidy table: what, of, measure, value, low, high, kind, n."""
    verdict = audit.verdict
    rows = list[tuple[Any, ...]]()

    def add(*row: Any) -> None:
        rows.append(row)

    for row in verdict["groups"]:
        kind = c.of_one_split(row["kind"])
        ends = (row["low"], row["high"])
        add("clipmem", row["group"], "mean", row["mean"], *ends, kind, row["n"])
    for row in verdict["injected"]:
        for name in (name for name in row if name not in (c.INJECTED, "n")):
            add("injected", row[c.INJECTED], name, row[name], None, None, None, row["n"])
    for row in verdict["detection"]:
        for name in MEASURES:
            ends = (row.get(f"{name}_low"), row.get(f"{name}_high"))
            add("detection", row["score"], name, row[name], *ends, "95% paired bootstrap")
    for name, value in verdict["membership_auroc_by_member"].items():
        add("membership", name, "auroc", value)
    add("ranking", "halves of the members", "spearman", verdict["ranking_stability"])
    add("ranking", "all members", "reliability", verdict[RELIABILITY])
    for name in ("image", "text", "fit"):
        add("encoders", "scored or candidate", name, verdict["encoders"][name])
    for row in verdict["attacks"]:
        for unit, kind in (
            ("members", "95% interval over members"),
            ("pairs", "95% bootstrap over pairs"),
        ):
            ends = (row[f"{unit}_low"], row[f"{unit}_high"])
            if row["value"] is not None and ends[0] is not None:
                measured = (row["attack"], row["measure"], row["value"])
                add("attack", *measured, *ends, kind, row["targets"])
    utility = audit.utility[~audit.utility[c.METRIC].isin(c.ATTACK_METRICS.values())]
    for metric, values in utility.groupby(c.METRIC, sort=False)[c.VALUE]:
        ends = (values.min(), values.max())
        add("utility", "external", metric, values.mean(), *ends, "range over members", len(values))
    for name, value in audit.seconds.items():
        add("seconds", "audit", name, value)
    return pd.DataFrame(
        rows, columns=["what", "of", "measure", "value", "low", "high", "kind", "n"]
    )


def write_audit_results(audit: Audit, path: Path) -> None:
    """Write an audit's results as a CSV file."""
    record = audit.record
    write_results(
        path,
        result_rows(audit),
        command=reproducing_command(
            ["audit", record.source, f"--name={audit.name}"], record.config
        ),
        machine=record.machine,
        config=record.config,
        seeds=", ".join(f"{name} {seed}" for name, seed in record.seeds.items()),
        notes=[
            f"pairs: {record.pairs:,}, of which external (the gallery) {record.external_pairs:,}",
            f"data set: {record.dataset_fingerprint}",
        ],
    )


def write_results(
    path: Path,
    rows: pd.DataFrame,
    *,
    command: str,
    machine: Mapping[str, Any],
    config: AuditConfig,
    seeds: str,
    notes: Sequence[str],
) -> None:
    """Write results below comment lines with the command, the machine and how a config uses it, the
    seeds and notes."""
    head = [
        f"command: {command}",
        f"machine: {machine['processor']}, {machine['cores']} cores; {config.device}, "
        f"{config.precision}, {config.threads} threads a member",
        f"seeds: {seeds}",
        *notes,
    ]
    write_csv(path, head, rows)


def write_csv(path: Path, head: Sequence[str], rows: pd.DataFrame) -> None:
    """Write a table below comment lines."""
    body = rows.to_csv(index=False, float_format="%.5g")
    path.write_text("".join(f"# {line}\n" for line in head) + body, encoding="utf-8")
