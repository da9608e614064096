"""Run a benchmark of detectors on a data set: prepare it, and run the injections without a result.

An injection is an audit of pairs with injected errors, which is deleted once each detector is
measured.
"""

import functools
import shutil
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, roc_auc_score

from clipmem_core import columns as c
from clipmem_core import draws
from clipmem_core.audit import settings
from clipmem_core.audit.console import RichScreen
from clipmem_core.audit.executor import Executor, Task, in_this_process, local_processes
from clipmem_core.audit.fault_tables import NUMBER
from clipmem_core.audit.member import Shared, open_shared
from clipmem_core.audit.pipeline import (
    Run,
    Screen,
    ensure_features,
    ensure_pixels,
    finish_audit,
)
from clipmem_core.audit.prepare import (
    DataSet,
    draw_membership,
    load_data_set,
    membership_of,
    pixels_folder,
)
from clipmem_core.audit.setup import write_audit
from clipmem_core.audit.store import (
    CAPTION_TABLE,
    INCIDENT_PAIRS,
    INCIDENTS,
    SENTENCE_TABLE,
    WORD_TABLE,
    Audit,
    acquire_lock,
    read_array,
    read_embeddings,
    read_prepared,
    read_table,
    write_json,
)
from clipmem_core.audit.word_table import caption_words, predict_words, read_words, surprises
from clipmem_core.config import AuditConfig, as_dict, switched_on
from clipmem_core.dataset.injected_errors import (
    ERROR_KINDS,
    WORD_KINDS,
    ChangedCaption,
    Displaced,
    draw_displaced,
    inject_errors,
    picture_sources,
)
from clipmem_core.dataset.pixel_cache import Pixels
from clipmem_core.dataset.sentences import places_of
from clipmem_core.dataset.source import RawPairs
from clipmem_core.io import InputError
from clipmem_core.lab.baselines import (
    CONFIDENT_LEARNING,
    DETECTORS,
    LEMON_IN,
    LEMON_NEIGHBOURS,
    LEMON_OUT,
    MARGIN,
    MISFIT_SECOND,
    RANDOM_DETECTOR,
    confident_learning,
    lemon,
    margin_over_epochs,
    nearest,
)
from clipmem_core.lab.benchmark_results import Benchmark, Injection
from clipmem_core.lab.study_results import check_same
from clipmem_core.ragged import Ragged
from clipmem_core.scores.detectors import misfit, nan_mean
from clipmem_core.scores.evidence import EXPLAINED
from clipmem_core.scores.membership import side_means
from clipmem_core.scores.metrics import (
    AVERAGE_PRECISION,
    METRICS,
    ROC_AUC,
    detection_table,
    numbers_reviewed,
    precision_curve,
)
from clipmem_core.scores.registry import DETECTION_SCORES
from clipmem_core.scores.remaining import Posterior, Remaining, plan_review
from clipmem_core.scores.words import WORD_PATTERN, mean_ratio
from clipmem_core.training.names import TRAJECTORY
from clipmem_core.training.word_model import Predictions

PIPELINE = "pipeline"  # the kind of error that incidents are measured on
MIXED = "mixed"  # the kind of error that BLIND is measured on
BLIND = "blind"  # words predicted without the picture
REVIEWED = (100, 500, 1_000)  # pairs after which the wrong captions found are counted
# Decisions after which the number that remains is compared with the truth
STOPS = (1, 6, 20, 60, 120, 250, 500)


def run_benchmark(
    source: str,
    config: AuditConfig,
    *,
    name: str,
    injections: int,
    kinds: Sequence[str] = (),
    shares: Sequence[float] = (),
    screen: Screen,
    executor: Executor | None = None,
) -> Benchmark:
    """Run a benchmark, or continue it: a number of injections of each kind of error and share of
    the scored pairs.

    The first injection has the config's seed. By default all `kinds` and `shares` run, in processes
    of this machine.
    """
    benchmark = Benchmark.of(name)
    _check_request(injections, kinds, shares, config)
    config = settings.resolve(replace(config, threads=config.threads or 1))
    with acquire_lock(benchmark.folder, what="benchmark"):
        if benchmark.begun:
            check_same(benchmark, vars(benchmark.record), source, config)
            screen.say(f"resuming benchmark {name!r}")
        else:
            screen.say(f"reading {source}")
            data_set = load_data_set(source, config, progress=screen.pictures, say=screen.say)
            membership = draw_membership(data_set.groups, config)
            write_audit(benchmark, source, config, data_set, data_set.pairs, membership)
        requested = []
        for seed in range(config.seed, config.seed + injections):
            for kind in kinds or ERROR_KINDS:
                usual = ERROR_KINDS[kind].shares
                chosen = shares if shares and len(usual) > 1 else usual
                requested += [Injection(kind, share, seed) for share in chosen]
        pending = [each for each in requested if not benchmark.result_file(each).is_file()]
        if pending:
            _run_pending(benchmark, pending, screen, executor)
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
    refused = {
        "--protocol paper": config.protocol == "paper",
        "--features": config.features,
        "--inject-miscaptions": config.inject_miscaptions,
        **dict.fromkeys(switched_on(as_dict(config)), True),
    }
    if flags := [flag for flag, is_set in refused.items() if is_set]:
        raise InputError(f"a benchmark cannot have {', '.join(flags)}")


def _run_pending(
    benchmark: Benchmark,
    pending: Sequence[Injection],
    screen: Screen,
    executor: Executor | None,
) -> None:
    """Run injections as tasks of an executor."""
    config = benchmark.record.config
    ensure_pixels(benchmark, screen)
    ensure_features(benchmark, screen)
    screen.say(f"{len(pending)} injections of {config.members} members to run")
    tasks = []
    for injection in pending:
        folder = benchmark.injected_audit(injection).folder
        folder.mkdir(parents=True, exist_ok=True)  # for the error output of its task
        names = (injection.name,)
        tasks.append(
            Task((folder,), run_injections, benchmark.folder, names, config.threads, "injection")
        )
    run = executor or functools.partial(local_processes, at_once=settings.side_by_side(config))
    with closing(run(tasks)) as events:
        for finished, _ in enumerate(filter(None, events), start=1):
            screen.say(f"{finished} of {len(tasks)} injections finished")
    shutil.rmtree(benchmark.injected_audit(pending[0]).folder.parent)


def run_injections(folder: Path, names: Sequence[str]) -> None:
    """Run injections one after the other. The work of a task."""
    for name in names:
        _run_injection(Benchmark(folder), Injection.of(name))


def _run_injection(benchmark: Benchmark, injection: Injection) -> None:
    """Audit the data set with the errors of an injection and measure detectors; write the result,
    or the reason if too few pairs are suitable."""
    result_file = benchmark.result_file(injection)
    record = benchmark.record
    config = replace(record.config, seed=injection.seed)
    prepared = read_prepared(benchmark.folder)
    membership = draw_membership(prepared.groups, config)
    original = benchmark.pairs
    # Only scored pairs without an earlier injected error
    rows = np.flatnonzero((membership.group == c.SCORED) & original[c.INJECTED].isna().to_numpy())
    try:
        pairs, changes = inject_errors(
            injection.kind, original, rows, share=injection.share, seed=injection.seed
        )
    except InputError as error:
        write_json(result_file, injection._asdict() | {"absent": str(error)})
        return
    audit = benchmark.injected_audit(injection)
    if not audit.begun:  # else a kill interrupted it
        # A copy shares near-duplicates and members with its original.
        source = picture_sources(original, pairs)
        membership = replace(membership, trained=membership.trained[:, source])
        pixels = Pixels(pixels_folder(benchmark), prepared.cache_rows[source], config.cache_size)
        nothing = pd.DataFrame()
        raw = RawPairs(record.pictures, record.format, len(pairs), pairs, nothing)
        data_set = DataSet(raw, pairs, nothing, prepared.clusters[source], pixels)
        write_audit(audit, record.source, config, data_set, pairs, membership)
    finish_audit(Run(audit, RichScreen(), executor=in_this_process))
    shared = open_shared(audit.folder)
    result = _measure(shared, rows, changes, blind=injection.kind == MIXED)
    if injection.kind == PIPELINE:
        n = round(injection.share * len(rows))
        planted = draw_displaced(len(pairs), n, injection.seed)
        result["detectors"][c.SUSPICION] |= _measure_incidents(audit, planted)
    write_json(result_file, injection._asdict() | result)
    shutil.rmtree(audit.folder)


def _measure(
    shared: Shared, rows: np.ndarray, changes: Sequence[ChangedCaption], *, blind: bool
) -> dict[str, Any]:
    """Return the result of an injection: how well each detector finds the errors among the scored
    pairs `rows`."""
    pair_scores = _pair_scores(shared)
    scores = {name: pair_scores[name][rows] for name in DETECTORS if name in pair_scores}
    truth = shared.pairs[c.INJECTED].notna().to_numpy()[rows]
    scored = shared.audit.scores.iloc[rows]
    numbers = numbers_reviewed(len(rows))
    table = detection_table(scores, truth, n_boot=1).set_index("score")
    measured: dict[str, Any] = {}
    for name, values in scores.items():
        curve = precision_curve(values, truth, numbers).round(4).tolist()
        measured[name] = table.loc[name, METRICS].to_dict() | {"curve": curve}
    if changes:
        changed = pd.DataFrame(changes)
        wrong = np.bincount(changed["row"], minlength=len(shared.pairs))[rows]
        reviewed = np.array([n for n in REVIEWED if n <= len(rows)], dtype=int)
        for name, values in scores.items():
            precision = precision_curve(values, wrong, reviewed)
            for n, share in zip(reviewed.tolist(), precision.tolist(), strict=True):
                measured[name][f"found_{n}"] = n * share
        changed = _changed_texts(shared, changed)
        for name, metrics in _measure_captions(shared, rows, changed, blind=blind).items():
            measured[name] = measured.get(name, {}) | metrics
    if np.isfinite(scored[c.P_WRONG]).all():
        measured[c.SUSPICION] |= _replay_review(scored, truth)
    facts = {"judged": len(rows), "absent": "", "numbers": numbers.tolist()}
    return facts | {"detectors": measured}


def _changed_texts(shared: Shared, changed: pd.DataFrame) -> pd.DataFrame:
    """Return the changed captions, or their changed sentences, by the number among all."""
    captions = shared.pairs[c.CAPTIONS]
    if not shared.record.sentences:
        start = Ragged.of_lists(captions).start
        return changed.set_index(start[changed["row"]] + changed["caption"])
    places = places_of(captions)
    start = shared.data.captions.start
    rows = []
    for change in changed.to_dict("records"):
        of_pair = places.iloc[start[change["row"]] : start[change["row"] + 1]]
        of_caption = of_pair[of_pair[c.CAPTION] == change["caption"]]
        if change["sentence"] >= 0:
            of_caption = of_caption[of_caption[c.SENTENCE] == change["sentence"]]
        elif change["position"] >= 0:
            words = [*WORD_PATTERN.finditer(captions[change["row"]][change["caption"]])]
            at = words[change["position"]].start()
            of_caption = of_caption[(of_caption[c.START] <= at) & (at < of_caption[c.END])]
            before = [word for word in words if word.start() < of_caption[c.START].iloc[0]]
            change["position"] -= len(before)
        rows += [change | {"text": text} for text in of_caption.index]
    return pd.DataFrame(rows).set_index("text")


def _measure_incidents(audit: Audit, planted: Sequence[Displaced]) -> dict[str, float]:
    """Return the share of planted runs whose kind is named, the shares of their pairs that are
    repaired and of repairs that are wrong, and the number of incidents that were not planted."""
    incidents = read_table(audit.folder / INCIDENTS)
    pairs = read_table(audit.folder / INCIDENT_PAIRS)
    incidents = incidents[incidents["repairs"] > 0]  # a set may have faults of other kinds
    pairs = pairs[pairs[NUMBER].isin(incidents[NUMBER])]
    source = np.arange(audit.record.pairs)  # whose captions each pair has
    for run in planted:
        source[run.rows] = run.sources
    kinds = pairs[NUMBER].map(incidents.set_index(NUMBER)["kind"])
    named = [
        (pairs["row"].isin(run.rows) & (kinds == run.kind)).sum() >= len(run.rows) / 2
        for run in planted
    ]
    displaced = np.flatnonzero(source != np.arange(len(source)))
    repairs = pairs[pairs["from_row"] >= 0]
    right = source[repairs["from_row"]] == repairs["row"]
    repairable = np.isin(displaced, source).sum()  # the captions of the others are lost
    is_planted = pairs["row"].isin(displaced).groupby(pairs[NUMBER]).any()
    return {
        "incidents_named": float(np.mean(named)),
        "incidents_repaired": float(
            (right & repairs["row"].isin(displaced)).sum() / max(repairable, 1)
        ),
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


def _pair_scores(shared: Shared) -> dict[str, np.ndarray]:
    """Return detectors of pairs, larger more suspicious, [n_pairs] each."""
    table = shared.audit.scores
    seed = shared.config.seed
    scores = {
        name: score.direction * table[name].to_numpy() for name, score in DETECTION_SCORES.items()
    }
    first = table[c.LOG_PROBABILITY_OUT]
    if shared.config.rounds != "1":
        scores[MISFIT_SECOND] = scores[c.MISFIT]
        scores[c.LOG_PROBABILITY_SECOND] = -table[c.LOG_PROBABILITY_SECOND].fillna(first).to_numpy()
    scores[c.MISFIT] = misfit(table[c.LEARNED].to_numpy(), first.to_numpy())
    suspicion = table[c.SUSPICION].to_numpy()
    # A person decides on incidents first
    scores[c.SUSPICION] = np.where(suspicion == EXPLAINED, table[c.P_WRONG], suspicion)
    scores[RANDOM_DETECTOR] = draws.rng(seed, "random detector").random(len(table))
    folders = [shared.audit.member(name) for name in shared.record.members]
    members = [[vectors[:] for vectors in read_embeddings(folder)] for folder in folders]
    text = shared.features.text
    if text is not None:
        text = shared.data.captions.mean(np.asarray(text, np.float32))
    # Neighbours by the features of a locked tower, else by the embeddings of each member
    locked = [
        None if values is None else nearest(values, LEMON_NEIGHBOURS)
        for values in (shared.features.image, text)
    ]
    by_member = []
    for member in members:
        neighbours = [
            nearest(vectors, LEMON_NEIGHBOURS) if rows is None else rows
            for rows, vectors in zip(locked, member, strict=True)
        ]
        by_member.append(lemon(*member, *neighbours))
    trained = membership_of(shared.membership).trained
    scores[LEMON_IN], scores[LEMON_OUT] = side_means(by_member, trained)
    scores[MARGIN] = -nan_mean(
        margin_over_epochs(read_array(folder / TRAJECTORY)) for folder in folders
    )
    # Members' spaces cannot be averaged: without features of a locked tower, those of the first
    # member are used.
    captions = members[0][1] if text is None else text
    labels = shared.pairs[c.LABEL].to_numpy(dtype=object)
    with suppress(ValueError):  # too few labels
        scores[CONFIDENT_LEARNING] = confident_learning(captions, labels, seed=seed)
    return scores


def _measure_captions(
    shared: Shared, rows: np.ndarray, changed: pd.DataFrame, *, blind: bool
) -> dict[str, dict[str, Any]]:
    """Return how well detectors find single captions, or their sentences, and words of the scored
    pairs `rows`; `changed` as of `_changed_texts`."""
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
    if blind and len(words):
        scores[BLIND] = _blind_surprise(shared)
    scores |= {c.MARGIN_OUT: -captions[c.MARGIN_OUT], c.AGREEMENT: -captions[c.AGREEMENT]}
    scores[c.MISFIT] = audit.scores[c.MISFIT].to_numpy()[pair]
    table = pd.DataFrame(scores).dropna(axis=1, how="all")
    table = table.fillna(table.min())[np.isin(pair, rows)]
    measured = _caption_metrics(table, changed["word_kind"].reindex(table.index))
    if c.P_WRONG in table:  # Σ p_wrong over the number of errors; its mean and truth by tenths
        frame = pd.DataFrame({"p": table[c.P_WRONG], "wrong": table.index.isin(changed.index)})
        groups = frame.groupby(np.minimum(frame["p"] * 10, 9).astype(int))
        tenths = groups.agg(n=("p", "size"), p=("p", "mean"), wrong=("wrong", "mean"))
        measured[c.P_WRONG] |= {
            "sum_over_wrong": float(frame["p"].sum() / frame["wrong"].sum()),
            "tenths": tenths.round(4).to_numpy().tolist(),
        }
    by_word = changed[changed["word_kind"] != ""]
    if len(words) and len(by_word):  # the place of a changed word in its caption by surprise
        words = words.join(read_table(audit.folder / WORD_TABLE, columns=[c.POSITION]))
        place = words.groupby(c.CAPTION_ROW)[c.SURPRISE].rank(method="min", ascending=False)
        place.index = pd.MultiIndex.from_frame(words[[c.CAPTION_ROW, c.POSITION]])
        place = place.reindex(pd.MultiIndex.from_arrays([by_word.index, by_word["position"]]))
        for name, last in (("word_first", 1), ("word_first_two", 2)):
            measured[c.SURPRISE][name] = float((place <= last).mean())
    return measured


def _caption_metrics(scores: pd.DataFrame, kind: pd.Series) -> dict[str, dict[str, Any]]:
    """Return how well each score of captions finds those that were changed, all of them and those
    of a kind of word.

    `kind` is of the word that was changed, empty for a whole caption, NaN where nothing was
    changed.
    """
    measured: dict[str, dict[str, Any]] = {str(name): {} for name in scores}
    kinds = {"": kind.notna()} | {f"_{word_kind}": kind == word_kind for word_kind in WORD_KINDS}
    for suffix, changed in kinds.items():
        among = changed | kind.isna()
        for name, metrics in measured.items() if changed.any() else ():
            auroc = roc_auc_score(changed[among], scores.loc[among, name])
            metrics[f"caption_{ROC_AUC}{suffix}"] = float(auroc)
    for name, metrics in measured.items():
        precision = average_precision_score(kind.notna(), scores[name])
        metrics[f"caption_{AVERAGE_PRECISION}"] = float(precision)
    return measured


def _blind_surprise(shared: Shared) -> np.ndarray:
    """Return the surprise of captions by word models that see no picture, [n_captions]."""
    words = caption_words(shared.audit)
    no_pictures = np.zeros((len(shared.pairs), 1), np.float32)
    into = Predictions.empty(len(words.ids))
    for half in (0, 1):
        predict_words(shared, words, no_pictures, half, into)
    return mean_ratio(surprises(words, into)[0][:, 0], words.in_captions)
