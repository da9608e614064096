"""The mitigation lab of an audit: settings that its members train again with, what was measured,
and what pages want.

    <audit>/mitigations/
      <setting>/setting.json      its text, and the pairs that it changes
      <setting>/<member>/         pairs.npy, measures.json (written last: marks the member as
                                  finished), log.jsonl

The baseline is the setting `none`: the audit's members. Members are measured in pairs of members,
in the order of the audit: what a member memorizes is its alignment less its partner's, on the pairs
that it trained on and its partner did not.
"""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from clipmem_core.auditing.folder.jobs import TRAINING, last_line
from clipmem_core.auditing.folder.prepare import membership_of, sides_of
from clipmem_core.auditing.folder.settings import check_config
from clipmem_core.auditing.folder.store import (
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
from clipmem_core.lab.setting import (
    BASELINE,
    DECISIONS,
    NEAR_DUPLICATES,
    REMOVAL,
    PairChanges,
    Setting,
    changes_of,
    later_near_duplicates,
    parse_setting,
    without_idle,
)
from clipmem_core.review.queries import cached
from clipmem_core.scores.alignment import pair_terms
from clipmem_core.scores.attacks import BAVARIA, attack, roc
from clipmem_core.scores.encoders import contributions
from clipmem_core.scores.membership import MemberSides, side_means
from clipmem_core.training.names import LOG
from clipmem_core.utils import columns as c
from clipmem_core.utils import draws
from clipmem_core.utils.io import InputError, read_json, save_array

SETTING_FILE = "setting.json"
PAIR_VALUES = "pairs.npy"
MEASURES_FILE = "measures.json"
FIRST_MEMBERS = 4  # a setting is shown from so many members on
MOST_ATTACKED = 100_000  # pairs
SETTING = "setting"
AGAINST = "against"
RETRIEVAL = "retrieval"
SECONDS = "seconds"
CLIPMEM_HELD_OUT = "clipmem_held_out"
MEMBERSHIP_AUROC = "membership_auroc"
RECALLS = tuple(f"{way}_R@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10))
NO_RANKING = (
    "with --protocol paper most pairs have no score of their own: audit with --protocol ensemble"
)
_REPAIR = "delete its folder: the setting is trained again"
_SEEN = {"text": "words", "image": "pictures"}
MemberPair = tuple[str, str]


def setting_folder(audit: Audit, setting: str) -> Path:
    """Return the folder of a setting of an audit."""
    return inside(audit.folder / MITIGATIONS, check_name(setting))


def member_pairs(members: Sequence[str]) -> list[MemberPair]:
    """Return the members two by two, neighbours in the order of an audit; of an odd number the last
    is left out."""
    return list(zip(members[::2], members[1::2], strict=False))


def paired_members(audit: Audit) -> list[str]:
    """Return the members of an audit that belong to a pair of members."""
    return [name for member_pair in member_pairs(audit.record.members) for name in member_pair]


def finished_members(audit: Audit, setting: str) -> list[str]:
    """Return the members of a setting whose pair of members is measured, in the order of the
    audit."""
    folder = setting_folder(audit, setting)
    finished = list[str]()
    for member_pair in member_pairs(audit.record.members):
        if is_measured(folder, member_pair):
            finished += member_pair
    return finished


def is_measured(folder: Path, member_pair: MemberPair) -> bool:
    """Tell whether a pair of members is measured in the folder of a setting."""
    return all((folder / name / MEASURES_FILE).is_file() for name in member_pair)


def member_pair_lock(folder: Path, member_pair: MemberPair) -> FileLock:
    """Return the lock of a pair of members in the folder of a setting."""
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f".{member_pair[0]}.lock")


def compared_members(audit: Audit, setting: str) -> list[str]:
    """Return the members on which a setting is compared with the baseline: both are measured."""
    in_baseline = finished_members(audit, BASELINE)
    return [member for member in finished_members(audit, setting) if member in in_baseline]


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
    if config.protocol == "paper":
        reasons[REMOVAL] = NO_RANKING
    group = read_table(audit.folder / MEMBERSHIP, columns=[c.GROUP])[c.GROUP]
    if not (later_near_duplicates(audit) & (group != c.HELD_OUT).to_numpy()).any():
        reasons[NEAR_DUPLICATES] = "no two pictures that members train on look alike"
    return reasons


def begin(audit: Audit, setting: Setting) -> Setting:
    """Check a setting and write its file; return the setting without overrides that change
    nothing."""
    audit.check_finished()
    record = audit.record
    setting = without_idle(setting, record.config)
    path = setting_folder(audit, setting.name) / SETTING_FILE
    if path.is_file():
        return setting
    if not paired_members(audit):
        raise InputError(f"audit {audit.name!r} has one member; mitigations compare two")
    check_config(dataclasses.replace(record.config, **setting.fields))
    if setting.name == BASELINE:
        return setting
    for name, reason in obstacles(audit).items():
        if name in setting.overrides:
            raise InputError(f"{name}: {reason}")
    changes = changes_of(audit, setting)
    _check_changes(audit, setting, changes)
    stored = {
        "setting": setting.text,
        "title": setting.title,
        "removed_rows": np.flatnonzero(changes.removed).tolist(),
        "captions_by_row": changes.captions,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, stored)
    return setting


def _check_changes(audit: Audit, setting: Setting, changes: PairChanges) -> None:
    if DECISIONS in setting.overrides and not changes:
        raise InputError(
            f"{DECISIONS}: no pair that members train on is removed or has new captions: "
            "decide first"
        )
    if setting.removal and not changes.removed.any():
        raise InputError(
            f"{REMOVAL}: no pair of this audit has a {setting.removal.by}: choose another ranking"
        )
    if changes.captions and audit.record.config.features:
        raise InputError(
            f"{DECISIONS}: features were computed elsewhere, so that new captions cannot be "
            "embedded"
        )


def _setting(audit: Audit, name: str) -> dict[str, Any]:
    """Read the file of a setting that was begun."""
    if name == BASELINE:
        return {"setting": "", "removed_rows": [], "captions_by_row": {}}
    return read_json(setting_folder(audit, name) / SETTING_FILE, dict[str, Any], repair=_REPAIR)


def read_setting(audit: Audit, name: str) -> Setting:
    """Read a setting that was begun, without its decisions."""
    return parse_setting(_setting(audit, name)["setting"])


def read_changes(audit: Audit, name: str) -> PairChanges:
    """Read the pairs that a setting changes."""
    setting = _setting(audit, name)
    removed = np.zeros(audit.record.pairs, dtype=bool)
    removed[setting["removed_rows"]] = True
    captions = {int(row): tuple(texts) for row, texts in setting["captions_by_row"].items()}
    return PairChanges(removed, captions)


def list_settings(audit: Audit) -> dict[str, str]:
    """Return the titles of all settings that were begun, by their names, the oldest first."""
    settings = (audit.folder / MITIGATIONS).glob(f"*/{SETTING_FILE}")
    names = [path.parent.name for path in sorted(settings, key=lambda path: path.stat().st_mtime)]
    return {name: _setting(audit, name)["title"] for name in names}


def remove_setting(audit: Audit, name: str) -> None:
    """Delete a setting and what was measured of it."""
    shutil.rmtree(setting_folder(audit, name), ignore_errors=True)


def _measures_files(audit: Audit, name: str) -> list[Path]:
    folder = setting_folder(audit, name)
    return [folder / member / MEASURES_FILE for member in compared_members(audit, name)]


@cached(256, paths=_measures_files)  # an attack on all members of a setting takes a while
def setting_rows(audit: Audit, name: str) -> pd.DataFrame:
    """Return one row per member of a setting, and one of the baseline on the same members and
    pairs."""
    members = compared_members(audit, name)
    if not members:
        return pd.DataFrame()
    compared = read_changes(audit, name).compared
    sides = lab_sides(audit, members)
    rows = []
    for setting in dict.fromkeys((name, BASELINE)):
        rows += [
            {SETTING: setting, AGAINST: name} | row
            for row in _measured(audit, setting, sides, compared)
        ]
    return pd.DataFrame(rows)


def ensure_baseline(audit: Audit, members: int) -> None:
    """Measure the first members of the baseline, unless they are measured or another process does
    it."""
    folder = setting_folder(audit, BASELINE)
    for member_pair in member_pairs(audit.record.members[:members]):
        with contextlib.suppress(Timeout), member_pair_lock(folder, member_pair).acquire(timeout=0):
            if not is_measured(folder, member_pair):
                measure_baseline(audit, member_pair)


def measure_baseline(audit: Audit, member_pair: MemberPair) -> None:
    """Measure two members of an audit as they are."""
    folders = [audit.member(name) for name in member_pair]
    embedded = [read_embeddings(folder) for folder in folders]
    write_measures(
        audit, BASELINE, member_pair, embedded, [read_utility(folder) for folder in folders]
    )


def write_measures(
    audit: Audit,
    setting: str,
    member_pair: MemberPair,
    embedded: Sequence[Any],
    utility: Sequence[dict[str, float]],
) -> None:
    """Measure a pair of members of a setting by its embeddings, and write that and its utility."""
    values = _pair_values(audit, member_pair, embedded)
    for name, of_pairs, metrics in zip(member_pair, values, utility, strict=True):
        output = setting_folder(audit, setting) / name
        output.mkdir(parents=True, exist_ok=True)
        seconds = last_line((audit.member(name) if setting == BASELINE else output) / LOG)
        retrieval = float(np.mean([metrics.pop(recall) for recall in RECALLS]))
        save_array(of_pairs, output / PAIR_VALUES)
        measures = {RETRIEVAL: retrieval} | metrics | {SECONDS: seconds.get("seconds")}
        write_json(output / MEASURES_FILE, measures)


def _pair_values(audit: Audit, member_pair: MemberPair, embedded: Sequence[Any]) -> np.ndarray:
    """Return alignment, image part and text part of two members, float32 [2, 3, n_pairs].

    The parts are those of clipmem with the member as the one that trained on the pair and its
    partner as the one that did not; NaN on other pairs.
    """
    sides = lab_sides(audit, member_pair)
    values = np.full((2, 3, len(sides.held_out)), np.nan, dtype=np.float32)
    for row, (image, text) in enumerate(embedded):
        values[row, 0] = pair_terms(image, text, sides.held_out)[c.ALIGNMENT]
    image, text = zip(*embedded, strict=True)
    parts, _ = contributions(image, text, sides)
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


def read_values(audit: Audit, setting: str, members: Sequence[str]) -> np.ndarray:
    """Return alignment, image part and text part of each member's pairs, float32 [n_members, 3,
    n_pairs]."""
    folder = setting_folder(audit, setting)
    return np.stack([read_array(folder / name / PAIR_VALUES) for name in members])


def _measured(
    audit: Audit, setting: str, sides: MemberSides, compared: np.ndarray
) -> list[dict[str, Any]]:
    """Return the measures of each of a setting's members on `compared` pairs, bool [n_pairs]."""
    members = sides.membership.members
    trained = sides.membership.trained
    values = read_values(audit, setting, members)
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
        path = setting_folder(audit, setting) / member / MEASURES_FILE
        by_shadows = roc(attacked[row], BAVARIA)
        rows.append(
            {
                c.MEMBER: member,
                c.CLIPMEM: float(lead[row, only[row]].mean()),
                CLIPMEM_HELD_OUT: float(lead[row, sides.held_out].mean()),
                c.CLIPMEM_IMAGE: float(values[row, 1, only[row]].mean()),
                c.CLIPMEM_TEXT: float(values[row, 2, only[row]].mean()),
                MEMBERSHIP_AUROC: roc(attacked[row], c.ALIGNMENT)["auroc"],
                **{column: by_shadows[name] for name, column in c.ATTACK_METRICS.items()},
                **read_json(path, dict[str, Any], repair=_REPAIR),
            }
        )
    return rows


def lab_table(audit: Audit, settings: Iterable[str] = ()) -> pd.DataFrame:
    """Return the rows of settings, by default of all and the baseline (see `setting_rows`).

    Columns: setting, against (the setting whose members and pairs a row of `none` is measured on),
    member, clipmem and clipmem_held_out in cosine units, clipmem_image and clipmem_text,
    membership_auroc, attack_auroc and attack_TPR@…, retrieval and other utility, seconds of
    training.
    """
    names = settings or (*list_settings(audit), BASELINE)
    tables = [rows for name in names if len(rows := setting_rows(audit, name))]
    if not tables:
        return pd.DataFrame({SETTING: [], AGAINST: [], c.MEMBER: []})
    return pd.concat(tables, ignore_index=True)


def clipmem_by_pair(audit: Audit, setting: str, members: Sequence[str]) -> np.ndarray:
    """Return the clipmem of each pair by some members of a setting, [n_pairs]; NaN of held-out
    pairs and of those that all or none of the members trained on."""
    membership = lab_sides(audit, members).membership
    alignments = read_values(audit, setting, members)[:, 0]
    mean_in, mean_out = side_means(list(alignments), membership.trained)
    return np.where(membership.group != c.HELD_OUT, mean_in - mean_out, np.nan)


def seconds_needed(audit: Audit, members: int) -> float:
    """Return how long members of a setting train and are measured: as long as those of the audit
    did; NaN if that is not known."""
    return audit.seconds.get(TRAINING, np.nan) * members / len(audit.record.members)
