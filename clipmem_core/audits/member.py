"""One member: what it reads, and how it is trained, or loaded, then embedded and evaluated."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torchvision.datasets import ImageFolder

from clipmem_core import columns as c
from clipmem_core.audits import prepare, store
from clipmem_core.audits.locked import Features, build_member, feature_views, fit_standards, open_towers
from clipmem_core.audits.settings import Towers, opened, probe_folders
from clipmem_core.audits.store import Audit, MemberRecord, Record
from clipmem_core.config import AuditConfig, InputError
from clipmem_core.draws import draw_keys
from clipmem_core.io import read_through, replacing, shortage
from clipmem_core.mitigations import mitigations_of
from clipmem_core.pairs.pictures import PictureError, decode, resize
from clipmem_core.pairs.pixels import open_pixels
from clipmem_core.scores import detectors
from clipmem_core.scores.utility import linear_probe, retrieval_recalls, zero_shot
from clipmem_core.training import model as models
from clipmem_core.training.model import Model
from clipmem_core.training.names import CHECKPOINT, STATE, TRAJECTORY, model_config
from clipmem_core.training.trainer import Trainer, chosen_captions, save_array, train
from clipmem_core.training.views import FeatureRows, TrainingData, ViewMaker, Views
from clipmem_core.training.vocabulary import DELETED, OMITTED, Vocabulary, delete_rows, pairs_with

PROBE_BATCH, MOST_PROBED = 256, 10_000  # pictures of a split; of more, some are drawn
EVALUATION = 1 << 40  # added to the seed of evaluation views: no training seed is as large
PROMPT = "a picture of {}"


@dataclass(frozen=True, eq=False)
class Shared:
    """What all members of an audit work with, read once for those that share a process."""

    audit: Audit
    record: Record
    config: AuditConfig  # the audit's, or another under which the same pairs are seen
    pairs: pd.DataFrame  # only the label if features were computed elsewhere
    membership: pd.DataFrame  # group, and a bool column a member
    towers: Towers  # those that are locked
    features: Features
    data: TrainingData  # without the rows that a member trains on
    utility_pairs: np.ndarray  # the external pairs that utility is measured on, int64 [n]


@dataclass(frozen=True, eq=False)
class MemberRun(Shared):
    """What one member works with."""

    name: str
    own: MemberRecord
    vocabulary: Vocabulary | None = None  # the tokens it reads once it is trained; None: all
    second: bool = False  # this is its training in the second round

    @property
    def folder(self) -> Path:
        own = self.audit.member(self.name)
        return own / store.SECOND if self.second else own

    def read(self, tokens: np.ndarray) -> np.ndarray:
        """Return what the member reads of some tokens once it is trained, [n, context_length]."""
        return tokens if self.vocabulary is None else self.vocabulary.read(tokens)


def open_shared(folder: Path) -> Shared:
    """Read from an audit's folder what its members share."""
    audit = Audit(folder)
    record = audit.record
    config = record.config
    membership = store.read_table(folder / store.MEMBERSHIP, columns=[c.GROUP, *record.members])
    sides = prepare.sides_of(audit, config, prepare.membership_of(membership))
    external, utility_pairs = np.flatnonzero(sides.external), prepare.utility_rows(sides)
    del sides
    group = membership[c.GROUP] = membership[c.GROUP].astype("category")
    pairs = audit.pairs if not config.features else store.read_table(folder / store.PAIRS, columns=[c.LABEL])
    blocks = store.pair_blocks(audit, [c.PAIR_ID])
    keys = np.concatenate([draw_keys(ids[c.PAIR_ID].to_pylist()) for ids in blocks])
    if (group == c.CANDIDATE).sum() == (group == c.INDEPENDENT).sum():
        # Candidate k and independent k share every draw, so that f and g differ in the pair alone.
        keys[group == c.INDEPENDENT] = keys[group == c.CANDIDATE]
    towers, features = open_towers(audit, record, pairs)
    if features.image is None:
        rows, images = store.read_prepared(folder).cache_rows, pairs[c.IMAGE].tolist()
        pixels: Any = open_pixels(prepare.pixels_folder(audit), rows=rows, root=record.pictures, images=images)
    else:
        pixels = FeatureRows(features.image)
    data = TrainingData(
        pixels=pixels,
        tokens=cached_tokens(config.model, pairs) if features.text is None else features.text,
        caption_start=_starts(store.caption_counts(audit)),
        keys=keys,
        rows=np.array([], dtype=np.int64),
        external=external,
    )
    return Shared(audit, record, config, pairs, membership, towers, features, data, utility_pairs)


def open_member(folder: Path, name: str, shared: Shared | None = None) -> MemberRun:
    """Return all that a member works with."""
    shared = shared or open_shared(folder)
    config, data, rows = shared.config, shared.data, np.flatnonzero(shared.membership[name].to_numpy())
    vocabulary = known_tokens(config, data.tokens, data.caption_start, rows)
    tokens = data.tokens
    if vocabulary is not None:
        tokens = dataclasses.replace(vocabulary, min_df=config.text_min_df, how=OMITTED).read(tokens)
    own = vars(shared) | {"data": dataclasses.replace(data, tokens=tokens, rows=rows)}
    return MemberRun(**own, name=name, own=shared.audit.member_record(name), vocabulary=vocabulary)


def cached_tokens(model: str, pairs: pd.DataFrame) -> np.ndarray:
    """Return tokens of all captions, int32 [n_captions, context_length], made once for all members."""

    def make(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, tokens=models.tokenize(model, [caption for own in pairs[c.CAPTIONS] for caption in own]))

    return read_through(prepare.tokens_file(model, pairs), make, prepare.read_tokens)


def tokens_of(pairs: pd.DataFrame, config: AuditConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens of all captions, and the row that each pair's captions start at, int64 [n_pairs + 1]."""
    return cached_tokens(config.model, pairs), caption_starts(pairs)


def caption_starts(pairs: pd.DataFrame) -> np.ndarray:
    """Return the row that each pair's captions start at, and where the last ones end, int64 [n_pairs + 1]."""
    return _starts(pairs[c.CAPTIONS].map(len).to_numpy())


def _starts(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def known_tokens(config: AuditConfig, tokens: np.ndarray, start: np.ndarray, rows: np.ndarray) -> Vocabulary | None:
    """Return the tokens that a member reads once it is trained on its pairs; None if it reads every token."""
    least = max(config.text_min_df, config.text_forget_df)
    if not least:
        return None
    counts = pairs_with(model_config(config.model), tokens, start, rows, first=config.train_captions)
    return Vocabulary(model_config(config.model), counts, least, config.text_forget_as)


def vocabulary_of_member(audit: Audit, name: str) -> Vocabulary | None:
    """Return the tokens that a member reads once it is trained; None if it reads every token."""
    config = audit.record.config
    if not (config.text_min_df or config.text_forget_df):
        return None  # without reading every caption
    return known_tokens(config, *tokens_of(audit.pairs, config), np.flatnonzero(audit.membership[name].to_numpy()))


def view_maker(model: Model, config: AuditConfig, seed: int, *, crop_scale: float = 0.0) -> ViewMaker:
    """Return the view maker for a model's input; crops are those of training unless `crop_scale` is set."""
    size, normal = model.visual.image_size, model.visual.preprocess_cfg
    size = size[0] if isinstance(size, tuple) else size
    scale = crop_scale or config.crop_scale
    return ViewMaker(size, scale, tuple(normal["mean"]), tuple(normal["std"]), seed, mitigations_of(config))


def _views(run: MemberRun, model: Model, seed: int, *, crop_scale: float = 0.0) -> Views:
    """Return views of pictures, or of their features if the image tower is locked."""
    return (
        feature_views(model, seed) if run.towers.image else view_maker(model, run.config, seed, crop_scale=crop_scale)
    )


def finished_model(run: MemberRun) -> Model:
    """Return the member's model from its checkpoint."""
    model = build_member(run.config, run.towers, seed=run.own.seed)
    models.load_weights(model, Path(run.own.checkpoint or run.folder / CHECKPOINT))
    return model


def trained_model(run: MemberRun) -> Model:
    """Return the member's model: from its checkpoint if there is one, else trained now."""
    config, seed = run.config, run.own.seed
    # The trajectory is written after the checkpoint: a member killed between the two resumes from its last state.
    if run.own.checkpoint or ((run.folder / CHECKPOINT).is_file() and (run.folder / TRAJECTORY).is_file()):
        (run.folder / STATE).unlink(missing_ok=True)
        return finished_model(run)
    model = build_member(config, run.towers, seed=seed, pretrained=config.pretrained)
    if run.towers.image or run.towers.text:
        fit_standards(model, run.features)
    trainer = Trainer(model, run.data, config, _views(run, model, seed), seed=seed, device=run.record.device)
    snapshots = set(run.record.snapshots)

    def snapshot(epoch: int) -> None:
        if epoch in snapshots:
            write_embeddings(run, model, run.folder / store.SNAPSHOTS / str(epoch))

    train(trainer, run.folder, after_epoch=snapshot if snapshots else None)
    return model


def write_embeddings(run: MemberRun, model: Model, folder: Path, *, evaluate: bool = False) -> None:
    """Write the mean embeddings of every picture's evaluation views and of every pair's captions, block by block.

    With `evaluate` also the member's utility and the scores of single captions. text.npy is written last and marks
    all of them as complete.
    """
    data, how = run.data, {"precision": run.config.precision, "device": run.record.device}
    views = _views(run, model, run.config.seed + EVALUATION, crop_scale=run.config.eval_crop_scale)
    n_views = 1 if run.towers.image else run.config.views  # features are of one view
    folder.mkdir(parents=True, exist_ok=True)
    blocks = models.image_blocks(model, data, views, n_views=n_views, **how)
    store.write_blocks(folder / store.IMAGE_EMBEDDINGS, blocks, len(data.keys))
    note: Any = iter
    if evaluate:
        image = store.read_array(folder / store.IMAGE_EMBEDDINGS, shared=True)
        store.write_json(folder / store.MEMBER_UTILITY, utility(run, model, image))
        if np.diff(data.caption_start).max(initial=0) > 1:
            note = functools.partial(_score_captions, run, image)
    read, first = run.read(data.tokens), run.config.eval_captions
    blocks = models.text_blocks(model, read, data.caption_start, first=first, note=note, **how)
    store.write_blocks(folder / store.TEXT_EMBEDDINGS, blocks, len(data.keys))


def _score_captions(run: MemberRun, image: np.ndarray, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Pass on the embeddings of captions, and write similarity, margin and learned of each, float32 [n_captions, 3]."""
    data, path, n = run.data, run.folder / TRAJECTORY, int(run.data.caption_start[-1])
    learned = np.full(n, np.nan)
    if path.is_file():
        trajectory, first = store.read_array(path, shared=True), run.config.train_captions
        drawn = [
            chosen_captions(data, data.rows, seed=run.own.seed, epoch=epoch, first=first)
            for epoch in range(len(trajectory))
        ]
        learned = detectors.learned_by_caption(trajectory[:, :, detectors.LOG_PROBABILITY], data.rows, drawn, n)
    owner = np.repeat(np.arange(len(data.keys)), np.diff(data.caption_start))
    beside = detectors.external_used((run.membership[c.GROUP] == c.EXTERNAL).to_numpy())
    found, done = [], 0
    for vectors in blocks:
        own = owner[done : done + len(vectors)]
        done += len(vectors)
        similarity = detectors.similarities(vectors, image, own)
        found.append(np.column_stack([similarity, detectors.margins(vectors, similarity, own, image, beside)]))
        yield vectors
    with replacing(run.folder / store.CAPTION_SCORES) as temporary, temporary.open("wb") as file:
        np.save(file, np.column_stack([np.concatenate(found), learned]).astype(np.float32))


def caption_embeddings(run: MemberRun, model: Model, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the embedding of each caption of some pairs, float32 [n, dim], and its pair's place among them, [n]."""
    start = run.data.caption_start
    captions = np.concatenate([np.arange(start[row], start[row + 1]) for row in rows])
    how = {"precision": run.config.precision, "device": run.record.device}
    text = models.text_embeddings(model, run.read(run.data.tokens[captions]), **how)
    return text, np.repeat(np.arange(len(rows)), start[rows + 1] - start[rows])


def probe_rows(run: MemberRun) -> np.ndarray:
    """Return the pairs a linear probe is fitted on: the shared ones in `paper`, else all the member saw."""
    shared = np.flatnonzero(run.membership[c.GROUP] == c.SHARED)
    return shared if len(shared) else run.data.rows


def utility(run: MemberRun, model: Model, image: np.ndarray) -> dict[str, float]:
    """Measure retrieval both ways on external pairs, and with labels a linear probe and zero-shot.

    Args:
        image: mean image embeddings, [n_pairs, dim].
    """
    config, utility_pairs = run.config, run.utility_pairs
    metrics = retrieval_recalls(image[utility_pairs], *caption_embeddings(run, model, utility_pairs))
    labels = run.pairs[c.LABEL]
    labelled = labels.notna().to_numpy()
    fit, test = (rows[labelled[rows]] for rows in (probe_rows(run), utility_pairs))
    if labels.iloc[fit].nunique() >= 2 and len(test):
        names = labels.to_numpy().astype(str)
        metrics["linear_probe"] = linear_probe(image[fit], names[fit], image[test], names[test], seed=config.seed)
        if not config.features:  # with features computed elsewhere there is no tower to read a prompt
            classes = np.unique(names[labelled])
            prompts = [PROMPT.format(name) for name in classes]
            text = run.towers.text
            read = opened(text).embed(prompts) if text else run.read(models.tokenize(config.model, prompts))
            prompted = models.text_embeddings(model, read, precision=config.precision, device=run.record.device)
            metrics["zero_shot"] = zero_shot(image[test], prompted, np.searchsorted(classes, names[test]))
    if config.probe_data:
        name = f"linear_probe_{Path(config.probe_data).name}"
        metrics[name] = probe_accuracy(model, config, view_maker(model, config, 0), run.record.device)
    return metrics


@torch.inference_mode()
def probe_accuracy(model: Model, config: AuditConfig, views: ViewMaker, device: str) -> float:
    """Fit a logistic regression on the embeddings of train/ and return its accuracy on val/, in [0, 1]."""

    def load(path: str) -> np.ndarray:
        try:
            return resize(decode(Path(path).read_bytes(), size=views.image_size), views.image_size, config.resize_mode)
        except (OSError, PictureError) as error:
            if shortage(error):
                raise
            raise InputError(f"probe-data picture {path!r} is broken ({error}): remove it and run again") from None

    def embed(folder: Path) -> tuple[np.ndarray, np.ndarray]:
        try:
            pictures = ImageFolder(str(folder), loader=load)
        except OSError as error:
            raise InputError(f"probe-data {str(folder)!r} cannot be read: {str(error).splitlines()[0]}") from None
        rows = np.arange(len(pictures))
        if len(rows) > MOST_PROBED:
            rows = np.sort(np.random.default_rng(config.seed).choice(len(rows), MOST_PROBED, replace=False))
        blocks = []
        for part in np.split(rows, range(PROBE_BATCH, len(rows), PROBE_BATCH)):
            pixels = np.stack([pictures[row][0] for row in part])
            images = views.images(pixels, np.tile([0.0, 0.0, 1.0, 1.0], (len(part), 1)), device)
            blocks.append(models.encode_image(model, images).cpu().numpy())
        return np.concatenate(blocks), np.array(pictures.classes)[np.array(pictures.targets)[rows]]

    model.eval()
    fit, test = map(embed, probe_folders(config.probe_data))
    return linear_probe(*fit, *test, seed=config.seed)


def clear_leftovers(folder: Path) -> None:
    """Remove what a kill left behind: files half written, and a state that its checkpoint has overtaken."""
    for path in folder.glob(".*.[0-9]*"):
        path.unlink()
    if (folder / CHECKPOINT).is_file():
        (folder / STATE).unlink(missing_ok=True)


def run_members(folder: Path, names: Sequence[str]) -> None:
    """Train, embed and evaluate members of an audit, one after the other."""
    shared = open_shared(folder)
    for name in names:
        run_member(folder, name, shared)


def run_member(folder: Path, name: str, shared: Shared | None = None) -> None:
    """Train, embed and evaluate one member. The last file written marks it as finished."""
    run = open_member(folder, name, shared)
    clear_leftovers(run.folder)
    torch.set_num_threads(run.record.threads)
    model = trained_model(run)
    if run.vocabulary is not None and run.vocabulary.how == DELETED:
        delete_rows(model.state_dict(), run.vocabulary.rare_rows(run.data.tokens))
    write_embeddings(run, model, run.folder, evaluate=True)


def train_again(folder: Path, names: Sequence[str]) -> None:
    """Train members of an audit a second time without the pairs left out. Only their fit to other pairs is stored."""
    shared = open_shared(folder)
    left_out = store.read_table(folder / store.SECOND_TABLE, columns=[store.LEFT_OUT])[store.LEFT_OUT].to_numpy()
    external = np.zeros(len(left_out), dtype=bool)
    external[shared.data.external] = True
    for name in names:
        run = open_member(folder, name, shared)
        trained = shared.membership[name].to_numpy()
        data = dataclasses.replace(run.data, rows=np.flatnonzero(trained & ~left_out))
        run = dataclasses.replace(run, data=data, second=True)
        run.folder.mkdir(exist_ok=True)
        clear_leftovers(run.folder)
        torch.set_num_threads(run.record.threads)
        model = trained_model(run)
        write_embeddings(run, model, run.folder / store.SECOND_EMBEDDINGS)
        image, text = store.read_embeddings(run.folder / store.SECOND_EMBEDDINGS)
        scale = float(model.logit_scale.detach().exp())
        _, sure = detectors.fit_out([image], [text], trained[None], external, [scale])
        save_array(sure.astype(np.float32), run.folder / store.SECOND_FIT)
        store.remove_second_model(run.folder)
