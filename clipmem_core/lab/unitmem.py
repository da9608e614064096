"""Measures UnitMem of a finished audit's members and its references, and of one image encoder
trained under three paradigms on the same pictures, for claim 1 of the paper.

Units can be selective without memorization: before any training, and for pairs that their member
never saw. Only UnitMem above these references is memorization.

A unit is a hidden unit of a transformer block's MLP, after its activation function. Its activation
on a pair is the mean over tokens and evaluation views of the picture (image encoder: all tokens,
with the class token) or over the pair's captions (text encoder: tokens up to the end token). Values
below 0 count as 0; see `UnitTally`.

The paradigms are captions (CLIP), labels, and another view of the same picture (SimCLR). Pictures,
their order, views, optimiser, schedule, the encoder's first weights and the number of samples seen
are the same.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import MLP

from clipmem_core.auditing.folder import store
from clipmem_core.auditing.folder.store import Audit
from clipmem_core.auditing.run.member import (
    MemberRun,
    build_member,
    clear_leftovers,
    evaluation_views,
    open_member,
    trained_model,
    view_maker,
)
from clipmem_core.auditing.run.pipeline import Screen, ensure_pixels
from clipmem_core.features.towers import autocast
from clipmem_core.lab import encoders as t
from clipmem_core.lab.experiment import Experiment
from clipmem_core.mitigations import Batch, can_cut_text
from clipmem_core.scores.encoders import UnitTally
from clipmem_core.training.augmentation import Views
from clipmem_core.training.model import (
    UPPER,
    Model,
    encode_text,
    evaluation_batches,
    text_input,
)
from clipmem_core.training.names import CHECKPOINT
from clipmem_core.training.trainer import Trainer, train
from clipmem_core.utils import columns as c
from clipmem_core.utils import draws
from clipmem_core.utils.io import InputError

PROJECTION = 128  # width of SimCLR's projection, as in its paper
TEMPERATURE = 0.5  # SimCLR's for small data and batches


def run_units(audit: Audit, screen: Screen) -> None:
    """Measure the units of an audit's members, and the references of the first, unless they are
    measured already."""
    check_units(audit)
    names = audit.record.members
    ensure_pixels(audit, screen)
    for name, table in [*((name, t.UNITS) for name in names), (names[0], t.REFERENCES)]:
        path = t.table_file(audit, name, table)
        if path.is_file():
            continue
        screen.say(f"measuring {path.stem} of member {name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        run = open_member(audit.folder, name)
        torch.set_num_threads(run.record.threads)  # as when it was trained
        if table == t.UNITS:
            model = trained_model(run)
            units = measure_model(run, model, t.TOWERS, run.data.rows)
        else:
            units = measure_references(run)
        store.write_table(path, units)


def say_units(audit: Audit, screen: Screen) -> None:
    """Print UnitMem by layer, of the members and of the references."""
    units = t.read_units(audit)
    references = t.read_units(audit, t.REFERENCES)
    assert units is not None
    assert references is not None
    by = [t.REFERENCE, t.TOWER, t.LAYER]
    for table in (t.layer_means(units), t.layer_means(references, by=by)):
        say_table(table, screen)


def say_table(table: pd.DataFrame, screen: Screen) -> None:
    """Print a table line by line."""
    for line in table.round(3).to_string(index=False).splitlines():
        screen.say(line)


def check_units(audit: Audit) -> None:
    """Refuse an audit that is not finished, or whose encoders are not trained."""
    audit.check_finished()
    config = audit.record.config
    if (config.lock_image or config.lock_text) and not config.unlock:
        raise InputError(
            f"audit {audit.name!r} has a locked tower, so it trains no units: run one with "
            "--preset tuned"
        )


def measure_references(run: MemberRun) -> pd.DataFrame:
    """Measure the references of a member, as `unit_table` with a column reference."""
    config = run.config
    rows = run.data.rows
    held_out = run.data.held_out
    untrained = build_member(config, run.towers, seed=run.member.seed, pretrained=config.pretrained)
    measured = [(t.BEFORE, untrained, rows)]
    n = min(len(rows), len(held_out))  # as many of both: UnitMem grows with the number of pairs
    model = trained_model(run)
    for reference, pairs in ((t.SEEN, rows), (t.UNSEEN, held_out)):
        drawn = draws.rng(config.seed, f"unitmem {reference}").choice(pairs, n, replace=False)
        measured.append((reference, model, np.sort(drawn)))
    tables = []
    for reference, model, pairs in measured:
        table = measure_model(run, model, t.TOWERS, pairs)
        tables.append(table.assign(**{t.REFERENCE: reference}))
    return pd.concat(tables, ignore_index=True)


def measure_model(
    run: MemberRun,
    model: Model,
    towers: Sequence[str],
    rows: np.ndarray,
) -> pd.DataFrame:
    """Measure encoders of a model on pairs of a run under its evaluation views; returns as
    `unit_table`."""
    pair_ids = run.pairs[c.PAIR_ID].to_numpy()
    views = evaluation_views(run, model)
    tables = []
    for tower in towers:
        tally = count_units(run, model, views, tower, rows)
        widths = unit_layers(model, tower).widths
        tables.append(unit_table(tally, widths, tower=tower, pair_ids=pair_ids))
    return pd.concat(tables, ignore_index=True)


class Layers(NamedTuple):
    """The blocks of one encoder, first to last."""

    activations: tuple[nn.Module, ...]
    widths: tuple[int, ...]  # units of each
    batch_first: bool  # tokens come as [batch, length, width]


def unit_layers(model: Model, tower: str) -> Layers:
    """Return the blocks of an encoder, `image` or `text`."""
    side: Any = model.visual if tower == t.IMAGE_TOWER else getattr(model, "text", None)
    upper = getattr(side, UPPER, None)
    if upper is not None:
        return Layers(upper.units, upper.unit_widths(), batch_first=True)
    encoder: Any = model.visual if tower == t.IMAGE_TOWER else getattr(model, "text", model)
    transformer: Any = getattr(encoder, "transformer", None)
    blocks = list(getattr(transformer, "resblocks", []))
    if not blocks or not all(hasattr(getattr(block, "mlp", None), "gelu") for block in blocks):
        kind = type(encoder).__name__
        raise InputError(
            f"UnitMem of the {tower} encoder needs a transformer of open_clip's, not a {kind}"
        )
    return Layers(
        tuple(block.mlp.gelu for block in blocks),
        tuple(block.mlp.c_proj.in_features for block in blocks),
        transformer.batch_first,
    )


@torch.inference_mode()
def count_units(
    run: MemberRun,
    model: Model,
    views: Views,
    tower: str,
    rows: np.ndarray,
) -> UnitTally:
    """Compute the activation of every unit of an encoder, `image` or `text`, on some pairs, rows
    int64 [n].

    Over the `views` of a picture, or the evaluated captions.
    """
    model.eval()
    layers = unit_layers(model, tower)
    tally = UnitTally(sum(layers.widths))
    # Of each layer, [n, width]
    means: list[Tensor] = [torch.empty(0)] * len(layers.widths)
    mask: Tensor | None = None  # bool [n, length], the tokens to average; None: all

    def note(layer: int, _module: nn.Module, _inputs: Any, activation: Tensor) -> None:
        above = activation if layers.batch_first else activation.transpose(0, 1)
        above = above.float().clamp(min=0)
        if above.ndim == 4:  # a map of a convolutional network
            means[layer] = above.mean(dim=(2, 3))
            return
        length = above.shape[1]
        counted = torch.ones(1, length, device=above.device) if mask is None else mask.float()
        if length > counted.shape[1]:
            raise InputError(f"UnitMem cannot find the caption's tokens among {length}")
        weights = counted[:, None, :length] / counted.sum(dim=1)[:, None, None]
        # A mean over tokens as a product: on a CPU it takes half as long, but never in bfloat16.
        with torch.autocast(above.device.type, enabled=False):
            means[layer] = torch.matmul(weights, above).squeeze(1)

    config = run.config
    data = run.data
    with ExitStack() as hooks:
        for layer, module in enumerate(layers.activations):
            handle = module.register_forward_hook(partial(note, layer))
            hooks.callback(handle.remove)
        if tower == t.IMAGE_TOWER:
            for block in evaluation_batches(rows):
                pixels = data.pixels.gather(block)
                total = np.zeros((len(block), sum(layers.widths)), np.float32)
                for view in range(config.views):
                    images = views.evaluation_images(pixels, data.keys[block], view, config.device)
                    with autocast(config.precision, config.device):
                        model.visual(images)
                    total += torch.cat(means, dim=1).cpu().numpy()
                tally.add(block, total / config.views)
        else:
            cut = can_cut_text(model)
            # Pairs with captions of similar length share a batch
            width = getattr(getattr(model, "text", None), "upper", None)
            width = width.width if width is not None else 0  # of activations; 0: tokens
            order = rows
            if not width:
                longest = np.maximum.reduceat((data.tokens != 0).sum(axis=1), data.captions.first)
                order = rows[np.argsort(longest[rows], kind="stable")]
            for block in evaluation_batches(order):
                places, captions = data.captions.take(block, first=config.eval_captions)
                tokens = text_input(data.tokens[places]).to(config.device)
                positions = tokens != 0
                if width:
                    positions = positions.unflatten(1, (-1, width)).any(dim=2)
                # All up to the end token, the last that is not 0: token 0 is padding, but also a
                # word ("!")
                at = torch.arange(positions.shape[1], device=config.device)
                mask = at <= torch.where(positions, at, 0).amax(dim=1)[:, None]
                with autocast(config.precision, config.device):
                    encode_text(model, tokens, cut=cut)
                values = torch.cat(means, dim=1).cpu().numpy()
                tally.add(block, captions.mean(values))
    return tally


def unit_table(
    tally: UnitTally, widths: Sequence[int], *, tower: str, pair_ids: np.ndarray
) -> pd.DataFrame:
    """Return tower, layer (from 1), unit (from 0), scores, and the pair that activates it most
    (null: it is silent)."""
    scores = tally.scores()
    scores.insert(0, t.TOWER, np.repeat(tower, sum(widths)))
    scores.insert(1, t.LAYER, np.repeat(np.arange(1, len(widths) + 1), widths))
    scores.insert(2, t.UNIT, np.concatenate([np.arange(width) for width in widths]))
    owner = pd.Series(pair_ids[np.maximum(scores[t.ROW], 0)], dtype="string")
    return scores.assign(**{c.PAIR_ID: owner.where(scores[t.ROW] >= 0)})


class HeadedTower(nn.Module):
    """The image encoder of a model with a head on its output; weights of the head are a function of
    the seed."""

    def __init__(self, model: Model, *widths: int, seed: int) -> None:
        super().__init__()
        self.visual = model.visual
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = MLP(self.visual.output_dim, list(widths))
        self.head = head.to(next(model.visual.parameters()).device)

    def encode_image(self, images: Tensor) -> Tensor:
        """Encode images [n, 3, size, size] without the head, [n, dim]."""
        return self.visual(images)

    def forward(self, images: Tensor) -> Tensor:
        """Pass images [n, 3, size, size] through encoder and head, float32 [n, widths[-1]]."""
        return self.head(self.visual(images)).float()


class TowerTrainer(Trainer):
    """Trains with the steps of `Trainer` and the same views: on labels with cross-entropy, else as
    SimCLR.

    In SimCLR (Chen et al., ICML 2020) the two views of a picture are positives within the batch,
    and the loss is NT-Xent. Views are crops, without SimCLR's colours and blur. The head is linear
    for labels, and SimCLR's projection otherwise: a hidden layer as wide as the encoder's output,
    and 128 numbers.
    """

    encoder = "image"

    def __init__(
        self, model: Model, *args: Any, seed: int, labels: np.ndarray | None = None, **kwargs: Any
    ) -> None:
        widths = (
            (model.visual.output_dim, PROJECTION) if labels is None else (int(labels.max()) + 1,)
        )
        super().__init__(HeadedTower(model, *widths, seed=seed), *args, seed=seed, **kwargs)
        self.labels = labels  # int64 [n_pairs]

    def outputs(self, pixels: np.ndarray, rows: np.ndarray, view: int) -> Tensor:
        """Return the head's outputs for a view of some pictures, float32 [n, widths[-1]]."""
        batch = Batch(rows, self.data.keys[rows], view, self.seed)
        images = self.views.training_images(pixels, batch, self.device, self.mitigations)
        with autocast(self.config.precision, self.device):
            return self.model(images)

    def forward_loss(
        self, rows: np.ndarray, epoch: int, pixels: np.ndarray
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss, and two numbers for each picture, [n] each.

        With labels these are 1 if the label was predicted, and its log-probability. Without labels
        they are the cosine of both views, and the mean log-probability of one view given the other
        among all views of the batch.
        """
        if self.labels is not None:
            logits = self.outputs(pixels, rows, epoch)
            labels = torch.from_numpy(self.labels[rows]).to(self.device)
            terms = F.cross_entropy(logits, labels, reduction="none")
            correct = logits.argmax(dim=1) == labels
            return terms.mean(), correct.float(), -terms.detach()
        first, second = (
            F.normalize(self.outputs(pixels, rows, view), dim=1)
            for view in (epoch, epoch + self.config.epochs)
        )
        both = torch.cat([first, second])
        logits = (both @ both.T / TEMPERATURE).fill_diagonal_(-torch.inf)
        partner = torch.arange(len(both), device=both.device).roll(len(first))
        terms = F.cross_entropy(logits, partner, reduction="none")
        cosine = (first * second).sum(dim=1).detach()
        return terms.mean(), cosine, -terms.detach().view(2, -1).mean(dim=0)


def run_paradigms(audit: Audit, seeds: int, screen: Screen) -> None:
    """Train an image encoder in three ways and measure it, on the pictures of the first member of
    each seed."""
    check_units(audit)
    if seeds < 1:
        raise InputError(f"--seeds must be at least 1, not {seeds}")
    ensure_pixels(audit, screen)
    record = audit.record
    torch.set_num_threads(record.threads)  # as the members had
    paradigms = t.paradigms_of(audit)
    with store.acquire_lock(paradigms.folder, what=paradigms.KIND):
        for seed in range(record.config.seed, record.config.seed + seeds):
            names = [name for name, value in record.seeds.items() if value == seed]
            run = open_member(audit.folder, (names or record.members)[0])
            labels = pd.Categorical(run.pairs[c.LABEL].astype("string")).codes.astype(np.int64)
            rows = run.data.rows
            labelled = rows[labels[rows] >= 0]
            possible = [t.CLIP]
            if len(np.unique(labels[labelled])) >= 2:
                possible.append(t.SUPERVISED)
                rows = labelled
            if run.config.crop_scale < 1:
                possible.append(t.SELF_SUPERVISED)
            if missing := set(t.PARADIGMS) - set(possible):
                screen.say(
                    f"note: no {' and no '.join(missing)} runs: supervised needs labels of two "
                    "classes or more, self-supervised --crop-scale below 1"
                )
            run = replace(run, data=replace(run.data, rows=rows))
            for paradigm in possible:
                if not paradigms.rows_file(f"{paradigm}-{seed}").is_file():
                    screen.say(f"seed {seed}: {paradigm}")
                    add_paradigm(paradigms, paradigm, run, seed, labels)


def add_paradigm(
    paradigms: Experiment, paradigm: str, run: MemberRun, seed: int, labels: np.ndarray
) -> None:
    """Train a paradigm, or load its model if it is trained, and add its UnitMem by layer; labels
    int64 [n_pairs], -1 for none."""
    name = f"{paradigm}-{seed}"
    config = run.config
    model = build_member(config, run.towers, seed=seed, pretrained=config.pretrained)
    unit_layers(model, t.IMAGE_TOWER)  # refuses a model without units before anything is trained
    views = view_maker(model, config, seed)
    if paradigm == t.CLIP:
        trainer = Trainer(model, run.data, config, views, seed=seed, device=config.device)
    else:
        classes = labels if paradigm == t.SUPERVISED else None
        trainer = TowerTrainer(
            model, run.data, config, views, seed=seed, device=config.device, labels=classes
        )
    folder = paradigms.folder / name
    folder.mkdir(parents=True, exist_ok=True)
    clear_leftovers(folder)
    if (folder / CHECKPOINT).is_file():
        weights = torch.load(folder / CHECKPOINT, map_location=trainer.device, weights_only=True)
        trainer.model.load_state_dict(weights)
    else:
        train(trainer, folder)
    units = measure_model(run, trainer.model, [t.IMAGE_TOWER], run.data.rows)
    layers = t.layer_means(units, by=[t.LAYER])
    paradigms.add_rows(name, layers.assign(paradigm=paradigm, seed=seed))


def say_paradigms(audit: Audit, screen: Screen) -> None:
    """Print UnitMem by layer of each paradigm, means over seeds."""
    table = t.paradigms_of(audit).rows
    means = table.pivot_table(t.UNITMEM_MEAN, t.LAYER, t.PARADIGM, sort=False)
    say_table(means.reset_index(), screen)
