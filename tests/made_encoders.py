"""Made-up results on an audit's encoders: units of its members, paradigms, studies. Nothing is trained."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd

from clipmem_core.audit import unit_tables as t
from clipmem_core.audit.store import CONFIG, Audit, MemberRecord, write_json, write_table
from clipmem_core.audit.unitmem import unit_table
from clipmem_core.scores.encoders import UnitTally
from clipmem_core.studies.study_folder import ARMS, PEAK_MB, SAMPLES_SEEN, SECONDS, STUDY, TIMES
from tests.made_arms import request_of

WIDTHS = {"image": [6, 5], "text": [4]}
MODEL = {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}}
MEMORIZATION = ["clipmem_candidate", "membership_auroc", "clipmem_image", "clipmem_text"]
MEMORIZATION += ["clipmem_external", "clipmem_image_external", "clipmem_text_external", "map_fit"]


def make_members(audit: Audit) -> None:
    """Write the config of each member, by which its units are cached."""
    for number, name in enumerate(audit.record.members):
        audit.member(name).mkdir(parents=True, exist_ok=True)
        sha256 = f"{number:064d}"
        record = MemberRecord(name, number, audit.record.fingerprint, "tiny", 0, MODEL, checkpoint_sha256=sha256)
        write_json(audit.member(name) / CONFIG, vars(record))


def make_units(audit: Audit) -> pd.DataFrame:
    """Write the units of an audit's members, and the references of the first; return those of the members.

    The last unit of each encoder is silent.
    """
    make_members(audit)
    rng, tables, ids = np.random.default_rng(0), [], audit.pairs["pair_id"].to_numpy()
    for name in audit.record.members:
        rows = np.flatnonzero(audit.membership[name])
        table = _units(rng, rows, ids)
        _write(t.table_file(audit, name), table)
        table.insert(0, "member", name)
        tables.append(table)
    references = [_units(rng, np.arange(20), ids).assign(reference=name) for name in (t.BEFORE, t.SEEN, t.UNSEEN)]
    _write(t.table_file(audit, audit.record.members[0], t.REFERENCES), pd.concat(references, ignore_index=True))
    return pd.concat(tables, ignore_index=True)


def _units(rng: np.random.Generator, rows: np.ndarray, ids: np.ndarray) -> pd.DataFrame:
    tables = []
    for tower, widths in WIDTHS.items():
        tally = UnitTally(sum(widths))
        values = rng.exponential(size=(len(rows), sum(widths))).astype(np.float32)
        values[:, -1] = 0
        tally.add(rows, values, np.zeros_like(values))
        tables.append(unit_table(tally, widths, tower=tower, pair_ids=ids))
    return pd.concat(tables, ignore_index=True)


def _write(path: Path, table: pd.DataFrame) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(path, table)


def paradigm_rows(means: dict[str, float], *, seeds: int = 3, layers: int = 4, spread: float = 0.001) -> pd.DataFrame:
    """Return a table as that of paradigms.csv: UnitMem rises by .01 a layer from a paradigm's mean at the first."""
    rows = []
    for (paradigm, mean), seed, layer in itertools.product(means.items(), range(seeds), range(1, layers + 1)):
        value = mean + 0.01 * (layer - 1) + spread * (seed - (seeds - 1) / 2)
        rows.append({"paradigm": paradigm, "seed": seed, "layer": layer, "units": 8, "silent": 0, "clipped": 0.3})
        rows[-1] |= {"unitmem_mean": value, "unitmem_median": value + 0.1, "median_error": 0.002}
    return pd.DataFrame(rows)


def make_paradigms(audit: Audit, means: dict[str, float] | None = None, *, seeds: int = 3) -> None:
    """Write the table of an audit's paradigms; CLIP lies between the others unless the means say otherwise."""
    folder = t.paradigms_folder(audit)
    folder.mkdir(parents=True)
    table = paradigm_rows(means or dict(zip(t.PARADIGMS, (0.4, 0.5, 0.3), strict=True)), seeds=seeds)
    (folder / t.PARADIGM_TABLE).write_text("# command: made up\n" + table.to_csv(index=False))


def make_study(data: Path, plan: str, *, name: str = "", seeds: int = 3, done: int | None = None) -> Path:
    """Write a study of a plan of which so many seeds are done, and return its folder; text leads by .3."""
    rng, folder = np.random.default_rng(0), data / "studies" / (name or plan)
    folder.mkdir(parents=True)
    arms = _arms(plan)
    done = seeds if done is None else done
    write_json(folder / STUDY, request_of(plan, {"seeds": seeds}, arms))
    rows = [_row(rng) | {"arm": arm, "seed": seed, **shown} for arm, shown in arms.items() for seed in range(done)]
    if rows:
        write_table(folder / ARMS, pd.DataFrame(rows))
    if rows and plan == "time":
        moments = itertools.product(range(done), (1, 2, 5, 10))
        grown = [_grown(_row(rng), epoch / 10) | {"arm": "none", "seed": s, "epoch": epoch} for s, epoch in moments]
        write_table(folder / TIMES, pd.DataFrame(grown))
    return folder


def _arms(plan: str) -> dict[str, dict[str, object]]:
    widths = ("half", "one", "double")
    if plan == "size":
        return {
            f"image-{image}-text-{text}": {"image_encoder": image, "text_encoder": text}
            for image, text in itertools.product(widths, widths)
        }
    if plan == "views":
        crops = {"normal": 0.5, "off": 1.0, "strong": 0.2}
        return {
            f"crops-{crop}-captions-{captions}": {"crop_scale": scale, "captions": captions}
            for captions, (crop, scale) in itertools.product(("1", "all"), crops.items())
        }
    return {"none": {}}


def _row(rng: np.random.Generator) -> dict[str, float]:
    noise = rng.normal(size=len(MEMORIZATION)) * 0.002
    row = dict(zip(MEMORIZATION, noise, strict=True))
    row["clipmem_image"] += 0.03
    row["clipmem_text"] += 0.33
    row["clipmem_candidate"] = row["clipmem_image"] + row["clipmem_text"]
    row["membership_auroc"], row["map_fit"] = 0.8, 0.9
    return row | {"retrieval": 0.4} | dict.fromkeys((SAMPLES_SEEN, SECONDS, PEAK_MB), 1.0)


def _grown(row: dict[str, float], share: float) -> dict[str, float]:
    return row | {name: row[name] * share for name in ("clipmem_image", "clipmem_text", "clipmem_candidate")}
