"""One member: what it reads, and how it is trained, or loaded, then embedded and evaluated."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torchvision.datasets import ImageFolder

from clipmem_core import columns as c
from clipmem_core.atomic import read_through, replacing
from clipmem_core.audits.locked import Features, build_locked, feature_views, fit_standards, open_towers
from clipmem_core.audits.prepare import membership_of, pixels_folder, read_tokens, sides_of, tokens_file, utility_rows
from clipmem_core.audits.settings import Towers, opened, probe_folders
from clipmem_core.audits.store import (
    CAPTION_SCORES,
    IMAGE_EMBEDDINGS,
    LEFT_OUT,
    MEMBER_UTILITY,
    MEMBERSHIP,
    PAIRS,
    SECOND,
    SECOND_EMBEDDINGS,
    SECOND_FIT,
    SECOND_TABLE,
    SNAPSHOTS,
    TEXT_EMBEDDINGS,
    Audit,
    MemberRecord,
    Record,
    caption_counts,
    pair_blocks,
    read_array,
    read_embeddings,
    read_prepared,
    read_table,
    remove_second_model,
    write_blocks,
    write_json,
)
from clipmem_core.config import AuditConfig, InputError
from clipmem_core.draws import draw_keys
from clipmem_core.mitigations import mitigations_of
from clipmem_core.pairs.pictures import PictureError, decode, resize
from clipmem_core.pairs.pixels import open_pixels
from clipmem_core.scores.detectors import (
    LOG_PROBABILITY,
    external_used,
    fit_out,
    learned_by_caption,
    margins,
    similarities,
)
from clipmem_core.scores.utility import linear_probe, retrieval_recalls, zero_shot
from clipmem_core.shortage import shortage
from clipmem_core.training.model import (
    Model,
    build_model,
    encode_image,
    image_blocks,
    load_weights,
    text_blocks,
    text_embeddings,
    tokenize,
)
from clipmem_core.training.names import CHECKPOINT, STATE, TRAJECTORY, model_config
from clipmem_core.training.trainer import Trainer, chosen_captions, save_array, train
from clipmem_core.training.views import FeatureRows, PixelSource, TrainingData, ViewMaker, Views
from clipmem_core.training.vocabulary import DELETED, OMITTED, Vocabulary, delete_rows, pairs_with

BATCH = 256
MAX_PICTURES = 10_000  # a part, drawn from the seed, when a split is larger


def _probe_pictures(folder: Path, seed: int) -> tuple[list[str], np.ndarray]:
    try:
        found = ImageFolder(str(folder))
    except (FileNotFoundError, OSError) as error:
        raise InputError(f"probe-data {str(folder)!r} cannot be read: {str(error).splitlines()[0]}") from None
    count = len(found.samples)
    rows = np.arange(count)
    if count > MAX_PICTURES:
        rows = np.sort(np.random.default_rng(seed).choice(count, MAX_PICTURES, replace=False))
    paths, classes = zip(*(found.samples[row] for row in rows), strict=True)
    return list(paths), np.array([found.classes[place] for place in classes])


def _probe_square(path: Path, size: int, resize_mode: str) -> np.ndarray:
    try:
        return resize(decode(path.read_bytes(), size=size), size, resize_mode)
    except (OSError, PictureError) as error:
        if shortage(error):
            raise
        raise InputError(f"probe-data picture {str(path)!r} is broken ({error}): take it out and go on") from None


@torch.inference_mode()
def _probe_embeddings(model: Model, paths: list[str], config: AuditConfig, views: ViewMaker, device: str) -> np.ndarray:
    model.eval()
    whole, blocks = np.array([[0.0, 0.0, 1.0, 1.0]]), []
    for start in range(0, len(paths), BATCH):
        part = paths[start : start + BATCH]
        pixels = np.stack([_probe_square(Path(path), views.image_size, config.resize_mode) for path in part])
        blocks.append(encode_image(model, views.images(pixels, whole.repeat(len(part), 0), device)).cpu().numpy())
    return np.concatenate(blocks)


def probe_accuracy(model: Model, config: AuditConfig, views: ViewMaker, device: str) -> float:
    """Fit a logistic regression on the embeddings of train/ and return its accuracy on val/, in [0, 1]."""
    train_folder, test_folder = probe_folders(config.probe_data)
    train_paths, train_classes = _probe_pictures(train_folder, config.seed)
    test_paths, test_classes = _probe_pictures(test_folder, config.seed)
    train_x = _probe_embeddings(model, train_paths, config, views, device)
    test_x = _probe_embeddings(model, test_paths, config, views, device)
    return linear_probe(train_x, train_classes, test_x, test_classes, seed=config.seed)


def noted_captions(
    blocks: Iterable[np.ndarray],
    image_file: Path,
    caption_start: np.ndarray,
    external: np.ndarray,
    learned: np.ndarray,
    path: Path,
) -> Iterator[np.ndarray]:
    """Yield embeddings of captions as they come, and leave what is measured on each at their end.

    Args:
        blocks: embeddings of captions in order, float32 [n, dim].
        image_file: the embeddings of the member's pictures, written already.
        caption_start: int64 [n_pairs + 1].
        external: true for external pairs, [n_pairs].
        learned: as of `learned_by_caption`, [n_captions].
        path: of the file, float32 [n_captions, 3]: similarity, margin, learned.
    """
    image = read_array(image_file, shared=True)
    owner = np.repeat(np.arange(len(caption_start) - 1), np.diff(caption_start))
    beside, found, done = external_used(external), [], 0
    for vectors in blocks:
        own = owner[done : done + len(vectors)]
        done += len(vectors)
        similarity = similarities(vectors, image, own)
        found.append(np.column_stack([similarity, margins(vectors, similarity, own, image, beside)]))
        yield vectors
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.column_stack([np.concatenate(found), learned]).astype(np.float32))


# Evaluation views come from a stream that no training seed reaches.
EVALUATION = 1 << 40
PROMPT = "a picture of {}"


@dataclass(frozen=True)
class MemberRun:
    """What a member works with."""

    audit: Audit
    name: str
    record: Record
    own: MemberRecord
    config: AuditConfig  # the audit's, or another under which the same pairs are seen
    pairs: pd.DataFrame
    membership: pd.DataFrame
    data: TrainingData
    vocabulary: Vocabulary | None = None  # once it is trained; None reads every token
    towers: Towers = Towers(None, None)  # those that are locked
    features: Features = Features(None, None)  # what they give
    judged: np.ndarray | None = None  # as in `Shared`
    second: bool = False  # whether this is its training in the second round

    @property
    def folder(self) -> Path:
        own = self.audit.member(self.name)
        return own / SECOND if self.second else own

    @property
    def locked(self) -> bool:
        """Whether it trains heads on the features of a locked tower."""
        return bool(self.towers.image or self.towers.text)

    def given(self, texts: list[str]) -> np.ndarray:
        """Return what the member reads of some texts: tokens, or the features of the locked text tower."""
        if self.towers.text:
            return opened(self.towers.text).embed(texts)
        return self.read(tokenize(self.config.model, texts))

    def read(self, tokens: np.ndarray) -> np.ndarray:
        """Return what the member reads of some tokens once it is trained, [n, context_length]."""
        return tokens if self.vocabulary is None else self.vocabulary.read(tokens)


def cached_tokens(model: str, pairs: pd.DataFrame) -> np.ndarray:
    """Return tokens of all captions, int32 [n_captions, context_length], made once for all members."""

    def make(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, tokens=tokenize(model, [caption for own in pairs[c.CAPTIONS] for caption in own]))

    return read_through(tokens_file(model, pairs), make, read_tokens)


@dataclass(frozen=True, eq=False)
class Shared:
    """What all members of an audit work with: read once for those that share a process."""

    audit: Audit
    record: Record
    pairs: pd.DataFrame  # the label alone where features were computed elsewhere
    membership: pd.DataFrame  # group, and a bool column a member
    towers: Towers
    features: Features
    data: TrainingData  # but for the rows that a member trains on
    judged: np.ndarray  # the external pairs that utility is measured on, int64 [n]


def open_shared(folder: Path) -> Shared:
    """Read from an audit's folder what its members share."""
    audit = Audit(folder)
    record = audit.record
    config = record.config
    membership = read_table(folder / MEMBERSHIP, columns=[c.GROUP, *record.members])
    sides = sides_of(audit, config, membership_of(membership))
    external, judged = np.flatnonzero(sides.external), utility_rows(sides)
    del sides
    group = membership[c.GROUP] = membership[c.GROUP].astype("category")
    pairs = audit.pairs if not config.features else read_table(folder / PAIRS, columns=[c.LABEL])
    keys = np.concatenate([draw_keys(ids[c.PAIR_ID].to_pylist()) for ids in pair_blocks(audit, [c.PAIR_ID])])
    if (group == c.CANDIDATE).sum() == (group == c.INDEPENDENT).sum():
        # Candidate k and independent k share every draw, so that f and g differ in the pair alone.
        keys[group == c.INDEPENDENT] = keys[group == c.CANDIDATE]
    towers, features = open_towers(audit, record, pairs)
    data = TrainingData(
        pixels=_pixels(audit, record, pairs) if features.image is None else FeatureRows(features.image),
        tokens=cached_tokens(config.model, pairs) if features.text is None else features.text,
        caption_start=_starts(caption_counts(audit)),
        keys=keys,
        rows=np.array([], dtype=np.int64),
        external=external,
    )
    return Shared(audit, record, pairs, membership, towers, features, data, judged)


def _pixels(audit: Audit, record: Record, pairs: pd.DataFrame) -> PixelSource:
    rows = read_prepared(audit.folder).cache_rows
    return open_pixels(pixels_folder(audit), rows=rows, root=record.pictures, images=pairs[c.IMAGE].tolist())


def open_member(folder: Path, name: str, shared: Shared | None = None) -> MemberRun:
    """Return all that a member works with, read from its audit's folder as far as it is not `shared`."""
    shared = shared or open_shared(folder)
    audit, record, data = shared.audit, shared.record, shared.data
    config, rows = record.config, np.flatnonzero(shared.membership[name].to_numpy())
    known = known_tokens(config, data.tokens, data.caption_start, rows)
    trained = None if known is None else dataclasses.replace(known, min_df=config.text_min_df, how=OMITTED)
    tokens = data.tokens if trained is None else trained.read(data.tokens)
    return MemberRun(
        audit=audit,
        name=name,
        record=record,
        own=audit.member_record(name),
        config=config,
        pairs=shared.pairs,
        membership=shared.membership,
        data=dataclasses.replace(data, tokens=tokens, rows=rows),
        vocabulary=known,
        towers=shared.towers,
        features=shared.features,
        judged=shared.judged,
    )


def vocabulary_of_member(audit: Audit, name: str) -> Vocabulary | None:
    """Return the tokens that a member reads once it is trained; None where it reads every token."""
    config = audit.record.config
    if not after_training(config):
        return None  # before every caption is read for nothing
    return known_tokens(config, *tokens_of(audit.pairs, config), np.flatnonzero(audit.membership[name].to_numpy()))


def tokens_of(pairs: pd.DataFrame, config: AuditConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens of all captions, and the row that each pair's captions start at, int64 [n_pairs + 1]."""
    return cached_tokens(config.model, pairs), caption_starts(pairs)


def caption_starts(pairs: pd.DataFrame) -> np.ndarray:
    """Return the row that each pair's captions start at, and behind the last where they end, int64 [n_pairs + 1]."""
    return _starts(pairs[c.CAPTIONS].map(len).to_numpy())


def _starts(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def after_training(config: AuditConfig) -> int:
    """Return in how many trained pairs a token has to be to be read once training is over."""
    return max(config.text_min_df, config.text_forget_df)


def known_tokens(config: AuditConfig, tokens: np.ndarray, start: np.ndarray, rows: np.ndarray) -> Vocabulary | None:
    """Return the tokens that a member knows once it is trained on its pairs; None where it reads every token."""
    if not after_training(config):
        return None
    counts = pairs_with(model_config(config.model), tokens, start, rows, first=config.train_captions)
    return Vocabulary(model_config(config.model), counts, after_training(config), config.text_forget_as)


def view_maker(model: Model, config: AuditConfig, seed: int, *, crop_scale: float = 0.0) -> ViewMaker:
    """Return the view maker that fits a model's input; crops are those of training where no scale is given."""
    size = model.visual.image_size
    mean_std = model.visual.preprocess_cfg
    return ViewMaker(
        size[0] if isinstance(size, tuple) else size,
        crop_scale or config.crop_scale,
        tuple(mean_std["mean"]),
        tuple(mean_std["std"]),
        seed,
        mitigations_of(config),
    )


def training_views(run: MemberRun, model: Model, seed: int, *, crop_scale: float = 0.0) -> Views:
    """Return what a member sees of pictures: crops, or parts of the features that a locked tower gives of them."""
    return (
        feature_views(model, seed) if run.towers.image else view_maker(model, run.config, seed, crop_scale=crop_scale)
    )


def build_member(config: AuditConfig, towers: Towers, *, seed: int, pretrained: str, device: str) -> Model:
    """Build the model that members of a config train, with heads where towers are locked; they are not fitted yet."""
    if towers.image or towers.text:
        return build_locked(towers, config, seed=seed, pretrained=pretrained)
    return build_model(
        config.model, loss=config.loss, seed=seed, image_size=config.image_size, pretrained=pretrained, device=device
    )


def finished_model(run: MemberRun) -> Model:
    """Return the member's model from its checkpoint."""
    model = build_member(run.config, run.towers, seed=run.own.seed, pretrained="", device=run.record.device)
    load_weights(model, Path(run.own.checkpoint or run.folder / CHECKPOINT))
    return model


def trained_model(run: MemberRun) -> Model:
    """Return the member's model: from its checkpoint when there is one, else trained now."""
    config, seed, device = run.config, run.own.seed, run.record.device
    # The trajectory comes after the checkpoint: a member killed between the two goes on from its last saved state.
    if run.own.checkpoint or ((run.folder / CHECKPOINT).is_file() and (run.folder / TRAJECTORY).is_file()):
        (run.folder / STATE).unlink(missing_ok=True)
        return finished_model(run)
    model = build_member(config, run.towers, seed=seed, pretrained=config.pretrained, device=device)
    if run.locked:
        fit_standards(model, run.features)
    trainer = Trainer(model, run.data, config, training_views(run, model, seed), seed=seed, device=device)
    snapshots = set(run.record.snapshots)

    def look(epoch: int) -> None:
        if epoch in snapshots:
            write_embeddings(run, model, run.folder / SNAPSHOTS / str(epoch))

    train(trainer, run.folder, after_epoch=look if snapshots else None)
    return model


def write_embeddings(
    run: MemberRun,
    model: Model,
    folder: Path,
    *,
    between: Callable[[np.ndarray], None] = lambda image: None,
    note: Callable[[Iterator[np.ndarray]], Iterator[np.ndarray]] = iter,
) -> None:
    """Write the mean embeddings of every picture's evaluation views and of every pair's captions, a block at a time.

    text.npy is written last and marks both as complete. `between` is called with the image embeddings [n_pairs, dim],
    mapped from their file; `note` looks at the embeddings of single captions as they come.
    """
    how: dict[str, Any] = {"precision": run.config.precision, "device": run.record.device}
    views = training_views(run, model, run.config.seed + EVALUATION, crop_scale=run.config.eval_crop_scale)
    n_views = 1 if run.towers.image else run.config.views  # features are of one view
    image = image_blocks(model, run.data, views, n_views=n_views, **how)
    read = run.read(run.data.tokens)
    text = text_blocks(model, read, run.data.caption_start, first=run.config.eval_captions, note=note, **how)
    folder.mkdir(parents=True, exist_ok=True)
    write_blocks(folder / IMAGE_EMBEDDINGS, image, len(run.data.keys))
    between(read_array(folder / IMAGE_EMBEDDINGS, shared=True))
    write_blocks(folder / TEXT_EMBEDDINGS, text, len(run.data.keys))


def caption_embeddings(run: MemberRun, model: Model, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the embedding of each caption of some pairs, float32 [n, dim], and its pair's place among them, [n]."""
    start = run.data.caption_start
    captions = np.concatenate([np.arange(start[row], start[row + 1]) for row in rows])
    read = run.read(run.data.tokens[captions])
    text = text_embeddings(model, read, precision=run.config.precision, device=run.record.device)
    return text, np.repeat(np.arange(len(rows)), start[rows + 1] - start[rows])


def probe_rows(run: MemberRun) -> np.ndarray:
    """Return the pairs a linear probe is fitted on: the shared ones in `paper`, else all the member saw."""
    shared = np.flatnonzero(run.membership[c.GROUP] == c.SHARED)
    return shared if len(shared) else run.data.rows


def utility(run: MemberRun, model: Model, image: np.ndarray) -> dict[str, float]:
    """Measure retrieval both ways on external pairs, and with labels a linear probe and zero-shot.

    On half of them where the config sets that half apart.

    `image` are the mean image embeddings, [n_pairs, dim].
    """
    how = {"precision": run.config.precision, "device": run.record.device}
    external = run.judged
    assert external is not None
    text, owner = caption_embeddings(run, model, external)
    metrics = retrieval_recalls(image[external], text, owner)
    labels = run.pairs[c.LABEL]
    labelled = labels.notna().to_numpy()
    fit, test = (rows[labelled[rows]] for rows in (probe_rows(run), external))
    if labels.iloc[fit].nunique() >= 2 and len(test):
        names = labels.to_numpy().astype(str)
        metrics["linear_probe"] = linear_probe(image[fit], names[fit], image[test], names[test], seed=run.config.seed)
        if not run.config.features:  # with features computed elsewhere there is no tower to read a prompt
            classes = np.unique(names[labelled])
            prompted = text_embeddings(model, run.given([PROMPT.format(name) for name in classes]), **how)
            metrics["zero_shot"] = zero_shot(image[test], prompted, np.searchsorted(classes, names[test]))
    if run.config.probe_data:
        name = f"linear_probe_{Path(run.config.probe_data).name}"
        metrics[name] = probe_accuracy(model, run.config, view_maker(model, run.config, 0), run.record.device)
    return metrics


def clear_leftovers(folder: Path) -> None:
    """Remove what a kill left behind: files half written, and a state that its checkpoint has overtaken."""
    for path in folder.glob(".*.[0-9]*"):
        path.unlink()
    if (folder / CHECKPOINT).is_file():
        (folder / STATE).unlink(missing_ok=True)


def run_members(folder: Path, names: Sequence[str]) -> None:
    """Bring members of an audit to their end, one after the other; what they share is read once."""
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

    def judge(image: np.ndarray) -> None:
        write_json(run.folder / MEMBER_UTILITY, utility(run, model, image))

    several = np.diff(run.data.caption_start).max(initial=0) > 1
    note = functools.partial(note_captions, run) if several else iter
    write_embeddings(run, model, run.folder, between=judge, note=note)


def note_captions(run: MemberRun, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Pass on the embeddings of captions, and leave what is measured on each in the member's folder."""
    return noted_captions(
        blocks,
        run.folder / IMAGE_EMBEDDINGS,
        run.data.caption_start,
        (run.membership[c.GROUP] == c.EXTERNAL).to_numpy(),
        learned_captions(run),
        run.folder / CAPTION_SCORES,
    )


def learned_captions(run: MemberRun) -> np.ndarray:
    """Return how well each caption was learned, by the epochs that drew it; NaN without a trajectory."""
    data, path = run.data, run.folder / TRAJECTORY
    if not path.is_file():
        return np.full(data.caption_start[-1], np.nan)
    trajectory = read_array(path, shared=True)
    first = run.config.train_captions
    drawn = [
        chosen_captions(data, data.rows, seed=run.own.seed, epoch=epoch, first=first)
        for epoch in range(len(trajectory))
    ]
    return learned_by_caption(trajectory[:, :, LOG_PROBABILITY], data.rows, drawn, int(data.caption_start[-1]))


def train_again(folder: Path, names: Sequence[str]) -> None:
    """Train members of an audit a second time, one after the other; what they share is read once."""
    shared, left_out = open_shared(folder), read_table(folder / SECOND_TABLE, columns=[LEFT_OUT])[LEFT_OUT].to_numpy()
    for name in names:
        _train_again(folder, name, shared, left_out)


def _train_again(folder: Path, name: str, shared: Shared, left_out: np.ndarray) -> None:
    """Bring a member's second training to its end; of its model nothing stays."""
    run = open_member(folder, name, shared)
    trained = np.zeros(len(left_out), dtype=bool)
    trained[run.data.rows] = True
    rows = np.flatnonzero(trained & ~left_out)
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, rows=rows), second=True)
    run.folder.mkdir(exist_ok=True)
    clear_leftovers(run.folder)
    torch.set_num_threads(run.record.threads)
    model = trained_model(run)
    external = np.zeros(len(left_out), dtype=bool)
    external[run.data.external] = True
    write_embeddings(run, model, run.folder / SECOND_EMBEDDINGS)
    image, text = read_embeddings(run.folder / SECOND_EMBEDDINGS)
    scale = float(model.logit_scale.detach().exp())
    _, sure = fit_out([image], [text], trained[None], external, [scale])
    save_array(sure.astype(np.float32), run.folder / SECOND_FIT)
    remove_second_model(run.folder)
