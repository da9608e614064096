"""Computes the features of locked towers; trains or loads a member, and writes its embeddings and
utility."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core.auditing.folder import prepare, store
from clipmem_core.auditing.folder.jobs import Screen
from clipmem_core.auditing.folder.settings import Towers, member_towers, towers_of
from clipmem_core.auditing.folder.store import Audit, Record
from clipmem_core.config import AuditConfig
from clipmem_core.errors import misfit
from clipmem_core.errors.misfit import HeldOut
from clipmem_core.features.embed import FeatureExtractor
from clipmem_core.features.towers import Opened, Tower
from clipmem_core.mitigations import Vocabulary, pairs_with
from clipmem_core.scores.metrics import linear_probe, retrieval_recalls, zero_shot
from clipmem_core.training import CHECKPOINT, STATE, TRAJECTORY, model_config
from clipmem_core.training import model as models
from clipmem_core.training.augmentation import FeatureRows, TrainingData, ViewMaker, Views
from clipmem_core.training.model import (
    LockedModel,
    Model,
    Standard,
    caption_blocks,
    feature_views,
    score_captions,
    set_standards,
    text_embeddings,
)
from clipmem_core.training.trainer import Trainer, learned_captions, train
from clipmem_core.utils import columns as c
from clipmem_core.utils.draws import draw_keys
from clipmem_core.utils.embeddings import write_vectors
from clipmem_core.utils.io import InputError, save_array
from clipmem_core.utils.ragged import Ragged

EVALUATION = 1 << 40  # added to the seed of evaluation views: no training seed is as large


@dataclass(frozen=True, eq=False)
class Features:
    """The output of locked towers for an audit's pairs; None for a tower that members train."""

    image: np.ndarray | None  # mapped, float16 [n_pairs, width]
    text: np.ndarray | None  # float16 [n_captions, width]
    pooled: "Features | None" = None  # the outputs of the towers, where these are activations

    @functools.cached_property
    def standards(self) -> dict[str, Standard]:
        """Mean and standard deviation of the features of all pairs, by kind of tower."""
        if self.pooled:
            return self.pooled.standards
        towers = {"image": self.image, "text": self.text}
        return {kind: Standard.of(values) for kind, values in towers.items() if values is not None}


def caption_texts(record: Record, pairs: pd.DataFrame) -> list[str]:
    """Return the captions of all pairs, or their sentences, without trigger words, in order."""
    column = c.SENTENCES if c.SENTENCES in pairs else c.CAPTIONS
    return record.embedded(text for texts in pairs[column] for text in texts)


def prompts(pairs: pd.DataFrame) -> list[str]:
    """Return the prompt of each class, in order."""
    labels = pairs[c.LABEL].dropna().to_numpy().astype(str)
    return [f"a picture of {name}" for name in np.unique(labels)]


def compute_features(
    towers: Sequence[Tower], record: Record, pairs: pd.DataFrame, screen: Screen
) -> int:
    """Compute and cache the features of pairs and of their classes' prompts, and return the number
    of captions that the text tower truncates."""
    truncated = 0
    for tower in towers:
        if tower.kind == "image":
            FeatureExtractor(tower, record.pictures, screen.pictures).images(pairs)
            continue
        texts = caption_texts(record, pairs)
        extractor = FeatureExtractor(tower, record.pictures, screen.captions)
        extractor.captions(texts)
        # Members do not open the tower.
        FeatureExtractor(tower).captions(prompts(pairs))
        truncated = int(extractor.truncated(texts).sum())
    return truncated


def cached_features(towers: Towers, record: Record, pairs: pd.DataFrame) -> Features:
    """Return the cached features of towers."""
    return Features(
        FeatureExtractor(towers.image, record.pictures).images(pairs) if towers.image else None,
        FeatureExtractor(towers.text).captions(caption_texts(record, pairs))
        if towers.text
        else None,
    )


def open_features(audit: Audit, record: Record, pairs: pd.DataFrame) -> tuple[Towers, Features]:
    """Return the locked towers of an audit, and their cached features or the precomputed ones."""
    path = record.config.features
    if not path:
        towers = member_towers(record.config)
        features = cached_features(towers, record, pairs)
        if record.config.unlock:
            pooled = cached_features(towers_of(record.config), record, pairs)
            features = dataclasses.replace(features, pooled=pooled)
        return towers, features
    image, text = prepare.precomputed_features(audit)

    def refuse(_: Tower) -> Opened:
        raise InputError(f"the features in {path} are precomputed: nothing new can be embedded")

    image_tower = Tower(
        name=path, kind="image", version="", licence="", sha256="", dim=image.shape[1], load=refuse
    )
    text_tower = dataclasses.replace(image_tower, kind="text", dim=text.shape[1])
    return Towers(image_tower, text_tower), Features(image, text)


def build_member(config: AuditConfig, towers: Towers, *, seed: int, pretrained: str = "") -> Model:
    """Build the model that members train; a head, not fitted yet, replaces each locked tower."""
    full_model: Model | None = None
    if not (towers.image and towers.text):
        full_model = models.build_model(
            config.model,
            loss=config.loss,
            seed=seed,
            image_size=config.image_size,
            pretrained=pretrained,
            device=config.device,
        )
        if not (towers.image or towers.text):
            return full_model
    outputs = towers_of(config) if config.unlock else towers
    model = models.locked_model(
        *(pooled.dim if pooled else 0 for pooled in outputs),
        dim=int(model_config(config.model)["embed_dim"]),
        loss=config.loss,
        seed=seed,
        full_model=full_model,
        uppers=[tower.upper if tower else None for tower in towers],
    )
    return model.to(config.device)


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
    utility_pairs: np.ndarray  # held-out pairs that utility is measured on, int64 [n]


@dataclass(frozen=True, eq=False)
class MemberRun(Shared):
    """Data and settings of one member."""

    name: str
    seed: int
    folder: Path  # that its files are written to
    vocabulary: Vocabulary | None = None  # tokens it reads; None: all


def open_shared(folder: Path) -> Shared:
    """Read the data that all members of an audit share."""
    audit = Audit(folder)
    record = audit.record
    config = record.config
    membership = audit.read_columns(store.MEMBERSHIP, c.GROUP, *record.members)
    in_out = prepare.in_out_of(audit)
    held_out = np.flatnonzero(in_out.held_out)
    utility_only = in_out.held_out if in_out.utility_only is None else in_out.utility_only
    group = membership[c.GROUP] = membership[c.GROUP].astype("category")
    columns = [c.LABEL] if config.features else None
    pairs = store.read_table(folder / store.PAIRS, columns=columns)
    blocks = store.pair_blocks(audit, [c.PAIR_ID])
    keys = np.concatenate([draw_keys(ids[c.PAIR_ID].to_pylist()) for ids in blocks])
    if (group == c.CANDIDATE).sum() == (group == c.INDEPENDENT).sum():
        # Candidate k and independent k share every draw, so that f and g differ in the pair alone.
        keys[group == c.INDEPENDENT] = keys[group == c.CANDIDATE]
    towers, features = open_features(audit, record, pairs)
    pixels: Any
    if features.image is None:
        pixels = prepare.audit_pixels(audit, pairs[c.IMAGE])
    else:
        pixels = FeatureRows(features.image)
    data = TrainingData(
        pixels=pixels,
        tokens=caption_tokens(record, pairs) if features.text is None else features.text,
        captions=store.read_captions(audit),
        keys=keys,
        rows=np.array([], dtype=np.int64),
        held_out=held_out,
    )
    utility_pairs = np.flatnonzero(utility_only)
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
    vocabulary = _vocabulary(config, data.tokens, data.captions, rows)
    tokens = vocabulary.read(data.tokens) if vocabulary else data.tokens
    values = vars(shared) | {"data": dataclasses.replace(data, tokens=tokens, rows=rows)}
    seed = shared.record.seeds[name]
    return MemberRun(**values, name=name, seed=seed, folder=output, vocabulary=vocabulary)


def caption_tokens(record: Record, pairs: pd.DataFrame) -> np.ndarray:
    """Return the tokens of all captions, int32 [n_captions, context_length]."""
    return models.tokenize(record.config.model, caption_texts(record, pairs))


def _vocabulary(
    config: AuditConfig, tokens: np.ndarray, captions: Ragged, rows: np.ndarray
) -> Vocabulary | None:
    """Return the tokens that a member trained on these rows reads; None if it reads all."""
    if not config.text_min_df:
        return None
    model = model_config(config.model)
    counts = pairs_with(model, tokens, captions, rows, first=config.train_captions)
    return Vocabulary(model, counts, config.text_min_df)


def vocabulary_of_member(audit: Audit, name: str) -> Vocabulary | None:
    """Return the tokens that a member reads; None if it reads all."""
    config = audit.record.config
    if not config.text_min_df:
        return None  # without reading every caption
    rows = np.flatnonzero(audit.membership[name])
    tokens = caption_tokens(audit.record, audit.pairs)
    return _vocabulary(config, tokens, store.read_captions(audit), rows)


def member_views(run: MemberRun, model: Model, seed: int, crop_scale: float = 0.0) -> Views:
    """Return the maker of a model's views of pictures, or of their features; crops are those of
    training unless `crop_scale` is set."""
    crop_scale = crop_scale or run.config.crop_scale
    if run.towers.image:
        return feature_views(model, seed, crop_scale)
    size = model.visual.image_size
    normal = model.visual.preprocess_cfg
    return ViewMaker(
        image_size=size[0] if isinstance(size, tuple) else size,
        crop_scale=crop_scale,
        mean=tuple(normal["mean"]),
        std=tuple(normal["std"]),
        seed=seed,
    )


def evaluation_views(run: MemberRun, model: Model) -> Views:
    """Return the maker of a model's evaluation views."""
    return member_views(run, model, run.config.seed + EVALUATION, run.config.eval_crop_scale)


def trained_model(run: MemberRun) -> Model:
    """Load the member's model from its checkpoint if it has one, else train it, or resume its
    training after a kill."""
    config = run.config
    seed = run.seed
    clear_leftovers(run.folder)
    if (run.folder / CHECKPOINT).is_file():  # it is written last
        model = build_member(config, run.towers, seed=seed)
        models.load_weights(model, run.folder / CHECKPOINT)
        return model
    model = build_member(config, run.towers, seed=seed, pretrained=config.pretrained)
    if isinstance(model, LockedModel):
        set_standards(model, run.features.standards)
    views = member_views(run, model, seed)
    trainer = Trainer(model, run.data, config, views, seed=seed)
    train(trainer, run.folder)
    return model


def write_embeddings(run: MemberRun, model: Model, folder: Path, *, evaluate: bool = False) -> None:
    """Write the mean embeddings of every picture's evaluation views and of every pair's captions,
    block by block.

    With `evaluate` also the member's utility and the scores of single captions. text.faiss is
    written last and marks all of them as complete.
    """
    data = run.data
    config = run.config
    # Features of a picture have one view, but for the activations of unlocked towers.
    n_views = config.views if config.unlock or not run.towers.image else 1
    folder.mkdir(parents=True, exist_ok=True)
    blocks = models.image_blocks(model, data, evaluation_views(run, model), config, n_views=n_views)
    write_vectors(folder / store.IMAGE_EMBEDDINGS, blocks)
    captions = caption_blocks(model, data, config)
    scores = None
    if evaluate:
        image = store.open_embeddings(folder / store.IMAGE_EMBEDDINGS)
        store.write_json(folder / store.MEMBER_UTILITY, utility(run, model, image))
        if data.captions.counts.max(initial=0) > 1:
            decoys = store.read_decoys(run.audit)
            trajectory = store.read_array(run.folder / TRAJECTORY)
            n = data.captions.n_items
            scores = np.full(n + len(decoys), np.nan, misfit.CAPTION_SCORES)
            scores["learned"][:n] = learned_captions(
                trajectory, data, seed=run.seed, first=config.train_captions
            )
            held_out = (run.membership[c.GROUP] == c.HELD_OUT).to_numpy()
            beside = HeldOut.of(image, image, held_out)
            captions = score_captions(captions, image, data.captions.owner, beside, decoys, scores)

    def means() -> Iterator[np.ndarray]:
        for part, vectors in captions:
            yield part.mean(vectors, first=config.eval_captions)
        if scores is not None:
            save_array(scores, run.folder / store.CAPTION_SCORES)

    write_vectors(folder / store.TEXT_EMBEDDINGS, means())


def utility(run: MemberRun, model: Model, image: np.ndarray) -> dict[str, float]:
    """Measure retrieval both ways on held-out pairs, and with labels a linear probe and
    zero-shot.

    The probe is fitted on the shared pairs of the paper's protocol, or else on the member's
    training pairs. `image` are embeddings of all pictures, [n_pairs, dim].
    """
    config = run.config
    test = run.utility_pairs
    rows, captions = run.data.captions.take(test)
    text = text_embeddings(model, run.data.tokens[rows], config)
    metrics = retrieval_recalls(image[test], text, captions.owner)
    labels = run.pairs[c.LABEL]
    labelled = labels.notna().to_numpy()
    shared = np.flatnonzero(run.membership[c.GROUP] == c.SHARED)
    fit = shared if len(shared) else run.data.rows
    fit = fit[labelled[fit]]
    test = test[labelled[test]]
    if labels.iloc[fit].nunique() < 2 or not len(test):
        return metrics
    names = labels.to_numpy().astype(str)
    metrics["linear_probe"] = linear_probe(
        image[fit], names[fit], image[test], names[test], seed=config.seed
    )
    if config.features:  # computed elsewhere: there is no tower to read a prompt
        return metrics
    texts = prompts(run.pairs)
    inputs: np.ndarray
    if run.towers.text:
        inputs = FeatureExtractor(run.towers.text).captions(texts)[:]
    else:
        inputs = models.tokenize(config.model, texts)
    if run.vocabulary:
        inputs = run.vocabulary.read(inputs)
    classes = np.unique(names[labelled])
    text = text_embeddings(model, inputs, config)
    metrics["zero_shot"] = zero_shot(image[test], text, np.searchsorted(classes, names[test]))
    return metrics


def clear_leftovers(folder: Path) -> None:
    """Remove temporary files of a killed run, and a training state older than its checkpoint."""
    for path in folder.glob(".*.[0-9]*"):
        path.unlink()
    if (folder / CHECKPOINT).is_file():
        (folder / STATE).unlink(missing_ok=True)


def train_first_round(folder: Path, names: Sequence[str]) -> None:
    """Train, embed and evaluate members, one after the other. The last file written marks a member
    as finished."""
    shared = open_shared(folder)
    for name in names:
        run = open_member(folder, name, shared)
        write_embeddings(run, trained_model(run), run.folder, evaluate=True)


def train_second_round(folder: Path, names: Sequence[str]) -> None:
    """Train members a second time without the pairs left out, and store only their scores on other
    pairs."""
    shared = open_shared(folder)
    table = shared.audit.read_columns(store.SECOND_TABLE, store.LEFT_OUT)
    left_out = table[store.LEFT_OUT].to_numpy()
    held_out = np.zeros(len(left_out), dtype=bool)
    held_out[shared.data.held_out] = True
    for name in names:
        run = open_member(folder, name, shared, shared.audit.member(name) / store.SECOND)
        trained = shared.membership[name].to_numpy()
        data = dataclasses.replace(run.data, rows=np.flatnonzero(trained & ~left_out))
        run = dataclasses.replace(run, data=data)
        run.folder.mkdir(exist_ok=True)
        model = trained_model(run)
        embeddings = run.folder / store.SECOND_EMBEDDINGS
        write_embeddings(run, model, embeddings)
        image, text = store.read_embeddings(embeddings)
        csls = misfit.csls_out([image], [text], trained[None], held_out)
        save_array(csls.astype(np.float32), run.folder / store.SECOND_FIT)
