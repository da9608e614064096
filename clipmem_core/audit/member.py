"""Computes the features of locked towers; trains or loads a member, and writes its embeddings and
utility."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from clipmem_core import columns as c
from clipmem_core.audit import prepare, store
from clipmem_core.audit.executor import Executor, Task, TaskEvents, program_of
from clipmem_core.audit.settings import Towers, towers_of
from clipmem_core.audit.store import Audit, MemberRecord, Record
from clipmem_core.config import AuditConfig, data_folder, fingerprint
from clipmem_core.dataset.pixels import open_pixels
from clipmem_core.draws import draw_keys
from clipmem_core.embeddings import write_vectors
from clipmem_core.features.cache import ComputeShards
from clipmem_core.features.embed import image_features, text_features
from clipmem_core.features.towers import Opened, Tower
from clipmem_core.io import InputError, save_array, write_once
from clipmem_core.mitigations import Vocabulary, mitigations_of, pairs_with
from clipmem_core.scores import detectors
from clipmem_core.scores.utility import linear_probe, retrieval_recalls, zero_shot
from clipmem_core.training import model as models
from clipmem_core.training.model import LockedModel, Model, Standard
from clipmem_core.training.names import CHECKPOINT, STATE, TRAJECTORY, model_config
from clipmem_core.training.trainer import Trainer, chosen_captions, train
from clipmem_core.training.views import FeatureRows, FeatureViews, TrainingData, ViewMaker, Views

EVALUATION = 1 << 40  # added to the seed of evaluation views: no training seed is as large
PROMPT = "a picture of {}"
SHARDS = 8  # of features per task, whose process loads the tower once


@dataclass(frozen=True, eq=False)
class Features:
    """The output of locked towers for an audit's pairs; None for a tower that members train."""

    image: np.ndarray | None  # mapped, float16 [n_pairs, width]
    text: np.ndarray | None  # float16 [n_captions, width]
    cut: int = 0  # captions longer than the text tower reads

    @functools.cached_property
    def standards(self) -> dict[str, Standard]:
        """Mean and standard deviation of the features of all pairs, by side."""
        sides = {"image": self.image, "text": self.text}
        return {side: Standard.of(values) for side, values in sides.items() if values is not None}


def features_of(
    towers: Towers,
    pairs: pd.DataFrame,
    root: Path,
    *,
    compute: ComputeShards | None = None,
    pictures: Callable[[int, int], None] | None = None,
    captions: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Features:
    """Return the features of pairs, computed once and cached; `compute` runs shards in other
    processes."""
    image = None
    text = None
    cut = 0
    if towers.image:
        image = image_features(
            pairs, root, towers.image, compute=compute, progress=pictures, say=say
        )
    if towers.text:
        texts = [list(captions) for captions in pairs[c.CAPTIONS]]
        text, cut = text_features(texts, towers.text, compute=compute, progress=captions, say=say)
        text_features(
            [prompts(pairs)], towers.text, compute=compute
        )  # cached: members do not open the tower
    return Features(image, text, cut)


def prompts(pairs: pd.DataFrame) -> list[str]:
    """Return the prompt of each class, in order."""
    return [
        PROMPT.format(name) for name in np.unique(pairs[c.LABEL].dropna().to_numpy().astype(str))
    ]


def shards_by(executor: Executor | None, threads: int) -> ComputeShards | None:
    """Return a function that computes shards of features as tasks of an executor; None to use this
    process."""
    if executor is None:
        return None

    def compute(part: Path, names: Sequence[str]) -> TaskEvents:
        for name in names:
            (part / name).mkdir(exist_ok=True)
        program = program_of("clipmem_core.features.embed:run_shards", part)
        tasks = [tuple(names[start : start + SHARDS]) for start in range(0, len(names), SHARDS)]
        return executor(
            [
                Task(tuple(part / name for name in task), program, task, threads, "shard")
                for task in tasks
            ]
        )

    return compute


def _open_towers(audit: Audit, record: Record, pairs: pd.DataFrame) -> tuple[Towers, Features]:
    """Return the locked towers of an audit, and their features or the precomputed ones."""
    path = record.config.features
    if not path:
        towers = towers_of(record.config)
        return towers, features_of(towers, pairs, record.pictures)
    image, text = prepare.precomputed_features(audit, prepare.pixels_folder(audit))

    def refuse() -> Opened:
        raise InputError(f"the features in {path} are precomputed: nothing new can be embedded")

    facts: dict[str, Any] = {
        "name": path,
        "version": "",
        "licence": "",
        "sha256": "",
        "open": refuse,
    }
    towers = Towers(
        Tower(kind="image", dim=image.shape[1], **facts),
        Tower(kind="text", dim=text.shape[1], **facts),
    )
    return towers, Features(image, text)


def build_member(config: AuditConfig, towers: Towers, *, seed: int, pretrained: str = "") -> Model:
    """Build the model that members train; a head, not fitted yet, replaces each locked tower."""
    full: Model | None = None
    if not (towers.image and towers.text):
        options: dict[str, Any] = {
            "image_size": config.image_size,
            "pretrained": pretrained,
            "device": config.device,
        }
        full = models.build_model(config.model, loss=config.loss, seed=seed, **options)
    if not (towers.image or towers.text):
        return full
    widths = [tower.dim if tower else 0 for tower in (towers.image, towers.text)]
    dim = int(model_config(config.model)["embed_dim"])
    return models.locked_model(*widths, dim=dim, loss=config.loss, seed=seed, full_model=full).to(
        config.device
    )


def feature_views(model: LockedModel, seed: int) -> FeatureViews:
    """Return a member's training views of image features."""
    standard = next(module for module in model.visual.modules() if isinstance(module, Standard))
    return FeatureViews(standard.mean, seed)


@dataclass(frozen=True, eq=False)
class Shared:
    """Data and settings that all members of an audit share, read once for each process."""

    audit: Audit
    record: Record
    config: AuditConfig  # the audit's, or one that differs in training alone
    pairs: pd.DataFrame  # only the label if features were computed elsewhere
    membership: pd.DataFrame  # group, and a bool column per member
    towers: Towers  # the locked ones
    features: Features
    data: TrainingData  # `rows` is empty
    utility_pairs: np.ndarray  # external pairs that utility is measured on, int64 [n]


@dataclass(frozen=True, eq=False)
class MemberRun(Shared):
    """Data and settings of one member."""

    name: str
    member: MemberRecord
    folder: Path  # that its files are written to
    vocabulary: Vocabulary | None = None  # tokens it reads; None: all


def open_shared(folder: Path) -> Shared:
    """Read the data that all members of an audit share."""
    audit = Audit(folder)
    record = audit.record
    config = record.config
    membership = store.read_table(folder / store.MEMBERSHIP, columns=[c.GROUP, *record.members])
    sides = prepare.sides_of(audit, config, prepare.membership_of(membership))
    external = np.flatnonzero(sides.external)
    utility_pairs = prepare.utility_rows(sides)
    del sides
    group = membership[c.GROUP] = membership[c.GROUP].astype("category")
    pairs = (
        audit.pairs
        if not config.features
        else store.read_table(folder / store.PAIRS, columns=[c.LABEL])
    )
    blocks = store.pair_blocks(audit, [c.PAIR_ID])
    keys = np.concatenate([draw_keys(ids[c.PAIR_ID].to_pylist()) for ids in blocks])
    if (group == c.CANDIDATE).sum() == (group == c.INDEPENDENT).sum():
        # Candidate k and independent k share every draw, so that f and g differ in the pair alone.
        keys[group == c.INDEPENDENT] = keys[group == c.CANDIDATE]
    towers, features = _open_towers(audit, record, pairs)
    if features.image is None:
        rows = store.read_prepared(folder).cache_rows
        images = pairs[c.IMAGE].tolist()
        pixels: Any = open_pixels(
            prepare.pixels_folder(audit),
            rows=rows,
            root=record.pictures,
            images=images,
            size=config.cache_size,
            resize_mode=config.resize_mode,
        )
    else:
        pixels = FeatureRows(features.image)
    data = TrainingData(
        pixels=pixels,
        tokens=cached_tokens(config.model, pairs) if features.text is None else features.text,
        caption_start=_caption_starts(audit),
        keys=keys,
        rows=np.array([], dtype=np.int64),
        external=external,
    )
    return Shared(audit, record, config, pairs, membership, towers, features, data, utility_pairs)


def open_member(
    folder: Path, name: str, shared: Shared | None = None, output: Path | None = None
) -> MemberRun:
    """Return data and settings of a member of the audit in a folder; it writes to `output`, or its
    own folder there."""
    shared = shared or open_shared(folder)
    output = output or shared.audit.member(name)
    config = shared.config
    data = shared.data
    rows = np.flatnonzero(shared.membership[name].to_numpy())
    vocabulary = _vocabulary(config, data.tokens, data.caption_start, rows)
    tokens = vocabulary.read(data.tokens) if vocabulary else data.tokens
    values = vars(shared) | {"data": dataclasses.replace(data, tokens=tokens, rows=rows)}
    record = shared.audit.member_record(name)
    return MemberRun(**values, name=name, member=record, folder=output, vocabulary=vocabulary)


def cached_tokens(model: str, pairs: pd.DataFrame) -> np.ndarray:
    """Return the tokens of all captions, int32 [n_captions, context_length], made once for all
    members."""
    captions = [caption for listed in pairs[c.CAPTIONS] for caption in listed]
    key = fingerprint([model_config(model)["text_cfg"], version("open_clip_torch"), captions])
    path = data_folder() / "cache" / "tokens" / f"{key}.npy"
    write_once(path, lambda temporary: save_array(models.tokenize(model, captions), temporary))
    return np.load(path)


def _caption_starts(audit: Audit) -> np.ndarray:
    """Return the number of each pair's first caption, and at the end the number of captions, int64
    [n_pairs + 1]."""
    return np.concatenate([[0], np.cumsum(store.caption_counts(audit))]).astype(np.int64)


def _vocabulary(
    config: AuditConfig, tokens: np.ndarray, start: np.ndarray, rows: np.ndarray
) -> Vocabulary | None:
    """Return the tokens that a member trained on these rows reads; None if it reads all."""
    if not config.text_min_df:
        return None
    counts = pairs_with(
        model_config(config.model), tokens, start, rows, first=config.train_captions
    )
    return Vocabulary(model_config(config.model), counts, config.text_min_df)


def vocabulary_of_member(audit: Audit, name: str) -> Vocabulary | None:
    """Return the tokens that a member reads; None if it reads all."""
    config = audit.record.config
    if not config.text_min_df:
        return None  # without reading every caption
    pairs = audit.pairs
    rows = np.flatnonzero(audit.membership[name].to_numpy())
    return _vocabulary(config, cached_tokens(config.model, pairs), _caption_starts(audit), rows)


def view_maker(
    model: Model, config: AuditConfig, seed: int, *, crop_scale: float = 0.0
) -> ViewMaker:
    """Return the view maker for a model's input; crops are those of training unless `crop_scale` is
    set."""
    size = model.visual.image_size
    normal = model.visual.preprocess_cfg
    size = size[0] if isinstance(size, tuple) else size
    scale = crop_scale or config.crop_scale
    return ViewMaker(
        size, scale, tuple(normal["mean"]), tuple(normal["std"]), seed, mitigations_of(config)
    )


def _views(run: MemberRun, model: Model, seed: int, *, crop_scale: float = 0.0) -> Views:
    """Return views of pictures, or of their features if the image tower is locked."""
    if run.towers.image:
        return feature_views(model, seed)
    return view_maker(model, run.config, seed, crop_scale=crop_scale)


def finished_model(run: MemberRun) -> Model:
    """Load the member's model from its checkpoint."""
    model = build_member(run.config, run.towers, seed=run.member.seed)
    models.load_weights(model, Path(run.member.checkpoint or run.folder / CHECKPOINT))
    return model


def trained_model(run: MemberRun, *, after_epoch: Callable[[int], None] | None = None) -> Model:
    """Load the member's model from its checkpoint if it has one, else train it; `after_epoch` may
    end the training."""
    config = run.config
    seed = run.member.seed
    if run.member.checkpoint or (run.folder / CHECKPOINT).is_file():  # it is written last
        return finished_model(run)
    model = build_member(config, run.towers, seed=seed, pretrained=config.pretrained)
    if isinstance(model, LockedModel):
        for side, tower in (("image", model.visual), ("text", model.text)):
            for module in (
                tower.modules()
            ):  # heads standardise features by the mean and deviation over all pairs
                if isinstance(module, Standard) and side in run.features.standards:
                    module.load_state_dict(run.features.standards[side].state_dict())
    trainer = Trainer(
        model, run.data, config, _views(run, model, seed), seed=seed, device=run.record.device
    )
    train(trainer, run.folder, after_epoch=after_epoch)
    return model


def write_embeddings(run: MemberRun, model: Model, folder: Path, *, evaluate: bool = False) -> None:
    """Write the mean embeddings of every picture's evaluation views and of every pair's captions,
    block by block.

    With `evaluate` also the member's utility and the scores of single captions. text.faiss is
    written last and marks all of them as complete.
    """
    data = run.data
    options = {"precision": run.config.precision, "device": run.record.device}
    views = _views(run, model, run.config.seed + EVALUATION, crop_scale=run.config.eval_crop_scale)
    n_views = 1 if run.towers.image else run.config.views  # features are of one view
    folder.mkdir(parents=True, exist_ok=True)
    blocks = models.image_blocks(model, data, views, n_views=n_views, **options)
    write_vectors(folder / store.IMAGE_EMBEDDINGS, blocks)
    note: Any = iter
    if evaluate:
        image = store.open_embeddings(folder / store.IMAGE_EMBEDDINGS)
        store.write_json(folder / store.MEMBER_UTILITY, utility(run, model, image))
        if np.diff(data.caption_start).max(initial=0) > 1:
            note = functools.partial(_score_captions, run, image)
    first = run.config.eval_captions
    blocks = models.text_blocks(
        model, data.tokens, data.caption_start, first=first, note=note, **options
    )
    write_vectors(folder / store.TEXT_EMBEDDINGS, blocks)


def _score_captions(
    run: MemberRun, image: np.ndarray, blocks: Iterator[np.ndarray]
) -> Iterator[np.ndarray]:
    """Yield the embeddings of captions, and write similarity, margin and learned of each, and below
    them of each decoy, float32 [n_captions + n_decoys, 3]."""
    data = run.data
    path = run.folder / TRAJECTORY
    learned = np.full(int(data.caption_start[-1]), np.nan)
    if path.is_file():
        options = {"seed": run.member.seed, "first": run.config.train_captions}
        learned = learned_captions(data, store.read_array(path, shared=True), **options)
    owner = np.repeat(np.arange(len(data.keys)), np.diff(data.caption_start))
    external = detectors.external_used((run.membership[c.GROUP] == c.EXTERNAL).to_numpy())
    decoys = store.read_decoys(run.audit)
    scores = []
    of_decoys = np.full((len(decoys), 3), np.nan, np.float32)
    done = 0
    for vectors in blocks:
        pair = owner[done : done + len(vectors)]
        similarity = detectors.similarities(vectors, image, pair)
        scores.append(
            np.column_stack(
                [similarity, detectors.margins(vectors, similarity, pair, image, external)]
            )
        )
        part, values = detectors.decoy_scores(vectors, scores[-1], done, decoys, image, owner)
        of_decoys[part, :2] = values
        done += len(vectors)
        yield vectors
    own = np.column_stack([np.concatenate(scores), learned]).astype(np.float32)
    save_array(np.concatenate([own, of_decoys]), run.folder / store.CAPTION_SCORES)


def learned_captions(
    data: TrainingData, trajectory: np.ndarray, *, seed: int, first: int
) -> np.ndarray:
    """Return how well a member learned each caption, [n_captions]; NaN where no epoch drew it."""
    epochs = range(len(trajectory))
    drawn = [
        chosen_captions(data, data.rows, seed=seed, epoch=epoch, first=first) for epoch in epochs
    ]
    log_probability = trajectory[:, :, detectors.LOG_PROBABILITY]
    return detectors.learned_by_caption(
        log_probability, data.rows, drawn, int(data.caption_start[-1])
    )


def caption_embeddings(
    run: MemberRun, model: Model, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Embed each caption of some pairs, float32 [n, dim]; return also the position of its pair in
    `rows`, [n]."""
    start = run.data.caption_start
    captions = np.concatenate([np.arange(start[row], start[row + 1]) for row in rows])
    options = {"precision": run.config.precision, "device": run.record.device}
    text = models.text_embeddings(model, run.data.tokens[captions], **options)
    return text, np.repeat(np.arange(len(rows)), start[rows + 1] - start[rows])


def probe_rows(run: MemberRun) -> np.ndarray:
    """Return the pairs a linear probe is fitted on: the shared ones in `paper`, else the member's
    training pairs."""
    shared = np.flatnonzero(run.membership[c.GROUP] == c.SHARED)
    return shared if len(shared) else run.data.rows


def utility(run: MemberRun, model: Model, image: np.ndarray) -> dict[str, float]:
    """Measure retrieval both ways on external pairs, and with labels a linear probe and
    zero-shot."""
    config = run.config
    utility_pairs = run.utility_pairs
    metrics = retrieval_recalls(
        image[utility_pairs], *caption_embeddings(run, model, utility_pairs)
    )
    labels = run.pairs[c.LABEL]
    labelled = labels.notna().to_numpy()
    fit, test = (rows[labelled[rows]] for rows in (probe_rows(run), utility_pairs))
    if labels.iloc[fit].nunique() >= 2 and len(test):
        names = labels.to_numpy().astype(str)
        metrics["linear_probe"] = linear_probe(
            image[fit], names[fit], image[test], names[test], seed=config.seed
        )
        if (
            not config.features
        ):  # with features computed elsewhere there is no tower to read a prompt
            classes = np.unique(names[labelled])
            texts = prompts(run.pairs)
            tower = run.towers.text
            inputs = (
                text_features([texts], tower)[0][:]
                if tower
                else models.tokenize(config.model, texts)
            )
            inputs = run.vocabulary.read(inputs) if run.vocabulary else inputs
            text = models.text_embeddings(
                model, inputs, precision=config.precision, device=run.record.device
            )
            metrics["zero_shot"] = zero_shot(
                image[test], text, np.searchsorted(classes, names[test])
            )
    return metrics


def clear_leftovers(folder: Path) -> None:
    """Remove temporary files of a killed run, and a training state older than its checkpoint."""
    for path in folder.glob(".*.[0-9]*"):
        path.unlink()
    if (folder / CHECKPOINT).is_file():
        (folder / STATE).unlink(missing_ok=True)


def run_members(folder: Path, names: Sequence[str]) -> None:
    """Train, embed and evaluate members, one after the other. The last file written marks a member
    as finished."""
    shared = open_shared(folder)
    for name in names:
        run = open_member(folder, name, shared)
        clear_leftovers(run.folder)
        torch.set_num_threads(run.record.threads)
        model = trained_model(run)
        write_embeddings(run, model, run.folder, evaluate=True)


def train_second_round(folder: Path, names: Sequence[str]) -> None:
    """Train members a second time without the pairs left out, and store only their scores on other
    pairs."""
    shared = open_shared(folder)
    left_out = store.read_table(folder / store.SECOND_TABLE, columns=[store.LEFT_OUT])[
        store.LEFT_OUT
    ].to_numpy()
    external = np.zeros(len(left_out), dtype=bool)
    external[shared.data.external] = True
    for name in names:
        run = open_member(folder, name, shared, shared.audit.member(name) / store.SECOND)
        trained = shared.membership[name].to_numpy()
        data = dataclasses.replace(run.data, rows=np.flatnonzero(trained & ~left_out))
        run = dataclasses.replace(run, data=data)
        run.folder.mkdir(exist_ok=True)
        clear_leftovers(run.folder)
        torch.set_num_threads(run.record.threads)
        model = trained_model(run)
        write_embeddings(run, model, run.folder / store.SECOND_EMBEDDINGS)
        image, text = store.read_embeddings(run.folder / store.SECOND_EMBEDDINGS)
        scale = float(model.logit_scale.detach().exp())
        _, log_probability = detectors.fit_out([image], [text], trained[None], external, [scale])
        save_array(log_probability.astype(np.float32), run.folder / store.SECOND_FIT)
        store.remove_second_model(run.folder)
