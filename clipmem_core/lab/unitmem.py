"""Measures UnitMem of a finished audit's members and its references.

Units are selective before any training too, and on pairs that their member did not train on. Only
UnitMem above these two references is memorization.

A unit is a hidden unit of a transformer block's MLP, after its activation function. Its activation
on a pair is the mean over tokens and evaluation views of the picture (image encoder: all tokens,
with the class token) or over the pair's captions (text encoder: tokens up to the end token). Values
below 0 count as 0; see `UnitTally`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from clipmem_core.auditing.folder import store
from clipmem_core.auditing.folder.store import Audit
from clipmem_core.auditing.run.member import (
    MemberRun,
    build_member,
    evaluation_views,
    open_member,
    trained_model,
)
from clipmem_core.auditing.run.pipeline import Screen, ensure_pixels
from clipmem_core.features.towers import autocast
from clipmem_core.lab import encoders as t
from clipmem_core.lab.experiment import print_table
from clipmem_core.mitigations import can_cut_text
from clipmem_core.scores.encoders import UnitTally
from clipmem_core.training.augmentation import Views
from clipmem_core.training.model import (
    UPPER,
    Model,
    encode_text,
    evaluation_batches,
    text_input,
)
from clipmem_core.utils import columns as c
from clipmem_core.utils import draws
from clipmem_core.utils.io import InputError


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
        store.write_table(path, measure_model(run, model, run.data.rows))


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
    tables = [measure_model(run, untrained, rows).assign(reference=t.BEFORE)]
    n = min(len(rows), len(run.data.held_out))  # as many of both: UnitMem grows with the number
    for reference, pairs in ((t.SEEN, rows), (t.UNSEEN, run.data.held_out)):
        drawn = draws.rng(config.seed, f"unitmem {reference}").choice(pairs, n, replace=False)
        units = measure_model(run, model, np.sort(drawn))
        tables.append(units.assign(reference=reference))
    return pd.concat(tables, ignore_index=True)


def measure_model(run: MemberRun, model: Model, rows: np.ndarray) -> pd.DataFrame:
    """Measure both encoders of a model on pairs of a run under its evaluation views; returns as
    `unit_table`."""
    ids = run.pairs[c.PAIR_ID].to_numpy()
    views = evaluation_views(run, model)
    tables = []
    for tower in t.TOWERS:
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
