"""Benchmarks of detectors: audits of a data set with injected errors, and how well each detector
finds the errors: wrong pairs, captions and words, the faults of a pipeline, and how many wrong
captions a review leaves. With the detectors of the literature. The same call resumes.
"""

import itertools
import shutil
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from clipmem_core.auditing.folder import prepare, settings
from clipmem_core.auditing.folder.prepare import write_audit
from clipmem_core.auditing.folder.store import (
    CAPTION_TABLE,
    INCIDENT_PAIRS,
    INCIDENTS,
    SENTENCE_TABLE,
    WORD_TABLE,
    Audit,
    acquire_lock,
    read_array,
    read_embeddings,
    read_table,
)
from clipmem_core.auditing.run.console import RichScreen
from clipmem_core.auditing.run.executor import in_this_process
from clipmem_core.auditing.run.member import Shared, open_shared
from clipmem_core.auditing.run.pipeline import Run, ensure_features, ensure_pixels, finish_audit
from clipmem_core.auditing.run.word_models import caption_words, predict_words, read_words
from clipmem_core.auditing.tables.fault_tables import NUMBER
from clipmem_core.config import FIELDS, AuditConfig, as_dict, switched_on
from clipmem_core.dataset.injected_errors import (
    ERROR_KINDS,
    WORD_KINDS,
    ChangedCaption,
    Displaced,
    draw_displaced,
    inject_errors,
    picture_sources,
)
from clipmem_core.dataset.sentences import places_of
from clipmem_core.errors.misfit import LOG_PROBABILITY, misfit, nan_mean
from clipmem_core.errors.posterior import Posterior, Remaining, plan_review
from clipmem_core.errors.words import WORD_PATTERN, mean_ratio
from clipmem_core.lab import experiment as e
from clipmem_core.lab.experiment import Benchmark, Request, oriented, run_tasks
from clipmem_core.scores.membership import side_means
from clipmem_core.scores.metrics import METRICS, detection_table, numbers_reviewed, precision_curve
from clipmem_core.training.names import TRAJECTORY
from clipmem_core.training.word_model import Predictions
from clipmem_core.training.word_scores import surprises
from clipmem_core.utils import columns as c
from clipmem_core.utils import draws
from clipmem_core.utils.embeddings import nearest_rows, unit
from clipmem_core.utils.io import InputError
from clipmem_core.utils.ragged import Ragged

PIPELINE = "pipeline"  # the kind of error that incidents are measured on
MIXED = "mixed"  # the kind of error that BLIND is measured on
BLIND = "blind"  # words predicted without the picture
REVIEWED = (100, 500, 1_000)  # pairs after which the wrong captions found are counted
# Decisions after which the number that remains is compared with the truth
STOPS = (1, 6, 20, 60, 120, 250, 500)
LEMON_NEIGHBOURS = 30  # its authors' untuned number
_CHUNK = 1_024  # pairs
# probabilities are clipped this far from 0 and 1: float16 rounds those of a trajectory to them
_SURE = 1e-6
_FOLDS = 5  # of the classifier of labels
_MOST_LABELLED = 20_000  # pairs that it is fitted on
Measures = dict[Any, dict[Any, Any]]  # of each detector


class Injection(NamedTuple):
    """A kind of error, its share of the pairs, and the seed of split, errors and members."""

    kind: str
    share: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.kind}-{np.format_float_positional(self.share)}-{self.seed}"

    @classmethod
    def of(cls, name: str) -> "Injection":
        kind, share, seed = name.rsplit("-", 2)
        return cls(kind, float(share), int(seed))


def run_benchmark(
    request: Request,
    *,
    injections: int,
    kinds: Sequence[str] = (),
    shares: Sequence[float] = (),
) -> Benchmark:
    """Run a benchmark, or continue it: a number of injections of each kind of error and share of
    the scored pairs; by default of all kinds at their usual shares.

    The first injection has the config's seed.
    """
    benchmark = Benchmark.of(request.name)
    config = request.config
    screen = request.screen
    _check_request(injections, kinds, shares, config)
    config = settings.resolve(replace(config, threads=config.threads or 1))
    request = replace(request, config=config)
    with acquire_lock(benchmark.folder, what=benchmark.KIND):
        request.begin(benchmark, request.load(benchmark))
        requested = [
            Injection(kind, share, seed)
            for seed in range(config.seed, config.seed + injections)
            for kind in kinds or ERROR_KINDS
            for share in (len(ERROR_KINDS[kind].shares) > 1 and shares) or ERROR_KINDS[kind].shares
        ]
        pending = [each.name for each in requested if not benchmark.rows_file(each.name).is_file()]
        if pending:
            screen.say(f"{len(pending)} injections of {config.members} members to run")
            ensure_pixels(benchmark, screen)
            ensure_features(benchmark, screen)
            run = Run(benchmark, screen, executor=request.executor)
            audits = benchmark.audit(pending[0]).folder.parent
            events = run_tasks(
                run, run_injections, audits, [[name] for name in pending], "injection"
            )
            for finished, _ in enumerate(filter(None, events), start=1):
                screen.say(f"{finished} of {len(pending)} injections finished")
            shutil.rmtree(audits)
    return benchmark


def _check_request(
    injections: int, kinds: Sequence[str], shares: Sequence[float], config: AuditConfig
) -> None:
    if unknown := [kind for kind in kinds if kind not in ERROR_KINDS]:
        raise InputError(
            f"kind {unknown[0]!r} of error is unknown: choose from {', '.join(ERROR_KINDS)}"
        )
    if injections < 1:
        raise InputError(f"--injections must be at least 1, not {injections}: intervals need 3")
    if wrong := [share for share in shares if not 0 < share < 1]:
        raise InputError(f"--shares must be above 0 and below 1, not {wrong[0]:g}")
    fields = ["features", "inject_miscaptions", *switched_on(as_dict(config))]
    refused = [FIELDS[name].flag for name in fields if getattr(config, name)]
    if config.protocol == "paper":
        refused.append("--protocol paper")
    if refused:
        raise InputError(f"a benchmark cannot have {', '.join(refused)}")


def run_injections(folder: Path, names: Sequence[str]) -> None:
    """Audit the data set of a benchmark with the errors of injections, and add the rows of each
    detector, or the reason if too few pairs are suitable. The work of a task."""
    benchmark = Benchmark(folder)
    data_set = benchmark.data_set
    for name in names:
        injection = Injection.of(name)
        config = replace(benchmark.record.config, seed=injection.seed)
        membership = prepare.draw_membership(data_set.groups, config)
        # Only scored pairs without an earlier injected error
        is_free = data_set.pairs[c.INJECTED].isna().to_numpy()
        rows = np.flatnonzero((membership.group == c.SCORED) & is_free)
        try:
            pairs, changes = inject_errors(
                injection.kind, data_set.pairs, rows, share=injection.share, seed=injection.seed
            )
        except InputError as error:
            absent = injection._asdict() | {e.ABSENT: str(error)}
            benchmark.add_rows(name, pd.DataFrame([absent]))
            continue
        audit = benchmark.audit(name)
        if not audit.begun:  # else a kill interrupted it
            # A copy shares near-duplicates and members with its original.
            source = picture_sources(data_set.pairs, pairs)
            membership = replace(membership, trained=membership.trained[:, source])
            injected = replace(
                data_set,
                raw=replace(data_set.raw, pairs=pairs),
                pairs=pairs,
                clusters=data_set.clusters[source],
                pixels=replace(data_set.pixels, rows=data_set.pixels.rows[source]),
            )
            write_audit(audit, benchmark.record.source, config, injected, pairs, membership)
        finish_audit(Run(audit, RichScreen(), executor=in_this_process))
        measured = measure_injection(open_shared(audit.folder), rows, injection, changes)
        benchmark.add_rows(name, measured.assign(**injection._asdict()))
        shutil.rmtree(audit.folder)


def measure_injection(
    shared: Shared, rows: np.ndarray, injection: Injection, changes: Sequence[ChangedCaption]
) -> pd.DataFrame:
    """Return how well each detector finds the errors of an injection among the scored pairs `rows`:
    a row for each detector."""
    n = len(rows)
    scores = _pair_scores(shared).iloc[rows]
    truth = shared.pairs[c.INJECTED].notna().to_numpy()[rows]
    numbers = numbers_reviewed(n)
    measured = _rankings(scores, truth)
    for name, values in scores.items():
        curve = precision_curve(values.to_numpy(), truth, numbers)
        measured[name] |= {"number": numbers.tolist(), "precision": curve.round(4).tolist()}
    if changes:
        changed = pd.DataFrame(changes)
        wrong = np.bincount(changed["row"], minlength=len(shared.pairs))[rows]
        for name, number in itertools.product(scores, REVIEWED):
            if number <= n:
                (share,) = precision_curve(scores[name].to_numpy(), wrong, np.array([number]))
                measured[name][f"found_{number}"] = float(number * share)
        changed = _changed_texts(shared, changed)
        of_captions = _measure_captions(shared, rows, changed, injection.kind == MIXED)
        for name, metrics in of_captions.items():
            measured.setdefault(name, {}).update(metrics)
    scored = shared.audit.scores.iloc[rows]
    if np.isfinite(scored[c.P_WRONG]).all():
        measured[c.SUSPICION] |= _replay_review(scored, truth)
    if injection.kind == PIPELINE:
        planted = draw_displaced(len(shared.pairs), round(injection.share * n), injection.seed)
        measured[c.SUSPICION] |= _measure_incidents(shared.audit, planted)
    table = pd.DataFrame(list(measured.values()))
    return table.assign(**{e.DETECTOR: list(measured)})


def _rankings(scores: pd.DataFrame, truth: np.ndarray) -> Measures:
    """Return how well each score ranks errors first."""
    values = {str(name): column.to_numpy(float) for name, column in scores.items()}
    return detection_table(values, truth, n_boot=1).set_index("score")[METRICS].to_dict("index")


def _changed_texts(shared: Shared, changed: pd.DataFrame) -> pd.DataFrame:
    """Return the changed captions, or their changed sentences, by the number among all."""
    captions = shared.pairs[c.CAPTIONS]
    if not shared.record.sentences:
        first = Ragged.of_lists(captions).first
        return changed.set_index(first[changed["row"]] + changed[c.CAPTION])
    texts = places_of(captions).rename_axis("text").reset_index()
    texts["row"] = shared.data.captions.owner
    counts = shared.pairs[c.SENTENCES].explode().str.count(WORD_PATTERN.pattern).to_numpy()
    texts["end"] = texts.assign(end=counts).groupby(["row", c.CAPTION])["end"].cumsum()  # of words
    texts["begin"] = texts["end"] - counts
    both = changed.merge(texts, on=["row", c.CAPTION], suffixes=("", "_of_text"))
    chosen = (both["position"] < 0) & (both[c.SENTENCE] < 0)  # the whole caption was changed
    chosen |= both[c.SENTENCE] == both[f"{c.SENTENCE}_of_text"]
    chosen |= both["position"].between(both["begin"], both["end"] - 1)
    both["position"] -= both["begin"]
    return both[chosen].set_index("text")


def _measure_incidents(audit: Audit, planted: Sequence[Displaced]) -> dict[str, float]:
    """Return the share of planted runs whose kind is named, the shares of their pairs that are
    repaired and of repairs that are wrong, and the number of incidents that were not planted."""
    incidents = read_table(audit.folder / INCIDENTS).set_index(NUMBER)
    incidents = incidents[incidents["repairs"] > 0]  # a set may have faults of other kinds
    pairs = read_table(audit.folder / INCIDENT_PAIRS).join(incidents["kind"], NUMBER, how="inner")
    source = np.arange(audit.record.pairs)  # whose captions each pair has
    for run in planted:
        source[run.rows] = run.sources
    displaced = source != np.arange(len(source))
    named = [
        (pairs["row"].isin(run.rows) & (pairs["kind"] == run.kind)).sum() >= len(run.rows) / 2
        for run in planted
    ]
    repairs = pairs[pairs["from_row"] >= 0]
    right = source[repairs["from_row"]] == repairs["row"]
    # the captions of the others are lost
    repairable = np.isin(np.flatnonzero(displaced), source).sum()
    is_planted = pd.Series(displaced)[pairs["row"]].groupby(pairs[NUMBER].to_numpy()).any()
    return {
        "incidents_named": float(np.mean(named)),
        "incidents_repaired": float((right & displaced[repairs["row"]]).sum() / max(repairable, 1)),
        "incidents_wrongly": float((~right).mean()) if len(repairs) else 0.0,
        "incidents_false": float((~is_planted).sum()),
    }


def _replay_review(scores: pd.DataFrame, truth: np.ndarray) -> dict[str, float]:
    """Return the share of stops of a review at which the interval holds the number of wrong
    captions that remain, and how far slips at its beginning move the estimate."""
    posterior = Posterior.of(scores[c.P_WRONG].to_numpy(float))
    order = plan_review(scores[c.SUSPICION].to_numpy(float)).order

    def review(n: int, wrong: np.ndarray) -> Remaining:
        decided = np.isin(np.arange(len(truth)), order[:n])
        return posterior.remaining(decided & ~wrong, decided & wrong, ~decided)

    covered = []
    for n in (stop for stop in STOPS if stop < len(order)):
        remaining = review(n, truth)
        covered.append(round(remaining.low) <= truth[order[n:]].sum() <= round(remaining.high))
    before = posterior.before_review().estimate
    one, six = (abs(review(n, np.zeros_like(truth)).estimate / before - 1) for n in (1, 6))
    shares = {"review_covered": float(np.mean(covered))}
    return shares | {"review_one_slip": one, "review_six_slips": six}


def _pair_scores(shared: Shared) -> pd.DataFrame:
    """Return the detectors of pairs, larger more suspicious, a column each."""
    table = shared.audit.scores
    scores = oriented(table)
    first = table[c.LOG_PROBABILITY_OUT]
    if shared.config.rounds != "1":
        scores[e.MISFIT_SECOND] = scores[c.MISFIT]
        scores[c.LOG_PROBABILITY_SECOND] = -table[c.LOG_PROBABILITY_SECOND].fillna(first)
    scores[c.MISFIT] = misfit(table[c.LEARNED].to_numpy(), first.to_numpy())
    # A person decides on incidents first, which are last in `suspicion`
    by_caption = read_table(shared.audit.folder / CAPTION_TABLE).groupby(c.PAIR_ID)[c.P_WRONG]
    worst = by_caption.max().reindex(table[c.PAIR_ID]).to_numpy()
    scores[c.SUSPICION] = worst if np.isfinite(worst).any() else table[c.SUSPICION]
    seed = shared.config.seed
    scores[e.RANDOM_DETECTOR] = draws.rng(seed, "random detector").random(len(table))
    folders = [shared.audit.member(name) for name in shared.record.members]
    margins = (margin_over_epochs(read_array(folder / TRAJECTORY)) for folder in folders)
    scores[e.MARGIN] = -nan_mean(margins)
    members = [[vectors[:] for vectors in read_embeddings(folder)] for folder in folders]
    text = shared.features.text
    if text is not None:
        text = shared.data.captions.mean(np.asarray(text, np.float32))
    # Neighbours by the features of a locked tower, else by the embeddings of each member
    locked = [
        None if features is None else nearest(features, LEMON_NEIGHBOURS)
        for features in (shared.features.image, text)
    ]
    by_member = []
    for member in members:
        neighbours = [
            nearest(vectors, LEMON_NEIGHBOURS) if rows is None else rows
            for rows, vectors in zip(locked, member, strict=True)
        ]
        by_member.append(lemon(*member, *neighbours))
    trained = prepare.membership_of(shared.membership).trained
    scores[e.LEMON_IN], scores[e.LEMON_OUT] = side_means(by_member, trained)
    # Members' spaces cannot be averaged: without features of a locked tower, those of the first
    # member are used.
    captions = members[0][1] if text is None else text
    labels = shared.pairs[c.LABEL].to_numpy(dtype=object)
    with suppress(ValueError):  # too few labels
        scores[e.CONFIDENT_LEARNING] = confident_learning(captions, labels, seed=seed)
    return scores[[name for name in e.DETECTORS if name in scores]]


def _measure_captions(
    shared: Shared, rows: np.ndarray, changed: pd.DataFrame, is_blind: bool
) -> Measures:
    """Return how well detectors find single captions, or their sentences, and words of the scored
    pairs `rows`, all of them and those of a kind of word; `changed` as of `_changed_texts`."""
    audit = shared.audit
    pair = shared.data.captions.owner
    name = SENTENCE_TABLE if shared.record.sentences else CAPTION_TABLE
    captions = read_table(audit.folder / name)
    words = read_words(audit)
    in_captions = Ragged.of(np.bincount(words[c.CAPTION_ROW], minlength=len(captions)))
    scores = {
        c.P_WRONG: captions[c.P_WRONG],
        c.SURPRISE: mean_ratio(words[c.SURPRISE].to_numpy(), in_captions),
    }
    if is_blind and len(words):
        scores[BLIND] = _blind_surprise(shared)
    scores |= {c.MARGIN_OUT: -captions[c.MARGIN_OUT], c.AGREEMENT: -captions[c.AGREEMENT]}
    scores[c.MISFIT] = audit.scores[c.MISFIT].to_numpy()[pair]
    table = pd.DataFrame(scores).dropna(axis=1, how="all")
    table = table.fillna(table.min())[np.isin(pair, rows)]
    # Of the word that was changed, empty for a whole caption, NaN where nothing was changed
    kind = changed["word_kind"].reindex(table.index)
    measured: Measures = {str(name): {} for name in table}
    kinds = {"": kind.notna()} | {f"_{name}": kind == name for name in WORD_KINDS}
    for suffix, is_wrong in kinds.items():
        among = is_wrong | kind.isna()
        if is_wrong.any():
            for name, metrics in _rankings(table[among], is_wrong[among].to_numpy()).items():
                for metric, value in metrics.items():
                    measured[name][f"caption_{metric}{suffix}"] = value
    if c.P_WRONG in table:
        expected = table[c.P_WRONG].sum() / kind.notna().sum()
        measured[c.P_WRONG]["sum_over_wrong"] = float(expected)
    by_word = changed[changed["word_kind"] != ""]
    if len(words) and len(by_word):  # the place of a changed word in its caption by surprise
        words = words.join(audit.read_columns(WORD_TABLE, c.POSITION))
        place = words.groupby(c.CAPTION_ROW)[c.SURPRISE].rank(method="min", ascending=False)
        place.index = pd.MultiIndex.from_frame(words[[c.CAPTION_ROW, c.POSITION]])
        place = place.reindex(pd.MultiIndex.from_arrays([by_word.index, by_word["position"]]))
        for name, last in (("word_first", 1), ("word_first_two", 2)):
            measured[c.SURPRISE][name] = float((place <= last).mean())
    return measured


def _blind_surprise(shared: Shared) -> np.ndarray:
    """Return the surprise of captions by word models that see no picture, [n_captions]."""
    words = caption_words(shared.audit)
    no_pictures = np.zeros((len(shared.pairs), 1), np.float32)
    into = Predictions.empty(len(words.ids))
    for half in (0, 1):
        predict_words(shared, words, no_pictures, half, into)
    return mean_ratio(surprises(words, into)[0][:, 0], words.in_captions)


# --- Detectors of the literature


def margin_over_epochs(trajectory: np.ndarray) -> np.ndarray:
    """Average one member's margin of the true partner over all epochs that have it (area under the
    margin).

    After Pleiss et al. (NeurIPS 2020, equation 1), with an in-batch softmax: the margin is the
    logit of the true partner less the logsumexp (theirs: the largest) of the others' logits, which
    is log p − log(1 − p) of the probability p in the trajectory, the geometric mean of both
    directions.

    Args:
        trajectory: as for `mean_over_epochs`, [n_epochs, n_pairs, 2].

    Returns:
        float64 [n_pairs], in logits, within ±13.9; NaN for pairs the member never trained on.
    """
    probabilities = np.exp(trajectory[:, :, LOG_PROBABILITY].astype(np.float64))
    return nan_mean(scipy.special.logit(np.clip(probabilities, _SURE, 1 - _SURE)))


def lemon(
    image: np.ndarray, text: np.ndarray, image_neighbours: np.ndarray, text_neighbours: np.ndarray
) -> np.ndarray:
    """Score captions by multimodal neighbours (LEMoN, ICML 2025), with its authors' untuned
    setting; larger is worse.

    s = d_mm(x, y) + β · mean over the nearest images x_j of d_txt(y, y_j) e^{−τ₁ d_img(x, x_j)}
    e^{−τ₂ d_mm(x_j, y_j)} + γ · the same over the nearest captions y_j with d_txt and d_img
    exchanged; cosine distances, β = γ = 5, τ₁ = 0.1, τ₂ = 5.

    Args:
        image: image embeddings of any length, [n_pairs, dim].
        text: text embeddings, [n_pairs, dim].
        image_neighbours: rows of each image's nearest images, itself left out, [n_pairs, k].
        text_neighbours: rows of each caption's nearest captions, itself left out, [n_pairs, k].

    Returns:
        float64 [n_pairs].
    """
    image = unit(image)
    text = unit(text)
    distance = 1 - np.einsum("nd,nd->n", image, text)
    score = distance.astype(np.float64)
    for start in range(0, len(image), _CHUNK):
        rows = slice(start, start + _CHUNK)
        for searched, other, near in (
            (image, text, image_neighbours[rows]),
            (text, image, text_neighbours[rows]),
        ):
            distances, others = (
                1 - np.einsum("nd,nkd->nk", v[rows], v[near]) for v in (searched, other)
            )
            fading = np.exp(-0.1 * distances - 5.0 * distance[near])
            score[rows] += 5.0 * (others * fading).mean(axis=1)
    return score


def nearest(vectors: np.ndarray, k: int) -> np.ndarray:
    """Return the rows nearest to each by the cosine of centred vectors, itself left out.

    Args:
        vectors: [n, dim], of any length.
        k: how many, fewer than n.

    Returns:
        int64 [n, k], the nearest first.

    Example:
        >>> nearest(np.array([[0.0, 1.0], [0.1, 1.0], [1.0, -2.0]]), 1).ravel().tolist()
        [1, 0, 1]
    """
    vectors = np.asarray(vectors, np.float32)
    centred = unit(vectors - vectors.mean(axis=0, dtype=np.float32))
    rows = nearest_rows(centred, centred, k + 1)[1]
    itself = rows == np.arange(len(rows))[:, None]
    itself[~itself.any(axis=1), -1] = True  # an equal row is in its place
    return rows[~itself].reshape(len(rows), k)


def confident_learning(features: np.ndarray, labels: np.ndarray, *, seed: int) -> np.ndarray:
    """Score how badly a caption goes with its pair's label, by confident learning; larger is worse.

    Northcutt et al. (JAIR 2021): p(label | caption) out of fold, by logistic regression on the
    captions' features; from each class's probability its mean over the pairs of that class is
    subtracted (their threshold, equation 2); the score is the largest of the other classes' less
    that of the pair's own (minus the normalised margin). A caption swap within a label cannot be
    detected.

    Args:
        features: of the captions, one row a pair, [n_pairs, dim].
        labels: names, None or NaN where a pair has none, [n_pairs].
        seed: of the folds, and of the draw where more than 20,000 pairs have a label.

    Returns:
        float64 [n_pairs], in [−2, 2]; 0 for pairs without a label, or with one of fewer than five
        pairs.
    """
    names = pd.Series(labels)
    rows = np.flatnonzero(names.map(names.value_counts()) >= _FOLDS)
    if names[rows].nunique() < 2:
        raise ValueError(f"fewer than two labels have {_FOLDS} pairs or more")
    if len(rows) > _MOST_LABELLED:
        rows = np.sort(draws.rng(seed, "labelled").choice(rows, _MOST_LABELLED, replace=False))
    classes, _ = pd.factorize(names[rows], sort=True)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=100))
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    chosen = np.asarray(features[rows], dtype=np.float32)
    # of no convergence, and of a class that was drawn down below the number of folds
    with warnings.catch_warnings(action="ignore"):
        probability = cross_val_predict(model, chosen, classes, cv=folds, method="predict_proba")
    score = np.zeros(len(labels))
    score[rows] = _over_thresholds(probability, classes)
    return score


def _over_thresholds(probability: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the largest probability of another class above its threshold, less that of the pair's
    class, [n]."""
    rows = np.arange(len(classes))
    thresholds = np.bincount(classes, weights=probability[rows, classes]) / np.bincount(classes)
    above = probability - thresholds
    observed = above[rows, classes]
    above[rows, classes] = -np.inf
    return above.max(axis=1) - observed
