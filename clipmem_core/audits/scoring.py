"""Computes an audit's tables from the files of its members: scores.parquet, captions.parquet, utility, verdict."""

import dataclasses
import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.atomic import naming
from clipmem_core.audits.prepare import membership_of, sides_of
from clipmem_core.audits.store import (
    CAPTION_SCORES,
    MEMBERSHIP,
    PAIRS,
    Audit,
    Record,
    caption_counts,
    read_array,
    read_embeddings,
    read_table,
    read_utility,
)
from clipmem_core.audits.verdict import BASIS, WRONG
from clipmem_core.config import InputError
from clipmem_core.files import numbers
from clipmem_core.pairs.checks import CHECKS
from clipmem_core.scores.alignment import IMAGE_SQUARE, TEXT_SQUARE, pair_terms
from clipmem_core.scores.attacks import (
    BAVARIA,
    COLUMNS,
    FEWEST,
    MEASURES,
    Shadows,
    attack,
    attack_table,
    roc,
    shadows_of,
)
from clipmem_core.scores.detection import detection_table
from clipmem_core.scores.detectors import (
    caption_misfit,
    fit_out,
    gaps,
    learned,
    mean_over_epochs,
    odd_captions,
    swapped_csls,
)
from clipmem_core.scores.encoders import contributions
from clipmem_core.scores.membership import Sides
from clipmem_core.scores.memorization import (
    group_summary,
    membership_auroc,
    memorization_table,
    ranking_reliability,
    ranking_stability,
    sslmem,
)
from clipmem_core.scores.prevalence import summarize_count, suspicion_of, whole_count
from clipmem_core.scores.registry import BY_NAME, DETECTION, PLANTED, SCORE_COLUMNS, TABLE, scores_in
from clipmem_core.scores.uncertainty import Errors, Noise, share_above, standard_errors
from clipmem_core.training.names import CHECKPOINT, TRAJECTORY

SEVERAL = "no pair has more than one caption"
NOT_KEPT = "the members left nothing of single captions: they were embedded before there was such a score"
UNUSABLE = "rows that cannot be used"
# How often one pair is like another depends on how many there are to be like.
NOT_TOLD = ("lookalike", "repeated_caption")
K = 50  # pairs a person looks at first
SIZE_STEP = 0.05  # of clipmem, between the sizes whose share of pairs is told
TOLD = 3  # times the noise: below, a share of pairs depends on how the noise is taken off
MAPPED_FROM = 1 << 22  # bytes of an array that is held in a file instead of memory
RESAMPLED = 100_000_000  # pairs drawn by all bootstrap resamples together: a million pairs get as many as 100


@dataclass(frozen=True)
class Evidence:
    """What the members leave, in memory one array a member, and what they were given.

    Embeddings are mapped from their files: whoever reads them reads a block of rows at a time.
    """

    pairs: pd.DataFrame  # pair_id, planted
    sides: Sides
    views: int
    terms: list[dict[str, np.ndarray]]
    image: list[np.ndarray]  # μ_I of each member, [n_pairs, dim]
    text: list[np.ndarray]
    logit_scales: list[float]  # of each member; NaN of a given checkpoint that is no longer there
    log_probability: list[np.ndarray]  # in training; empty where members come without a trajectory
    n_captions: np.ndarray  # behind each mean text embedding, [n_pairs]
    folder: Path = Path()  # of what does not fit into memory

    @property
    def alignments(self) -> list[np.ndarray]:
        return [terms[c.ALIGNMENT] for terms in self.terms]


class Split(NamedTuple):
    """How clipmem was split between the encoders: of each mapped member how well its map fits, or why it was not."""

    fits: dict[str, float]
    missing: str


def kept_on_disk(values: np.ndarray, folder: Path) -> np.ndarray:
    """Return the same values; many of them are mapped from a file without a name, which goes when the array does."""
    if values.nbytes < MAPPED_FROM or isinstance(values.base, np.memmap):
        return values
    with naming(folder), tempfile.TemporaryFile(dir=folder) as file:
        file.write(np.ascontiguousarray(values).data)  # on a full disk a write to a map would end the process
        file.flush()
        return np.asarray(np.memmap(file, values.dtype, "c", shape=values.shape))


def gather_evidence(audit: Audit) -> Evidence:
    """Read what every member left; embeddings stay on disk, as does what is large of the rest."""
    record = audit.record
    membership = membership_of(read_table(audit.folder / MEMBERSHIP, columns=[c.GROUP, *record.members]))
    sides = sides_of(audit, record.config, membership)
    folders = [audit.member(name) for name in membership.members]
    image, text = zip(*map(read_embeddings, folders), strict=True)
    terms = []
    for own in zip(image, text, strict=True):
        named = pair_terms(*own, sides.external)
        terms.append(dict(zip(named, kept_on_disk(np.stack(list(named.values())), audit.folder), strict=True)))
    paths = [folder / TRAJECTORY for folder in folders]
    trajectories = [
        kept_on_disk(mean_over_epochs(read_array(path, shared=True)), audit.folder) for path in paths if path.is_file()
    ]
    return Evidence(
        pairs=read_table(audit.folder / PAIRS, columns=[c.PAIR_ID, c.PLANTED]),
        sides=sides,
        views=1 if record.config.lock_image else record.config.views,
        terms=terms,
        image=list(image),
        text=list(text),
        logit_scales=[_logit_scale(audit, name) for name in membership.members],
        log_probability=trajectories if len(trajectories) == len(paths) else [],
        n_captions=np.minimum(caption_counts(audit), record.config.eval_captions or np.iinfo(np.int32).max),
        folder=audit.folder,
    )


def _logit_scale(audit: Audit, name: str) -> float:
    from clipmem_core.training.model import logit_scale_of  # torch, which nothing else here needs

    path = Path(audit.member_record(name).checkpoint or audit.member(name) / CHECKPOINT)
    return logit_scale_of(path) if path.is_file() else float("nan")


def score_table(evidence: Evidence) -> tuple[pd.DataFrame, Split]:
    """Return every score of every pair (`SCORE_COLUMNS`), and how clipmem was split between the encoders."""
    sides, keep = evidence.sides, functools.partial(kept_on_disk, folder=evidence.folder)
    membership, members = sides.membership, (evidence.image, evidence.text)
    group, nothing = membership.group, np.full(len(membership.group), np.nan)
    table = memorization_table(evidence.terms, sides, keep=keep)
    values = {name: keep(table.pop(name).to_numpy()) for name in map(str, table.columns)}
    try:
        parts, fits = contributions(*members, sides)
        split = Split(fits, "")
    except InputError as error:
        parts, split = pd.DataFrame(dict.fromkeys((c.CLIPMEM_IMAGE, c.CLIPMEM_TEXT), nothing)), Split({}, str(error))
    own = sslmem(
        [terms[IMAGE_SQUARE] for terms in evidence.terms],
        [terms[TEXT_SQUARE] for terms in evidence.terms],
        sides,
        n_views=evidence.views,
        n_captions=evidence.n_captions,
    )
    values |= {str(name): keep(part[name].to_numpy()) for part in (parts, own) for name in part}
    out = fit_out(*members, membership.trained, sides.external, evidence.logit_scales)
    swapped = swapped_csls(*members, membership.trained, sides.external, seed=sides.seed)
    learned_by_pair = learned(evidence.log_probability) if evidence.log_probability else nothing
    values |= zip((c.CSLS_OUT, c.LOG_PROBABILITY_OUT), map(keep, out), strict=True)
    values |= zip((c.CSLS_SWAPPED, c.CSLS_NEAR, c.LEARNED), map(keep, (*swapped, learned_by_pair)), strict=True)
    values[c.LOG_PROBABILITY_SECOND] = nothing
    _follow(values, set(values), keep=keep)
    columns = {c.PAIR_ID: evidence.pairs[c.PAIR_ID], c.GROUP: pd.Series(group)} | values
    return pd.DataFrame({name: columns[name] for name in SCORE_COLUMNS}, copy=False), split


def scored_again(scores: pd.DataFrame, **values: np.ndarray) -> pd.DataFrame:
    """Return scores with other values of some columns, and with what follows from them.

    Args:
        scores: of an audit.
        values: column → what it is now, [n_pairs].
    """
    now = {name: scores[name].to_numpy() for name in BY_NAME} | values
    changed = set(values)
    _follow(now, changed)
    return scores.assign(**{name: now[name] for name in changed})


def _follow(
    values: dict[str, np.ndarray],
    changed: set[str],
    *,
    keep: Callable[[np.ndarray], np.ndarray] = lambda own: own,
) -> None:
    """Compute the scores that follow from some that changed, and add them to both."""
    for score in TABLE:
        if score.compute and changed & set(score.needs):
            values[score.name] = keep(score.compute(*(values[name] for name in score.needs)))
            changed.add(score.name)


def utility_table(audit: Audit, members: tuple[str, ...]) -> pd.DataFrame:
    """Gather each member's utility: member, metric, value."""
    rows = []
    for name in members:
        metrics = read_utility(audit.member(name))
        rows += [(name, metric, value) for metric, value in metrics.items()]
    return pd.DataFrame(rows, columns=c.UTILITY_COLUMNS)


def detection_rows(pairs: pd.DataFrame, scores: pd.DataFrame, *, seed: int) -> list[dict[str, Any]]:
    """Compare every score at finding the planted mis-captions among the pairs they were drawn from."""
    truth = (pairs[c.PLANTED] == c.MISCAPTION).to_numpy()
    judged = scores[c.GROUP].isin([c.CANDIDATE, c.SCORED]).to_numpy()
    if not 2 <= truth[judged].sum() < judged.sum() - 1:
        return []
    detectors = scores_in(DETECTION)
    values = {name: (score.direction * scores[name]).to_numpy()[judged] for name, score in detectors.items()}
    complete = {name: score for name, score in values.items() if not np.isnan(score).any()}
    if not complete:
        return []
    reference = next(iter(complete))
    n_boot = int(np.clip(RESAMPLED // judged.sum(), 100, 2000))
    return records(detection_table(complete, truth[judged], k=K, n_boot=n_boot, seed=seed, reference=reference))


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a table as JSON rows, with null where a number is missing."""
    clean = table.astype(object).where(table.notna(), None)
    return [{str(key): value for key, value in row.items()} for row in clean.to_dict("records")]


def known(value: float) -> float | None:
    """Return a number as JSON has it: null where it is missing."""
    return None if np.isnan(value) else float(value)


def planted_rows(pairs: pd.DataFrame, scores: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the mean scores of each planted kind beside those of the other pairs it was planted among."""
    judged = scores[c.GROUP].isin([c.CANDIDATE, c.SCORED])
    kind = pairs[c.PLANTED].fillna("none").where(judged)
    if kind.dropna().eq("none").all():
        return []
    table = scores.groupby(kind.rename(c.PLANTED))[list(scores_in(PLANTED))].mean()
    table.insert(0, "n", kind.value_counts())
    return records(table.reset_index())


def wrong_captions(pairs: pd.DataFrame, scores: pd.DataFrame) -> dict[str, Any]:
    """Return how many captions are probably wrong, and when to stop looking for them."""
    fit, swapped, near = (scores[name].to_numpy() for name in (c.CSLS_OUT, c.CSLS_SWAPPED, c.CSLS_NEAR))
    told = summarize_count(fit, swapped, near, suspicion_of(scores[c.MISFIT].to_numpy(), fit))
    kinds = pairs[c.PLANTED]
    return told | {"planted": int((kinds == c.MISCAPTION).sum()), "planted_vague": int((kinds == c.VAGUE).sum())}


def reliability(evidence: Evidence) -> float | None:
    """Return the reliability of the ranking by clipmem, in [0, 1]; None where it is not known, as of one repeat."""
    stability = ranking_stability(evidence.alignments, evidence.sides)
    return known(ranking_reliability(stability, len(evidence.sides.replicates)))


def trained_share(sides: Sides) -> float | None:
    """Return the share of the scored pairs that a member of an ensemble trains on; None for the paper's protocol."""
    scored = sides.membership.trained[:, sides.membership.group == c.SCORED]
    return known(scored.mean()) if scored.size else None


def error_summary(scores: pd.DataFrame, errors: Errors, sides: Sides) -> dict[str, Any]:
    """Return how certain clipmem is, and the share of scored or candidate pairs beyond each size that noise allows."""
    rows = np.flatnonzero(scores[c.GROUP].isin([c.CANDIDATE, c.SCORED]) & np.isfinite(scores[c.CLIPMEM]))
    if not len(rows):
        return {"se_kind": errors.kind, "se_degrees": None, "exceeding": []}
    clipmem, noise = scores[c.CLIPMEM].to_numpy()[rows], Noise.of(errors, rows)
    sizes = np.arange(SIZE_STEP, max(clipmem.max(), SIZE_STEP), SIZE_STEP).round(2)
    sizes = sizes[sizes >= TOLD * np.median(noise.error)]
    return {
        "se_kind": errors.kind,
        "se_degrees": noise.degrees if np.isfinite(noise.degrees) else None,
        "exceeding": records(share_above(clipmem, noise, sizes, seed=sides.seed)),
    }


def summary(evidence: Evidence, scores: pd.DataFrame, split: Split) -> dict[str, Any]:
    """Return every number the verdict speaks of."""
    sides, alignments = evidence.sides, evidence.alignments
    judged = scores[c.GROUP].isin([c.CANDIDATE, c.SCORED])
    null = scores[scores[c.GROUP] == c.EXTERNAL]
    aurocs, auroc = membership_auroc(alignments, sides.membership)
    stability = ranking_stability(alignments, sides)
    return {
        "groups": records(group_summary(alignments, sides)),
        "planted": planted_rows(evidence.pairs, scores),
        "detection": detection_rows(evidence.pairs, scores, seed=sides.seed),
        "wrong_captions": wrong_captions(evidence.pairs, scores),
        "membership_auroc": known(auroc),
        "membership_auroc_by_member": {
            name: known(value) for name, value in zip(sides.membership.members, aurocs, strict=True)
        },
        "ranking_stability": known(stability),  # of two halves of the members
        "ranking_reliability": known(ranking_reliability(stability, len(sides.replicates))),  # of the scores of all
        "trained_share": trained_share(sides),
        **error_summary(scores, standard_errors(alignments, sides), sides),
        "encoders": {
            "image": known(scores.loc[judged, c.CLIPMEM_IMAGE].mean()),
            "text": known(scores.loc[judged, c.CLIPMEM_TEXT].mean()),
            "null_image": known(null[c.CLIPMEM_IMAGE].mean()),
            "null_text": known(null[c.CLIPMEM_TEXT].mean()),
            "fit": float(np.mean(list(split.fits.values()))) if split.fits else None,
            "fit_by_member": split.fits,
            "missing": split.missing or None,
        },
        "external_pairs": len(null),
        **({} if sides.apart is None else {"utility_pairs": int(sides.apart.sum())}),
        "external_sd": float(null[c.CLIPMEM].std()),
    }


MOST_ATTACKED = 1_000_000  # pairs; of more, as many are drawn at random
_DRAW = 7  # a random stream of its own
DRAWS = (100, 300)  # of pairs, for an interval: as many as `RESAMPLED` allows


def attack_members(evidence: Evidence) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Attack every member with the others.

    Returns:
        Rows of utility.parquet, the default attack's measures of each member that has them, and rows of the verdict,
        as `attack_table` has them, each attack's values or why there are none.
    """
    sides, members = evidence.sides, evidence.sides.membership.members
    if len(members) < FEWEST:
        missing = f"needs at least {FEWEST} members, a target and a shadow on either side, not {len(members)}"
        rows = pd.DataFrame({"attack": BAVARIA, "measure": MEASURES, "targets": 0, "missing": missing})
        return pd.DataFrame(columns=c.UTILITY_COLUMNS), records(rows.reindex(columns=COLUMNS))
    found = attack(evidence.alignments, _of_some(shadows_of(sides)))
    draws = int(np.clip(RESAMPLED // sum(len(one.rows) for one in found), *DRAWS))
    metrics = [
        (name, c.ATTACK_METRICS[measure], value)
        for name, one in zip(members, found, strict=True)
        for measure, value in roc(one, BAVARIA).items()
        if not np.isnan(value)
    ]
    table = attack_table(found, n_boot=draws, seed=sides.seed)
    return pd.DataFrame(metrics, columns=c.UTILITY_COLUMNS), records(table)


def _of_some(shadows: Shadows) -> Shadows:
    """Return the shadows, attacked on no more pairs than `MOST_ATTACKED`."""
    judged = np.flatnonzero(shadows.attacked.all(axis=0))
    if len(judged) <= MOST_ATTACKED:
        return shadows
    drawn = np.random.default_rng([shadows.seed, _DRAW]).choice(judged, MOST_ATTACKED, replace=False)
    some = np.zeros(shadows.attacked.shape[1], bool)
    some[drawn] = True
    return dataclasses.replace(shadows, attacked=np.broadcast_to(some, shadows.attacked.shape))


def caption_table(audit: Audit, counts: np.ndarray, sides: Sides) -> tuple[pd.DataFrame | None, str]:
    """Return captions.parquet, one row a caption, or None and why there is none; `counts` are how many each pair has.

    Returns:
        pair_id; caption, its place in the pair from 0; similarity_out and margin_out, means over the members that never
        saw the pair; learned, over those that did; misfit = −(z(learned) + z(margin_out)), by margin_out
        alone for held-out pairs and captions that no epoch drew;
        gap, how far margin_out lies below that of the pair's others; odd, whether that is far.
    """
    if counts.max(initial=0) < 2:
        return None, SEVERAL
    members = sides.membership.members
    paths = [audit.member(name) / CAPTION_SCORES for name in members]
    if not all(path.is_file() for path in paths):
        return None, NOT_KEPT
    owner = np.repeat(np.arange(len(counts)), counts)
    totals, seen = np.zeros((3, len(owner))), np.zeros((3, len(owner)))
    for path, trained in zip(paths, sides.membership.trained, strict=True):
        values = read_array(path, shared=True)
        inside = trained[owner]
        for place, counted in enumerate((~inside, ~inside, inside)):
            known = counted & ~np.isnan(values[:, place])
            totals[place, known] += values[known, place]
            seen[place] += known
    with np.errstate(invalid="ignore"):
        similarity, margin, late = totals / np.where(seen > 0, seen, np.nan)
    gap = gaps(margin, owner)
    return pd.DataFrame(
        {
            c.PAIR_ID: read_table(audit.folder / PAIRS, columns=[c.PAIR_ID])[c.PAIR_ID].to_numpy()[owner],
            c.CAPTION: (np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)).astype(np.int32),
            c.SIMILARITY_OUT: similarity,
            c.MARGIN_OUT: margin,
            c.LEARNED: late,
            c.MISFIT: caption_misfit(late, margin),
            c.GAP: gap,
            c.ODD: odd_captions(gap),
        }
    ), ""


def whole_set(
    audit: Audit, record: Record, scores: pd.DataFrame, checks: Path, wrong: dict[str, Any]
) -> dict[str, Any]:
    """Return what an audit's verdict says of the whole set that its pairs were drawn of; nothing where all are in it.

    Returns:
        pairs, of, basis, and counts: rows of count, found, among (as many of the sample), whole, low, high.
    """
    drawn, of = record.config.sample, record.sampled_of
    if not of:
        return {}
    aside = int((~audit.quarantine[c.REASON].str.startswith("look-alike of ")).sum())
    unread = record.quarantined - (drawn - record.pairs)  # these were counted, and not drawn
    broken = aside - unread
    rows = [_row(UNUSABLE, broken, drawn, of, exact=unread)]
    usable = drawn - broken
    table = read_table(checks)
    for name in (name for name in CHECKS if name in table and name not in NOT_TOLD):
        flags = table[name].dropna()
        if len(flags):
            # Pairs that are not judged, and as large a share of those set aside, are as if they had not been drawn.
            rows.append(_row(CHECKS[name].label, int(flags.sum()), round(drawn * len(flags) / usable), of))
    if ends := numbers([wrong.get(name) for name in ("estimate", "low", "high")], 3):
        found, low, high = (max(0.0, end - wrong["planted"]) for end in ends)
        judged = np.isfinite(scores[c.CSLS_OUT])
        among = round(drawn * (int(judged.sum()) - wrong["planted"]) / usable)
        rows.append(_row(WRONG, found, among, of, low=low, high=high))
    return {"pairs": record.pairs, "of": of, "basis": BASIS, "counts": rows}


def _row(
    count: str,
    found: float,
    drawn: int,
    of: int,
    *,
    exact: int = 0,
    low: float | None = None,
    high: float | None = None,
) -> dict[str, Any]:
    whole, least, most = whole_count(min(found, drawn), drawn, of, low=low, high=high)
    ends = {"whole": whole + exact, "low": least + exact, "high": most + exact}
    return {"count": count, "found": found, "among": drawn, **{name: round(end, 1) for name, end in ends.items()}}
