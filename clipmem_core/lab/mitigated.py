"""The mitigation lab of an audit: its members train again with settings, and each setting is
compared with the baseline. Without torch.

    <audit>/mitigations/
      <setting>/setting.json      its text, and the pairs that it changes
      <setting>/<member>/         pairs.npy, measures.json (written last: marks the member as
                                  finished), log.jsonl

The baseline is the setting `none`: the audit's members as they are. Two neighbouring members form a
pair of members. The memorization of a member is its alignment less that of its partner, averaged
over the pairs that the member trained on and its partner did not.
"""

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock

from clipmem_core.auditing.folder.jobs import TRAINING, last_line
from clipmem_core.auditing.folder.prepare import in_out_of
from clipmem_core.auditing.folder.settings import check_config
from clipmem_core.auditing.folder.store import (
    MITIGATIONS,
    Audit,
    check_name,
    inside,
    read_array,
    read_captions,
    read_embeddings,
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
from clipmem_core.scores.alignment import pair_components
from clipmem_core.scores.attacks import BAVARIA, attack, roc
from clipmem_core.scores.encoders import contributions
from clipmem_core.scores.membership import InOut, in_minus_out
from clipmem_core.training import LOG
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
_REPAIR = "delete its folder: the setting is trained again"
MemberPair = tuple[str, str]


def setting_folder(audit: Audit, setting: str) -> Path:
    """Return the folder of a setting of an audit."""
    return inside(audit.folder / MITIGATIONS, check_name(setting))


def member_pairs(members: Sequence[str]) -> list[MemberPair]:
    """Return pairs of neighbouring members, in the order of an audit; without the last of an odd
    number."""
    return list(zip(members[::2], members[1::2], strict=False))


def paired_members(audit: Audit) -> list[str]:
    """Return the members of an audit that belong to a pair of members."""
    return [*chain(*member_pairs(audit.record.members))]


def is_measured(folder: Path, member_pair: MemberPair) -> bool:
    """Tell whether a pair of members is measured in the folder of a setting; its second member is
    written last."""
    return (folder / member_pair[1] / MEASURES_FILE).is_file()


def finished_members(audit: Audit, setting: str) -> list[str]:
    """Return the members of a setting whose pair of members is measured, in the order of the
    audit."""
    folder = setting_folder(audit, setting)
    pairs = member_pairs(audit.record.members)
    return [*chain(*(pair for pair in pairs if is_measured(folder, pair)))]


def missing_pairs(audit: Audit, setting: str) -> list[str]:
    """Return the pairs of members of a setting that are not measured, each as `setting/member` by
    its first member."""
    finished = finished_members(audit, setting)
    return [f"{setting}/{name}" for name in paired_members(audit)[::2] if name not in finished]


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
        name: f"the {side} tower is locked: training sees its features alone"
        for name, side in ineffective_fields(config).items()
    }
    if not 0 < config.train_captions < read_captions(audit).counts.max():
        reasons["train_captions"] = (
            "members train on all captions already, and pairs with fewer are memorized more"
        )
    if config.protocol == "paper":
        reasons[REMOVAL] = (
            "with --protocol paper most pairs have no score of their own: audit with --protocol "
            "ensemble"
        )
    if not later_near_duplicates(audit).any():
        reasons[NEAR_DUPLICATES] = "no two pictures look alike"
    return reasons


def begin(audit: Audit, setting: Setting) -> Setting:
    """Check a setting and write its file; return the setting without overrides that change
    nothing."""
    audit.check_finished()
    config = audit.record.config
    setting = without_idle(setting, config)
    path = setting_folder(audit, setting.name) / SETTING_FILE
    if path.is_file():
        return setting
    if not paired_members(audit):
        raise InputError(f"audit {audit.name!r} has one member; mitigations compare two")
    check_config(replace(config, **setting.fields))
    if setting.name == BASELINE:
        return setting
    for name, reason in obstacles(audit).items():
        if name in setting.overrides:
            raise InputError(f"{name}: {reason}")
    changes = changes_of(audit, setting)
    if {DECISIONS, REMOVAL, NEAR_DUPLICATES} & set(setting.overrides) and changes.compared.all():
        raise InputError(
            f"{setting.text}: no pair that members train on would be removed or get new captions: "
            "decide first, or choose another ranking"
        )
    stored = {
        "setting": setting.text,
        "title": setting.title,
        "removed_rows": np.flatnonzero(changes.removed).tolist(),
        "captions_by_row": changes.captions,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, stored)
    return setting


def _stored(audit: Audit, name: str) -> dict[str, Any]:
    """Read the file of a setting."""
    if name == BASELINE:
        return {"setting": "", "removed_rows": [], "captions_by_row": {}}
    return read_json(setting_folder(audit, name) / SETTING_FILE, dict[str, Any], repair=_REPAIR)


def read_setting(audit: Audit, name: str) -> Setting:
    """Read a setting, without its decisions."""
    return parse_setting(_stored(audit, name)["setting"])


def read_changes(audit: Audit, name: str) -> PairChanges:
    """Read the pairs that a setting changes."""
    stored = _stored(audit, name)
    removed = np.isin(np.arange(audit.record.pairs), stored["removed_rows"])
    captions = {int(row): tuple(texts) for row, texts in stored["captions_by_row"].items()}
    return PairChanges(removed, captions)


def list_settings(audit: Audit) -> dict[str, str]:
    """Return the titles of all settings that were begun, by their names, the oldest first."""
    settings = (audit.folder / MITIGATIONS).glob(f"*/{SETTING_FILE}")
    names = [path.parent.name for path in sorted(settings, key=lambda path: path.stat().st_mtime)]
    return {name: _stored(audit, name)["title"] for name in names}


def remove_setting(audit: Audit, name: str) -> None:
    """Delete a setting and what was measured of it."""
    shutil.rmtree(setting_folder(audit, name), ignore_errors=True)


def _measures_files(audit: Audit, name: str) -> list[Path]:
    folder = setting_folder(audit, name)
    return [folder / member / MEASURES_FILE for member in compared_members(audit, name)]


@cached(256, paths=_measures_files)  # the attack on all members takes a while
def setting_rows(audit: Audit, name: str) -> pd.DataFrame:
    """Return a row for each member of a setting, and one of the baseline on the same members and
    pairs; empty before two members are measured.

    Columns: setting, against (the setting whose members and pairs a row of `none` is measured on),
    member, clipmem and clipmem_held_out in cosine units, clipmem_image and clipmem_text,
    membership_auroc, attack_auroc and attack_TPR@…, retrieval and other utility, seconds of
    training.
    """
    members = compared_members(audit, name)
    if not members:
        return pd.DataFrame()
    in_out = lab_in_out(audit, members)
    trained = in_out.membership.trained
    compared = read_changes(audit, name).compared
    attacked = np.flatnonzero(np.isin(in_out.membership.group, c.SCORED_GROUPS) & compared)
    if len(attacked) > MOST_ATTACKED:
        attacked = draws.rng(in_out.seed, "attacked").choice(attacked, MOST_ATTACKED, replace=False)
    partner = np.arange(len(members)) ^ 1
    only = trained & ~trained[partner] & compared  # the pairs that its partner did not train on
    tables = []
    for setting in dict.fromkeys((name, BASELINE)):
        values = read_values(audit, setting, members)
        # Each member is attacked by its alignment alone, and with the others as its shadows
        results = attack(list(values[:, 0]), in_out, np.sort(attacked))
        by_shadows = pd.DataFrame([roc(result, BAVARIA) for result in results])
        folder = setting_folder(audit, setting)
        paths = [folder / member / MEASURES_FILE for member in members]
        measures = [read_json(path, dict[str, Any], repair=_REPAIR) for path in paths]
        values[:, 0] -= values[partner, 0]  # the lead of a member over its partner
        means = values.mean(axis=2, dtype=float, where=only[:, None])
        table = pd.DataFrame(means, columns=[c.CLIPMEM, c.CLIPMEM_IMAGE, c.CLIPMEM_TEXT]).assign(
            **{
                SETTING: setting,
                AGAINST: name,
                c.MEMBER: members,
                CLIPMEM_HELD_OUT: values[:, 0, in_out.held_out].mean(axis=1, dtype=float),
                MEMBERSHIP_AUROC: [roc(result, c.ALIGNMENT)["auroc"] for result in results],
                **{column: by_shadows[name] for name, column in c.ATTACK_METRICS.items()},
            }
        )
        tables.append(pd.concat([table, pd.DataFrame(measures)], axis=1))
    return pd.concat(tables, ignore_index=True)


def lab_table(audit: Audit, settings: Iterable[str]) -> pd.DataFrame:
    """Return the rows of settings, as of `setting_rows`."""
    return pd.concat([setting_rows(audit, name) for name in settings], ignore_index=True)


def ensure_baseline(audit: Audit, members: int) -> None:
    """Measure the first members of the baseline as they are, unless they are measured."""
    folder = setting_folder(audit, BASELINE)
    for member_pair in member_pairs(audit.record.members[:members]):
        with member_pair_lock(folder, member_pair):
            if not is_measured(folder, member_pair):
                folders = list(map(audit.member, member_pair))
                embedded = list(map(read_embeddings, folders))
                write_measures(audit, BASELINE, folders, embedded, list(map(read_utility, folders)))


def write_measures(
    audit: Audit,
    setting: str,
    folders: Sequence[Path],
    embedded: Sequence[Any],
    utility: Sequence[dict[str, float]],
) -> None:
    """Write pairs.npy and measures.json of two members of a setting, from their embeddings, their
    utility, and the folders that they trained in.

    pairs.npy has alignment, image part and text part of each pair, float32 [3, n_pairs]. The parts
    are those of clipmem with the member as the one that trained on the pair and its partner as the
    one that did not; NaN on other pairs.
    """
    members = [folder.name for folder in folders]
    in_out = lab_in_out(audit, members)
    trained = in_out.membership.trained
    image, text = zip(*embedded, strict=True)
    parts, _ = contributions(image, text, in_out)
    for row, (folder, metrics) in enumerate(zip(folders, utility, strict=True)):
        values = np.full((3, len(parts)), np.nan, dtype=np.float32)
        values[0] = pair_components(image[row], text[row], in_out.held_out)[c.ALIGNMENT]
        # In the paper's protocol the parts are those of f less g on every pair
        sign = -1 if in_out.protocol == "paper" and row else 1
        only = trained[row] & ~trained[1 - row]
        values[1:, only] = sign * parts.to_numpy()[only].T
        output = setting_folder(audit, setting) / folder.name
        output.mkdir(parents=True, exist_ok=True)
        save_array(values, output / PAIR_VALUES)
        retrieval = float(np.mean([metrics.pop(recall) for recall in RECALLS]))
        seconds = last_line(folder / LOG).get(SECONDS)
        write_json(output / MEASURES_FILE, {RETRIEVAL: retrieval, **metrics, SECONDS: seconds})


def lab_in_out(audit: Audit, members: Sequence[str]) -> InOut:
    """Return which of some members trained on each pair."""
    return in_out_of(audit, members)


def read_values(audit: Audit, setting: str, members: Sequence[str]) -> np.ndarray:
    """Return alignment, image part and text part of each member's pairs, float32 [n_members, 3,
    n_pairs]."""
    folder = setting_folder(audit, setting)
    return np.stack([read_array(folder / name / PAIR_VALUES) for name in members])


def clipmem_by_pair(audit: Audit, setting: str, members: Sequence[str]) -> np.ndarray:
    """Return the clipmem of each pair by some members of a setting, [n_pairs]; NaN of held-out
    pairs and of those that all or none of the members trained on."""
    membership = lab_in_out(audit, members).membership
    alignments = read_values(audit, setting, members)[:, 0]
    clipmem = in_minus_out(list(alignments), membership.trained)
    return np.where(membership.group != c.HELD_OUT, clipmem, np.nan)


def seconds_needed(audit: Audit, members: int) -> float:
    """Return how long members of a setting train and are measured: as long as those of the audit
    did; NaN if that is not known."""
    return audit.seconds.get(TRAINING, np.nan) * members / len(audit.record.members)
