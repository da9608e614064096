"""Computes an audit's tables from the files of its members: scores.parquet, captions.parquet,
utility, verdict."""

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audit import prepare, store
from clipmem_core.audit.prepare import membership_of, sides_of
from clipmem_core.audit.store import Audit, Record
from clipmem_core.audit.verdict import BASIS, WRONG
from clipmem_core.config import InputError
from clipmem_core.dataset.checks import CHECKS
from clipmem_core.io import naming
from clipmem_core.scores import attacks, detectors, memorization
from clipmem_core.scores.alignment import IMAGE_SQUARE, TEXT_SQUARE, pair_terms
from clipmem_core.scores.detection import detection_table
from clipmem_core.scores.encoders import contributions
from clipmem_core.scores.evidence import CaptionEvidence, Probabilities, agreement
from clipmem_core.scores.membership import MemberSides
from clipmem_core.scores.prevalence import plan_stop, whole_count
from clipmem_core.scores.registry import BY_NAME, DETECTION_SCORES, INJECTED_SCORES, SCORE_COLUMNS
from clipmem_core.scores.uncertainty import NoiseModel, share_above, standard_errors
from clipmem_core.training.names import CHECKPOINT, TRAJECTORY

UNUSABLE = "rows that cannot be used"
TOP_K = 50  # pairs a person reviews first
SIZE_STEP = 0.05  # between the sizes of clipmem whose share of pairs is reported
MIN_NOISE_RATIO = (
    3  # a size must be this many errors: the share above smaller ones depends on the noise model
)
SPILL_BYTES = 1 << 22  # larger arrays are held in a file instead of memory
_RESAMPLED = 100_000_000  # pairs drawn by all bootstrap resamples together
LATER = (c.LOG_PROBABILITY_SECOND, c.P_WRONG, c.SUSPICION)  # added by later steps
FEWEST_COUNTED = 300  # pairs, below which wrong captions are not counted
TOO_FEW = "too few pairs to estimate: review all"
MAX_ATTACKED = 1_000_000  # pairs; larger sets are sampled


@dataclass(frozen=True)
class Evidence:
    """The outputs of all members, an array per member, and their training pairs. Embeddings are
    memory-mapped."""

    pairs: pd.DataFrame  # pair_id, injected
    sides: MemberSides
    views: int
    terms: list[dict[str, np.ndarray]]
    image: list[np.ndarray]  # μ_I of each member, [n_pairs, dim]
    text: list[np.ndarray]
    logit_scales: list[float]  # of each member; NaN if its checkpoint is gone
    log_probability: list[np.ndarray]  # in training; empty for members without a trajectory
    n_captions: np.ndarray  # behind each mean text embedding, [n_pairs]
    folder: Path = Path()  # for arrays that do not fit into memory

    @property
    def alignments(self) -> list[np.ndarray]:
        return [terms[c.ALIGNMENT] for terms in self.terms]


def spill_to_disk(values: np.ndarray, folder: Path) -> np.ndarray:
    """Return the same values; a large array is mapped from an unnamed file that disappears with
    it."""
    if values.nbytes < SPILL_BYTES or isinstance(values.base, np.memmap):
        return values
    with naming(folder), tempfile.TemporaryFile(dir=folder) as file:
        file.write(
            np.ascontiguousarray(values).data
        )  # on a full disk a write to a map would end the process
        file.flush()
        return np.asarray(np.memmap(file, values.dtype, "c", shape=values.shape))


def gather_evidence(audit: Audit) -> Evidence:
    """Read the outputs of every member; embeddings and other large arrays stay on disk."""
    from clipmem_core.training.model import logit_scale_of  # torch, which nothing else here needs

    record = audit.record
    spill = functools.partial(spill_to_disk, folder=audit.folder)
    table = store.read_table(audit.folder / store.MEMBERSHIP, columns=[c.GROUP, *record.members])
    sides = sides_of(audit, record.config, membership_of(table))
    folders = [audit.member(name) for name in record.members]
    image, text = zip(*map(store.read_embeddings, folders), strict=True)
    terms = []
    for embeddings in zip(image, text, strict=True):
        member_terms = pair_terms(*embeddings, sides.external)
        terms.append(
            dict(zip(member_terms, spill(np.stack(list(member_terms.values()))), strict=True))
        )
    paths = [folder / TRAJECTORY for folder in folders]
    trajectories = [
        spill(detectors.mean_over_epochs(store.read_array(path, shared=True)))
        for path in paths
        if path.is_file()
    ]
    checkpoints = [audit.member_record(name).checkpoint for name in record.members]
    weights = [
        Path(path or folder / CHECKPOINT) for path, folder in zip(checkpoints, folders, strict=True)
    ]
    return Evidence(
        pairs=store.read_table(audit.folder / store.PAIRS, columns=[c.PAIR_ID, c.INJECTED]),
        sides=sides,
        views=1 if record.config.lock_image else record.config.views,
        terms=terms,
        image=list(image),
        text=list(text),
        logit_scales=[logit_scale_of(path) if path.is_file() else float("nan") for path in weights],
        log_probability=trajectories if len(trajectories) == len(paths) else [],
        n_captions=np.minimum(
            store.caption_counts(audit), record.config.eval_captions or np.iinfo(np.int32).max
        ),
        folder=audit.folder,
    )


def score_table(evidence: Evidence) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return every score of every pair (`SCORE_COLUMNS`), and how well clipmem was split between
    the encoders.

    The split has fit, the mean of fit_by_member (of the maps between embeddings), and missing, why
    there is none.
    """
    sides = evidence.sides
    spill = functools.partial(spill_to_disk, folder=evidence.folder)
    members = (evidence.image, evidence.text)
    trained = evidence.sides.membership.trained
    external = sides.external
    nan = np.full(len(external), np.nan)
    table = memorization.memorization_table(evidence.terms, sides, keep=spill)
    values = {name: spill(table.pop(name).to_numpy()) for name in map(str, table.columns)}
    try:
        parts, fits = contributions(*members, sides)
        mean = float(np.mean(list(fits.values()))) if fits else None
        split: dict[str, Any] = {"fit": mean, "fit_by_member": fits, "missing": None}
    except InputError as error:
        parts = pd.DataFrame(dict.fromkeys((c.CLIPMEM_IMAGE, c.CLIPMEM_TEXT), nan))
        split = {"fit": None, "fit_by_member": {}, "missing": str(error)}
    image, text = (
        [terms[name] for terms in evidence.terms] for name in (IMAGE_SQUARE, TEXT_SQUARE)
    )
    sslmem = memorization.sslmem(
        image, text, sides, n_views=evidence.views, n_captions=evidence.n_captions
    )
    values |= {str(name): spill(part[name].to_numpy()) for part in (parts, sslmem) for name in part}
    csls, log_probability = detectors.fit_out(*members, trained, external, evidence.logit_scales)
    swapped = detectors.swapped_csls(*members, trained, external, seed=sides.seed)
    learned = detectors.learned(evidence.log_probability) if evidence.log_probability else nan
    new = {c.CSLS_OUT: csls, c.LOG_PROBABILITY_OUT: log_probability, c.LEARNED: learned}
    new |= {c.CSLS_SWAPPED: swapped}
    values |= {name: spill(column) for name, column in new.items()} | dict.fromkeys(LATER, nan)
    _compute_derived(values, set(values))
    columns = {
        c.PAIR_ID: evidence.pairs[c.PAIR_ID],
        c.GROUP: pd.Series(sides.membership.group),
    } | values
    return pd.DataFrame({name: columns[name] for name in SCORE_COLUMNS}, copy=False), split


def update_scores(scores: pd.DataFrame, **values: np.ndarray) -> pd.DataFrame:
    """Return scores with new values of some columns, [n_pairs] each, and of the columns derived
    from them."""
    columns = {name: scores[name].to_numpy() for name in BY_NAME} | values
    changed = set(values)
    _compute_derived(columns, changed)
    return scores.assign(**{name: columns[name] for name in changed})


def _compute_derived(values: dict[str, np.ndarray], changed: set[str]) -> None:
    """Add to both arguments the scores that are derived from changed ones."""
    for score in BY_NAME.values():
        if score.compute and changed & set(score.needs):
            values[score.name] = score.compute(*(values[name] for name in score.needs))
            changed.add(score.name)


def utility_table(audit: Audit, members: tuple[str, ...]) -> pd.DataFrame:
    """Gather each member's utility: member, metric, value."""
    rows = [
        (name, *metric)
        for name in members
        for metric in store.read_utility(audit.member(name)).items()
    ]
    return pd.DataFrame(rows, columns=c.UTILITY_COLUMNS)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a table as JSON rows, with null where a number is missing."""
    clean = table.astype(object).where(table.notna(), None)
    return [{str(key): value for key, value in row.items()} for row in clean.to_dict("records")]


def _number(value: float) -> float | None:
    """Return a number for JSON, null if it is missing."""
    return None if np.isnan(value) else float(value)


def reliability(evidence: Evidence) -> float | None:
    """Return the reliability of the ranking by clipmem, in [0, 1]; None with only one repeat."""
    stability = memorization.ranking_stability(evidence.alignments, evidence.sides)
    return _number(memorization.ranking_reliability(stability, len(evidence.sides.replicates)))


def wrong_captions(
    injected: pd.Series, scores: pd.DataFrame, wrong: Probabilities
) -> dict[str, Any]:
    """Return how many pairs and captions are probably wrong, and when to stop reviewing; `missing`
    says why not."""
    counted = {name: count for name, count in wrong.counts.items() if count.estimate is not None}
    parts = {
        name: {end: getattr(count, end) for end in ("estimate", "low", "high")}
        for name, count in counted.items()
    }
    kinds = {
        "injected": int((injected == c.MISCAPTION).sum()),
        "injected_vague": int((injected == c.VAGUE).sum()),
    }
    missing = wrong.counts["pairs"].missing
    if np.isfinite(scores[c.MISFIT].fillna(scores[c.CSLS_OUT])).sum() < FEWEST_COUNTED:
        missing = TOO_FEW
    if missing:
        return {"missing": missing, **kinds}
    stop, left = plan_stop(scores[c.SUSPICION].to_numpy(), wrong.pairs, counted.values())
    several = len(wrong.captions) > len(wrong.pairs)  # captions of a pair
    return {
        "missing": None,
        **parts,
        "kinds": wrong.kinds,
        "several": several,
        "stop": stop,
        "left": left,
        **kinds,
    }


def summary(evidence: Evidence, scores: pd.DataFrame, split: dict[str, Any]) -> dict[str, Any]:
    """Return every number that the verdict reports; `split` as of `score_table`."""
    sides = evidence.sides
    alignments = evidence.alignments
    target = scores[c.GROUP].isin(c.TARGET_GROUPS)
    null = scores[scores[c.GROUP] == c.EXTERNAL]
    aurocs, auroc = memorization.membership_auroc(alignments, sides.membership)
    scored = sides.membership.trained[:, sides.membership.group == c.SCORED]
    return {
        "groups": records(memorization.group_summary(alignments, sides)),
        **_injected_errors(evidence.pairs, scores, target, seed=sides.seed),
        "membership_auroc": _number(auroc),
        "membership_auroc_by_member": dict(
            zip(sides.membership.members, map(_number, aurocs), strict=True)
        ),
        "ranking_stability": _number(
            memorization.ranking_stability(alignments, sides)
        ),  # of two halves of the members
        "ranking_reliability": reliability(evidence),  # of the scores of all
        "trained_share": _number(scored.mean()) if scored.size else None,
        **_error_summary(evidence, scores, target),
        "encoders": {
            "image": _number(scores.loc[target, c.CLIPMEM_IMAGE].mean()),
            "text": _number(scores.loc[target, c.CLIPMEM_TEXT].mean()),
            "null_image": _number(null[c.CLIPMEM_IMAGE].mean()),
            "null_text": _number(null[c.CLIPMEM_TEXT].mean()),
            **split,
        },
        "external_pairs": len(null),
        **({} if sides.utility_only is None else {"utility_pairs": int(sides.utility_only.sum())}),
        "external_sd": float(null[c.CLIPMEM].std()),
    }


def _injected_errors(
    pairs: pd.DataFrame, scores: pd.DataFrame, target: pd.Series, *, seed: int
) -> dict[str, Any]:
    """Return the mean scores by kind of injected error, and how well each score detects injected
    wrong captions."""
    kind = pairs[c.INJECTED].fillna("none").where(target)
    injected = []
    detection = []
    if not kind.dropna().eq("none").all():
        table = scores.groupby(kind.rename(c.INJECTED))[list(INJECTED_SCORES)].mean()
        table.insert(0, "n", kind.value_counts())
        injected = records(table.reset_index())
    truth = (kind[target] == c.MISCAPTION).to_numpy()
    values = {
        name: (score.direction * scores[name])[target].to_numpy()
        for name, score in DETECTION_SCORES.items()
    }
    complete = {name: score for name, score in values.items() if not np.isnan(score).any()}
    if complete and 2 <= truth.sum() < len(truth) - 1:
        n_boot = int(np.clip(_RESAMPLED // len(truth), 100, 2000))
        reference = next(iter(complete))
        detection = records(
            detection_table(complete, truth, k=TOP_K, n_boot=n_boot, seed=seed, reference=reference)
        )
    return {"injected": injected, "detection": detection}


def _error_summary(evidence: Evidence, scores: pd.DataFrame, target: pd.Series) -> dict[str, Any]:
    """Return how certain clipmem is, and the share of pairs above each size that noise allows."""
    errors = standard_errors(evidence.alignments, evidence.sides)
    rows = np.flatnonzero(target & np.isfinite(scores[c.CLIPMEM]))
    if not len(rows):
        return {"se_kind": errors.kind, "se_degrees": None, "exceeding": []}
    clipmem = scores[c.CLIPMEM].to_numpy()[rows]
    noise = NoiseModel.of(errors, rows)
    sizes = np.arange(SIZE_STEP, max(clipmem.max(), SIZE_STEP), SIZE_STEP).round(2)
    sizes = sizes[sizes >= MIN_NOISE_RATIO * np.median(noise.error)]
    return {
        "se_kind": errors.kind,
        "se_degrees": noise.degrees if np.isfinite(noise.degrees) else None,
        "exceeding": records(share_above(clipmem, noise, sizes, seed=evidence.sides.seed)),
    }


def attack_members(evidence: Evidence) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Attack every member with the others as shadow models; return rows of utility.parquet and of
    the verdict."""
    sides = evidence.sides
    members = evidence.sides.membership.members
    if len(members) < attacks.FEWEST_MEMBERS:
        missing = (
            f"needs at least {attacks.FEWEST_MEMBERS} members, a target and a shadow on either "
            f"side, not {len(members)}"
        )
        rows = {
            "attack": attacks.BAVARIA,
            "measure": attacks.ROC_MEASURES,
            "targets": 0,
            "missing": missing,
        }
        return pd.DataFrame(columns=c.UTILITY_COLUMNS), records(
            pd.DataFrame(rows).reindex(columns=attacks.ATTACK_COLUMNS)
        )
    attacked = np.flatnonzero(np.isin(sides.membership.group, c.SCORED_GROUPS))
    if len(attacked) > MAX_ATTACKED:
        rng = np.random.default_rng([sides.seed, 7])
        attacked = np.sort(rng.choice(attacked, MAX_ATTACKED, replace=False))
    results = attacks.attack(evidence.alignments, sides, attacked)
    n_boot = int(np.clip(_RESAMPLED // (len(attacked) * len(members)), 100, 300))
    metrics = [
        (name, c.ATTACK_METRICS[measure], value)
        for name, result in zip(members, results, strict=True)
        for measure, value in attacks.roc(result, attacks.BAVARIA).items()
        if not np.isnan(value)
    ]
    table = attacks.attack_table(results, n_boot=n_boot, seed=sides.seed)
    return pd.DataFrame(metrics, columns=c.UTILITY_COLUMNS), records(table)


def caption_table(
    audit: Audit, scores: pd.DataFrame, counts: np.ndarray, sides: MemberSides, words: pd.DataFrame
) -> tuple[pd.DataFrame, CaptionEvidence]:
    """Return captions.parquet without probabilities, one row per caption, and the evidence that
    captions are wrong.

    similarity_out and margin_out are means over the members not trained on the pair, learned over
    those trained on it. Where no pair has several captions they are the pair's, csls_out for
    margin_out. `counts` are captions of each pair, [n]; `words` are the words that were predicted.
    """
    owner = np.repeat(np.arange(len(counts)), counts)
    start = np.concatenate([[0], np.cumsum(counts)])
    columns = (c.SIMILARITY_OUT, c.CSLS_OUT, c.LEARNED)
    members = sides.membership
    decoys = store.read_decoys(audit)
    similarity, margin, learned = (scores[name].to_numpy()[owner] for name in columns)
    if counts.max(initial=0) > 1:
        tables = [
            store.read_array(audit.member(name) / store.CAPTION_SCORES, shared=True)
            for name in members.members
        ]
        # A member must have seen neither the picture nor the decoy; a caption is its own decoy
        # here.
        both = np.concatenate([np.column_stack([owner, owner]), owner[decoys[:, :2]]])
        similarity, margin, learned = (
            detectors.nan_mean(
                np.where((trained[both] == is_in).all(axis=1), table[:, column], np.nan)
                for table, trained in zip(tables, members.trained, strict=True)
            )
            for column, is_in in enumerate((False, False, True))
        )
    agree = np.full((len(owner), 2), np.nan)
    of_decoys = np.empty((0, 3))
    if len(decoys):
        features = prepare.caption_features(audit)
        agree = agreement(features, start)
        of_decoys = np.column_stack([agreement(features, start, decoys), margin[len(owner) :]])
    captions = np.column_stack([agree, margin[: len(owner)]])
    fit, swapped, misfit = (
        scores[name].to_numpy() for name in (c.CSLS_OUT, c.CSLS_SWAPPED, c.MISFIT)
    )
    evidence = CaptionEvidence(
        counts, fit, swapped, misfit, captions, of_decoys, decoys[:, 2], words
    )
    table = {
        c.PAIR_ID: scores[c.PAIR_ID].to_numpy()[owner],
        c.CAPTION: (np.arange(len(owner)) - start[owner]).astype(np.int32),
        c.SIMILARITY_OUT: similarity[: len(owner)],
        c.MARGIN_OUT: margin[: len(owner)],
        c.LEARNED: learned[: len(owner)],
        c.AGREEMENT: agree[:, 0],
    }
    return pd.DataFrame(table), evidence


def whole_set(
    audit: Audit, record: Record, scores: pd.DataFrame, checks: Path, wrong: dict[str, Any]
) -> dict[str, Any]:
    """Return the estimated counts of the full set that an audit's pairs were sampled from; empty
    without a sample."""
    drawn = record.config.sample
    of = record.sampled_of
    if not of:
        return {}

    def row(count: str, n: float, among: int, *, exact: int = 0, **limits: float) -> dict[str, Any]:
        ends = zip(
            ("whole", "low", "high"), whole_count(min(n, among), among, of, **limits), strict=True
        )
        return {"count": count, "found": n, "among": among} | {
            name: round(end + exact, 1) for name, end in ends
        }

    skipped = int((~audit.quarantine[c.REASON].str.startswith("near-duplicate of ")).sum())
    unread = record.quarantined - (drawn - record.pairs)  # rows counted before the sample was drawn
    usable = drawn - (skipped - unread)
    rows = [row(UNUSABLE, skipped - unread, drawn, exact=unread)]
    table = store.read_table(checks)
    # How often a picture or caption repeats depends on the number of pairs, so a sample cannot
    # estimate it.
    for name in (
        name
        for name in CHECKS
        if name in table and name not in ("near_duplicate", "repeated_caption")
    ):
        flags = table[name].dropna()
        if len(flags):
            # Pairs without this check, and the same share of the skipped rows, count as not drawn.
            rows.append(
                row(CHECKS[name].label, int(flags.sum()), round(drawn * len(flags) / usable))
            )
    if wrong.get("pairs"):
        ends = (wrong["pairs"][name] - wrong["injected"] for name in ("estimate", "low", "high"))
        estimate, low, high = (max(0.0, end) for end in ends)
        n_scored = int(np.isfinite(scores[c.CSLS_OUT]).sum())
        rows.append(
            row(
                WRONG,
                estimate,
                round(drawn * (n_scored - wrong["injected"]) / usable),
                low=low,
                high=high,
            )
        )
    return {"pairs": record.pairs, "of": of, "basis": BASIS, "counts": rows}
