"""One planting of a benchmark: split, plant, train members, and see how well each detector finds what was planted."""

import dataclasses
import functools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from clipmem_core import columns as c
from clipmem_core.audits.locked import Features, build_member, feature_views, features_of, fit_standards
from clipmem_core.audits.member import EVALUATION, caption_starts, view_maker
from clipmem_core.audits.prepare import draw_membership
from clipmem_core.audits.settings import Towers, towers_of
from clipmem_core.audits.setup import member_seeds
from clipmem_core.audits.store import write_json, write_table
from clipmem_core.config import AuditConfig, InputError, data_folder
from clipmem_core.draws import draw_keys
from clipmem_core.pairs.errors import inject_errors, picture_sources
from clipmem_core.pairs.pixels import Pixels, open_pixels
from clipmem_core.scores.detection import DETECTORS, Observed, detection_table, numbers_reviewed, precision_curve
from clipmem_core.scores.detectors import fit_out
from clipmem_core.scores.membership import Membership, Sides, side_means
from clipmem_core.scores.memorization import ranking_reliability, ranking_stability
from clipmem_core.scores.prevalence import SECOND_ROUND_FROM
from clipmem_core.scores.utility import retrieval_recalls
from clipmem_core.studies.benchmark.results import METRICS, SECONDS, Benchmark, Piece
from clipmem_core.training.model import Model, mean_by_pair, mean_image_embeddings, text_embeddings, tokenize
from clipmem_core.training.trainer import Trainer
from clipmem_core.training.views import FeatureRows, PixelSource, TrainingData, Views

K = 50  # pairs looked at for precision at k
ROW = "row"


@dataclass(frozen=True, eq=False)
class Left:
    """What a member leaves."""

    image: np.ndarray  # mean embeddings of pictures, float32 [n_pairs, dim]
    text: np.ndarray  # mean embeddings of captions, float32 [n_pairs, dim]
    trajectory: np.ndarray  # float16 [n_epochs, n_pairs, 2]
    logit_scale: float


@dataclass(frozen=True, eq=False)
class Given:
    """What members are made from."""

    config: AuditConfig
    pairs: pd.DataFrame
    membership: Membership
    towers: Towers
    features: Features
    pixels: PixelSource | None  # where the image tower is trained


def trained_members(given: Given) -> Iterator[Left]:
    """Train every member of a split, one after the other, on one thread."""
    torch.set_num_threads(1)
    config, features = given.config, given.features
    captions = [caption for own in given.pairs[c.CAPTIONS] for caption in own]
    pixels = given.pixels if features.image is None else FeatureRows(features.image)
    assert pixels is not None
    data = TrainingData(
        pixels=pixels,
        tokens=tokenize(config.model, captions) if features.text is None else features.text,
        caption_start=caption_starts(given.pairs),
        keys=draw_keys(given.pairs[c.PAIR_ID].tolist()),
        rows=np.array([], dtype=np.int64),
        external=np.flatnonzero(given.membership.group == c.EXTERNAL),
    )
    seeds = member_seeds(config, given.membership.members)
    views: dict[int, Views] = {}  # members of one repeat share a seed, and with it what they see of features
    for name, trained in zip(given.membership.members, given.membership.trained, strict=True):
        own = dataclasses.replace(data, rows=np.flatnonzero(trained))
        yield _trained(given, own, seeds[name], views)


def _trained(given: Given, data: TrainingData, seed: int, views: dict[int, Views]) -> Left:
    config = given.config
    model = build_member(config, given.towers, seed=seed, pretrained=config.pretrained)
    if given.towers.image or given.towers.text:
        fit_standards(model, given.features)
    if seed not in views:
        views[seed] = feature_views(model, seed) if given.towers.image else view_maker(model, config, seed)
    trainer = Trainer(model, data, config, views[seed], seed=seed, device=config.device)
    model.train()
    for _ in trainer.steps():
        pass
    evaluated = views[seed]
    if not given.towers.image:
        evaluated = view_maker(model, config, config.seed + EVALUATION, crop_scale=config.eval_crop_scale)
    scale = float(model.logit_scale.detach().exp())
    return Left(*_embedded(given, model, data, evaluated), trainer.trajectory, scale)


def _embedded(given: Given, model: Model, data: TrainingData, views: Views) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean embeddings of pictures and captions; of features there is one view, the same for any seed."""
    config = given.config
    how = {"precision": config.precision, "device": config.device}
    n_views = 1 if given.towers.image else config.views
    image = mean_image_embeddings(model, data, views, n_views=n_views, **how)
    text = text_embeddings(model, data.tokens, **how)
    return image, mean_by_pair(text, data.caption_start, first=config.eval_captions)


def run_pieces(folder: Path, names: Sequence[str]) -> None:
    """Bring plantings to their results, one after the other."""
    benchmark = Benchmark(folder)
    for name in names:
        run_piece(benchmark, Piece.of(name))


def run_piece(benchmark: Benchmark, piece: Piece) -> None:
    """Bring one planting to its result, which is written last."""
    config = dataclasses.replace(benchmark.asked["config"], seed=piece.seed)
    before = benchmark.pairs
    membership = draw_membership(benchmark.prepared.clusters, config)
    rows = scored_rows(before, membership)
    try:
        pairs = inject_errors(piece.kind, before, rows, share=piece.share, seed=piece.seed)
    except InputError as error:
        _write(benchmark, piece, absent=str(error))
        return
    seconds: dict[str, float] = {}
    with timed(seconds, "features"):
        source = picture_sources(before, pairs)
        given = _given(benchmark, config, pairs, _with_twins(membership, source), source)
    with timed(seconds, "members"):
        observed = _observed(given)
    truth = pairs[c.PLANTED].notna().to_numpy()[rows]
    scores, spent, without = detected(observed)
    judged = {name: values[rows] for name, values in scores.items()}
    external = np.flatnonzero(observed.sides.external)
    stability = ranking_stability([terms[c.ALIGNMENT] for terms in observed.terms], observed.sides)
    _write(
        benchmark,
        piece,
        scores=pd.DataFrame({ROW: rows, c.PLANTED: truth} | {k: v.astype(np.float32) for k, v in judged.items()}),
        planted=int(truth.sum()),
        judged=len(rows),
        recall=_recall(observed, external),
        reliability=_known(ranking_reliability(stability, len(observed.sides.replicates))),
        seconds=seconds | {"detectors": round(sum(spent.values()), 3)},
        numbers=numbers_reviewed(len(rows)).tolist(),
        detectors=found(judged, truth, spent),
        without=without,
    )


def scored_rows(pairs: pd.DataFrame, membership: Membership) -> np.ndarray:
    """Return the pairs that mistakes are planted in and found among: scored ones that came without a planted one."""
    return np.flatnonzero((membership.group == c.SCORED) & pairs[c.PLANTED].isna().to_numpy())


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Note the processor time that a block takes: that of a busy machine is the same as that of an idle one."""
    began = time.process_time()
    yield
    seconds[name] = round(time.process_time() - began, 3)


def detected(observed: Observed) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, str]]:
    """Return what each detector says, [n_pairs], its price in seconds, and why those that are missing are.

    What several detectors need is paid for by the first of them.
    """
    scores, seconds, without = dict[str, np.ndarray](), dict[str, float](), dict[str, str]()
    for name, detector in DETECTORS.items():
        try:
            with timed(seconds, name):
                scores[name] = detector(observed)
        except ValueError as error:
            without[name] = str(error)
    return scores, seconds, without


def found(scores: dict[str, np.ndarray], truth: np.ndarray, seconds: dict[str, float]) -> dict[str, dict[str, Any]]:
    """Return how well each detector finds what was planted: its metrics, price and precision by number reviewed."""
    table = detection_table(scores, truth, k=K, n_boot=1).set_index("score")
    numbers = numbers_reviewed(len(truth))
    return {
        name: {metric: float(table[metric][name]) for metric in METRICS}
        | {SECONDS: seconds[name], "curve": precision_curve(values, truth, numbers).round(4).tolist()}
        for name, values in scores.items()
    }


def _with_twins(membership: Membership, source: np.ndarray) -> Membership:
    """Let a copy be trained on with its original, as look-alikes are."""
    return dataclasses.replace(membership, trained=membership.trained[:, source])


def _given(
    benchmark: Benchmark, config: AuditConfig, pairs: pd.DataFrame, membership: Membership, source: np.ndarray
) -> Given:
    towers = towers_of(config) if config.lock_image or config.lock_text else Towers(None, None)
    kept = features_of(towers, pairs, Path(benchmark.asked["root"]))
    # In memory: members read them again and again.
    image, text = (None if own is None else np.asarray(own) for own in (kept.image, kept.text))
    pixels = _pixels(benchmark).select(source) if image is None else None
    return Given(config, pairs, membership, towers, Features(image, text), pixels)


def _pixels(benchmark: Benchmark) -> Pixels:
    prepared = benchmark.prepared
    root, images = Path(benchmark.asked["root"]), benchmark.pairs[c.IMAGE].tolist()
    return open_pixels(data_folder() / prepared.pixels, rows=prepared.cache_rows, root=root, images=images)


def _observed(given: Given) -> Observed:
    members = list(trained_members(given))
    features, labels = given.features, given.pairs[c.LABEL]
    observed = Observed(
        image=[one.image for one in members],
        text=[one.text for one in members],
        trajectories=[one.trajectory for one in members],
        logit_scales=[one.logit_scale for one in members],
        sides=Sides(given.membership, given.config.protocol, given.config.seed),
        labels=labels.astype(object).where(labels.notna(), None).to_numpy(),
        image_features=features.image,
        text_features=None
        if features.text is None
        else mean_by_pair(features.text.astype(np.float32), caption_starts(given.pairs)),
        seed=given.config.seed,
    )
    return observed if given.config.rounds == "1" else dataclasses.replace(observed, second=_second(given, observed))


def _second(given: Given, observed: Observed) -> np.ndarray:
    """Return the log-probability out of members trained again without what is likely wrong, [n_pairs]; NaN if that is
    nothing."""
    trained, external = observed.trained, observed.sides.external
    left_out = observed.likely_wrong(SECOND_ROUND_FROM[given.config.rounds])
    if not left_out.any():
        return np.full(trained.shape[1], np.nan)
    fewer = dataclasses.replace(given.membership, trained=trained & ~left_out)
    members = trained_members(dataclasses.replace(given, membership=fewer))
    said = [
        fit_out([one.image], [one.text], own[None], external, [one.logit_scale])[1]
        for one, own in zip(members, trained, strict=True)
    ]
    return side_means(said, trained)[1]


def _recall(observed: Observed, external: np.ndarray) -> float:
    """Return R@5 on external pairs, by mean embeddings: the mean of both directions and of the members."""
    recalls = functools.partial(retrieval_recalls, caption_owner=np.arange(len(external)), ks=(5,))
    members = zip(observed.image, observed.text, strict=True)
    return float(np.mean([list(recalls(a[external], b[external]).values()) for a, b in members]))


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


def _write(benchmark: Benchmark, piece: Piece, *, scores: pd.DataFrame | None = None, **found: Any) -> None:
    """Write a planting's result; of one whose kind had no room, why."""
    benchmark.result(piece).parent.mkdir(parents=True, exist_ok=True)
    if scores is not None:
        write_table(benchmark.scores(piece), scores)
    nothing = {"planted": 0, "judged": 0, "absent": "", "recall": None, "reliability": None}
    empty: dict[str, Any] = {"seconds": {}, "numbers": [], "detectors": {}, "without": {}}
    write_json(benchmark.result(piece), piece._asdict() | nothing | empty | found)
