"""Summaries of a finished audit for pages, the report and the figures: groups, utility, encoders,
alignment and its parts for one pair, points of maps, and the comparison with another audit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core.auditing.folder.store import PAIRS, SCORES, Audit, read_embeddings, read_table
from clipmem_core.auditing.tables.maps import require_map
from clipmem_core.config import AuditConfig, as_dict, flat
from clipmem_core.review.decisions import CODES, decided
from clipmem_core.review.queries import CAPTION_KEY, ROW, cached, fetch
from clipmem_core.review.search import read_in_out
from clipmem_core.scores.alignment import pair_components
from clipmem_core.scores.metrics import Difference, paired_difference
from clipmem_core.utils import draws
from clipmem_core.utils.columns import (
    ATTACK_METRICS,
    CLIPMEM,
    CLIPMEM_IMAGE,
    CLIPMEM_TEXT,
    COMPONENTS,
    DECISION,
    GROUP,
    GROUPS,
    INJECTED,
    LABEL,
    MEMBER,
    METRIC,
    PAIR_ID,
    SHA256,
    SSLMEM_IMAGE,
    SSLMEM_TEXT,
    VALUE,
    of_one_split,
)

ATTACK_MEASURES = {"auroc": "AUROC", "TPR@0.01": "TPR at 1 % FPR", "TPR@0.001": "TPR at .1 % FPR"}
LIMIT = 6000  # points a browser draws at once, fast enough for a lasso
POINTS = 5_000  # pairs in the scatter plot of two audits
CHANGED = 96  # pairs that changed most
_STRONG = 0.5  # clipmem of a strongly memorized pair
_HARDLY_ANY = 0.001  # share of the pairs
_REVEALING = 0.75  # AUROC of an attack: three guesses of four are right
_ABOUT_THE_SAME = 1.2  # one encoder's part over the other's
_BINS = 60  # of the histogram of clipmem
_CELLS = (96, 64)  # of the density, along x and y
# shares of the held-out pairs
PARTS = {"image": CLIPMEM_IMAGE, "text": CLIPMEM_TEXT}
SSLMEM = {"image": SSLMEM_IMAGE, "text": SSLMEM_TEXT}
NOT_INJECTED = "not injected"
_NAMES = 12  # groups, labels or kinds in the means of encoders
# mean cosine on held-out pairs; below it a mapped embedding is closer to other pairs
POOR_FIT = 0.5


def group_table(audit: Audit) -> pd.DataFrame:
    """Return group, n and mean of clipmem, and low, high and kind of its interval, by group."""
    columns = [GROUP, "n", "mean", "low", "high", "kind"]
    groups = pd.DataFrame(audit.verdict["groups"], columns=columns)
    ends = groups[["low", "high"]].astype(float)
    return groups.assign(kind=groups["kind"].map(of_one_split), **ends)


def group_bins(audit: Audit) -> pd.DataFrame:
    """Return the histogram of clipmem of each group: group, low and width of a bin, share of the
    group."""
    scores = audit.read_columns(SCORES, GROUP, CLIPMEM).dropna()
    edges = np.histogram_bin_edges(scores[CLIPMEM], _BINS)
    bins = np.searchsorted(edges[1:-1], scores[CLIPMEM], side="right")
    by_group = scores.assign(low=edges[bins]).groupby(GROUP)["low"]
    shares = by_group.value_counts(normalize=True).sort_index().rename("share")
    return shares.reset_index().assign(width=edges[1] - edges[0])


def memorization_line(verdict: Mapping[str, Any]) -> str:
    """Return how many pairs are strongly memorized, by which encoder, and whether an attacker can
    tell; empty if it was not measured."""
    shares = verdict["exceeding"]
    auroc = verdict["attacks"][0]["value"] or verdict["membership_auroc"]
    if not shares:
        return ""
    row = next((row for row in shares if row["size"] >= _STRONG), {"size": _STRONG, "share": 0.0})
    above = f"a clipmem above {row['size']:g} after correction for noise."
    strong = f"Hardly any pair is strongly memorized: fewer than 1 in 1,000 has {above}"
    if row["share"] >= _HARDLY_ANY:
        strong = (
            f"{100 * row['share']:.1f} % of the pairs are strongly memorized: they have {above} "
            f"{encoder_line(verdict)}"
        )
    matters = (
        f"An attacker can tell which pairs the model was trained on (AUROC {auroc:.2f}). That "
        "matters if they are private: see Mitigations."
        if auroc >= _REVEALING
        else "An attacker can hardly tell which pairs the model was trained on "
        f"(AUROC {auroc:.2f}): this is unlikely to matter."
    )
    return f"{strong} {matters}"


def encoder_line(verdict: Mapping[str, Any]) -> str:
    """Return which encoder memorized more; empty if it was not measured."""
    parts = ((verdict["encoders"][side] or 0.0, side) for side in PARTS)
    (low, less), (high, more) = sorted(parts)
    if high <= 0:
        return ""
    if high < _ABOUT_THE_SAME * low:
        return "Text and image encoder hold about the same."
    if low <= 0:
        return f"Only the {more} encoder holds anything."
    return f"The {more} encoder holds {high / low:.1f} times as much as the {less} encoder."


def member_utility(utility: pd.DataFrame) -> pd.DataFrame:
    """Return metric, and mean, min and max over the members; without attacks."""
    utility = utility[~utility[METRIC].isin(ATTACK_METRICS.values())]
    by_metric = utility.groupby(METRIC, sort=False, observed=True)[VALUE]
    return by_metric.agg(["mean", "min", "max"]).reset_index()


@cached(4, SCORES, PAIRS)
def points_and_density(audit: Audit, x: str, y: str) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """Draw a fixed random sample of at most `LIMIT` pairs with two scores.

    Returns row, x, y, group, label and injected of the sample; centre x, y and count n of each cell
    of a 2D histogram of all pairs, empty if all are drawn; and the number of pairs with both
    scores.
    """
    scores = audit.read_columns(SCORES, x, y, GROUP).astype({x: float, y: float})
    table = scores.join(audit.read_columns(PAIRS, LABEL, INJECTED)).reset_index(names="row")
    finite = table[np.isfinite(table[x]) & np.isfinite(table[y])]
    if len(finite) <= LIMIT:
        return finite.reset_index(drop=True), pd.DataFrame(), len(finite)
    rows = draws.rng(0, "scatter").choice(finite["row"], LIMIT, replace=False)
    counts, *edges = np.histogram2d(finite[x], finite[y], _CELLS)
    i, j = np.nonzero(counts)
    x_centres, y_centres = ((ends[1:] + ends[:-1]) / 2 for ends in edges)
    density = pd.DataFrame({"x": x_centres[i], "y": y_centres[j], "n": counts[i, j].astype(int)})
    return table.iloc[np.sort(rows)].reset_index(drop=True), density, len(finite)


def locked_towers(config: AuditConfig) -> dict[str, str]:
    """Return the names of the locked towers by modality: image, text."""
    default = f"{config.model} ({config.pretrained})"
    if config.unlock:
        return {}
    locked = [side for side in ("image", "text") if getattr(config, f"lock_{side}")]
    return {side: getattr(config, f"{side}_tower") or default for side in locked}


def model_words(config: AuditConfig) -> str:
    """Return the kind of the members in words: "model small", "heads on …"."""
    if config.unlock:
        names = [config.image_tower, config.text_tower]
        blocks = "block" if config.unlock == 1 else f"{config.unlock} blocks"
        return f"the last {blocks} of {' and '.join(filter(None, names)) or config.model}"
    towers = locked_towers(config)
    if len(towers) == 2:
        return f"heads on {' and '.join(towers.values())}"
    return " and ".join(
        [f"model {config.model}", *(f"a head on {name}" for name in towers.values())]
    )


def map_points(audit: Audit, side: str, column: str) -> pd.DataFrame:
    """Return row, map_x, map_y, region and one more column of the pairs on a map."""
    points = read_table(require_map(audit, side), repair="delete it and open the page Map again")
    if column == DECISION:
        values = pd.Series(decided(audit).codes).map(dict(enumerate(CODES)))
    else:
        table = PAIRS if column in (LABEL, INJECTED) else SCORES
        values = audit.read_columns(table, column)[column]
    points[column] = values[points["row"]].to_numpy()
    return points


def member_components(audit: Audit, row: int) -> pd.DataFrame:
    """Return alignment and its parts for one pair by member, in cosine units, and `in_out`: in if
    the member was trained on the pair, else out."""
    in_out = read_in_out(audit)
    compared = np.union1d(np.flatnonzero(in_out.held_out), row)
    at = np.searchsorted(compared, row)
    rows = []
    for name, inside in zip(in_out.membership.members, in_out.inside[:, row], strict=True):
        image, text = (vectors[compared] for vectors in read_embeddings(audit.member(name)))
        components = pair_components(image, text, in_out.held_out[compared])
        values = {component: float(components[component][at]) for component in COMPONENTS}
        rows.append({MEMBER: name, "in_out": "in" if inside else "out"} | values)
    return pd.DataFrame(rows)


def encoder_means(
    audit: Audit,
    columns: Mapping[str, str] = PARTS,
    *,
    by: str = GROUP,
    groups: Sequence[str] = GROUPS,
) -> pd.DataFrame:
    """Average the scores of encoders, `PARTS` or `SSLMEM`, over groups, labels or injected kinds of
    pairs of `groups`.

    Returns name, encoder, n, mean, low and high (± 1.96 standard errors over pairs) of the most
    frequent names.
    """
    scores = audit.read_columns(SCORES, GROUP, *columns.values())
    scores = scores.rename(columns={column: encoder for encoder, column in columns.items()})
    scores = scores.astype(dict.fromkeys(columns, float))
    scores["name"] = scores[GROUP] if by == GROUP else audit.read_columns(PAIRS, by)[by]
    if by == INJECTED:
        scores["name"] = scores["name"].fillna(NOT_INJECTED)
    scores = scores[scores[GROUP].isin(groups)]
    names = scores["name"].value_counts().index[:_NAMES].tolist()
    if by == GROUP:
        names = [group for group in GROUPS if group in names]
    by_name = scores.groupby("name")[list(columns)].agg(["count", "mean", "sem"]).reindex(names)
    means = by_name.rename_axis(columns=["encoder", ""]).stack(0, future_stack=True).reset_index()
    half = 1.96 * means.pop("sem")
    means = means.rename(columns={"count": "n"})
    return means.assign(low=means["mean"] - half, high=means["mean"] + half)


@dataclass(frozen=True)
class Comparison:
    """A score in two audits, over the pairs with the same pair_id and picture. Differences are
    other − one."""

    column: str
    n_common: int
    n_scored: int  # common pairs with a score in both
    only_one: int
    only_other: int
    edited: int  # common pairs with other captions
    regrouped: int  # common pairs in another group of the same protocol
    spearman: float  # NaN for constant scores
    change: Difference | None  # paired by pair; None without pairs scored in both
    # pair_id, row_one, row_other, one, other, difference, group_one, group_other of pairs that stay
    # in their group, the largest change first
    changed: pd.DataFrame
    points: pd.DataFrame  # the same of a random sample


@cached(
    4, SCORES, PAIRS, paths=lambda one, other, column: [other.folder / SCORES, other.folder / PAIRS]
)
def compare(one: Audit, other: Audit, column: str) -> Comparison:
    """Compare a score of two audits pair by pair."""
    content = f"SELECT {CAPTION_KEY} AS captions, sha256 FROM parquet ORDER BY {ROW}"
    tables = []
    for audit in (one, other):
        table = audit.read_columns(SCORES, PAIR_ID, GROUP, column).rename(columns={column: "score"})
        contents = fetch(audit.folder / PAIRS, content).to_pandas()
        tables.append(table.astype({"score": float}).join(contents).reset_index(names="row"))
    joined = tables[0].merge(tables[1], on=[PAIR_ID, SHA256], suffixes=("_one", "_other"))
    joined = joined.rename(columns={"score_one": "one", "score_other": "other"})
    joined["difference"] = joined["other"] - joined["one"]
    edited = joined.pop("captions_one") != joined.pop("captions_other")
    same_protocol = one.record.protocol == other.record.protocol
    regrouped = (joined["group_one"] != joined["group_other"]) & same_protocol
    finite = np.isfinite(joined["difference"])
    scored = joined[finite]
    stayed = joined[finite & ~regrouped]
    largest = stayed.sort_values("difference", key=lambda values: -values.abs(), kind="stable")
    sample = scored.sample(min(len(scored), POINTS), random_state=0).sort_index()
    values = scored["one"].to_numpy(), scored["other"].to_numpy()
    return Comparison(
        column=column,
        n_common=len(joined),
        n_scored=len(scored),
        only_one=len(tables[0]) - len(joined),
        only_other=len(tables[1]) - len(joined),
        edited=int(edited.sum()),
        regrouped=int(regrouped.sum()),
        spearman=scored["one"].corr(scored["other"], method="spearman"),
        change=paired_difference(values[1], values[0]) if len(scored) else None,
        changed=largest[:CHANGED].reset_index(drop=True),
        points=sample.reset_index(drop=True),
    )


def changed_settings(one: Audit, other: Audit) -> pd.DataFrame:
    """Return the settings that differ between two audits: setting, first, second, as text."""
    first, second = (flat(as_dict(audit.record.config)) for audit in (one, other))
    table = pd.DataFrame({"first": first, "second": second}, dtype=object)
    table = table[table["first"] != table["second"]]
    return table.where(table.notna() & (table != ""), "–").astype(str).reset_index(names="setting")
