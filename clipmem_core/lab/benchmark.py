"""Measures how well detectors find the errors of an injection: wrong pairs, captions and words, the
faults of a pipeline, and how many wrong captions a review leaves."""

import itertools
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core.auditing.folder.prepare import membership_of
from clipmem_core.auditing.folder.store import (
    CAPTION_TABLE,
    INCIDENT_PAIRS,
    INCIDENTS,
    SENTENCE_TABLE,
    WORD_TABLE,
    Audit,
    read_array,
    read_embeddings,
    read_table,
)
from clipmem_core.auditing.run.member import Shared
from clipmem_core.auditing.run.word_table import caption_words, predict_words, read_words
from clipmem_core.auditing.tables.fault_tables import NUMBER
from clipmem_core.dataset.injected_errors import (
    WORD_KINDS,
    ChangedCaption,
    Displaced,
    draw_displaced,
)
from clipmem_core.dataset.sentences import places_of
from clipmem_core.errors.misfit import misfit, nan_mean
from clipmem_core.errors.posterior import Posterior, Remaining, plan_review
from clipmem_core.errors.words import WORD_PATTERN, mean_ratio
from clipmem_core.lab import baselines as b
from clipmem_core.lab.benchmark_results import Injection, oriented
from clipmem_core.scores.membership import side_means
from clipmem_core.scores.metrics import (
    METRICS,
    detection_table,
    numbers_reviewed,
    precision_curve,
)
from clipmem_core.training.names import TRAJECTORY
from clipmem_core.training.word_model import Predictions
from clipmem_core.training.word_scores import surprises
from clipmem_core.utils import columns as c
from clipmem_core.utils import draws
from clipmem_core.utils.ragged import Ragged

PIPELINE = "pipeline"  # the kind of error that incidents are measured on
MIXED = "mixed"  # the kind of error that BLIND is measured on
BLIND = "blind"  # words predicted without the picture
REVIEWED = (100, 500, 1_000)  # pairs after which the wrong captions found are counted
# Decisions after which the number that remains is compared with the truth
STOPS = (1, 6, 20, 60, 120, 250, 500)
Measures = dict[Any, dict[Any, Any]]  # of each detector


def measure_injection(
    shared: Shared, rows: np.ndarray, injection: Injection, changes: Sequence[ChangedCaption]
) -> dict[str, Any]:
    """Return the result of an injection: how well each detector finds the errors among the scored
    pairs `rows`."""
    n = len(rows)
    scores = _pair_scores(shared).iloc[rows]
    truth = shared.pairs[c.INJECTED].notna().to_numpy()[rows]
    numbers = numbers_reviewed(n)
    measured = _rankings(scores, truth)
    for name, values in scores.items():
        curve = precision_curve(values.to_numpy(), truth, numbers)
        measured[name]["curve"] = curve.round(4).tolist()
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
    return {"judged": n, "absent": "", "numbers": numbers.tolist(), "detectors": measured}


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
        scores[b.MISFIT_SECOND] = scores[c.MISFIT]
        scores[c.LOG_PROBABILITY_SECOND] = -table[c.LOG_PROBABILITY_SECOND].fillna(first)
    scores[c.MISFIT] = misfit(table[c.LEARNED].to_numpy(), first.to_numpy())
    # A person decides on incidents first, which are last in `suspicion`
    by_caption = read_table(shared.audit.folder / CAPTION_TABLE).groupby(c.PAIR_ID)[c.P_WRONG]
    worst = by_caption.max().reindex(table[c.PAIR_ID]).to_numpy()
    scores[c.SUSPICION] = worst if np.isfinite(worst).any() else table[c.SUSPICION]
    seed = shared.config.seed
    scores[b.RANDOM_DETECTOR] = draws.rng(seed, "random detector").random(len(table))
    folders = [shared.audit.member(name) for name in shared.record.members]
    margins = (b.margin_over_epochs(read_array(folder / TRAJECTORY)) for folder in folders)
    scores[b.MARGIN] = -nan_mean(margins)
    members = [[vectors[:] for vectors in read_embeddings(folder)] for folder in folders]
    text = shared.features.text
    if text is not None:
        text = shared.data.captions.mean(np.asarray(text, np.float32))
    # Neighbours by the features of a locked tower, else by the embeddings of each member
    locked = [
        None if features is None else b.nearest(features, b.LEMON_NEIGHBOURS)
        for features in (shared.features.image, text)
    ]
    by_member = []
    for member in members:
        neighbours = [
            b.nearest(vectors, b.LEMON_NEIGHBOURS) if rows is None else rows
            for rows, vectors in zip(locked, member, strict=True)
        ]
        by_member.append(b.lemon(*member, *neighbours))
    trained = membership_of(shared.membership).trained
    scores[b.LEMON_IN], scores[b.LEMON_OUT] = side_means(by_member, trained)
    # Members' spaces cannot be averaged: without features of a locked tower, those of the first
    # member are used.
    captions = members[0][1] if text is None else text
    labels = shared.pairs[c.LABEL].to_numpy(dtype=object)
    with suppress(ValueError):  # too few labels
        scores[b.CONFIDENT_LEARNING] = b.confident_learning(captions, labels, seed=seed)
    return scores[[name for name in b.DETECTORS if name in scores]]


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
    if c.P_WRONG in table:  # Σ p_wrong over the number of errors; its mean and truth by tenths
        frame = pd.DataFrame({"p": table[c.P_WRONG], "wrong": kind.notna()})
        groups = frame.groupby(np.minimum(frame["p"] * 10, 9).astype(int))
        tenths = groups.agg(n=("p", "size"), p=("p", "mean"), wrong=("wrong", "mean"))
        measured[c.P_WRONG] |= {
            "sum_over_wrong": float(frame["p"].sum() / frame["wrong"].sum()),
            "tenths": tenths.round(4).to_numpy().tolist(),
        }
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
