"""Which encoder memorized what: the comparison of text and image encoder, and the tables of UnitMem
of members and paradigms. Without torch, for the dashboard.

An audit whose towers are locked says nothing about encoders: the command `encoders` trains the last
blocks of its towers on a sample of its pairs, and compares both audits.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core.auditing.folder import store
from clipmem_core.auditing.folder.jobs import Screen
from clipmem_core.auditing.folder.prepare import membership_of, sides_of
from clipmem_core.auditing.folder.store import Audit
from clipmem_core.config import (
    AuditConfig,
    affecting,
    as_dict,
    data_folder,
    fingerprint,
    preset_config,
)
from clipmem_core.errors.calibration import HALF
from clipmem_core.lab.experiment import SEED, Experiment
from clipmem_core.review.overview import model_words
from clipmem_core.scores.encoders import compare_parts
from clipmem_core.scores.seeds import MIN_REPLICATES, over_seeds, seed_interval
from clipmem_core.training import CHECKPOINT
from clipmem_core.utils import columns as c
from clipmem_core.utils import draws
from clipmem_core.utils.io import InputError

_VERSION = 1  # of the measure: a new number recomputes every table
UNITS = "units.parquet"
REFERENCES = "references.parquet"
COMPARISON = "comparison.parquet"
SAMPLE = 2_000  # pairs of an audit that the command `encoders` trains on
# Groups of a comparison of encoders
TYPICAL = "typical pairs"
MOST = "the most memorized tenth"
WRONG = "probably wrong captions"
REFERENCE = "reference"
BEFORE = "before training"
SEEN = "seen"
UNSEEN = "unseen"
TOWER = "tower"
LAYER = "layer"
UNIT = "unit"
ROW = "row"
IMAGE_TOWER = "image"
TEXT_TOWER = "text"
TOWERS = (IMAGE_TOWER, TEXT_TOWER)
UNITMEM_MEAN = "unitmem_mean"
RISE = "rise"  # of UnitMem in training
CLIP = "CLIP"
SUPERVISED = "supervised"
SELF_SUPERVISED = "self-supervised"
PARADIGMS = (CLIP, SUPERVISED, SELF_SUPERVISED)
PARADIGM = "paradigm"
MEMBERS = "members"
SOURCE = "source"
DEPTH = "depth"


def layer_means(
    units: pd.DataFrame, *, by: Sequence[str] = (c.MEMBER, TOWER, LAYER)
) -> pd.DataFrame:
    """Average UnitMem over the units of each layer that fire."""
    return units.groupby(list(by), sort=False)[UNITMEM_MEAN].mean().reset_index()


def read_units(audit: Audit, table: str = UNITS) -> pd.DataFrame | None:
    """Return a table of all members that have it, or None.

    References are `before training`, the untrained model on the member's pairs, and `seen` and
    `unseen`, the member on equally many of its training pairs and of the held-out pairs.
    """
    repair = f"delete it and run `python -m clipmem_core units {audit.name}`"
    tables = []
    for name in audit.record.members if audit.finished else ():
        path = table_file(audit, name, table)
        if path.is_file():
            tables.append(store.read_table(path, repair=repair))
            tables[-1].insert(0, c.MEMBER, name)
    return pd.concat(tables, ignore_index=True) if tables else None


def table_file(audit: Audit, name: str, table: str = UNITS) -> Path:
    """Return the path of a table of a finished audit's member."""
    member = audit.member_record(name)
    weights = audit.files[f"{store.MEMBERS}/{name}/{CHECKPOINT}"]
    content = [_VERSION, vars(member), weights, audit.files[store.MEMBERSHIP]]
    return data_folder() / "cache" / "units" / fingerprint(content) / table


def encoders_name(audit: Audit) -> str:
    """Return the name of the audit that trains encoders on pairs of an audit."""
    return f"{audit.name}-encoders"


def comparison_file(audit: Audit) -> Path:
    """Return the path of the comparison of a finished audit's encoders."""
    key = fingerprint([_VERSION, audit.record.fingerprint, audit.files.get(store.SCORES)])
    return data_folder() / "cache" / "units" / key / COMPARISON


def read_comparison(audit: Audit) -> pd.DataFrame | None:
    """Return the comparison of an audit's encoders, as of `compare_parts`, or None."""
    if not audit.finished:
        return None
    path = comparison_file(audit)
    repair = f"delete it and run `python -m clipmem_core encoders {audit.name}`"
    return store.read_table(path, repair=repair) if path.is_file() else None


def comparison_lines(table: pd.DataFrame) -> list[str]:
    """Say for each group of pairs which encoder holds more of clipmem."""
    lines = []
    shown = table[table["group"] != c.HELD_OUT]
    rows: Any = shown.to_dict("records")
    for row in rows:
        group = f"{row['group'][0].upper()}{row['group'][1:]} ({row['n']:,})"
        if row["n"] < 2:
            lines.append(f"{group}: too few pairs to compare.")
            continue
        values = "text {text:.3f}, image {image:.3f}; difference {difference:+.3f}".format(**row)
        values = f"{values} [{row['low']:+.3f}, {row['high']:+.3f}]".replace("-", "−")
        finding = "no difference can be seen"
        if row["low"] > 0 or row["high"] < 0:
            finding = f"the {'text' if row['low'] > 0 else 'image'} encoder holds more"
        lines.append(f"{group}: {finding} ({values}).")
    return lines


def paper_line(table: pd.DataFrame) -> str:
    """Say whether a comparison agrees with the paper's claim 3."""
    row = table[table["group"] == TYPICAL].iloc[0]
    word = "leave it open"
    if row["low"] > 0 or row["high"] < 0:
        word = "agree" if row["low"] > 0 else "disagree"
    return (
        "The paper found that the text encoder memorizes more (claim 3; ViT-Base from scratch on "
        f"COCO, no interval given). The typical pairs here {word}."
    )


def where_line(references: pd.DataFrame) -> str:
    """Say by how much UnitMem of each layer is higher on pairs that a member trained on."""
    means = layer_means(references, by=[TOWER, LAYER, REFERENCE])
    by_layer = means.set_index([TOWER, LAYER])
    seen, unseen = (
        by_layer.loc[by_layer[REFERENCE] == name, UNITMEM_MEAN] for name in (SEEN, UNSEEN)
    )
    above = (seen - unseen).rename(RISE).reset_index().to_dict("records")
    listed = ", ".join(f"{row[TOWER]} layer {row[LAYER]} {row[RISE]:+.3f}" for row in above)
    return f"UnitMem above that of pairs never trained on: {listed}.".replace("-", "−")


def risen_units(units: pd.DataFrame, references: pd.DataFrame) -> pd.DataFrame:
    """Return the units that fire of the member with references, and how much their UnitMem rose in
    training."""
    before = references[references[REFERENCE] == BEFORE].drop(columns=[REFERENCE, ROW, c.PAIR_ID])
    keys = [c.MEMBER, TOWER, LAYER, UNIT]
    both = units[units[c.PAIR_ID].notna()].merge(before, on=keys, suffixes=("", "_before"))
    return both.assign(**{RISE: both[UNITMEM_MEAN] - both[f"{UNITMEM_MEAN}_before"]})


def paradigms_of(audit: Audit) -> Experiment:
    """Return the comparison of an audit's paradigms, whose rows are UnitMem by layer, paradigm and
    seed. It has another folder if other data or settings have the audit's name."""
    record = audit.record
    may_differ = (*affecting("members"), *affecting())
    values = as_dict(record.config).items()
    fixed = {name: value for name, value in values if name not in may_differ}
    key = fingerprint([fixed, record.dataset_fingerprint])
    return Experiment.of(f"paradigms-{audit.name}-{key}")


def read_paradigms(audit: Audit) -> pd.DataFrame | None:
    """Return the rows of an audit's paradigms; None before the first run is finished."""
    paradigms = paradigms_of(audit)
    return paradigms.rows if paradigms.rows_files else None


def tower_layers(units: pd.DataFrame, references: pd.DataFrame | None) -> pd.DataFrame:
    """Return tower, layer, source (`members` or a reference), mean, and the lowest and highest
    member's UnitMem."""
    grouped = layer_means(units).groupby([TOWER, LAYER], sort=False)[UNITMEM_MEAN]
    members = grouped.agg(mean="mean", low="min", high="max").reset_index()
    tables = [members.assign(**{SOURCE: MEMBERS})]
    if references is not None:
        means = layer_means(references, by=[REFERENCE, TOWER, LAYER])
        tables.append(means.rename(columns={REFERENCE: SOURCE, UNITMEM_MEAN: "mean"}))
    return pd.concat(tables, ignore_index=True)


def paradigm_layers(table: pd.DataFrame) -> pd.DataFrame:
    """Return paradigm, layer, depth (0 the first layer, 1 the last), n (seeds), mean, low and high
    of UnitMem."""
    means = over_seeds(table, by=[PARADIGM, LAYER], measure=UNITMEM_MEAN)
    means = means[means[PARADIGM].isin(PARADIGMS)]
    last = means[LAYER].max()
    depth = (means[LAYER] - 1) / (last - 1) if last > 1 else 0.5
    return means.assign(**{DEPTH: depth}).reset_index(drop=True)


def claim_1(table: pd.DataFrame) -> str:
    """Say whether CLIP's UnitMem lies between that of the two other paradigms, as far as the seeds
    allow."""
    by_seed = table.groupby([PARADIGM, SEED])[UNITMEM_MEAN].mean().unstack(PARADIGM)
    names = [name for name in PARADIGMS if name in by_seed]
    listed = ", ".join(f"{name} {by_seed[name].mean():.3f}" for name in names)
    start = f"Mean UnitMem over the layers: {listed}. Claim 1 (CLIP lies between the other two):"
    complete = by_seed.dropna()
    if len(names) < len(PARADIGMS) or len(complete) < MIN_REPLICATES:
        return f"{start} it needs three seeds of all three."
    others = (complete[name] - complete[CLIP] for name in (SUPERVISED, SELF_SUPERVISED))
    low, high = np.transpose([seed_interval(difference.to_numpy()) for difference in others])
    if ((low <= 0) & (high >= 0)).any():
        return f"{start} the seeds leave it open."
    place = ("above both", "between them", "below both")[sum(low > 0)]
    return f"{start} here it lies {place}."


# --- Comparison of text and image encoder

MOST_COMPARED = 4_000  # scored pairs of a comparison, drawn at random


def encoders_config(audit: Audit, sample: int) -> AuditConfig:
    """Return the config of an audit whose members train encoders on pairs of another one."""
    config = audit.record.config
    if config.features or not (config.lock_image and config.lock_text) or config.unlock:
        raise InputError(
            f"audit {audit.name!r} has no two locked towers with pictures: audit the data set with "
            "--preset tuned"
        )
    data = {name: getattr(config, name) for name in affecting("data") if hasattr(config, name)}
    tuned = preset_config("tuned")
    is_sample = sample < audit.record.pairs
    chosen: dict[str, Any] = {
        "preset": tuned.preset,
        "image_tower": config.image_tower,
        "text_tower": config.text_tower,
        "tower_size": config.tower_size,
        "members": min(config.members, 2 * config.folds),
        "sample": min(sample, config.sample or sample) if is_sample else config.sample,
    }
    if is_sample and config.protocol == "paper":
        chosen["members"] = 0
    if is_sample:  # another number of pairs would get other errors
        chosen["inject_miscaptions"] = 0
    return replace(tuned, **data | chosen)


def compare_encoders(audit: Audit, screen: Screen) -> None:
    """Write the mean part of each encoder for groups of pairs, unless it is written."""
    path = comparison_file(audit)
    if path.is_file():
        return
    screen.say(f"comparing the encoders of audit {audit.name}")
    record = audit.record
    membership = membership_of(audit.membership)
    scores = audit.read_columns(store.SCORES, c.CLIPMEM, c.P_WRONG, c.GROUP)
    is_held_out = (scores[c.GROUP] == c.HELD_OUT).to_numpy()
    rows = np.flatnonzero(~is_held_out)
    if len(rows) > MOST_COMPARED:
        rows = draws.rng(record.config.seed, "encoders").choice(rows, MOST_COMPARED, replace=False)
    rows = np.sort(np.concatenate([rows, np.flatnonzero(is_held_out)]))
    membership = replace(
        membership, group=membership.group[rows], trained=membership.trained[:, rows]
    )
    sides = sides_of(audit, replace(record.config, retrieval_apart=False), membership)
    embeddings = [store.read_embeddings(audit.member(name)) for name in record.members]
    image, text = ([vectors[side][rows] for vectors in embeddings] for side in (0, 1))
    of_pairs = scores.iloc[rows].reset_index(drop=True)
    clipmem = of_pairs[c.CLIPMEM]
    wrong = (of_pairs[c.P_WRONG] > HALF).to_numpy()
    scored = of_pairs[c.GROUP].isin(c.TARGET_GROUPS).to_numpy()
    top = (clipmem >= clipmem[scored].quantile(0.9)).to_numpy()
    groups = {
        TYPICAL: scored & ~top & ~wrong,
        MOST: scored & top,
        WRONG: scored & wrong,
        c.HELD_OUT: is_held_out[rows],
    }
    table = compare_parts(image, text, sides, groups)
    path.parent.mkdir(parents=True, exist_ok=True)
    store.write_table(path, table)


def say_encoders(audit: Audit, second: Audit, screen: Screen) -> None:
    """Print which encoder memorized more, by the heads and by the trained encoders."""
    for each in (second, audit):
        table = read_comparison(each)
        if isinstance(table, pd.DataFrame):
            screen.say(f"{model_words(each.record.config)}:")
            for line in comparison_lines(table):
                screen.say(f"  {line}")
