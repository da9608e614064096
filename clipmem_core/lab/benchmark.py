"""Benchmarks of detectors: audits of a data set with injected errors measure how well each detector
finds wrong pairs, captions and words, whether the faults of a pipeline are named and repaired, and
how many wrong captions a review leaves. The same call resumes.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from clipmem_core.auditing.folder import prepare, settings
from clipmem_core.auditing.folder.store import (
    CAPTION_TABLE,
    INCIDENT_PAIRS,
    INCIDENTS,
    SENTENCE_TABLE,
    Audit,
    acquire_lock,
    read_table,
)
from clipmem_core.auditing.run.console import RichScreen
from clipmem_core.auditing.run.executor import in_this_process
from clipmem_core.auditing.run.member import Shared, open_shared
from clipmem_core.auditing.run.pipeline import Run, ensure_features, ensure_pixels, finish_audit
from clipmem_core.auditing.run.word_models import read_words
from clipmem_core.auditing.tables.fault_tables import NUMBER
from clipmem_core.config import AuditConfig
from clipmem_core.dataset.injected_errors import (
    ERROR_KINDS,
    WORD_KINDS,
    ChangedCaption,
    Displaced,
    draw_displaced,
    inject_errors,
    picture_sources,
)
from clipmem_core.dataset.sentences import sentences_of
from clipmem_core.errors.misfit import misfit
from clipmem_core.errors.posterior import Posterior, Remaining, plan_review
from clipmem_core.errors.words import mean_ratio
from clipmem_core.lab import experiment as e
from clipmem_core.lab.experiment import Benchmark, oriented
from clipmem_core.lab.study import Request, run_tasks
from clipmem_core.scores.metrics import METRICS, precision_curve
from clipmem_core.utils import columns as c
from clipmem_core.utils import draws
from clipmem_core.utils.io import InputError
from clipmem_core.utils.ragged import Ragged

PIPELINE = "pipeline"  # the kind of error that incidents are measured on
REVIEWED = (100, 500, 1_000)  # pairs after which the wrong captions found are counted
# Decisions after which the number that remains is compared with the truth
STOPS = (1, 6, 20, 60, 120, 250, 500)
# probabilities are clipped this far from 0 and 1: float16 rounds those of a trajectory to them
_SURE = 1e-6


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
    request: Request, *, injections: int, kinds: Sequence[str], shares: Sequence[float]
) -> Benchmark:
    """Run a benchmark, or continue it: a number of injections of each kind of error (none: all) and
    share of the scored pairs (none: the usual ones).

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
            ensure_pixels(benchmark, screen)
            ensure_features(benchmark, screen)
            run = Run(benchmark, screen, executor=request.executor)
            audits = benchmark.audit(pending[0]).folder.parent
            events = run_tasks(
                run, run_injections, audits, [[name] for name in pending], "injection"
            )
            for finished, _ in enumerate(filter(None, events), start=1):
                screen.count("injections", finished, len(pending))
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
    impossible = {
        "--features": config.features,
        "--inject-miscaptions": config.inject_miscaptions,
        "--protocol paper": config.protocol == "paper",
    }
    if refused := [flag for flag, is_set in impossible.items() if is_set]:
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
            prepare.write_audit(audit, benchmark.record.source, config, injected, pairs, membership)
        finish_audit(Run(audit, RichScreen(), executor=in_this_process))
        before = data_set.pairs[c.CAPTIONS]
        measured = measure_injection(open_shared(audit.folder), before, rows, injection, changes)
        benchmark.add_rows(name, measured.assign(**injection._asdict()))
        shutil.rmtree(audit.folder)


def measure_injection(
    shared: Shared,
    before: pd.Series,
    rows: np.ndarray,
    injection: Injection,
    changes: Sequence[ChangedCaption],
) -> pd.DataFrame:
    """Return how well each detector finds the errors of an injection among the scored pairs `rows`:
    a row for each detector. `before` are the captions of all pairs without the errors."""
    n = len(rows)
    scores = _pair_scores(shared).iloc[rows]
    truth = shared.pairs[c.INJECTED].notna().to_numpy()[rows]
    measured = e.detected_errors(scores, truth)[[*METRICS, "number", "precision"]]
    if changes:
        wrong = np.bincount([change.row for change in changes], minlength=len(shared.pairs))[rows]
        reviewed = np.array([number for number in REVIEWED if number <= n])
        found = [
            reviewed * precision_curve(values, wrong, reviewed) for values in scores.to_numpy().T
        ]
        measured = measured.join(pd.DataFrame(found, measured.index, reviewed).add_prefix("found_"))
        of_captions = _measure_captions(shared, rows, _changed_texts(shared, before, changes))
        measured = pd.concat([measured, of_captions], axis=1)
    scored = shared.audit.scores.iloc[rows]
    review = dict[str, float]()
    if np.isfinite(scored[c.P_WRONG]).all():
        review |= _replay_review(scored, truth)
    if injection.kind == PIPELINE:
        planted = draw_displaced(len(shared.pairs), round(injection.share * n), injection.seed)
        review |= _measure_incidents(shared.audit, planted)
    measured = measured.join(pd.DataFrame(review, index=[c.SUSPICION]))
    return measured.rename_axis(e.DETECTOR).reset_index()


def _changed_texts(
    shared: Shared, before: pd.Series, changes: Sequence[ChangedCaption]
) -> pd.Series:
    """Return the kind of word that was changed, empty for a whole caption, by the number among all
    captions, or among all sentences."""
    kinds = dict[int, str]()
    for change in changes:
        numbers = [change.caption]
        if shared.record.sentences:
            old = sentences_of(before[change.row])
            new = enumerate(shared.pairs[c.SENTENCES][change.row])
            numbers = [number for number, text in new if text not in old]
        first = shared.data.captions.first[change.row]
        kinds |= {first + number: change.word_kind for number in numbers}
    return pd.Series(kinds)


def _measure_incidents(audit: Audit, planted: Sequence[Displaced]) -> dict[str, float]:
    """Return the share of planted runs whose kind is named, the shares of their pairs that are
    repaired and of repairs that are wrong, and the number of incidents that were not planted."""
    incidents = read_table(audit.folder / INCIDENTS)
    incidents = incidents[incidents["repairs"] > 0]  # a set may have faults of other kinds
    pairs = read_table(audit.folder / INCIDENT_PAIRS).merge(incidents[[NUMBER, "kind"]], on=NUMBER)
    source = np.arange(audit.record.pairs)  # whose captions each pair has
    for run in planted:
        source[run.rows] = run.sources
    displaced = np.flatnonzero(source != np.arange(len(source)))
    pairs["displaced"] = pairs["row"].isin(displaced)
    named = [
        (pairs["row"].isin(run.rows) & (pairs["kind"] == run.kind)).sum() >= len(run.rows) / 2
        for run in planted
    ]
    repairs = pairs[pairs["from_row"] >= 0]
    right = source[repairs["from_row"]] == repairs["row"]
    repairable = np.isin(displaced, source).sum()  # the captions of the others are lost
    return {
        "incidents_named": np.mean(named),
        "incidents_repaired": (right & repairs["displaced"]).sum() / max(repairable, 1),
        "incidents_wrongly": (~right).mean() if len(repairs) else 0.0,
        "incidents_false": (~pairs.groupby(NUMBER)["displaced"].any()).sum(),
    }


def _replay_review(scores: pd.DataFrame, truth: np.ndarray) -> dict[str, float]:
    """Return the share of stops of a review at which the interval holds the number of wrong
    captions that remain, and how far slips at its beginning move the estimate."""
    posterior = Posterior.of(scores[c.P_WRONG].to_numpy(float))
    order = plan_review(scores[c.SUSPICION].to_numpy(float)).order
    place = np.argsort(order)

    def review(n: int, wrong: np.ndarray) -> Remaining:
        """Decide the first n pairs."""
        decided = place < n
        return posterior.remaining(decided & ~wrong, decided & wrong, ~decided)

    covered = []
    for n in (stop for stop in STOPS if stop < len(order)):
        remaining = review(n, truth)
        left = truth[place >= n].sum()
        covered.append(round(remaining.low) <= left <= round(remaining.high))
    before = posterior.before_review().estimate
    one, six = (abs(review(n, np.zeros_like(truth)).estimate / before - 1) for n in (1, 6))
    return {"review_covered": np.mean(covered), "review_one_slip": one, "review_six_slips": six}


def _pair_scores(shared: Shared) -> pd.DataFrame:
    """Return the detectors of pairs, larger more suspicious, a column each."""
    table = shared.audit.scores
    scores = oriented(table)
    first = table[c.FIT_OUT]
    if shared.config.rounds != "1":
        scores[e.MISFIT_SECOND] = scores[c.MISFIT]
        scores[c.FIT_SECOND] = -table[c.FIT_SECOND].fillna(first)
    scores[c.MISFIT] = misfit(table[c.LEARNED].to_numpy(), first.to_numpy())
    # A person decides on incidents first, which are last in `suspicion`
    by_caption = read_table(shared.audit.folder / CAPTION_TABLE).groupby(c.PAIR_ID)[c.P_WRONG]
    worst = by_caption.max().reindex(table[c.PAIR_ID]).to_numpy()
    scores[c.SUSPICION] = worst if np.isfinite(worst).any() else table[c.SUSPICION]
    chance = draws.rng(shared.config.seed, "random detector")
    scores[e.RANDOM_DETECTOR] = chance.random(len(table))
    return scores[[name for name in e.DETECTORS if name in scores]]


def _measure_captions(shared: Shared, rows: np.ndarray, changed: pd.Series) -> pd.DataFrame:
    """Return how well detectors find single captions, or their sentences, and words of the scored
    pairs `rows`, all of them and those of a kind of word: a row for each detector; `changed` as of
    `_changed_texts`."""
    audit = shared.audit
    pair = shared.data.captions.owner
    captions = read_table(
        audit.folder / (SENTENCE_TABLE if shared.record.sentences else CAPTION_TABLE)
    )
    words = read_words(audit)
    in_captions = Ragged.of(np.bincount(words[c.CAPTION_ROW], minlength=len(captions)))
    scores = {
        c.P_WRONG: captions[c.P_WRONG],
        c.SURPRISE: mean_ratio(words[c.SURPRISE].to_numpy(), in_captions),
        c.MARGIN_OUT: -captions[c.MARGIN_OUT],
        c.AGREEMENT: -captions[c.AGREEMENT],
        c.MISFIT: audit.scores[c.MISFIT].to_numpy()[pair],
    }
    table = pd.DataFrame(scores).dropna(axis=1, how="all")
    table = table.fillna(table.min())[np.isin(pair, rows)]
    # Of the word that was changed, empty for a whole caption, NaN where nothing was changed
    kind = changed.reindex(table.index)
    kinds = {"": kind.notna()} | {f"_{name}": kind == name for name in WORD_KINDS}
    tables = [pd.DataFrame(index=table.columns)]
    for suffix, wrong in kinds.items():
        if wrong.any():
            among = wrong | kind.isna()
            metrics = e.detected_errors(table[among], wrong[among].to_numpy())[METRICS]
            tables.append(metrics.add_prefix("caption_").add_suffix(suffix))
    measured = pd.concat(tables, axis=1)
    if c.P_WRONG in table:
        measured.loc[c.P_WRONG, "sum_over_wrong"] = table[c.P_WRONG].sum() / kind.notna().sum()
    return measured


def show_benchmark(benchmark: Benchmark) -> None:
    """Print how well pairs are found, and the skipped kinds with reasons."""
    results = benchmark.rows
    table = e.benchmark_table(results)
    table = table[table[e.MEASURE].isin(METRICS)]
    table = table.assign(text=list(map(e.cell_text, table.to_dict("records"))))
    by = [e.KIND, e.SHARE, "n", e.DETECTOR]
    e.print_table(table.pivot(index=by, columns=e.MEASURE, values="text").reset_index())
    for line in e.absent_kinds(results):
        print(f"skipped: {line}")
    print(
        f"In brackets: {e.OF_INJECTIONS}, each with another split, draw and members. ▲ ▼: above or "
        f"below {e.REFERENCE_DETECTOR}. --out and the page Detectors have all measures."
    )
    print(benchmark.folder)


def write_benchmark_results(benchmark: Benchmark, path: Path, *, command: str) -> None:
    """Write the table of a benchmark as a CSV file."""
    record = benchmark.record
    rows = benchmark.rows
    pairs = benchmark.pairs
    notes = [
        f"each seed: another split and injection, trained by {record.config.members} members",
        f"low, high: {e.OF_INJECTIONS}; over_reference: detector − misfit, paired",
        f"pairs: {len(pairs):,} with {pairs[c.CAPTIONS].map(len).sum():,} captions; data set: "
        f"{record.dataset_fingerprint}",
        f"skipped: {'; '.join(e.absent_kinds(rows)) or 'no kind'}",
    ]
    e.write_results(path, command, record, rows, e.benchmark_table(rows), notes)
