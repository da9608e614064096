"""The mitigation lab of an audit: settings that its members train again with, what was measured,
and what pages want.

    <audit>/mitigations/
      <arm>/setting.json          its text, and the pairs that it changes
      <arm>/<member>/             pairs.npy, measures.json (written last: marks the member as
                                  finished), log.jsonl
      .wanted/<session>.json      what an open page wants trained, read by the worker of the page

The baseline is the arm `none`: the audit's members. Members are measured in couples, in the order
of the audit: what a member memorizes is its alignment less its partner's, on the pairs that it
trained on and its partner did not.
"""

import contextlib
import dataclasses
import functools
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from clipmem_core import columns as c
from clipmem_core import draws
from clipmem_core.audit.prepare import membership_of, sides_of
from clipmem_core.audit.settings import check_config
from clipmem_core.audit.setup import check_trains
from clipmem_core.audit.status import TRAINING, last_line
from clipmem_core.audit.store import (
    MEMBERSHIP,
    MITIGATIONS,
    Audit,
    check_name,
    inside,
    read_array,
    read_captions,
    read_embeddings,
    read_table,
    read_utility,
    write_json,
)
from clipmem_core.config import ineffective_fields
from clipmem_core.io import InputError, read_json, save_array
from clipmem_core.lab.arm import (
    BASELINE,
    DECISIONS,
    NEAR_DUPLICATES,
    REMOVAL,
    Arm,
    PairChanges,
    changes_of,
    later_near_duplicates,
    parse_arm,
    without_idle,
)
from clipmem_core.scores.alignment import pair_terms
from clipmem_core.scores.attacks import BAVARIA, attack, roc
from clipmem_core.scores.encoders import contributions
from clipmem_core.scores.membership import MemberSides, side_means
from clipmem_core.training.names import LOG

SETTING = "setting.json"
PAIR_VALUES = "pairs.npy"
MEASURES_FILE = "measures.json"
FIRST_MEMBERS = 4  # an arm is shown from so many members on
MOST_ATTACKED = 100_000  # pairs
FEWEST_COMPARED = 10  # pairs that only one member of a couple trained on
ARM = "arm"
AGAINST = "against"
RETRIEVAL = "retrieval"
SECONDS = "seconds"
CLIPMEM_EXTERNAL = "clipmem_external"
MEMBERSHIP_AUROC = "membership_auroc"
RECALLS = tuple(f"{way}_R@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10))
NO_RANKING = (
    "with --protocol paper most pairs have no score of their own: audit with --protocol ensemble"
)
_REPAIR = "delete its folder: the setting is trained again"
_SEEN = {"text": "words", "image": "pictures"}
Couple = tuple[str, str]


def arm_folder(audit: Audit, arm: str) -> Path:
    """Return the folder of an arm of an audit."""
    return inside(audit.folder / MITIGATIONS, check_name(arm))


def couples(members: Sequence[str]) -> list[Couple]:
    """Return the members two by two, neighbours in the order of an audit; of an odd number the last
    is left out."""
    return list(zip(members[::2], members[1::2], strict=False))


def paired_members(audit: Audit) -> list[str]:
    """Return the members of an audit that belong to a couple."""
    return [name for couple in couples(audit.record.members) for name in couple]


def finished_members(audit: Audit, arm: str) -> list[str]:
    """Return the members of an arm whose couple is measured, in the order of the audit."""
    folder = arm_folder(audit, arm)
    finished = list[str]()
    for couple in couples(audit.record.members):
        if is_measured(folder, couple):
            finished += couple
    return finished


def is_measured(folder: Path, couple: Couple) -> bool:
    """Tell whether a couple is measured in the folder of an arm."""
    return all((folder / name / MEASURES_FILE).is_file() for name in couple)


def couple_lock(folder: Path, couple: Couple) -> FileLock:
    """Return the lock of a couple in the folder of an arm."""
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f".{couple[0]}.lock")


def compared_members(audit: Audit, arm: str) -> list[str]:
    """Return the members on which an arm is compared with the baseline: both are measured."""
    in_baseline = finished_members(audit, BASELINE)
    return [member for member in finished_members(audit, arm) if member in in_baseline]


def obstacles(audit: Audit) -> dict[str, str]:
    """Return why settings cannot act on an audit, by their names."""
    config = audit.record.config
    reasons = {
        name: f"the {side} tower is locked: training sees its features, no {_SEEN[side]}"
        for name, side in ineffective_fields(config).items()
    }
    if not 0 < config.train_captions < read_captions(audit).counts.max():
        reasons["train_captions"] = (
            "members train on all captions already, and pairs with fewer are memorized more"
        )
    if config.loss != "clip":
        reasons["adaptive_rest"] = f"it works with the loss clip only, not {config.loss}"
    if config.protocol == "paper":
        reasons[REMOVAL] = NO_RANKING
    group = read_table(audit.folder / MEMBERSHIP, columns=[c.GROUP])[c.GROUP]
    if not (later_near_duplicates(audit) & (group != c.EXTERNAL).to_numpy()).any():
        reasons[NEAR_DUPLICATES] = "no two pictures that members train on look alike"
    return reasons


def begin(audit: Audit, arm: Arm) -> Arm:
    """Check an arm and write its setting; return the arm without overrides that change nothing."""
    audit.check_finished()
    record = audit.record
    arm = without_idle(arm, record.config)
    path = arm_folder(audit, arm.name) / SETTING
    if path.is_file():
        return arm
    check_trains(audit)
    if len(record.members) < 2:
        raise InputError(
            f"audit {audit.name!r} has one member, and mitigations compare two: audit with more "
            "members"
        )
    check_config(dataclasses.replace(record.config, **arm.fields))
    if arm.name == BASELINE:
        return arm
    for name, reason in obstacles(audit).items():
        if name in arm.overrides:
            raise InputError(f"{name}: {reason}")
    changes = changes_of(audit, arm)
    _check_changes(audit, arm, changes)
    setting = {
        "setting": arm.text,
        "title": arm.title,
        "removed_rows": np.flatnonzero(changes.removed).tolist(),
        "captions_by_row": changes.captions,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, setting)
    return arm


def _check_changes(audit: Audit, arm: Arm, changes: PairChanges) -> None:
    if DECISIONS in arm.overrides and not changes:
        raise InputError(
            f"{DECISIONS}: no pair that members train on is removed or has new captions: "
            "decide first"
        )
    if arm.removal and not changes.removed.any():
        raise InputError(
            f"{REMOVAL}: no pair of this audit has a {arm.removal.by}: choose another ranking"
        )
    if changes.captions and audit.record.config.features:
        raise InputError(
            f"{DECISIONS}: features were computed elsewhere, so that new captions cannot be "
            "embedded"
        )
    if not changes:
        return
    trained = lab_sides(audit, couples(audit.record.members)[0]).membership.trained
    first, second = trained & changes.compared
    remaining = min(int((first & ~second).sum()), int((second & ~first).sum()))
    if remaining < FEWEST_COMPARED:
        raise InputError(
            f"{arm.text}: {remaining} pairs remain to compare, fewer than {FEWEST_COMPARED}: "
            "remove fewer"
        )


def _setting(audit: Audit, name: str) -> dict[str, Any]:
    """Read the setting of an arm that was begun."""
    if name == BASELINE:
        return {"setting": "", "removed_rows": [], "captions_by_row": {}}
    return read_json(arm_folder(audit, name) / SETTING, dict[str, Any], repair=_REPAIR)


def read_arm(audit: Audit, name: str) -> Arm:
    """Read an arm that was begun, without its decisions."""
    return parse_arm(_setting(audit, name)["setting"])


def read_changes(audit: Audit, name: str) -> PairChanges:
    """Read the pairs that an arm changes."""
    setting = _setting(audit, name)
    removed = np.zeros(audit.record.pairs, dtype=bool)
    removed[setting["removed_rows"]] = True
    captions = {int(row): tuple(texts) for row, texts in setting["captions_by_row"].items()}
    return PairChanges(removed, captions)


def list_arms(audit: Audit) -> dict[str, str]:
    """Return the titles of all arms that were begun, by their names, the oldest first."""
    settings = (audit.folder / MITIGATIONS).glob(f"*/{SETTING}")
    names = [path.parent.name for path in sorted(settings, key=lambda path: path.stat().st_mtime)]
    return {name: _setting(audit, name)["title"] for name in names}


def remove_arm(audit: Audit, name: str) -> None:
    """Delete an arm and what was measured of it."""
    shutil.rmtree(arm_folder(audit, name), ignore_errors=True)


def arm_rows(audit: Audit, name: str) -> pd.DataFrame:
    """Return one row per member of an arm, and one of the baseline on the same members and
    pairs."""
    members = tuple(compared_members(audit, name))
    if not members:
        return pd.DataFrame()
    # An arm may be removed and trained anew
    last_measured = (arm_folder(audit, name) / members[-1] / MEASURES_FILE).stat().st_mtime_ns
    return _arm_rows(audit, name, members, last_measured)


@functools.lru_cache(maxsize=256)
def _arm_rows(
    audit: Audit, name: str, members: tuple[str, ...], last_measured: int
) -> pd.DataFrame:
    compared = read_changes(audit, name).compared
    sides = lab_sides(audit, members)
    rows = []
    for arm in dict.fromkeys((name, BASELINE)):
        rows += [{ARM: arm, AGAINST: name} | row for row in _measured(audit, arm, sides, compared)]
    return pd.DataFrame(rows)


def ensure_baseline(audit: Audit, members: int) -> None:
    """Measure the first members of the baseline, unless they are measured or another process does
    it."""
    folder = arm_folder(audit, BASELINE)
    for couple in couples(audit.record.members[:members]):
        with contextlib.suppress(Timeout), couple_lock(folder, couple).acquire(timeout=0):
            if not is_measured(folder, couple):
                measure_baseline(audit, couple)


def measure_baseline(audit: Audit, couple: Couple) -> None:
    """Measure two members of an audit as they are."""
    folders = [audit.member(name) for name in couple]
    embedded = [read_embeddings(folder) for folder in folders]
    write_measures(audit, BASELINE, couple, embedded, [read_utility(folder) for folder in folders])


def write_measures(
    audit: Audit,
    arm: str,
    couple: Couple,
    embedded: Sequence[Any],
    utility: Sequence[dict[str, float]],
) -> None:
    """Measure a couple of an arm by its embeddings, and write that and its utility."""
    values = _pair_values(audit, couple, embedded)
    for name, of_pairs, metrics in zip(couple, values, utility, strict=True):
        output = arm_folder(audit, arm) / name
        output.mkdir(parents=True, exist_ok=True)
        seconds = last_line((audit.member(name) if arm == BASELINE else output) / LOG)
        retrieval = float(np.mean([metrics.pop(recall) for recall in RECALLS]))
        save_array(of_pairs, output / PAIR_VALUES)
        measures = {RETRIEVAL: retrieval} | metrics | {SECONDS: seconds.get("seconds")}
        write_json(output / MEASURES_FILE, measures)


def _pair_values(audit: Audit, couple: Couple, embedded: Sequence[Any]) -> np.ndarray:
    """Return alignment, image part and text part of two members, float32 [2, 3, n_pairs].

    The parts are those of clipmem with the member as the one that trained on the pair and its
    partner as the one that did not; NaN on other pairs.
    """
    sides = lab_sides(audit, couple)
    values = np.full((2, 3, len(sides.external)), np.nan, dtype=np.float32)
    for row, (image, text) in enumerate(embedded):
        values[row, 0] = pair_terms(image, text, sides.external)[c.ALIGNMENT]
    image, text = zip(*embedded, strict=True)
    try:
        parts, _ = contributions(image, text, sides)
    except InputError:  # too few pairs to fit the map between both members
        return values
    trained = sides.membership.trained
    for row in (0, 1):
        # In the paper's protocol the parts are those of f less g on every pair
        sign = -1 if sides.protocol == "paper" and row else 1
        only = trained[row] & ~trained[1 - row]
        values[row, 1:, only] = sign * parts.to_numpy()[only]
    return values


def lab_sides(audit: Audit, members: Sequence[str]) -> MemberSides:
    """Return which of some members trained on each pair."""
    table = read_table(audit.folder / MEMBERSHIP, columns=[c.PAIR_ID, c.GROUP, *members])
    return sides_of(audit, audit.record.config, membership_of(table))


def read_values(audit: Audit, arm: str, members: Sequence[str]) -> np.ndarray:
    """Return alignment, image part and text part of each member's pairs, float32 [n_members, 3,
    n_pairs]."""
    folder = arm_folder(audit, arm)
    return np.stack([read_array(folder / name / PAIR_VALUES) for name in members])


def _measured(
    audit: Audit, arm: str, sides: MemberSides, compared: np.ndarray
) -> list[dict[str, Any]]:
    """Return the measures of each of an arm's members on `compared` pairs, bool [n_pairs]."""
    members = sides.membership.members
    trained = sides.membership.trained
    values = read_values(audit, arm, members)
    partner = np.arange(len(members)) ^ 1
    lead = values[:, 0] - values[partner, 0]  # of a member over its partner
    only = trained & ~trained[partner] & compared
    chosen = np.flatnonzero(np.isin(sides.membership.group, c.SCORED_GROUPS) & compared)
    if len(chosen) > MOST_ATTACKED:
        chosen = draws.rng(sides.seed, "attacked").choice(chosen, MOST_ATTACKED, replace=False)
    # Each member is attacked by its alignment alone, and with the others as its shadows
    attacked = attack(list(values[:, 0]), sides, np.sort(chosen))
    rows = []
    for row, member in enumerate(members):
        path = arm_folder(audit, arm) / member / MEASURES_FILE
        by_shadows = roc(attacked[row], BAVARIA)
        rows.append(
            {
                c.MEMBER: member,
                c.CLIPMEM: float(lead[row, only[row]].mean()),
                CLIPMEM_EXTERNAL: float(lead[row, sides.external].mean()),
                c.CLIPMEM_IMAGE: float(values[row, 1, only[row]].mean()),
                c.CLIPMEM_TEXT: float(values[row, 2, only[row]].mean()),
                MEMBERSHIP_AUROC: roc(attacked[row], c.ALIGNMENT)["auroc"],
                **{column: by_shadows[name] for name, column in c.ATTACK_METRICS.items()},
                **read_json(path, dict[str, Any], repair=_REPAIR),
            }
        )
    return rows


def lab_table(audit: Audit, arms: Iterable[str] = ()) -> pd.DataFrame:
    """Return the rows of arms, by default of all and the baseline (see `arm_rows`).

    Columns: arm, against (the arm whose members and pairs a row of `none` is measured on), member,
    clipmem and clipmem_external in cosine units, clipmem_image and clipmem_text, membership_auroc,
    attack_auroc and attack_TPR@…, retrieval and other utility, seconds of training.
    """
    names = arms or (*list_arms(audit), BASELINE)
    tables = [rows for name in names if len(rows := arm_rows(audit, name))]
    if not tables:
        return pd.DataFrame({ARM: [], AGAINST: [], c.MEMBER: []})
    return pd.concat(tables, ignore_index=True)


def clipmem_by_pair(audit: Audit, arm: str, members: Sequence[str]) -> np.ndarray:
    """Return the clipmem of each pair by some members of an arm, [n_pairs]; NaN of external pairs
    and of those that all or none of the members trained on."""
    membership = lab_sides(audit, members).membership
    alignments = read_values(audit, arm, members)[:, 0]
    mean_in, mean_out = side_means(list(alignments), membership.trained)
    return np.where(membership.group != c.EXTERNAL, mean_in - mean_out, np.nan)


def seconds_needed(audit: Audit, members: int) -> float:
    """Return how long members of an arm train and are measured: as long as those of the audit did;
    NaN if that is not known."""
    return audit.seconds.get(TRAINING, np.nan) * members / len(audit.record.members)
