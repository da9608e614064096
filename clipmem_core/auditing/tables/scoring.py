"""Reads what the members of an audit left, and computes the numbers of its verdict."""

import functools
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from clipmem_core.auditing.folder import prepare, settings, store
from clipmem_core.auditing.folder.store import Audit
from clipmem_core.config import AuditConfig
from clipmem_core.errors import misfit
from clipmem_core.errors.tower_fit import Bridge, TowerModel, draw_swaps, tower_values
from clipmem_core.features.bridge import open_bridge
from clipmem_core.features.embed import FeatureExtractor
from clipmem_core.scores import attacks, memorization
from clipmem_core.scores.alignment import pair_components
from clipmem_core.scores.metrics import detection_table
from clipmem_core.scores.registry import DETECTION_SCORES, INJECTED_SCORES
from clipmem_core.scores.score_tables import Evidence
from clipmem_core.scores.uncertainty import share_above, standard_errors
from clipmem_core.training import TRAJECTORY
from clipmem_core.utils import columns as c
from clipmem_core.utils import draws
from clipmem_core.utils.embeddings import unit
from clipmem_core.utils.io import spill_to_disk
from clipmem_core.utils.ragged import Ragged

TOP_K = 50  # pairs a person reviews first
SIZE_STEP = 0.05  # between the sizes of clipmem whose share of pairs is reported
# A size must be this many errors: the share above smaller ones depends on the noise model.
MIN_NOISE_RATIO = 3
_RESAMPLED = 100_000_000  # pairs drawn by all bootstrap resamples together
MAX_ATTACKED = 1_000_000  # pairs; larger sets are sampled


def gather_evidence(audit: Audit, pairs: pd.DataFrame, of_pairs: Ragged) -> Evidence:
    """Read the outputs of every member; embeddings and other large arrays stay on disk."""
    config = audit.record.config
    names = audit.record.members
    in_out = prepare.in_out_of(audit)
    towers = fit_towers(audit, of_pairs)
    embeddings = [store.read_embeddings(audit.member(name)) for name in names]
    keep = functools.partial(spill_to_disk, folder=audit.folder)
    components = []
    log_probability = []
    for name, vectors in zip(names, embeddings, strict=True):
        folder = audit.member(name)
        values = pair_components(*vectors, in_out.held_out)
        stacked = keep(np.stack(list(values.values())))
        components.append(dict(zip(values, stacked, strict=True)))
        learned = misfit.mean_over_epochs(store.read_array(folder / TRAJECTORY))
        log_probability.append(keep(learned))
    most_captions = config.eval_captions or np.iinfo(np.int32).max
    return Evidence(
        pairs=pairs[[c.PAIR_ID, c.INJECTED]],
        in_out=in_out,
        views=1 if config.lock_image and not config.unlock else config.views,
        components=components,
        image=[image for image, _ in embeddings],
        text=[text for _, text in embeddings],
        log_probability=log_probability,
        n_captions=np.minimum(of_pairs.counts, most_captions),
        towers=towers and tower_values(*towers, draw_swaps(in_out.held_out, seed=config.seed)),
    )


class TowerFit(NamedTuple):
    """The similarities of an audit's locked towers, and the features that they are fitted on."""

    model: TowerModel
    image: np.ndarray  # [n_pairs, width]
    text: np.ndarray  # mean of each pair, [n_pairs, width]
    bridge: Bridge | None


def fit_towers(audit: Audit, of_pairs: Ragged) -> TowerFit | None:
    """Fit the similarities of an audit's towers; None if members train one of both encoders."""
    config = audit.record.config
    bridge = open_audit_bridge(config)
    if config.features:
        image, text = prepare.precomputed_features(audit)
    elif config.lock_image and config.lock_text:
        tower = settings.towers_of(config).image
        assert tower is not None
        pairs = audit.read_columns(store.PAIRS, c.IMAGE, c.SHA256)
        image = FeatureExtractor(tower, audit.record.pictures).images(pairs)
        text = prepare.caption_features(audit)
    else:
        return None
    mean = of_pairs.mean(unit(text[:].astype(np.float32)))
    both = bridge and bridge(image[:], mean)
    clusters = store.read_prepared(audit.folder).groups
    model = TowerModel.of(image[:], mean, both, clusters, seed=config.seed)
    return TowerFit(model, image[:], mean, both)


def open_audit_bridge(
    config: AuditConfig,
) -> Callable[[np.ndarray, np.ndarray], Bridge] | None:
    """Return the bridge of an audit's towers, as of `open_bridge`; a CLIP is its own."""
    towers = settings.towers_of(config)
    if config.features or not (towers.image and towers.text):
        return None
    if config.pretrained and not (config.image_tower or config.text_tower):
        return lambda image, text: (image, text)
    return open_bridge(towers.image, towers.text)


def read_utilities(audit: Audit) -> pd.DataFrame:
    """Return each member's utility: member, metric, value."""
    rows = [
        (name, metric, value)
        for name in audit.record.members
        for metric, value in store.read_utility(audit.member(name)).items()
    ]
    return pd.DataFrame(rows, columns=c.UTILITY_COLUMNS)


def json_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a table as JSON rows, with null where a number is missing."""
    rows: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=15))
    return rows


def _number(value: float) -> float | None:
    """Return a number for JSON, null if it is missing."""
    return None if np.isnan(value) else float(value)


def summary(evidence: Evidence, scores: pd.DataFrame, split: float | None) -> dict[str, Any]:
    """Return every number that the verdict reports; `split` as of
    `score_table`."""
    in_out = evidence.in_out
    alignments = evidence.alignments
    target = scores[c.GROUP].isin(c.TARGET_GROUPS)
    null = scores[scores[c.GROUP] == c.HELD_OUT]
    auroc = memorization.membership_auroc(alignments, in_out.membership)
    stability = memorization.ranking_stability(alignments, in_out)
    reliability = memorization.ranking_reliability(stability, len(in_out.replicates))
    scored = in_out.membership.trained[:, in_out.membership.group == c.SCORED]
    values = {
        "groups": json_rows(memorization.group_summary(alignments, in_out)),
        **_injected_errors(evidence.pairs, scores, target, seed=in_out.seed),
        "membership_auroc": auroc,
        "ranking_stability": _number(stability),  # of two halves of the members
        "ranking_reliability": _number(reliability),  # of the scores of all
        "trained_share": _number(scored.mean()) if scored.size else None,
        **_error_summary(evidence, scores, target),
        "encoders": {
            "image": _number(scores.loc[target, c.CLIPMEM_IMAGE].mean()),
            "text": _number(scores.loc[target, c.CLIPMEM_TEXT].mean()),
            "fit": split,
        },
        "held_out_pairs": len(null),
        "held_out_sd": float(null[c.CLIPMEM].std()),
    }
    if in_out.utility_only is not None:
        values["utility_pairs"] = int(in_out.utility_only.sum())
    return values


def _injected_errors(
    pairs: pd.DataFrame, scores: pd.DataFrame, target: pd.Series, *, seed: int
) -> dict[str, Any]:
    """Return the mean scores by kind of injected error, and how well each score detects injected
    wrong captions."""
    kind = pairs[c.INJECTED].fillna("none").where(target).rename(c.INJECTED)
    injected = []
    detection = []
    if not kind.dropna().eq("none").all():
        table = scores.groupby(kind)[list(INJECTED_SCORES)].mean()
        table.insert(0, "n", kind.value_counts())
        injected = json_rows(table.reset_index())
    truth = (kind[target] == c.MISCAPTION).to_numpy()
    values = {
        name: (score.direction * scores[name])[target].to_numpy()
        for name, score in DETECTION_SCORES.items()
    }
    complete = {name: score for name, score in values.items() if not np.isnan(score).any()}
    if complete and 2 <= truth.sum() < len(truth) - 1:
        n_boot = int(np.clip(_RESAMPLED // len(truth), 100, 2000))
        detection = json_rows(detection_table(complete, truth, k=TOP_K, n_boot=n_boot, seed=seed))
    return {"injected": injected, "detection": detection}


def _error_summary(evidence: Evidence, scores: pd.DataFrame, target: pd.Series) -> dict[str, Any]:
    """Return how certain clipmem is, and the share of pairs above each size that noise allows."""
    errors = standard_errors(evidence.alignments, evidence.in_out)
    rows = np.flatnonzero(target & np.isfinite(scores[c.CLIPMEM]))
    if not len(rows):
        return {"se_kind": errors.kind, "exceeding": []}
    clipmem = scores[c.CLIPMEM].to_numpy()
    sizes = np.arange(SIZE_STEP, max(clipmem[rows].max(), SIZE_STEP), SIZE_STEP).round(2)
    sizes = sizes[sizes >= MIN_NOISE_RATIO * np.median(np.sqrt(errors.variance[rows]))]
    exceeding = share_above(clipmem, errors, rows, sizes, seed=evidence.in_out.seed)
    return {"se_kind": errors.kind, "exceeding": json_rows(exceeding)}


def attack_members(evidence: Evidence) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Attack every member with the others as shadow models; return rows of utility.parquet and of
    the verdict."""
    in_out = evidence.in_out
    members = in_out.membership.members
    attacked = np.flatnonzero(np.isin(in_out.membership.group, c.SCORED_GROUPS))
    if len(attacked) > MAX_ATTACKED:
        attacked = np.sort(
            draws.rng(in_out.seed, "attacked").choice(attacked, MAX_ATTACKED, replace=False)
        )
    results = attacks.attack(evidence.alignments, in_out, attacked)
    n_boot = int(np.clip(_RESAMPLED // (len(attacked) * len(members)), 100, 300))
    metrics = [
        (name, c.ATTACK_METRICS[measure], value)
        for name, result in zip(members, results, strict=True)
        for measure, value in attacks.roc(result, attacks.BAVARIA).items()
        if not np.isnan(value)
    ]
    table = attacks.attack_table(results, n_boot=n_boot, seed=in_out.seed)
    return pd.DataFrame(metrics, columns=c.UTILITY_COLUMNS), json_rows(table)


def sentence_table(captions: pd.DataFrame, spans: pd.DataFrame) -> pd.DataFrame:
    """Return sentences.parquet: as captions.parquet, with the caption and characters of each."""
    table = pd.concat([captions.drop(columns=[c.CAPTION]), spans], axis=1)
    first = [c.CAPTION_ROW, c.PAIR_ID, *spans]
    return table[[*first, *table.columns.difference(first, sort=False)]]
