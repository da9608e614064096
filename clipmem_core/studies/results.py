"""The results of a study: paired differences of every arm to the reference, a sentence an arm, tables and a small CSV.

Seeds that share a split are averaged first: they say nothing about other pairs. The intervals of a study with one split
are over its training seeds.
"""

import functools
import re
import shlex
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text
from scipy.stats import linregress

from clipmem_core import columns as c
from clipmem_core.audits.console import machine_line, plain, write_csv
from clipmem_core.config import FIELDS, InputError
from clipmem_core.files import reading
from clipmem_core.scores.seeds import MIN_REPLICATES, holm, paired_difference, seed_interval
from clipmem_core.studies.arm import ALL, NONE
from clipmem_core.studies.plan import commands_of
from clipmem_core.studies.store import (
    ARM,
    ARMS,
    CLIPMEM_CANDIDATE,
    CLIPMEM_EXTERNAL,
    EPOCH,
    IMAGE_EXTERNAL,
    MEMBERSHIP_AUROC,
    PEAK_MB,
    RETRIEVAL,
    SAMPLES_SEEN,
    SECONDS,
    SEED,
    SPLIT,
    TEXT_EXTERNAL,
    StudyFolder,
)

TEXT_LEAD = "text_minus_image"
# Nobody trains on external pairs: what f aligns them better than g is an offset between the two, not memorization.
CLIPMEM_NET = "clipmem_net"
MEASURES = (
    *(CLIPMEM_CANDIDATE, CLIPMEM_NET, MEMBERSHIP_AUROC, c.ATTACK_AUROC, c.ATTACK_TPR),
    *(c.CLIPMEM_IMAGE, c.CLIPMEM_TEXT, TEXT_LEAD),
    *(RETRIEVAL, "retrieval_rare", "retrieval_other", "linear_probe", "zero_shot", SAMPLES_SEEN, SECONDS, PEAK_MB),
)
NEEDED = (SEED, CLIPMEM_CANDIDATE, MEMBERSHIP_AUROC, c.CLIPMEM_IMAGE, c.CLIPMEM_TEXT, RETRIEVAL)
COLUMNS = [
    *(ARM, "measure", "n", "value", "difference", "low", "high", "p_value"),
    *("arms", "low_of_all", "high_of_all", "p_of_all"),
]
LEVEL = 0.05  # of Holm's p
# Arms that leave out only tokens that no trained pair has, which `none` reads as the random vectors they began as: the
# plan's, and one that a person added.
UNTRAINED = ("forget-untrained", "text_forget_df-1")
LAWS = {"epochs": -1, "steps": -2}  # study scale: the fixed quantity → the power of pairs that epochs/pairs predicts
HEADS = {
    ARM: "arm",
    EPOCH: "epoch",
    CLIPMEM_CANDIDATE: "clipmem",
    MEMBERSHIP_AUROC: "AUROC",
    c.CLIPMEM_IMAGE: "image",
    c.CLIPMEM_TEXT: "text",
    TEXT_LEAD: "text − image",
    RETRIEVAL: "retrieval",
    SECONDS: "s",
    PEAK_MB: "MB",
}
COMPARED = (CLIPMEM_CANDIDATE, MEMBERSHIP_AUROC, TEXT_LEAD, RETRIEVAL)
PRICED = (SECONDS, PEAK_MB)
RESULTS = Path(__file__).parents[2] / "data" / "results"
REFERENCE_MEND = "get the file again from where the code came from"


# --- Rows and differences


def rows_of(study: StudyFolder) -> pd.DataFrame:
    """Return a row an arm and seed that is done, with the text encoder's lead over the image encoder in clipmem, and
    the mean clipmem of candidates beyond that of external pairs.

    Raises:
        InputError: the table is broken.
    """
    arms = study.arms
    if arms.empty:
        return arms
    missing = [name for name in NEEDED if name not in arms or not pd.api.types.is_numeric_dtype(arms[name])]
    if missing or arms[SEED].isna().any():
        raise InputError(
            f"{study.folder / ARMS} lacks {', '.join(missing) or SEED}: delete it and run the study again; trained "
            "members stay"
        )
    return with_lead(arms)


def with_lead(table: pd.DataFrame) -> pd.DataFrame:
    found = table.assign(**{TEXT_LEAD: table[c.CLIPMEM_TEXT] - table[c.CLIPMEM_IMAGE]})
    if CLIPMEM_EXTERNAL in found:
        found[CLIPMEM_NET] = found[CLIPMEM_CANDIDATE] - found[CLIPMEM_EXTERNAL]
    return found


def beyond_external(times: pd.DataFrame) -> pd.DataFrame:
    """Return rows with each encoder's contribution less that of external pairs, the offset between f and g."""
    nulls = {c.CLIPMEM_IMAGE: IMAGE_EXTERNAL, c.CLIPMEM_TEXT: TEXT_EXTERNAL}
    return times.assign(**{name: times[name] - times[null] for name, null in nulls.items()})


def replicates(table: pd.DataFrame) -> str:
    """Return what intervals of a study are over: its splits, or the training seeds of the only one."""
    return c.SPLITS if SPLIT in table else c.ONE_SPLIT


def by_split(table: pd.DataFrame, by: Sequence[str], measures: Sequence[str]) -> pd.DataFrame:
    """Return the means of measures over the seeds of each split; for a study with one split the table."""
    return table.groupby([*by, SPLIT], sort=False)[list(measures)].mean().reset_index() if SPLIT in table else table


def differences(table: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Compare every arm with the reference arm, seed by seed.

    Args:
        table: as of `rows_of`.
        reference: the name of the reference arm.

    Returns:
        One row an arm and measure: n splits (for one split, seeds) that both have, `value` the arm's mean, `difference`
        to the reference with its 95 % interval and p value; for the reference itself `low` and `high` are empty. Then
        the same corrected for how many `arms` are compared in this measure: simultaneous 95 % intervals (Bonferroni's
        t) and Holm's p. Arms without a seed in common with the reference are left out.
    """
    arms = list(dict.fromkeys(table[ARM]))
    many = sum(arm != reference for arm in arms)
    replicate = table.drop_duplicates(SEED).set_index(SEED)[SPLIT] if SPLIT in table else None
    shared = table.loc[table[ARM] == reference, SEED]
    rows = []
    for place, measure in enumerate(name for name in MEASURES if name in table and table[name].notna().any()):
        wide = table.pivot(index=SEED, columns=ARM, values=measure).astype(float)
        if reference not in wide:
            continue
        paired = wide.sub(wide[reference], axis=0)
        paired = paired if replicate is None else paired.groupby(replicate).mean()
        for number, arm in enumerate(arms):
            found = paired[arm].dropna().to_numpy()
            if not len(found):
                continue
            one, value = paired_difference(found, np.zeros_like(found)), wide.loc[shared, arm].mean()
            row = [arm, measure, one.n, value, one.mean]
            if arm == reference:
                row += [np.nan] * 3 + [many, np.nan, np.nan]
            else:
                of_all = paired_difference(found, np.zeros_like(found), level=1 - LEVEL / many)
                row += [one.low, one.high, one.p_value, many, of_all.low, of_all.high]
            rows.append(((number, place), row))
    ordered = [row for _, row in sorted(rows, key=lambda found: found[0])]
    compared = pd.DataFrame(ordered, columns=COLUMNS[:-1])
    corrected = compared.groupby("measure", sort=False)["p_value"].transform(lambda p: holm(p.to_numpy()))
    return compared.assign(**{COLUMNS[-1]: corrected.astype(float)})


def all_differences(table: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Compare every arm with the reference arm as `differences` does, in the column `reference`; after that, arms that
    never read or forget rare tokens with the arm that leaves out only tokens nobody trained, if there is one."""
    found = [differences(table, reference).assign(reference=reference)]
    if other := next((name for name in UNTRAINED if (table[ARM] == name).any()), ""):
        rare = [name for name, own in FIELDS.items() if own.part == "vocabulary"]
        fields = table.reindex(columns=rare).apply(pd.to_numeric, errors="coerce")
        without = {*table.loc[(fields > 0).any(axis=1), ARM]} - set(UNTRAINED)
        compared = differences(table[table[ARM].isin([other, *without])], other).assign(reference=other)
        found.append(compared[compared[ARM] != other])
    return pd.concat(found, ignore_index=True)


def front(points: pd.DataFrame, x: str, y: str) -> list[str]:
    """Return the Pareto-optimal arms from left to right: no other has less of x and as much of y, or more.

    Args:
        points: one row an arm, its name in the column `arm`; rows without x or y are skipped.
        x: the column of which less is better.
        y: the column of which more is better.

    Example:
        >>> points = pd.DataFrame({"arm": ["none", "a", "b"], "clipmem": [0.3, 0.2, 0.25], "recall": [0.5, 0.4, 0.3]})
        >>> front(points, "clipmem", "recall")
        ['a', 'none']
    """
    known = points.dropna(subset=[x, y]).sort_values([x, y], ascending=[True, False], kind="stable")
    # Of those with the same x the best y comes first, so that an arm is beaten by one before it or by none.
    found, best, at = [], -np.inf, np.nan
    for arm, left, up in known[[ARM, x, y]].itertuples(index=False, name=None):
        if up > best or (up == best and left == at):
            found.append(str(arm))
            best, at = up, left
    return found


# --- Sentences


def sentence_of(compared: pd.DataFrame, arm: str, *, lead: bool = False) -> str:
    """Say in one sentence how an arm changes memorization and retrieval; a change counts if Holm's p is below .05.

    Args:
        compared: as of `differences` or `all_differences`; of two references the last counts.
        arm: compared with a reference.
        lead: whether to add the lead of the text encoder's contribution.
    """
    own = compared[compared[ARM] == arm].drop_duplicates("measure", keep="last").set_index("measure")
    parts = []
    words = {CLIPMEM_CANDIDATE: "memorization"} | ({TEXT_LEAD: "lead of text"} if lead else {})
    for measure, word in (words | {RETRIEVAL: "retrieval"}).items():
        if measure not in own.index:
            continue
        row = own.loc[measure]
        base, more = row["value"] - row["difference"], "more" if row["difference"] > 0 else "less"
        if row["n"] < MIN_REPLICATES:
            return f"{arm}: fewer than {MIN_REPLICATES} replicates, too few to compare."
        if not row["p_of_all"] < LEVEL:
            parts.append(f"{word} unchanged")
        elif base > 0:
            parts.append(f"{100 * abs(row['difference']) / base:.0f} % {more} {word}")
        else:
            parts.append(f"{abs(row['difference']):.3f} {more} {word}")
    against = own["reference"].iloc[0] if "reference" in own else NONE
    return f"{arm}{f' (against {against})' if against in UNTRAINED else ''}: {', '.join(parts)}."


def sentences(study: StudyFolder) -> list[str]:
    """Return what came out of a study: a sentence an arm."""
    rows, reference = rows_of(study), study.asked["reference"]
    if rows.empty:
        return []
    compared = all_differences(rows, reference)
    arms = [arm for arm in dict.fromkeys(compared[ARM]) if arm != reference]
    return [*(sentence_of(compared, arm, lead=reference not in (NONE, ALL)) for arm in arms), *_powers(rows)]


def _powers(rows: pd.DataFrame) -> Iterator[str]:
    """Say how clipmem goes with the number of pairs in a study of scale, fitted seed by seed in logarithms.

    Gomez, "Rethinking Membership Inference Attacks for CLIP", AAAI 2026: as epochs over pairs.
    """
    if not {"pairs", "fixed", CLIPMEM_NET} <= set(rows):
        return
    for fixed, law in LAWS.items():
        own = rows[rows["fixed"].isin([fixed, ALL])].pivot_table(index=SEED, columns="pairs", values=CLIPMEM_NET)
        own = own.dropna().pipe(lambda wide: wide.loc[:, (wide > 0).all()])
        if own.shape[1] < 2 or own.empty:
            continue
        sizes = np.log(own.columns.to_numpy(dtype=float))
        slopes = np.array([linregress(sizes, np.log(one)).slope for one in own.to_numpy(dtype=float)])
        low, high = seed_interval(slopes)
        interval = "" if np.isnan(low) else f" [{low:.3f}, {high:.3f}]"
        yield (
            f"With {fixed} fixed, clipmem less that of external pairs goes as pairs to the power of "
            f"{slopes.mean():.3f}{interval}; epochs over pairs predicts {law}."
        ).replace("-", "−")


# --- On a terminal, and as a CSV


def show_study(study: StudyFolder) -> None:
    """Print a study's tables and its sentences."""
    console, reference, rows, times = Console(highlight=False), study.asked["reference"], rows_of(study), study.times
    if len(rows):
        console.print(_arms_table(differences(rows, reference), reference, replicates(rows)))
    if len(times):
        measures = [CLIPMEM_CANDIDATE, c.CLIPMEM_IMAGE, c.CLIPMEM_TEXT, MEMBERSHIP_AUROC, RETRIEVAL]
        shown = _table("means over seeds after each epoch", [EPOCH, *measures])
        for epoch, means in times.groupby(EPOCH)[measures].mean().iterrows():
            shown.add_row(str(epoch), *(f"{means[name]:.3f}" for name in measures))
        console.print(shown)
    for sentence in sentences(study):
        console.print(plain(sentence), style="bold", soft_wrap=True)
    console.print()
    console.print(plain(str(study.folder)), soft_wrap=True)


def _arms_table(compared: pd.DataFrame, reference: str, over: str) -> Table:
    measures = [name for name in (*COMPARED, *PRICED) if (compared["measure"] == name).any()]
    half = f"half their 95 % interval over {over}; *: other than 0 after Holm's correction for all arms"
    shown = _table(
        f"{reference} (n = {compared['n'].max()}), and paired differences to it with {half}", [ARM, *measures]
    )
    for arm, rows in compared.groupby(ARM, sort=False):
        of = {str(row["measure"]): row for row in rows.to_dict("records")}
        shown.add_row(plain(str(arm)), *(_cell(of.get(name), name, arm == reference) for name in measures))
    return shown


def _cell(row: Mapping[Hashable, Any] | None, measure: str, is_reference: bool) -> Text:
    if row is None:
        return Text("–")
    if measure in PRICED:
        return Text(f"{row['value']:,.0f}")
    if is_reference:
        return Text(f"{row['value']:.3f}")
    half = "" if pd.isna(row["low"]) else f" ± {(row['high'] - row['low']) / 2:.3f}"
    return Text(f"{row['difference']:+.3f}{half}{'*' if row['p_of_all'] < LEVEL else ''}")


def _table(title: str, columns: Sequence[str]) -> Table:
    style: dict[str, Any] = {"title_justify": "left", "title_style": "bold", "pad_edge": False}
    shown = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), **style)
    for name in columns:
        shown.add_column(HEADS[name], justify="left" if name == ARM else "right", overflow="fold")
    return shown


def result_rows(study: StudyFolder) -> pd.DataFrame:
    """Return a study's results as a tidy table: the rows of `all_differences`.

    For a study that stores snapshots, rows of each epoch follow: the mean over seeds, lowest and highest.
    """
    rows, times = all_differences(rows_of(study), study.asked["reference"]), study.times
    if times.empty:
        return rows
    measures = [name for name in times.columns if name not in (ARM, SEED, SPLIT, EPOCH)]
    long = times.melt(id_vars=[ARM, SEED, EPOCH], value_vars=measures, var_name="measure")
    found = long.groupby([ARM, EPOCH, "measure"], sort=False)["value"].agg(["size", "mean", "min", "max"])
    named = {"size": "n", "mean": "value", "min": "low", "max": "high"}
    return pd.concat([rows, found.rename(columns=named).reset_index()], ignore_index=True)


def write_results(study: StudyFolder, path: Path) -> None:
    """Write the table with a head of comment lines: the commands, the machine, the seeds, and the sentences.

    Raises:
        InputError: no arm has a row yet.
    """
    if study.arms.empty:
        raise InputError(f"study {study.name!r} has no result yet: run it again, it goes on where it stopped")
    asked = study.asked
    config = asked["config"]
    head = [
        *(f"command: {command}" for command in commands_of(study)),
        machine_line(asked["machine"], config),
        f"seeds: {', '.join(str(config['seed'] + number) for number in range(config['seeds']))}",
        f"value: mean over seeds; low, high: 95 % interval over {replicates(study.arms)} of the paired difference to "
        "the arm in the column reference, of an epoch the lowest and highest seed; n: how many; low_of_all, "
        "high_of_all: the same for all arms at once (Bonferroni's t); p_of_all: Holm's p",
        *sentences(study),
    ]
    write_csv(path, head, result_rows(study))


# --- Tables of results that come with the code


@dataclass(frozen=True, eq=False)
class ReferenceStudy:
    """A table of data/results: means and paired differences, without single seeds."""

    name: str
    plan: str
    source: str
    preset: str
    machine: str
    seeds: int
    over: str  # what its intervals are over
    reference: str  # the arm that all others are compared with
    rows: pd.DataFrame  # the columns of `differences`, to the reference arm alone; NaN in older tables

    @property
    def title(self) -> str:
        counted = "splits" if self.over.startswith("splits") else "seeds of one split"
        return f"reference study: {self.source}, preset {self.preset}, {self.machine}, {self.seeds} {counted}"


def reference_studies(plans: Sequence[str]) -> list[ReferenceStudy]:
    """Return the studies of some plans that come with the code, those over splits first.

    Raises:
        InputError: one of the tables is broken.
    """
    found = [read_reference(path) for path in sorted(RESULTS.glob("study-*.csv"))]
    known = [study for study in found if study.plan in plans]
    return sorted(known, key=lambda study: (plans.index(study.plan), not study.over.startswith("splits")))


@functools.lru_cache(maxsize=64)
def read_reference(path: Path) -> ReferenceStudy:
    """Read a table of results.

    Raises:
        InputError: it is broken, or lacks the command that made it.
    """
    with reading(path, mend=REFERENCE_MEND):
        lines = path.read_text(encoding="utf-8").splitlines()
        head = [line.removeprefix("# ") for line in lines if line.startswith("#")]
        table = pd.read_csv(path, comment="#", dtype={ARM: str})
        said = {line.partition(": ")[0]: line.partition(": ")[2] for line in reversed(head)}
        words = shlex.split(said["command"].partition("clipmem_core study ")[2])
        seeds, value = said["seeds"].split(", "), said["value"]
    lacking = {ARM, "measure", "value", "difference", "low", "high", "n"} - set(table)
    if lacking or len(words) < 2:
        raise InputError(f"{path} lacks {', '.join(sorted(lacking)) or 'its command'}: {REFERENCE_MEND}")
    named = re.search(r"paired difference to the arm (\S+?),", value)
    reference = named[1] if named else NONE
    if "reference" in table:
        reference = str(table["reference"].dropna().iloc[0])
        table = table[table["reference"].eq(reference) | table["reference"].isna()]
    if "p_of_all" not in table and "p_value" in table:
        table["p_of_all"] = table.groupby("measure")["p_value"].transform(lambda p: holm(p.to_numpy()))
    preset, source = re.search(r"--preset[ =](\S+)", said["command"]), Path(words[1])
    if source.stem == "captions":  # the data set is called as its folder, or as the table
        folder = path.stem.removeprefix("study-").partition("-")[2].partition("-")[0]
        source = Path(source.parent.name or folder)
    return ReferenceStudy(
        name=path.stem.removeprefix("study-"),
        plan=words[0],
        source=source.stem,
        preset=preset[1] if preset else "small",
        machine=said["machine"].partition(";")[0],
        seeds=len(seeds),
        over=value.partition("interval over ")[2].partition(" of the paired")[0],
        reference=reference,
        rows=table.reindex(columns=[*COLUMNS, *([EPOCH] if EPOCH in table else [])]).reset_index(drop=True),
    )
