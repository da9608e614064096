"""Run a benchmark of detectors on a data set: prepare it, and run the injections without a result.

An injection splits the pairs, injects errors, trains members, and measures each detector.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from clipmem_core import columns as c
from clipmem_core.audit import settings
from clipmem_core.audit.executor import Executor, Task, local_processes, program_of
from clipmem_core.audit.member import (
    EVALUATION,
    Features,
    build_member,
    caption_starts,
    feature_views,
    features_of,
    fit_standards,
    shards_by,
    view_maker,
)
from clipmem_core.audit.pipeline import Screen
from clipmem_core.audit.prepare import draw_membership, load_data_set
from clipmem_core.audit.settings import Towers, towers_of
from clipmem_core.audit.setup import differing_fields, member_seeds
from clipmem_core.audit.store import PAIRS, acquire_lock, write_json, write_prepared, write_table
from clipmem_core.audit.word_table import predicted_words, word_precision, word_scores
from clipmem_core.config import FIELDS, AuditConfig, InputError, affecting, as_dict, data_folder, switched_on
from clipmem_core.dataset.injected_errors import ERROR_KINDS, WORD_KINDS, Change, inject_errors, picture_sources
from clipmem_core.dataset.pixels import open_pixels
from clipmem_core.draws import draw_keys
from clipmem_core.scores.detection import DETECTORS, Observed, detection_table, numbers_reviewed, precision_curve
from clipmem_core.scores.detectors import decoy_scores, external_used, fit_out, margins, nan_mean, similarities
from clipmem_core.scores.evidence import agreement, draw_decoys
from clipmem_core.scores.membership import Membership, Sides, draw_word_halves, side_means
from clipmem_core.scores.prevalence import SECOND_ROUND_FROM
from clipmem_core.scores.words import Words, mean_ratio
from clipmem_core.studies.benchmark_results import BENCHMARK, METRICS, Benchmark, Piece, benchmark_of
from clipmem_core.training.model import mean_by_pair, mean_image_embeddings, text_embeddings, tokenize
from clipmem_core.training.trainer import Trainer
from clipmem_core.training.views import FeatureRows, PixelSource, TrainingData, Views

K = 50  # pairs reviewed for precision at k
MIXED, BLIND = "mixed", "blind"  # blind: words predicted without the picture
REVIEWED = (100, 500, 1_000)  # pairs after which the wrong captions found are counted


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
    """Run a benchmark, or continue it: a number of injections of each kind of error and share of the scored pairs.

    The first injection has the config's seed. By default all `kinds` and `shares` run, in processes of this machine.
    """
    benchmark = benchmark_of(name)
    _check_request(injections, kinds, shares, config)
    config = settings.resolve(dataclasses.replace(config, threads=config.threads or 1))
    with acquire_lock(benchmark.folder, what="benchmark"):
        if benchmark.begun:
            _check_same(benchmark, source, config)
            screen.say(f"resuming benchmark {name!r}")
        else:
            _prepare(benchmark, source, config, screen)
        pending = [
            piece
            for number in range(injections)
            for kind in kinds or ERROR_KINDS
            for share in (shares if shares and len(ERROR_KINDS[kind].shares) > 1 else ERROR_KINDS[kind].shares)
            if not benchmark.result(piece := Piece(kind, share, config.seed + number)).is_file()
        ]
        if pending:
            _run_pieces(benchmark, pending, screen, executor)
    return benchmark


def _check_request(injections: int, kinds: Sequence[str], shares: Sequence[float], config: AuditConfig) -> None:
    if unknown := [kind for kind in kinds if kind not in ERROR_KINDS]:
        raise InputError(f"kind {unknown[0]!r} of error is unknown: choose from {', '.join(ERROR_KINDS)}")
    if injections < 1:
        raise InputError(f"--injections must be at least 1, not {injections}: intervals need 3")
    if wrong := [share for share in shares if not 0 < share < 1]:
        raise InputError(f"--shares must be above 0 and below 1, not {wrong[0]:g}")
    if config.protocol != "ensemble" or config.stable:
        raise InputError("a benchmark needs --protocol ensemble without --stable")
    if config.features:
        raise InputError("a benchmark embeds changed captions: it cannot use --features")
    if config.inject_miscaptions:
        raise InputError("a benchmark injects its own errors: use --kinds and --shares, not --inject-miscaptions")
    if mitigating := switched_on(as_dict(config)):
        raise InputError(f"a benchmark trains members without mitigations: remove {', '.join(mitigating)}")


def _check_same(benchmark: Benchmark, source: str, config: AuditConfig) -> None:
    before = benchmark.request["config"]
    differ = differing_fields(benchmark.request["source"], before, source, config)
    for name in affecting("members"):  # an audit may get more of them, a benchmark not
        then, now = getattr(before, name), getattr(config, name)
        if then != now:
            differ.append(f"{FIELDS[name].flag} is {then} there and {now} here")
    if differ:
        raise InputError(f"benchmark {benchmark.name!r} has another config: {'; '.join(differ)}. Use another --name")


def _prepare(benchmark: Benchmark, source: str, config: AuditConfig, screen: Screen) -> None:
    """Read the data set and store it; benchmark.json is written last."""
    screen.say(f"reading {source}")
    data_set = load_data_set(source, config, progress=screen.pictures, say=screen.say)
    pixels, folder = data_set.pixels, benchmark.folder
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / PAIRS, data_set.pairs)
    stored = pixels.folder.relative_to(data_folder()).as_posix()
    write_prepared(folder, cache_rows=pixels.rows, clusters=data_set.clusters, pixels=stored)
    request = {
        "source": source,
        "root": str(data_set.raw.root.resolve()),
        "config": as_dict(config),
        "dataset_fingerprint": data_set.fingerprint,
        "machine": settings.machine(),
    }
    write_json(folder / BENCHMARK, request)


def _run_pieces(benchmark: Benchmark, pending: Sequence[Piece], screen: Screen, executor: Executor | None) -> None:
    config: AuditConfig = benchmark.request["config"]
    if settings.opens_towers(config):
        screen.say("computing features with the locked towers")
        features_of(
            settings.checked_towers(config),
            benchmark.pairs,
            Path(benchmark.request["root"]),
            compute=shards_by(executor, config.threads),
            pictures=screen.pictures,
            captions=screen.captions,
            say=screen.say,
        )
    at_once = len(pending) if executor else min(len(pending), settings.side_by_side(config))
    screen.say(f"{len(pending)} injections of {config.members} members to run")
    tasks = []
    for first in range(at_once):
        folder = benchmark.folder / f".process-{first}"  # for its error output
        folder.mkdir(parents=True, exist_ok=True)
        program = program_of("clipmem_core.studies.benchmark:run_pieces", benchmark.folder)
        names = tuple(piece.name for piece in pending[first::at_once])
        tasks.append(Task((folder,), program, names, config.threads, "injection"))
    finished, run = 0, executor or functools.partial(local_processes, at_once=at_once)
    with closing(run(tasks)) as polls:
        for _ in polls:
            done = sum(benchmark.result(piece).is_file() for piece in pending)
            if done > finished:
                screen.say(f"{done} of {len(pending)} injections finished")
            finished = done


class Outputs(NamedTuple):
    """The outputs of a trained member."""

    image: np.ndarray  # mean embeddings of pictures, float32 [n_pairs, dim]
    text: np.ndarray  # mean embeddings of captions, float32 [n_pairs, dim]
    trajectory: np.ndarray  # float16 [n_epochs, n_pairs, 2]
    logit_scale: float
    margins: np.ndarray  # of captions and decoys, [n_captions + n_decoys]; NaN where trained


@dataclass(frozen=True, eq=False)
class Inputs:
    """The inputs of the members of an injection."""

    config: AuditConfig
    pairs: pd.DataFrame
    membership: Membership
    towers: Towers
    features: Features
    pixels: PixelSource | None  # if the image tower is trained


def run_pieces(folder: Path, names: Sequence[str]) -> None:
    """Run injections one after the other."""
    for name in names:
        _run_piece(Benchmark(folder), Piece.of(name))


def _run_piece(benchmark: Benchmark, piece: Piece) -> None:
    """Run one injection and write its result, or the reason if its split has too few suitable pairs."""
    config = dataclasses.replace(benchmark.request["config"], seed=piece.seed)
    before = benchmark.pairs
    membership = draw_membership(benchmark.prepared.clusters, config)
    # Only scored pairs without an earlier injected error
    rows = np.flatnonzero((membership.group == c.SCORED) & before[c.INJECTED].isna().to_numpy())
    benchmark.result(piece).parent.mkdir(parents=True, exist_ok=True)
    try:
        pairs, changes = inject_errors(piece.kind, before, rows, share=piece.share, seed=piece.seed)
    except InputError as error:
        counts = {"injected": 0, "judged": 0, "absent": str(error)}
        empty: dict[str, Any] = {"numbers": [], "detectors": {}, "without": {}}
        write_json(benchmark.result(piece), piece._asdict() | counts | empty)
        return
    source = picture_sources(before, pairs)
    # A copy shares the group of its original, as near-duplicates do.
    membership = dataclasses.replace(membership, trained=membership.trained[:, source])
    inputs = _inputs(benchmark, config, pairs, membership, source)
    half = draw_word_halves(membership.group, benchmark.prepared.clusters[source], seed=config.seed)
    options: dict[str, Any] = {"text_tower": inputs.towers.text, "seed": config.seed}
    options["precision"] = word_precision(config)
    words, surprises = word_scores(pairs[c.CAPTIONS].tolist(), inputs.features.image, half, **options)
    of_words = {c.SURPRISE: mean_ratio(surprises[:, 0], words.caption_start)}
    if piece.kind == MIXED and inputs.features.image is not None:
        nothing = np.zeros((len(pairs), 1), np.float32)
        blind = word_scores(pairs[c.CAPTIONS].tolist(), nothing, half, **options)[1]
        of_words[BLIND] = mean_ratio(blind[:, 0], words.caption_start)
    seen = _observe(inputs, predicted_words(words, surprises), benchmark.prepared.clusters[source])
    scores, without = dict[str, np.ndarray](), dict[str, str]()
    for name, detector in DETECTORS.items():
        try:
            scores[name] = detector(seen)[rows]
        except ValueError as error:
            without[name] = str(error)
    truth, numbers = pairs[c.INJECTED].notna().to_numpy()[rows], numbers_reviewed(len(rows))
    table = detection_table(scores, truth, k=K, n_boot=1).set_index("score")
    measured = {
        name: {metric: float(table[metric][name]) for metric in METRICS}
        | {"curve": precision_curve(values, truth, numbers).round(4).tolist()}
        for name, values in scores.items()
    }
    if changes:
        wrong = np.bincount([change.row for change in changes], minlength=len(pairs))[rows]
        for name, n in itertools.product(scores, REVIEWED):
            if n <= len(rows):
                measured[name][f"found_{n}"] = n * float(precision_curve(scores[name], wrong, np.array([n]))[0])
        by_caption = pd.DataFrame(seen.caption_scores(of_words), _caption_index(pairs)).loc[rows]
        for name, metrics in _caption_metrics(by_caption, changes).items():
            measured[name] = measured.get(name, {}) | metrics
        measured[c.P_WRONG] |= _calibration(by_caption[c.P_WRONG], changes)
        if word_changes := [change for change in changes if change.word_kind]:
            measured[c.SURPRISE] |= _word_metrics(words, surprises[:, 0], word_changes)
    result = {
        "injected": int(truth.sum()),
        "judged": len(rows),
        "changed": len(changes),
        "absent": "",
        "numbers": numbers.tolist(),
        "detectors": measured,
        "without": without,
    }
    columns = {name: values.astype(np.float32) for name, values in scores.items()}
    write_table(benchmark.scores(piece), pd.DataFrame({"row": rows, c.INJECTED: truth} | columns))
    write_json(benchmark.result(piece), piece._asdict() | result)


def _caption_metrics(scores: pd.DataFrame, changes: Sequence[Change]) -> dict[str, dict[str, float]]:
    """Return how well each score of captions finds those that were changed, all of them and those of a kind of word.

    `scores` are of the captions of scored pairs, by the row of the pair and the number of the caption.
    """
    kind = pd.Series({change[:2]: change.word_kind for change in changes}).reindex(scores.index)
    measured: dict[str, dict[str, float]] = {str(name): {} for name in scores}
    for suffix in ("", *(f"_{word_kind}" for word_kind in WORD_KINDS)):
        changed = ("_" + kind).eq(suffix) if suffix else kind.notna()
        if changed.any():
            among = (changed | kind.isna()).to_numpy()
            values = {name: scores[name].to_numpy()[among] for name in measured}
            for row in detection_table(values, changed.to_numpy()[among], n_boot=1).to_dict("records"):
                metrics = METRICS[:1] if suffix else METRICS[:2]
                measured[row["score"]] |= {f"caption_{metric}{suffix}": row[metric] for metric in metrics}
    return measured


def _word_metrics(words: Words, surprises: np.ndarray, changes: Sequence[Change]) -> dict[str, float]:
    """Return the share of changed words that are the most surprising of their caption, and among the first two."""
    above: list[float] = []  # words of the caption that are more surprising
    for change in changes:
        number = words.pair_start[change.row] + change.caption
        values = surprises[words.caption_start[number] : words.caption_start[number + 1]]
        changed = values[change.position]
        above.append((values > changed).sum() if np.isfinite(changed) else np.inf)
    return {"word_first": float(np.mean(np.array(above) < 1)), "word_first_two": float(np.mean(np.array(above) < 2))}


def _caption_index(pairs: pd.DataFrame) -> pd.MultiIndex:
    """Return the row of the pair and the number of each caption."""
    counts = pairs[c.CAPTIONS].map(len)
    return pd.MultiIndex.from_tuples([(row, number) for row, n in enumerate(counts) for number in range(n)])


def _calibration(p_wrong: pd.Series, changes: Sequence[Change]) -> dict[str, Any]:
    """Return Σ p_wrong over the number of changed captions, and the mean and the truth of p_wrong in each tenth."""
    changed = p_wrong.index.isin([change[:2] for change in changes])
    tenth = np.minimum(p_wrong.to_numpy() * 10, 9).astype(int)
    groups = pd.DataFrame({"p": p_wrong.to_numpy(), "wrong": changed}).groupby(tenth)
    tenths = [(len(group), group["p"].mean(), group["wrong"].mean()) for _, group in groups]
    return {"sum_over_wrong": float(p_wrong.sum() / changed.sum()), "tenths": np.round(tenths, 4).tolist()}


def _inputs(
    benchmark: Benchmark, config: AuditConfig, pairs: pd.DataFrame, membership: Membership, source: np.ndarray
) -> Inputs:
    towers = towers_of(config) if config.lock_image or config.lock_text else Towers(None, None)
    root, prepared = Path(benchmark.request["root"]), benchmark.prepared
    stored = features_of(towers, pairs, root)
    # In memory, since every member reads them.
    image, text = (None if values is None else np.asarray(values) for values in (stored.image, stored.text))
    pixels = None
    if image is None:
        pixels = open_pixels(
            data_folder() / prepared.pixels,
            rows=prepared.cache_rows,
            root=root,
            images=benchmark.pairs[c.IMAGE].tolist(),
            size=config.cache_size,
            resize_mode=config.resize_mode,
        ).select(source)
    return Inputs(config, pairs, membership, towers, Features(image, text), pixels)


def _observe(inputs: Inputs, words: pd.DataFrame, clusters: np.ndarray) -> Observed:
    """Train the members, and the second round's if there is one, and return their outputs."""
    features, labels, config = inputs.features, inputs.pairs[c.LABEL], inputs.config
    text, start = features.text, caption_starts(inputs.pairs)
    decoys = np.empty((0, 3), np.int64) if text is None else draw_decoys(text, start, clusters, seed=config.seed)
    members = list(_trained_members(inputs, decoys))
    seen = Observed(
        image=[member.image for member in members],
        text=[member.text for member in members],
        trajectories=[member.trajectory for member in members],
        logit_scales=[member.logit_scale for member in members],
        sides=Sides(inputs.membership, config.protocol, config.seed),
        labels=labels.astype(object).where(labels.notna(), None).to_numpy(),
        image_features=features.image,
        text_features=None if text is None else mean_by_pair(text.astype(np.float32), start),
        seed=config.seed,
        counts=np.diff(start),
        words=words,
    )
    if text is not None and len(decoys):
        margin = nan_mean([member.margins for member in members])
        own = np.column_stack([agreement(text, start), margin[: start[-1]]])
        of_decoys = np.column_stack([agreement(text, start, decoys), margin[start[-1] :]])
        seen = dataclasses.replace(seen, captions=own, decoys=of_decoys, similar=decoys[:, 2])
    if config.rounds == "1":
        return seen
    # The log-probability out of members that are trained without likely wrong pairs; NaN if there are none.
    trained, second = seen.trained, np.full(len(inputs.pairs), np.nan)
    excluded = seen.likely_wrong(SECOND_ROUND_FROM[config.rounds])
    if excluded.any():
        fewer = dataclasses.replace(inputs.membership, trained=trained & ~excluded)
        again = _trained_members(dataclasses.replace(inputs, membership=fewer), decoys)
        fits = [
            fit_out([member.image], [member.text], is_trained[None], seen.sides.external, [member.logit_scale])[1]
            for member, is_trained in zip(again, trained, strict=True)
        ]
        second = side_means(fits, trained)[1]
    return dataclasses.replace(seen, second=second)


def _trained_members(inputs: Inputs, decoys: np.ndarray) -> Iterator[Outputs]:
    """Train every member of a split, one after the other, on one thread."""
    torch.set_num_threads(1)
    config, towers, features, membership = inputs.config, inputs.towers, inputs.features, inputs.membership
    options = {"precision": config.precision, "device": config.device}
    captions = [caption for texts in inputs.pairs[c.CAPTIONS] for caption in texts]
    pixels = inputs.pixels if features.image is None else FeatureRows(features.image)
    assert pixels is not None
    data = TrainingData(
        pixels=pixels,
        tokens=tokenize(config.model, captions) if features.text is None else features.text,
        caption_start=caption_starts(inputs.pairs),
        keys=draw_keys(inputs.pairs[c.PAIR_ID].tolist()),
        rows=np.array([], dtype=np.int64),
        external=np.flatnonzero(membership.group == c.EXTERNAL),
    )
    owner = np.repeat(np.arange(len(inputs.pairs)), np.diff(data.caption_start))
    external = external_used(membership.group == c.EXTERNAL)
    seeds = member_seeds(config, membership.members)
    views: dict[int, Views] = {}  # members of one repeat share a seed
    for name, trained in zip(membership.members, membership.trained, strict=True):
        seed = seeds[name]
        model = build_member(config, towers, seed=seed, pretrained=config.pretrained)
        if towers.image or towers.text:
            fit_standards(model, features)
        if seed not in views:
            views[seed] = feature_views(model, seed) if towers.image else view_maker(model, config, seed)
        member_data = dataclasses.replace(data, rows=np.flatnonzero(trained))
        trainer = Trainer(model, member_data, config, views[seed], seed=seed, device=config.device)
        model.train()
        for _ in trainer.steps():
            pass
        evaluated, n_views = views[seed], 1  # features have a single evaluation view
        if not towers.image:
            evaluated = view_maker(model, config, config.seed + EVALUATION, crop_scale=config.eval_crop_scale)
            n_views = config.views
        image = mean_image_embeddings(model, data, evaluated, n_views=n_views, **options)
        text = text_embeddings(model, data.tokens, **options)
        similarity = similarities(text, image, owner)
        own = np.column_stack([similarity, margins(text, similarity, owner, image, external)])
        margin = np.concatenate([own[:, 1], decoy_scores(text, own, 0, decoys, image, owner)[1][:, 1]])
        margin[trained[np.concatenate([np.column_stack([owner, owner]), owner[decoys[:, :2]]])].any(axis=1)] = np.nan
        text = mean_by_pair(text, data.caption_start, first=config.eval_captions)
        scale = float(model.logit_scale.detach().exp())
        yield Outputs(image, text, trainer.trajectory, scale, margin)
