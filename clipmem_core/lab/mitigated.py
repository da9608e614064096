"""The mitigation lab of an audit: settings that its members train again with, the pairs that a
setting changes, and what is measured of it.

A setting is overrides of the audit's config, with a text form:

    text_mask=0.3 removal=clipmem:5 near_duplicates decisions

    <audit>/mitigations/
      <setting>/setting.json      its text, and the pairs that it changes
      <setting>/<member>/         pairs.npy, measures.json (written last: marks the member as
                                  finished), log.jsonl

The baseline is the setting `none`: the audit's members. Members are measured in pairs of members,
in the order of the audit: the memorization of a member is its alignment less its partner's, on the
pairs that it trained on and its partner did not.
"""

import contextlib
import re
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

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
    read_prepared,
    read_table,
    read_utility,
    write_json,
)
from clipmem_core.config import (
    FIELDS,
    MODIFIERS,
    SETTING_FIELDS,
    AuditConfig,
    fingerprint,
    ineffective_fields,
    switched_on,
)
from clipmem_core.mitigations import ADAPTIVE
from clipmem_core.review.decisions import Decided
from clipmem_core.review.queries import cached
from clipmem_core.scores.alignment import pair_terms
from clipmem_core.scores.attacks import BAVARIA, attack, roc
from clipmem_core.scores.encoders import contributions
from clipmem_core.scores.membership import MemberSides, side_means
from clipmem_core.training import LOG
from clipmem_core.utils import columns as c
from clipmem_core.utils import draws
from clipmem_core.utils.draws import draw_keys, hashed
from clipmem_core.utils.io import InputError, read_json, save_array

BASELINE = "none"
AT_RANDOM = "random"
REMOVAL = "removal"
NEAR_DUPLICATES = "near_duplicates"
DECISIONS = "decisions"
CONTROL = "control"  # beside `decisions`: as many pairs at random in place of those
SWITCHES = {
    NEAR_DUPLICATES: "Without near-duplicates",
    DECISIONS: "With my decisions",
    CONTROL: "As many pairs removed at random",
}
RANKINGS = {c.CLIPMEM: "highest clipmem", c.P_WRONG: "highest p_wrong", AT_RANDOM: "at random"}
MOST_REMOVED = 50  # percent
LONGEST_NAME = 70  # without fingerprints


class Removal(NamedTuple):
    """Leave out of training the percentage of the scored pairs that rank highest."""

    by: str  # of RANKINGS
    percent: float

    def __str__(self) -> str:
        return f"{self.by}:{self.percent:g}"


@dataclass(frozen=True)
class Setting:
    """Overrides of the baseline: config fields, `removal` (a Removal), `near_duplicates` (train on
    the first of them only), `decisions` (apply those in `decided`) and `control` (remove as many
    pairs at random instead)."""

    overrides: Mapping[str, Any] = field(default_factory=dict)
    decided: Decided = Decided()

    @property
    def fields(self) -> dict[str, Any]:
        """The overrides of config fields, in a fixed order."""
        return {name: self.overrides[name] for name in SETTING_FIELDS if name in self.overrides}

    @property
    def removal(self) -> Removal | None:
        return self.overrides.get(REMOVAL)

    @property
    def switches(self) -> list[str]:
        return [name for name in SWITCHES if name in self.overrides]

    @property
    def text(self) -> str:
        """Its overrides in one line, in a fixed order; empty for the baseline."""
        names = [name for name in (*SETTING_FIELDS, REMOVAL) if name in self.overrides]
        parts = [f"{name}={self.overrides[name]}".removesuffix(".0") for name in names]
        return " ".join(parts + self.switches)

    @property
    def name(self) -> str:
        """The name of its folder and in tables: its text, and a fingerprint of the decisions."""
        name = "_".join(re.sub(r"[^\w.]+", "-", part) for part in self.text.split()) or BASELINE
        if len(name) > LONGEST_NAME:
            name = f"{name[:LONGEST_NAME]}-{fingerprint(self.text)[:6]}"
        return f"{name}-{self.decided.fingerprint}" if DECISIONS in self.overrides else name

    @property
    def title(self) -> str:
        """Its overrides in words."""
        parts = []
        for name, value in self.fields.items():
            shown = value if isinstance(value, str) else f"{value:g}"
            if (name, value) == ("train_captions", 0):
                shown = "all"
            early = " for pairs memorized early" if name in ADAPTIVE else ""
            parts.append(f"{FIELDS[name].toggle or FIELDS[name].label} {shown}{early}")
        if self.removal:
            ranking = RANKINGS[self.removal.by]
            parts.append(f"Without {self.removal.percent:g} % of the pairs, {ranking}")
        switches = self.switches
        if CONTROL in switches:  # in place of the decisions
            switches.remove(DECISIONS)
        parts += [SWITCHES[name] for name in switches]
        title = ", ".join([*parts[:1], *(part[:1].lower() + part[1:] for part in parts[1:])])
        return title or BASELINE

    @property
    def flags(self) -> list[str]:
        """The options of `python -m clipmem_core mitigate` that train it."""
        parts = [part.partition("=") for part in self.text.split() if part != CONTROL]
        return [f"--{name.replace('_', '-')}{equals}{value}" for name, equals, value in parts]


def parse_setting(text: str) -> Setting:
    """Parse a setting from its text, the parts in any order."""
    parts = [part.partition("=") for part in text.split()]
    return Setting({name: _parse_value(name, value) for name, _, value in parts})


def _parse_value(name: str, value: str) -> Any:
    if name in SWITCHES and not value:
        return True
    if name == REMOVAL:
        return parse_removal(value)
    if name not in SETTING_FIELDS:
        options = ", ".join((*SETTING_FIELDS, REMOVAL, *SWITCHES))
        raise InputError(f"setting {name[:40]!r} is unknown: choose from {options}")
    kind = type(FIELDS[name].default)
    try:
        return kind(value)
    except ValueError:
        expected = "a whole number" if kind is int else "a number"
        raise InputError(f"{name} must be {expected}, not {value[:40]!r}") from None


def parse_removal(text: str) -> Removal:
    """Parse a ranking and a percentage of the scored pairs."""
    by, _, percent = text.partition(":")
    with contextlib.suppress(ValueError):
        if by in RANKINGS and 0 < float(percent) <= MOST_REMOVED:
            return Removal(by, float(percent))
    rankings = ", ".join(RANKINGS)
    raise InputError(
        f"removal must be a ranking ({rankings}) and a percentage up to {MOST_REMOVED}, as in "
        f"clipmem:5, not {text[:40]!r}"
    )


def control_of(setting: Setting) -> Setting | None:
    """Return the setting to compare decisions with: as many pairs removed at random; None for other
    settings, and where no pair is removed."""
    if setting.switches != [DECISIONS] or len(setting.overrides) > 1 or not setting.decided.removed:
        return None
    return replace(setting, overrides={DECISIONS: True, CONTROL: True})


def without_idle(setting: Setting, config: AuditConfig) -> Setting:
    """Return a setting without overrides that change nothing in a config, so that equal trainings
    have equal names."""
    values = vars(config)
    on = set(switched_on(values | setting.fields))
    idle = {name for name, needs in MODIFIERS.items() if not on & set(needs)}
    overrides = {
        name: value
        for name, value in setting.overrides.items()
        if name not in idle and values.get(name) != value
    }
    return replace(setting, overrides=overrides)


@dataclass(frozen=True, eq=False)
class PairChanges:
    """The pairs that a setting removes from training, bool [n_pairs], and the new captions of
    others by their row."""

    removed: np.ndarray
    captions: Mapping[int, tuple[str, ...]]

    def __bool__(self) -> bool:
        return bool(self.removed.any() or self.captions)

    @property
    def compared(self) -> np.ndarray:
        """The pairs on which the setting is compared with the baseline, bool [n_pairs]."""
        compared = ~self.removed
        compared[list(self.captions)] = False
        return compared


def changes_of(audit: Audit, setting: Setting) -> PairChanges:
    """Return the pairs, none held-out, that a setting changes in a finished audit."""
    table = audit.scores
    config = audit.record.config
    ids = table[c.PAIR_ID]
    scored = (table[c.GROUP] != c.HELD_OUT).to_numpy()
    removed = scored & ids.isin(setting.decided.removed).to_numpy()
    if NEAR_DUPLICATES in setting.overrides:
        removed |= scored & later_near_duplicates(audit)
    chance = hashed(draw_keys(ids.tolist()), config.seed, "removal")
    if CONTROL in setting.overrides:
        some = np.flatnonzero(scored)
        count = int(removed.sum())
        removed = np.zeros(len(table), bool)
        removed[some[np.argsort(chance[some], kind="stable")[:count]]] = True
        return PairChanges(removed, {})
    if setting.removal:
        # Those that rank highest; ties are broken at random
        by, percent = setting.removal
        values = np.zeros(len(table)) if by == AT_RANDOM else table[by].to_numpy()
        ranked = np.flatnonzero(scored & np.isfinite(values))
        order = ranked[np.lexsort([chance[ranked], -values[ranked]])]
        removed[order[: round(percent / 100 * len(ranked))]] = True
    new = setting.decided.recaptioned
    captions = {
        row: tuple(new[ids[row]])[: config.captions or None]
        for row in np.flatnonzero(ids.isin(new.keys()) & scored & ~removed).tolist()
    }
    if captions:
        before = audit.pairs[c.CAPTIONS]
        captions = {row: texts for row, texts in captions.items() if texts != tuple(before[row])}
    return PairChanges(removed, captions)


def later_near_duplicates(audit: Audit) -> np.ndarray:
    """Return the pairs that are near-duplicates of an earlier pair, bool [n_pairs]."""
    clusters = read_prepared(audit.folder).clusters
    return clusters != np.arange(len(clusters))


# --- Results of settings

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
    if DECISIONS in setting.overrides and not changes:
        raise InputError(
            f"{DECISIONS}: no pair that members train on is removed or has new captions: "
            "decide first"
        )
    if setting.removal and not changes.removed.any():
        raise InputError(
            f"{REMOVAL}: no pair of this audit has a {setting.removal.by}: choose another ranking"
        )
    if changes.captions and config.features:
        raise InputError(
            f"{DECISIONS}: the features do not come from this audit, so that new captions cannot "
            "be embedded"
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
    removed = np.zeros(audit.record.pairs, dtype=bool)
    removed[stored["removed_rows"]] = True
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
    pairs.

    Columns: setting, against (the setting whose members and pairs a row of `none` is measured on),
    member, clipmem and clipmem_held_out in cosine units, clipmem_image and clipmem_text,
    membership_auroc, attack_auroc and attack_TPR@…, retrieval and other utility, seconds of
    training.
    """
    members = compared_members(audit, name)
    if not members:
        return pd.DataFrame({SETTING: [], AGAINST: [], c.MEMBER: []})
    sides = lab_sides(audit, members)
    trained = sides.membership.trained
    compared = read_changes(audit, name).compared
    chosen = np.flatnonzero(np.isin(sides.membership.group, c.SCORED_GROUPS) & compared)
    if len(chosen) > MOST_ATTACKED:
        chosen = draws.rng(sides.seed, "attacked").choice(chosen, MOST_ATTACKED, replace=False)
    partner = np.arange(len(members)) ^ 1
    only = trained & ~trained[partner] & compared
    rows = []
    for setting in dict.fromkeys((name, BASELINE)):
        values = read_values(audit, setting, members)
        lead = values[:, 0] - values[partner, 0]  # of a member over its partner
        # Each member is attacked by its alignment alone, and with the others as its shadows
        attacked = attack(list(values[:, 0]), sides, np.sort(chosen))
        for row, member in enumerate(members):
            path = setting_folder(audit, setting) / member / MEASURES_FILE
            by_shadows = roc(attacked[row], BAVARIA)
            rows.append(
                {
                    SETTING: setting,
                    AGAINST: name,
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
    return pd.DataFrame(rows)


def lab_table(audit: Audit, settings: Iterable[str] = ()) -> pd.DataFrame:
    """Return the rows of settings, by default of all and the baseline, as `setting_rows`."""
    names = settings or (*list_settings(audit), BASELINE)
    tables = [setting_rows(audit, name) for name in names]
    return pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)


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


def mitigate_command(audit: Audit, setting: Setting) -> str:
    """Return the command that trains a setting of an audit."""
    return shlex.join(["python", "-m", "clipmem_core", "mitigate", audit.name, *setting.flags])
