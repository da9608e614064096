"""Measures UnitMem of a finished audit's members and its references, and of one image encoder
trained under three paradigms on the same pictures, for claim 1 of the paper.

Units are selective before any training too, and on pairs that their member did not train on. Only
UnitMem above these two references is memorization.

A unit is a hidden unit of a transformer block's MLP, after its activation function. Its activation
on a pair is the mean over tokens and evaluation views of the picture (image encoder: all tokens,
with the class token) or over the pair's captions (text encoder: tokens up to the end token). Values
below 0 count as 0; see `UnitTally`.

The paradigms learn from captions (CLIP), from labels, and from a second view of the same picture
(SimCLR). They share the pictures and their order, the views, the optimizer, the schedule, the
encoder's initial weights and the number of samples.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipmem_core.auditing.folder import store
from clipmem_core.auditing.folder.store import Audit
from clipmem_core.auditing.run.member import (
    MemberRun,
    build_member,
    clear_leftovers,
    evaluation_views,
    member_views,
    open_member,
    trained_model,
)
from clipmem_core.auditing.run.pipeline import Screen, ensure_pixels
from clipmem_core.features.towers import autocast
from clipmem_core.lab import encoders as t
from clipmem_core.lab.experiment import Experiment, print_table
from clipmem_core.mitigations import can_cut_text
from clipmem_core.scores.encoders import UnitTally
from clipmem_core.training import CHECKPOINT
from clipmem_core.training.augmentation import Views
from clipmem_core.training.model import (
    UPPER,
    Model,
    encode_text,
    evaluation_batches,
    load_weights,
    text_input,
)
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
    ensure_pixels(audit, screen)
    for name in audit.record.members:
        path = t.table_file(audit, name)
        if path.is_file():
            continue
        screen.say(f"measuring the units of member {name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        run = open_member(audit.folder, name)
        torch.set_num_threads(run.record.threads)  # as when it was trained
        model = trained_model(run)
        if name == audit.record.members[0]:
            references = t.table_file(audit, name, t.REFERENCES)
            store.write_table(references, measure_references(run, model))
        store.write_table(path, measure_model(run, model, t.TOWERS, run.data.rows))


def show_units(audit: Audit) -> None:
    """Print UnitMem by layer, of the members and of the references."""
    for name, by in ((t.UNITS, c.MEMBER), (t.REFERENCES, t.REFERENCE)):
        units = t.read_units(audit, name)
        assert units is not None
        print_table(t.layer_means(units, by=[by, t.TOWER, t.LAYER]))


def check_units(audit: Audit) -> None:
    """Refuse an audit that is not finished, or whose encoders are not trained."""
    audit.check_finished()
    config = audit.record.config
    if (config.lock_image or config.lock_text) and not config.unlock:
        raise InputError(
            f"audit {audit.name!r} has a locked tower, so it trains no units: run one with "
            "--preset tuned"
        )


def measure_references(run: MemberRun, model: Model) -> pd.DataFrame:
    """Measure the references of a member and its model, as `unit_table` with a column reference."""
    config = run.config
    rows = run.data.rows
    untrained = build_member(config, run.towers, seed=run.seed, pretrained=config.pretrained)
    tables = [measure_model(run, untrained, t.TOWERS, rows).assign(reference=t.BEFORE)]
    n = min(len(rows), len(run.data.held_out))  # as many of both: UnitMem grows with the number
    for reference, pairs in ((t.SEEN, rows), (t.UNSEEN, run.data.held_out)):
        drawn = draws.rng(config.seed, f"unitmem {reference}").choice(pairs, n, replace=False)
        units = measure_model(run, model, t.TOWERS, np.sort(drawn))
        tables.append(units.assign(reference=reference))
    return pd.concat(tables, ignore_index=True)


def measure_model(
    run: MemberRun, model: Model, towers: Sequence[str], rows: np.ndarray
) -> pd.DataFrame:
    """Measure encoders of a model on pairs of a run under its evaluation views; returns as
    `unit_table`."""
    ids = run.pairs[c.PAIR_ID].to_numpy()
    views = evaluation_views(run, model)
    tables = []
    for tower in towers:
        tally = count_units(run, model, views, tower, rows)
        widths = unit_layers(model, tower)[1]
        tables.append(unit_table(tally, widths, tower=tower, pair_ids=ids))
    return pd.concat(tables, ignore_index=True)


def unit_layers(model: Model, tower: str) -> tuple[Sequence[nn.Module], Sequence[int]]:
    """Return the activation function of each block of an encoder, `image` or `text`, and its number
    of units."""
    encoder: Any = model.visual if tower == t.IMAGE_TOWER else getattr(model, "text", model)
    if upper := getattr(encoder, UPPER, None):
        return upper.units, upper.unit_widths()
    try:
        perceptrons = [block.mlp for block in encoder.transformer.resblocks]
        activations = [mlp.gelu for mlp in perceptrons]
    except AttributeError:
        kind = type(encoder).__name__
        raise InputError(
            f"UnitMem of the {tower} encoder needs a transformer of open_clip's, not a {kind}"
        ) from None
    return activations, [mlp.c_proj.in_features for mlp in perceptrons]


@torch.inference_mode()
def count_units(
    run: MemberRun, model: Model, views: Views, tower: str, rows: np.ndarray
) -> UnitTally:
    """Compute the activation of every unit of an encoder, `image` or `text`, on some pairs, rows
    int64 [n].

    The mean over the `views` of a picture, or over the evaluated captions.
    """
    model.eval()
    config = run.config
    data = run.data
    activations, widths = unit_layers(model, tower)
    tally = UnitTally(sum(widths))
    means: list[Tensor] = [torch.empty(0)] * len(widths)  # of each layer, [n, width]
    mask: Tensor | None = None  # bool [n, length], the tokens to average; None: all

    def note(layer: int, _module: nn.Module, _inputs: Any, activation: Tensor) -> None:
        above = activation.float().clamp(min=0)
        if above.ndim == 4:  # a map of a convolutional network, whose tokens are its positions
            above = above.flatten(2).transpose(1, 2)
        if mask is None:
            means[layer] = above.mean(dim=1)
        else:
            counted = mask[:, : above.shape[1], None].float()
            means[layer] = (above * counted).sum(dim=1) / counted.sum(dim=1)

    def of_images(block: np.ndarray) -> np.ndarray:
        pixels = data.pixels.gather(block)
        each = []
        for view in range(config.views):
            images = views.evaluation_images(pixels, data.keys[block], view, config.device)
            with autocast(config.precision, config.device):
                model.visual(images)
            each.append(torch.cat(means, dim=1))
        return torch.stack(each).mean(dim=0).cpu().numpy()

    cut = can_cut_text(model)
    upper = getattr(getattr(model, "text", None), UPPER, None)

    def of_texts(block: np.ndarray) -> np.ndarray:
        nonlocal mask
        places, captions = data.captions.take(block, first=config.eval_captions)
        tokens = text_input(data.tokens[places]).to(config.device)
        positions = tokens != 0
        if upper:  # its tokens are activations
            positions = positions.unflatten(1, (-1, upper.width)).any(dim=2)
        # All up to the end token, the last that is not 0: token 0 is padding, but also a word
        mask = positions.flip(1).cumsum(dim=1).flip(1) > 0
        with autocast(config.precision, config.device):
            encode_text(model, tokens, cut=cut)
        return captions.mean(torch.cat(means, dim=1).cpu().numpy())

    handles = [
        module.register_forward_hook(partial(note, layer))
        for layer, module in enumerate(activations)
    ]
    for block in evaluation_batches(rows):
        tally.add(block, of_images(block) if tower == t.IMAGE_TOWER else of_texts(block))
    for handle in handles:
        handle.remove()
    return tally


def unit_table(
    tally: UnitTally, widths: Sequence[int], *, tower: str, pair_ids: np.ndarray
) -> pd.DataFrame:
    """Return scores, tower, layer (from 1), unit (from 0), and the pair that activates it most
    (null: it is silent)."""
    scores = tally.scores()
    return scores.assign(
        **{
            t.TOWER: tower,
            t.LAYER: np.repeat(np.arange(1, len(widths) + 1), widths),
            t.UNIT: np.concatenate([np.arange(width) for width in widths]),
            c.PAIR_ID: pd.Series(pair_ids, dtype="string").reindex(scores[t.ROW]).array,
        }
    )


class TowerTrainer(Trainer):
    """Trains an image encoder alone with the steps of `Trainer` and the same views: on labels with
    cross-entropy, else as SimCLR.

    In SimCLR (Chen et al., ICML 2020) the two views of a picture are positives within the batch,
    and the loss is NT-Xent. Views are crops, without SimCLR's colours and blur. The head is linear
    for labels, and SimCLR's projection otherwise: a hidden layer as wide as the encoder's output,
    and 128 numbers. The weights of the head are a function of the seed.
    """

    encoder = "image"

    def __init__(
        self, model: Model, *args: Any, seed: int, labels: np.ndarray | None = None, **kwargs: Any
    ) -> None:
        width = model.visual.output_dim
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            hidden = [nn.Linear(width, width), nn.ReLU()] if labels is None else []
            n_outputs = PROJECTION if labels is None else int(labels.max()) + 1
            head = nn.Sequential(*hidden, nn.Linear(width, n_outputs))
        head = head.to(next(model.visual.parameters()).device)
        headed = nn.Sequential(OrderedDict(visual=model.visual, head=head))
        super().__init__(headed, *args, seed=seed, **kwargs)
        self.labels = labels  # int64 [n_pairs]

    def outputs_of_view(self, rows: np.ndarray, view: int) -> Tensor:
        """Return the head's outputs for a view of some pictures, float32 [n, width]."""
        images = self.images(self.batch(rows, view))
        with autocast(self.config.precision, self.device):
            return self.model(images).float()

    def forward_loss(self, rows: np.ndarray, epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss, and twice the log-probability of each picture, [n]: of its label, or the
        mean of one view given the other among all views of the batch."""
        outputs = self.outputs_of_view(rows, epoch)
        if self.labels is not None:
            labels = torch.from_numpy(self.labels[rows]).to(self.device)
            losses = F.cross_entropy(outputs, labels, reduction="none")
            return losses.mean(), -losses.detach(), -losses.detach()
        second = self.outputs_of_view(rows, epoch + self.config.epochs)
        both = F.normalize(torch.cat([outputs, second]), dim=1)
        logits = (both @ both.T / TEMPERATURE).fill_diagonal_(-torch.inf)
        partner = torch.arange(len(both), device=both.device).roll(len(rows))
        losses = F.cross_entropy(logits, partner, reduction="none")
        log_probability = -losses.detach().view(2, -1).mean(dim=0)
        return losses.mean(), log_probability, log_probability


def run_paradigms(audit: Audit, seeds: int, screen: Screen) -> None:
    """Train an image encoder in three ways and measure it, on the pictures of the first member of
    each seed."""
    check_units(audit)
    if seeds < 1:
        raise InputError(f"--seeds must be at least 1, not {seeds}")
    ensure_pixels(audit, screen)
    record = audit.record
    config = record.config
    torch.set_num_threads(record.threads)  # as the members had
    labels = pd.factorize(audit.read_columns(store.PAIRS, c.LABEL)[c.LABEL], sort=True)[0]
    is_possible = {t.SUPERVISED: labels.max() > 0, t.SELF_SUPERVISED: config.crop_scale < 1}
    possible = [name for name in t.PARADIGMS if is_possible.get(name, True)]
    if len(possible) < len(t.PARADIGMS):
        screen.say(
            f"note: only {' and '.join(possible)}: {t.SUPERVISED} needs labels of two classes or "
            f"more, {t.SELF_SUPERVISED} --crop-scale below 1"
        )
    paradigms = t.paradigms_of(audit)
    with store.acquire_lock(paradigms.folder, what=paradigms.KIND):
        for seed in range(config.seed, config.seed + seeds):
            names = [name for name, value in record.seeds.items() if value == seed]
            run = open_member(audit.folder, (names or record.members)[0])
            rows = run.data.rows
            if t.SUPERVISED in possible:
                rows = rows[labels[rows] >= 0]
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
    views = member_views(run, model, seed)
    classes = labels if paradigm == t.SUPERVISED else None
    make = Trainer if paradigm == t.CLIP else partial(TowerTrainer, labels=classes)
    trainer = make(model, run.data, config, views, seed=seed)
    folder = paradigms.folder / name
    folder.mkdir(parents=True, exist_ok=True)
    clear_leftovers(folder)
    if (folder / CHECKPOINT).is_file():
        load_weights(trainer.model, folder / CHECKPOINT)
    else:
        train(trainer, folder)
    units = measure_model(run, trainer.model, [t.IMAGE_TOWER], run.data.rows)
    layers = t.layer_means(units, by=[t.LAYER])
    paradigms.add_rows(name, layers.assign(paradigm=paradigm, seed=seed))


def show_paradigms(audit: Audit) -> None:
    """Print UnitMem by layer of each paradigm, means over seeds."""
    table = t.paradigms_of(audit).rows
    means = table.pivot_table(t.UNITMEM_MEAN, t.LAYER, t.PARADIGM, sort=False)
    print_table(means.reset_index())
