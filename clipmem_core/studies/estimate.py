"""How long what is left of a study takes: by a few real steps of every model it trains, or, of one setting more, by
what the reference arm took."""

import dataclasses
from collections.abc import Collection, Mapping

import numpy as np

from clipmem_core import columns as c
from clipmem_core.audits.estimate import MemberSeconds, Pace, audit_seconds, measure_pace, member_seconds
from clipmem_core.audits.prepare import DataSet
from clipmem_core.audits.settings import shares_process
from clipmem_core.audits.store import TEXT_EMBEDDINGS, Audit
from clipmem_core.config import FIELDS, AuditConfig, fingerprint
from clipmem_core.pairs.workers import cores
from clipmem_core.scores.membership import Membership
from clipmem_core.studies.arm import Arm, ranking_share, reference_config
from clipmem_core.studies.store import ARM, RANKING, SAMPLES_SEEN, SECONDS, StudyFolder
from clipmem_core.training.files import CHECKPOINT
from clipmem_core.training.names import model_config

# Measured once, since they are little beside an arm worth waiting for: until a member's process makes its first step,
# and until a study that goes on has read its data set and measured its steps.
STARTING, BEGINNING = 10.0, 20.0  # seconds


def seconds_by_arm(
    configs: Mapping[str, AuditConfig], data_set: DataSet, memberships: Mapping[str, Membership], *, snapshots: int
) -> dict[str, float]:
    """Measure how long one f and one g of each arm take; arms whose steps cost the same are measured once.

    Args:
        configs: of each arm, resolved, with one seed.
        data_set: of all of them.
        memberships: who trains on what, of each arm.
        snapshots: how often embeddings are kept on the way.
    """
    readable = data_set.pairs[c.IMAGE].tolist()[:50]
    captions = int(data_set.pairs[c.CAPTIONS].map(len).sum())
    measured: dict[str, tuple[Pace, float]] = {}
    found = {}
    for arm, config in configs.items():
        membership = memberships[arm]
        key = fingerprint([model_config(config.model), config.image_size, config.batch_size, config.precision])
        if key not in measured:
            measured[key] = measure_pace(config, data_set.raw, membership, readable)
        pace, starting = measured[key]
        member = member_seconds(pace, config, membership, captions=captions)
        if shares_process(config):  # heads are trained one after the other in the study's own process
            config, starting = dataclasses.replace(config, threads=cores()), 0.0
        spent = audit_seconds(member, config, starting=starting, pairs=len(data_set.pairs))
        found[arm] = sum(spent.values()) + snapshots * spent["embedding"]
    return found


def minutes_of(study: StudyFolder, setting: Arm) -> float | None:
    """Return how many minutes all seeds of one more arm take when nothing else runs; None before the reference arm
    has a row.

    From what that arm took: the seconds that f and g of its fastest seed trained for, side by side where they did,
    fewer or more as there are epochs and pairs; the time from a checkpoint to its last file, in which a member is
    embedded and judged; and the scoring. Where the setting only forgets tokens after a training that an arm has had,
    nothing is trained. That a step itself may take longer with a setting is left out.

    Args:
        study: begun.
        setting: told beside its reference arm.
    """
    rows, audit = study.arms, study.audit(study.asked["reference"])
    done = rows[rows[ARM] == audit.name]
    if done.empty:
        return None
    reference = reference_config(study)
    trains = not _only_forgets(study.settings, set(rows[ARM]), setting)
    share = _share(setting, reference, done[SAMPLES_SEEN].mean()) if trains else 0.0
    member = MemberSeconds(done[SECONDS].min() / 2 * share, _embedding_seconds(audit))
    spent = audit_seconds(member, dataclasses.replace(reference, seeds=1, members=2), starting=0.0, pairs=0)
    seconds = sum(spent.values()) + STARTING + audit.verdict["seconds"]["scoring"]
    splits = reference.seeds // study.seeds_per_split if study.seeds_per_split else 1
    rankings = sum(not study.audit(RANKING, number).finished for number in range(splits)) if setting.removal else 0
    return float(BEGINNING + seconds * (reference.seeds + ranking_share(reference) * rankings)) / 60


def _only_forgets(settings: Mapping[str, str], done: Collection[str], setting: Arm) -> bool:
    """Tell whether an arm that has rows trained just so, and the setting forgets tokens after that."""
    fields = {name: value for name, value in setting.fields.items() if "evaluation" not in FIELDS[name].affects}
    trained = {text for arm, text in settings.items() if arm in done}
    return len(fields) < len(setting.fields) and dataclasses.replace(setting, fields=fields).text in trained


def _share(setting: Arm, reference: AuditConfig, samples: float) -> float:
    """Return how long an arm trains, as a share of what the reference arm does."""
    if setting.equal_time:
        return 1.0
    epochs = reference.trained_epochs
    pairs = samples / epochs
    left = max(0.0, pairs - (setting.removal.n if setting.removal else 0))
    return dataclasses.replace(reference, **setting.fields).trained_epochs / epochs * left / pairs


def _embedding_seconds(audit: Audit) -> float:
    """Return how long a member was embedded and judged after it was trained: a link to it keeps both moments."""
    folders = [audit.member(name) for name in audit.record.members]
    ends = [
        (folder / CHECKPOINT, folder / TEXT_EMBEDDINGS) for folder in folders if (folder / TEXT_EMBEDDINGS).is_file()
    ]
    spent = [last.stat().st_mtime - first.stat().st_mtime for first, last in ends]
    return max(0.0, float(np.median(spent))) if spent else 0.0
