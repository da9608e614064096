"""The results of a finished audit as a small CSV, with the command, machine and seeds that made it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audits import unitmem as t
from clipmem_core.audits.settings import typed, typed_flags
from clipmem_core.audits.store import Audit
from clipmem_core.audits.verdict import RELIABILITY
from clipmem_core.config import affecting, as_dict

MEASURES = ("auroc", "average_precision", "precision_at_k", "auroc_difference", "average_precision_difference")


def command_of(audit: Audit) -> str:
    """Return the command that makes an audit again."""
    record = audit.record
    config = record.config
    # What depends on the machine or follows from others, nobody types.
    following = (
        *affecting("machine"),
        "members" if config.protocol == "paper" or config.members == 2 * config.folds else "",
    )
    words = ["python -m clipmem_core audit", record.source, f"--name {audit.name}", f"--preset {config.preset}"]
    given = {name: value for name, value in typed(as_dict(config)).items() if name not in following}
    return " ".join([*words, *typed_flags(given)])


def result_rows(audit: Audit) -> pd.DataFrame:
    """Return an audit's results as a tidy table: what, of, measure, value, low, high, kind."""
    verdict = audit.verdict
    rows: list[dict[str, Any]] = [
        {"what": "clipmem", "of": r["group"], "measure": "mean", "value": r["mean"], "low": r["low"], "high": r["high"]}
        | {"kind": c.of_one_split(r["kind"]), "n": r["n"]}
        for r in verdict["groups"]
    ]
    for planted in verdict["planted"]:
        names = [name for name in planted if name not in (c.PLANTED, "n")]
        rows += [
            {"what": "planted", "of": planted[c.PLANTED], "measure": name, "value": planted[name], "n": planted["n"]}
            for name in names
        ]
    for score in verdict["detection"]:
        rows += [
            {"what": "detection", "of": score["score"], "measure": name, "value": score[name]}
            | {"low": score.get(f"{name}_low"), "high": score.get(f"{name}_high"), "kind": "95% paired bootstrap"}
            for name in MEASURES
        ]
    rows += [
        _plain("membership", name, "auroc", value) for name, value in verdict["membership_auroc_by_member"].items()
    ]
    rows += [_plain("ranking", "halves of the members", "spearman", verdict["ranking_stability"])]
    rows += [_plain("ranking", "all members", "reliability", verdict[RELIABILITY])]
    rows += [
        _plain("encoders", "scored or candidate", name, verdict["encoders"][name]) for name in ("image", "text", "fit")
    ]
    for row in verdict["attacks"]:
        for over, kind in (("members", "95% interval over members"), ("pairs", "95% bootstrap over pairs")):
            ends = {"low": row[f"{over}_low"], "high": row[f"{over}_high"], "kind": kind, "n": row["targets"]}
            if row["value"] is not None and ends["low"] is not None:
                rows.append(_plain("attack", row["attack"], row["measure"], row["value"]) | ends)
    utility = audit.utility[~audit.utility[c.METRIC].isin(c.ATTACK_METRICS.values())]
    for metric, values in utility.groupby(c.METRIC, sort=False)[c.VALUE]:
        spread = {"low": values.min(), "high": values.max(), "kind": "range over members", "n": len(values)}
        rows.append(_plain("utility", "external", str(metric), values.mean()) | spread)
    rows += [_plain("seconds", "audit", name, verdict["seconds"][name]) for name in ("prepare", "members", "scoring")]
    rows += unit_rows(audit)
    return pd.DataFrame(rows, columns=["what", "of", "measure", "value", "low", "high", "kind", "n"])


def unit_rows(audit: Audit) -> list[dict[str, Any]]:
    """Return UnitMem by layer, of the members and of what it is read against; no row where it was not measured."""
    units, references = t.read_units(audit), t.read_units(audit, t.REFERENCES)
    if units is None:
        return []
    rows = []
    for (tower, layer), values in t.layer_means(units).groupby([t.TOWER, t.LAYER], sort=False)[t.UNITMEM_MEAN]:
        spread = {"low": values.min(), "high": values.max(), "kind": "range over members", "n": len(values)}
        rows.append(_plain("unitmem", f"{tower} encoder, layer {layer}", "members", values.mean()) | spread)
    if references is not None:
        found = t.layer_means(references, by=[c.MEMBER, t.REFERENCE, t.TOWER, t.LAYER])
        for row in found.to_dict("records"):
            of, alone = f"{row[t.TOWER]} encoder, layer {row[t.LAYER]}", f"member {row[c.MEMBER]} alone"
            rows.append(_plain("unitmem", of, row[t.REFERENCE], row[t.UNITMEM_MEAN]) | {"kind": alone, "n": 1})
    return rows


def _plain(what: str, of: str, measure: str, value: Any) -> dict[str, Any]:
    return {"what": what, "of": of, "measure": measure, "value": value}


def write_results(audit: Audit, path: Path) -> None:
    """Write the table with a head of comment lines that say where it comes from."""
    record = audit.record
    head = [
        f"command: {command_of(audit)}",
        machine_line(record.machine, record.values),
        f"seeds: {', '.join(f'{name} {seed}' for name, seed in record.seeds.items())}",
        f"pairs: {record.pairs:,}, of which external (the gallery) {record.external_pairs:,}",
        f"data set: {record.dataset_fingerprint}",
    ]
    write_csv(path, head, result_rows(audit))


def machine_line(machine: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Say what something was computed on; `config` has device, precision and threads."""
    return (
        f"machine: {machine['processor']}, {machine['cores']} cores; {config['device']}, {config['precision']}, "
        f"{config['threads']} threads a member"
    )


def write_csv(path: Path, head: Sequence[str], rows: pd.DataFrame) -> None:
    """Write a table below comment lines."""
    body = rows.to_csv(index=False, float_format="%.5g")
    path.write_text("".join(f"# {line}\n" for line in head) + body, encoding="utf-8")
