"""Computes an audit's tables from the files of its members: scores.parquet, captions.parquet,
utility, verdict."""

import functools
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core import draws
from clipmem_core.audit import prepare, store
from clipmem_core.audit.prepare import membership_of, sides_of
from clipmem_core.audit.store import Audit, Record
from clipmem_core.audit.verdict import WRONG
from clipmem_core.dataset.checks import CHECKS
from clipmem_core.dataset.sentences import places_of
from clipmem_core.io import InputError, naming
from clipmem_core.ragged import Ragged
from clipmem_core.scores import attacks, detectors, memorization
from clipmem_core.scores.alignment import IMAGE_SQUARE, TEXT_SQUARE, pair_terms
from clipmem_core.scores.encoders import contributions
from clipmem_core.scores.evidence import CaptionEvidence, Probabilities, agreement
from clipmem_core.scores.membership import MemberSides
from clipmem_core.scores.metrics import detection_table
from clipmem_core.scores.registry import BY_NAME, DETECTION_SCORES, INJECTED_SCORES, SCORE_COLUMNS
from clipmem_core.scores.remaining import Posterior, whole_count
from clipmem_core.scores.uncertainty import share_above, standard_errors
from clipmem_core.training.names import CHECKPOINT, TRAJECTORY

UNUSABLE = "rows that cannot be used"
TOP_K = 50  # pairs a person reviews first
SIZE_STEP = 0.05  # between the sizes of clipmem whose share of pairs is reported
# A size must be this many errors: the share above smaller ones depends on the noise model.
MIN_NOISE_RATIO = 3
SPILL_BYTES = 1 << 22  # larger arrays are held in a file instead of memory
_RESAMPLED = 100_000_000  # pairs drawn by all bootstrap resamples together
FEWEST_COUNTED = 300  # pairs, below which wrong captions are not counted
MAX_ATTACKED = 1_000_000  # pairs; larger sets are sampled


@dataclass(frozen=True)
class Evidence:
    """The outputs of all members, an array per member, and their training pairs. Embeddings are
    memory-mapped."""

    pairs: pd.DataFrame  # pair_id, injected
    sides: MemberSides
    views: int
    terms: list[dict[str, np.ndarray]]
    image: Sequence[np.ndarray]  # μ_I of each member, [n_pairs, dim]
    text: Sequence[np.ndarray]
    logit_scales: list[float]  # of each member; NaN if its checkpoint is gone
    log_probability: list[np.ndarray]  # in training
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
        # On a full disk a write to a map would end the process.
        file.write(np.ascontiguousarray(values).data)
        file.flush()
        return np.asarray(np.memmap(file, values.dtype, "c", shape=values.shape))


def gather_evidence(audit: Audit) -> Evidence:
    """Read the outputs of every member; embeddings and other large arrays stay on disk."""
    from clipmem_core.training.model import logit_scale_of  # torch, which nothing else here needs

    config = audit.record.config
    names = audit.record.members
    table = audit.read_columns(store.MEMBERSHIP, c.GROUP, *names)
    sides = sides_of(audit, config, membership_of(table))
    embeddings = [store.read_embeddings(audit.member(name)) for name in names]
    terms = []
    logit_scales = []
    log_probability = []
    for name, vectors in zip(names, embeddings, strict=True):
        folder = audit.member(name)
        values = pair_terms(*vectors, sides.held_out)
        stacked = spill_to_disk(np.stack(list(values.values())), audit.folder)
        terms.append(dict(zip(values, stacked, strict=True)))
        checkpoint = folder / CHECKPOINT
        logit_scales.append(logit_scale_of(checkpoint) if checkpoint.is_file() else np.nan)
        learned = detectors.mean_over_epochs(store.read_array(folder / TRAJECTORY))
        log_probability.append(spill_to_disk(learned, audit.folder))
    most_captions = config.eval_captions or np.iinfo(np.int32).max
    return Evidence(
        pairs=audit.read_columns(store.PAIRS, c.PAIR_ID, c.INJECTED),
        sides=sides,
        views=1 if config.lock_image else config.views,
        terms=terms,
        image=[image for image, _ in embeddings],
        text=[text for _, text in embeddings],
        logit_scales=logit_scales,
        log_probability=log_probability,
        n_captions=np.minimum(store.read_captions(audit).counts, most_captions),
        folder=audit.folder,
    )


def score_table(evidence: Evidence) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return every score of every pair (`SCORE_COLUMNS`), and how well clipmem was split between
    the encoders.

    The split has fit, the mean over the maps between embeddings, and missing, why there is none.
    """
    sides = evidence.sides
    spill = functools.partial(spill_to_disk, folder=evidence.folder)
    trained = sides.membership.trained
    held_out = sides.held_out
    nan = np.full(len(held_out), np.nan)
    scores = memorization.memorization_table(evidence.terms, sides, keep=spill)
    values = {name: spill(scores.pop(name).to_numpy()) for name in map(str, scores.columns)}
    split: dict[str, Any] = {"fit": None, "missing": None}
    try:
        parts, split["fit"] = contributions(evidence.image, evidence.text, sides)
    except InputError as error:
        parts = pd.DataFrame({c.CLIPMEM_IMAGE: nan, c.CLIPMEM_TEXT: nan})
        split["missing"] = str(error)
    sslmem = memorization.sslmem(
        [terms[IMAGE_SQUARE] for terms in evidence.terms],
        [terms[TEXT_SQUARE] for terms in evidence.terms],
        sides,
        n_views=evidence.views,
        n_captions=evidence.n_captions,
    )
    for table in (parts, sslmem):
        values |= {str(name): spill(table[name].to_numpy()) for name in table}
    csls, log_probability = detectors.fit_out(
        evidence.image, evidence.text, trained, held_out, evidence.logit_scales
    )
    swapped = detectors.swapped_csls(
        evidence.image, evidence.text, trained, held_out, seed=sides.seed
    )
    learned = detectors.nan_mean(evidence.log_probability)
    values |= {
        c.CSLS_OUT: spill(csls),
        c.LOG_PROBABILITY_OUT: spill(log_probability),
        c.LEARNED: spill(learned),
        c.CSLS_SWAPPED: spill(swapped),
    }
    # Added by later steps
    values |= dict.fromkeys((c.LOG_PROBABILITY_SECOND, c.P_WRONG, *c.PARTS, c.SUSPICION), nan)
    _compute_derived(values, set(values))
    columns = values | {
        c.PAIR_ID: evidence.pairs[c.PAIR_ID],
        c.GROUP: pd.Series(sides.membership.group),
    }
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


def wrong_captions(
    injected: pd.Series, scores: pd.DataFrame, wrong: Probabilities
) -> dict[str, Any]:
    """Return how many pairs have a wrong caption, and the counts of each kind of evidence;
    `missing` says why not."""
    kinds = {
        "injected": int((injected == c.MISCAPTION).sum()),
        "injected_vague": int((injected == c.VAGUE).sum()),
    }
    missing = wrong.counts["pairs"].missing
    if scores[c.MISFIT].fillna(scores[c.CSLS_OUT]).count() < FEWEST_COUNTED:
        missing = "too few pairs to estimate: review all"
    if missing:
        return {"missing": missing, **kinds}
    parts = np.nansum(wrong.parts, axis=1)
    estimate = float(parts.sum())
    probabilities = wrong.pairs[np.isfinite(wrong.pairs)]
    _, low, high, _ = Posterior.of(probabilities).before_review()
    return {
        "missing": None,
        "all": {"estimate": estimate, "low": min(low, estimate), "high": max(high, estimate)},
        "of": len(probabilities),
        "parts": parts.tolist(),
        "counted": [name for name, count in wrong.counts.items() if not count.missing],
        "kinds": wrong.kinds,
        "several": len(wrong.captions) > len(wrong.pairs),  # captions of a pair
        **kinds,
    }


def summary(evidence: Evidence, scores: pd.DataFrame, split: dict[str, Any]) -> dict[str, Any]:
    """Return every number that the verdict reports; `split` as of `score_table`."""
    sides = evidence.sides
    members = sides.membership.members
    alignments = evidence.alignments
    target = scores[c.GROUP].isin(c.TARGET_GROUPS)
    null = scores[scores[c.GROUP] == c.HELD_OUT]
    aurocs, auroc = memorization.membership_auroc(alignments, sides.membership)
    stability = memorization.ranking_stability(alignments, sides)
    reliability = memorization.ranking_reliability(stability, len(sides.replicates))
    scored = sides.membership.trained[:, sides.membership.group == c.SCORED]
    values = {
        "groups": json_rows(memorization.group_summary(alignments, sides)),
        **_injected_errors(evidence.pairs, scores, target, seed=sides.seed),
        "membership_auroc": auroc,
        "membership_auroc_by_member": dict(zip(members, map(_number, aurocs), strict=True)),
        "ranking_stability": _number(stability),  # of two halves of the members
        "ranking_reliability": _number(reliability),  # of the scores of all
        "trained_share": _number(scored.mean()) if scored.size else None,
        **_error_summary(evidence, scores, target),
        "encoders": {
            "image": _number(scores.loc[target, c.CLIPMEM_IMAGE].mean()),
            "text": _number(scores.loc[target, c.CLIPMEM_TEXT].mean()),
            **split,
        },
        "held_out_pairs": len(null),
        "held_out_sd": float(null[c.CLIPMEM].std()),
    }
    if sides.utility_only is not None:
        values["utility_pairs"] = int(sides.utility_only.sum())
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
    errors = standard_errors(evidence.alignments, evidence.sides)
    rows = np.flatnonzero(target & np.isfinite(scores[c.CLIPMEM]))
    if not len(rows):
        return {"se_kind": errors.kind, "exceeding": []}
    clipmem = scores[c.CLIPMEM].to_numpy()
    sizes = np.arange(SIZE_STEP, max(clipmem[rows].max(), SIZE_STEP), SIZE_STEP).round(2)
    sizes = sizes[sizes >= MIN_NOISE_RATIO * np.median(np.sqrt(errors.variance[rows]))]
    exceeding = share_above(clipmem, errors, rows, sizes, seed=evidence.sides.seed)
    return {"se_kind": errors.kind, "exceeding": json_rows(exceeding)}


def attack_members(evidence: Evidence) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Attack every member with the others as shadow models; return rows of utility.parquet and of
    the verdict."""
    sides = evidence.sides
    members = sides.membership.members
    if len(members) < attacks.FEWEST_MEMBERS:
        missing = (
            f"needs at least {attacks.FEWEST_MEMBERS} members, a target and a shadow on either "
            f"side, not {len(members)}"
        )
        row = {"attack": attacks.BAVARIA, "measure": attacks.ROC_MEASURES, "missing": missing}
        table = pd.DataFrame(row | {"targets": 0}, columns=attacks.ATTACK_COLUMNS)
        return pd.DataFrame(columns=c.UTILITY_COLUMNS), json_rows(table)
    attacked = np.flatnonzero(np.isin(sides.membership.group, c.SCORED_GROUPS))
    if len(attacked) > MAX_ATTACKED:
        attacked = np.sort(
            draws.rng(sides.seed, "attacked").choice(attacked, MAX_ATTACKED, replace=False)
        )
    results = attacks.attack(evidence.alignments, sides, attacked)
    n_boot = int(np.clip(_RESAMPLED // (len(attacked) * len(members)), 100, 300))
    metrics = [
        (name, c.ATTACK_METRICS[measure], value)
        for name, result in zip(members, results, strict=True)
        for measure, value in attacks.roc(result, attacks.BAVARIA).items()
        if not np.isnan(value)
    ]
    table = attacks.attack_table(results, n_boot=n_boot, seed=sides.seed)
    return pd.DataFrame(metrics, columns=c.UTILITY_COLUMNS), json_rows(table)


def caption_table(
    audit: Audit,
    scores: pd.DataFrame,
    of_pairs: Ragged,
    sides: MemberSides,
    words: pd.DataFrame,
    read: np.ndarray,
    reasons: np.ndarray,
) -> tuple[pd.DataFrame, CaptionEvidence]:
    """Return captions.parquet without probabilities, one row per caption, and the evidence that
    captions are wrong.

    similarity_out and margin_out are means over the members not trained on the pair, learned over
    those trained on it. Where no pair has several captions they are the pair's, csls_out for
    margin_out. `of_pairs` are the captions of each pair; `words` are the words that were predicted;
    `read` is false for captions that the text tower does not read, [n_captions]; `reasons` say why
    texts are no captions, [n_captions].
    """
    n_captions = of_pairs.n_items
    owner = of_pairs.owner
    decoys = store.read_decoys(audit)
    if of_pairs.counts.max(initial=0) > 1:
        # A member must have seen neither the picture nor the decoy; a caption is its own decoy
        # here.
        both = tuple(np.append(owner, owner[decoys[name]]) for name in ("place", "caption"))
        similarity, margin = (
            _mean_over_members(audit, sides, both, name, trained_on=False)
            for name in ("similarity", "margin")
        )
        learned = _mean_over_members(audit, sides, both, "learned", trained_on=True)
    else:
        of_pair = scores.iloc[owner]
        similarity = of_pair[c.SIMILARITY_OUT].to_numpy()
        margin = of_pair[c.CSLS_OUT].to_numpy()
        learned = of_pair[c.LEARNED].to_numpy()
    agree = np.full((n_captions, 2), np.nan)
    of_decoys = np.empty((0, 3))
    features = None
    if len(decoys):
        features = prepare.caption_features(audit)
        agree = agreement(features, of_pairs)
        of_decoys = np.column_stack([agreement(features, of_pairs, decoys), margin[n_captions:]])
    some_read = np.logical_or.reduceat(read, of_pairs.first)
    evidence = CaptionEvidence(
        of_pairs,
        fit=np.where(some_read, scores[c.CSLS_OUT], np.nan),
        swapped=scores[c.CSLS_SWAPPED].to_numpy(),
        misfit=np.where(some_read, scores[c.MISFIT], np.nan),
        captions=np.where(read, np.column_stack([agree, margin[:n_captions]]).T, np.nan).T,
        decoys=of_decoys,
        similar=decoys["similar"],
        texts=decoys["caption"],
        features=features if audit.record.sentences else None,
        words=words,
        read=read,
        not_captions=reasons != "",
    )
    table = {
        c.CAPTION_ROW: np.arange(n_captions),
        c.PAIR_ID: scores[c.PAIR_ID].to_numpy()[owner],
        c.CAPTION: of_pairs.number.astype(np.int32),
        c.SIMILARITY_OUT: similarity[:n_captions],
        c.MARGIN_OUT: margin[:n_captions],
        c.LEARNED: learned[:n_captions],
        c.AGREEMENT: agree[:, 0],
        c.READ: read,
    }
    return pd.DataFrame(table), evidence


def sentence_table(audit: Audit, captions: pd.DataFrame) -> pd.DataFrame:
    """Return sentences.parquet: captions.parquet by sentence, with the place of each."""
    places = places_of(audit.read_columns(store.PAIRS, c.CAPTIONS)[c.CAPTIONS])
    table = pd.concat([captions.drop(columns=[c.CAPTION]), places], axis=1)
    first = [c.CAPTION_ROW, c.PAIR_ID, *places]
    return table[[*first, *table.columns.difference(first, sort=False)]]


def captions_of_sentences(sentences: pd.DataFrame) -> pd.DataFrame:
    """Return captions.parquet: a caption is wrong if it has a wrong sentence, and errors of its
    sentences are independent. Other scores are those of the sentence most likely wrong."""
    table = sentences.copy()
    same_pair = 1 - table[c.P_CHECK] - table[c.P_PAIR]
    right = ((same_pair - table[c.P_CAPTION]) / same_pair).clip(0, 1)
    right_words = ((1 - table[c.P_WRONG]) / (same_pair - table[c.P_CAPTION])).clip(0, 1)
    rows = (table[c.SENTENCE] == 0).cumsum() - 1  # of each sentence's caption
    worst = table[c.P_WRONG].fillna(-1.0).groupby(rows).idxmax()
    right, right_words = (part.groupby(rows).prod() for part in (right, right_words))
    captions = table.loc[worst].reset_index(drop=True)
    whole = captions[c.P_CHECK] + captions[c.P_PAIR]
    captions[c.P_CAPTION] = (1 - whole) * (1 - right)
    captions[c.P_WORD] = (1 - whole) * right * (1 - right_words)
    captions[c.P_WRONG] = whole + captions[c.P_CAPTION] + captions[c.P_WORD]
    return captions.assign(**{c.CAPTION_ROW: captions.index})


def _mean_over_members(
    audit: Audit, sides: MemberSides, pairs: Sequence[np.ndarray], name: str, *, trained_on: bool
) -> np.ndarray:
    """Return the mean of a field of captions.npy over the members that trained, or did not, on
    both pairs of each row, int64 [n_captions + n_decoys] each."""
    folders = map(audit.member, sides.membership.members)
    columns = (store.read_array(folder / store.CAPTION_SCORES)[name] for folder in folders)
    return detectors.nan_mean(
        np.where(np.all([trained[rows] == trained_on for rows in pairs], axis=0), values, np.nan)
        for values, trained in zip(columns, sides.membership.trained, strict=True)
    )


def whole_set(
    audit: Audit, record: Record, scores: pd.DataFrame, checks: Path, wrong: dict[str, Any]
) -> dict[str, Any]:
    """Return the estimated counts of the full set that an audit's pairs were sampled from; empty
    without a sample."""
    drawn = record.config.sample
    total = record.sampled_of
    if not total:
        return {}

    def row(name: str, found: float, among: int, more: int = 0, **limits: float) -> dict[str, Any]:
        ends = whole_count(min(found, among), among, total, **limits)
        whole, low, high = (round(end + more, 1) for end in ends)
        counts = {"whole": whole, "low": low, "high": high}
        return {"count": name, "found": found, "among": among, **counts}

    skipped = int((audit.quarantine[c.KIND] != c.NEAR_DUPLICATE).sum())
    unread = record.quarantined - (drawn - record.pairs)  # rows counted before the sample was drawn
    usable = drawn - (skipped - unread)
    rows = [row(UNUSABLE, skipped - unread, drawn, more=unread)]
    table = store.read_table(checks)
    for name, check in CHECKS.items():
        # How often a picture or caption repeats depends on the number of pairs, so a sample cannot
        # estimate it.
        if name not in table or name in ("near_duplicate", "repeated_caption"):
            continue
        flags = table[name].dropna()
        if len(flags):
            # Pairs without this check, and the same share of the skipped rows, count as not drawn.
            rows.append(row(check.label, int(flags.sum()), round(drawn * len(flags) / usable)))
    if not wrong["missing"]:
        injected = wrong["injected"]
        ends = (wrong["all"][name] for name in ("estimate", "low", "high"))
        estimate, low, high = (max(0.0, end - injected) for end in ends)
        n_scored = int(np.isfinite(scores[c.CSLS_OUT]).sum())
        among = round(drawn * (n_scored - injected) / usable)
        rows.append(row(WRONG, estimate, among, low=low, high=high))
    return {"pairs": record.pairs, "of": total, "counts": rows}
