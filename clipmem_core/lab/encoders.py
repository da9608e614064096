"""Which encoder memorized more: the comparison of text and image encoder, and the tables of UnitMem
of members. Without torch, for the dashboard.

In an audit with locked towers only heads train, which says nothing about encoders. The command
`encoders` trains the last blocks of the towers on a sample of the pairs, and compares both audits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core.auditing.folder import store
from clipmem_core.auditing.folder.jobs import Screen
from clipmem_core.auditing.folder.prepare import membership_of
from clipmem_core.auditing.folder.store import Audit
from clipmem_core.config import AuditConfig, affecting, data_folder, preset_config
from clipmem_core.errors.calibration import HALF
from clipmem_core.review.overview import model_words
from clipmem_core.scores.encoders import compare_parts
from clipmem_core.scores.membership import InOut
from clipmem_core.utils import columns as c
from clipmem_core.utils import draws
from clipmem_core.utils.io import InputError

UNITS = "units.parquet"
REFERENCES = "references.parquet"
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
MEMBERS = "members"
SOURCE = "source"


def layer_means(
    units: pd.DataFrame, *, by: Sequence[str] = (c.MEMBER, TOWER, LAYER)
) -> pd.DataFrame:
    """Average UnitMem over the units of each layer that fire."""
    return units.groupby([*by], sort=False)[UNITMEM_MEAN].mean().reset_index()


def read_units(audit: Audit, table: str = UNITS) -> pd.DataFrame | None:
    """Return a table of all members that have it, or None.

    References are `before training`, the untrained model on the member's pairs, and `seen` and
    `unseen`, the member on equally many of its training pairs and of the held-out pairs.
    """
    repair = f"delete it and run `python -m clipmem_core units {audit.name}`"
    tables = [
        store.read_table(path, repair=repair).assign(member=path.parent.name)
        for path in sorted(_folder(audit).glob(f"*/{table}"))
    ]
    return pd.concat(tables, ignore_index=True) if tables else None


def table_file(audit: Audit, name: str, table: str = UNITS) -> Path:
    """Return the path of a table of a member."""
    return _folder(audit) / name / table


def _folder(audit: Audit) -> Path:
    """Return the folder of an audit's tables; an audit of other data or settings with the same name
    has another one."""
    return data_folder() / "cache" / "units" / f"{audit.name}-{audit.record.fingerprint}"


def encoders_name(audit: Audit) -> str:
    """Return the name of the audit that trains encoders on pairs of an audit."""
    return f"{audit.name}-encoders"


def comparison_file(audit: Audit) -> Path:
    """Return the path of the comparison of a finished audit's encoders, a file for each table of
    scores: an audit may get more members."""
    return _folder(audit) / f"{audit.files.get(store.SCORES)}.parquet"


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
    rows: Any = table[table["group"] != c.HELD_OUT].to_dict("records")
    for row in rows:
        group = f"{row['group'].capitalize()} ({row['n']:,})"
        if row["n"] < 2:
            lines.append(f"{group}: too few pairs to compare.")
            continue
        finding = (
            "no difference can be seen",
            "the text encoder holds more",
            "the image encoder holds more",
        )[_larger_part(row)]
        values = (
            "text {text:.3f}, image {image:.3f}; difference {difference:+.3f} [{low:+.3f}, "
            "{high:+.3f}]"
        )
        lines.append(f"{group}: {finding} ({values.format(**row)}).".replace("-", "−"))
    return lines


def paper_line(table: pd.DataFrame) -> str:
    """Say whether a comparison agrees with the paper's claim 3."""
    row = table[table["group"] == TYPICAL].to_dict("records")[0]
    word = ("leave it open", "agree", "disagree")[_larger_part(row)]
    return (
        "The paper found that the text encoder memorizes more (claim 3; ViT-Base from scratch on "
        f"COCO, no interval given). The typical pairs here {word}."
    )


def _larger_part(row: Mapping[Any, Any]) -> int:
    """Return 1 if the text encoder holds more, -1 if the image encoder does, 0 if the interval
    contains 0."""
    return (row["low"] > 0) - (row["high"] < 0)


def where_line(references: pd.DataFrame) -> str:
    """Say by how much UnitMem of each layer is higher on pairs that a member trained on."""
    means = references.pivot_table(UNITMEM_MEAN, [TOWER, LAYER], REFERENCE, sort=False)
    above: Any = (means[SEEN] - means[UNSEEN]).items()
    listed = ", ".join(f"{tower} layer {layer} {rise:+.3f}" for (tower, layer), rise in above)
    return f"UnitMem above that of pairs never trained on: {listed}.".replace("-", "−")


def risen_units(units: pd.DataFrame, references: pd.DataFrame) -> pd.DataFrame:
    """Return the units that fire of the member with references, and how much their UnitMem rose in
    training."""
    keys = [c.MEMBER, TOWER, LAYER, UNIT]
    before = references.loc[references[REFERENCE] == BEFORE, [*keys, UNITMEM_MEAN]]
    both = units.dropna(subset=c.PAIR_ID).merge(before, on=keys, suffixes=("", "_before"))
    return both.assign(rise=both[UNITMEM_MEAN] - both[f"{UNITMEM_MEAN}_before"])


def tower_layers(units: pd.DataFrame, references: pd.DataFrame | None) -> pd.DataFrame:
    """Return tower, layer, source (`members` or a reference), mean, and the lowest and highest
    member's UnitMem."""
    grouped = layer_means(units).groupby([TOWER, LAYER], sort=False)[UNITMEM_MEAN]
    members = grouped.agg(mean="mean", low="min", high="max").reset_index()
    tables = [members.assign(source=MEMBERS)]
    if references is not None:
        means = layer_means(references, by=[REFERENCE, TOWER, LAYER])
        tables.append(means.set_axis([SOURCE, TOWER, LAYER, "mean"], axis=1))
    return pd.concat(tables, ignore_index=True)


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
    names = {*affecting("data"), "image_tower", "text_tower", "tower_size"}
    same = {name: value for name, value in vars(config).items() if name in names}
    tuned = preset_config("tuned")
    is_sample = sample < audit.record.pairs
    chosen: dict[str, Any] = {
        "preset": tuned.preset,
        "members": min(config.members, 2 * config.folds),
        "sample": min(sample, config.sample or sample) if is_sample else config.sample,
    }
    if is_sample and config.protocol == "paper":
        chosen["members"] = 0
    if is_sample:  # another number of pairs would get other errors
        chosen["inject_miscaptions"] = 0
    return replace(tuned, **same | chosen)


def compare_encoders(audit: Audit, screen: Screen) -> None:
    """Write the mean part of each encoder for groups of pairs, unless it is written."""
    path = comparison_file(audit)
    if path.is_file():
        return
    screen.say(f"comparing the encoders of audit {audit.name}")
    record = audit.record
    scores = audit.read_columns(store.SCORES, c.CLIPMEM, c.P_WRONG, c.GROUP)
    is_held_out = (scores[c.GROUP] == c.HELD_OUT).to_numpy()
    rows = np.flatnonzero(~is_held_out)
    if len(rows) > MOST_COMPARED:
        rows = draws.rng(record.config.seed, "encoders").choice(rows, MOST_COMPARED, replace=False)
    rows = np.sort(np.concatenate([rows, np.flatnonzero(is_held_out)]))
    in_out = InOut(membership_of(audit.membership.iloc[rows]), record.config.seed)
    members = [store.read_embeddings(audit.member(name)) for name in record.members]
    image, text = zip(*([part[rows] for part in member] for member in members), strict=True)
    scores = scores.iloc[rows]
    wrong = scores[c.P_WRONG] > HALF
    scored = scores[c.GROUP].isin(c.TARGET_GROUPS)
    top = scores[c.CLIPMEM] >= scores[c.CLIPMEM][scored].quantile(0.9)
    groups = {
        TYPICAL: scored & ~top & ~wrong,
        MOST: scored & top,
        WRONG: scored & wrong,
        c.HELD_OUT: scores[c.GROUP] == c.HELD_OUT,
    }
    chosen = {name: group.to_numpy() for name, group in groups.items()}
    table = compare_parts(image, text, in_out, chosen)
    path.parent.mkdir(parents=True, exist_ok=True)
    store.write_table(path, table)


def say_encoders(audit: Audit, second: Audit, screen: Screen) -> None:
    """Print which encoder memorized more, by the heads and by the trained encoders."""
    for each in (second, audit):
        table = read_comparison(each)
        if table is not None:
            screen.say(f"{model_words(each.record.config)}:")
            for line in comparison_lines(table):
                screen.say(f"  {line}")
