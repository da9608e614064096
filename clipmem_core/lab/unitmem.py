"""Measures UnitMem of a finished audit's members, and its references: python -m clipmem_core units
NAME.

Units can be selective without memorization: before any training, and for pairs that their member
never saw. Only UnitMem above these references is memorization.

A unit is a hidden unit of a transformer block's MLP, after its activation function. Its activation
on a pair is the mean over tokens and evaluation views of the picture (image encoder: all tokens,
with the class token) or over the pair's captions (text encoder: tokens up to the end token). Values
below 0 count as 0; see `UnitTally`.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from clipmem_core import columns as c
from clipmem_core import draws
from clipmem_core.audit import store
from clipmem_core.audit.member import (
    MemberRun,
    build_member,
    evaluation_views,
    open_member,
    trained_model,
)
from clipmem_core.audit.pipeline import Screen, ensure_pixels
from clipmem_core.audit.status import MemberProgress
from clipmem_core.audit.store import Audit
from clipmem_core.features.towers import autocast
from clipmem_core.io import InputError
from clipmem_core.lab import unit_tables as t
from clipmem_core.mitigations import can_cut_text
from clipmem_core.scores.encoders import UnitTally
from clipmem_core.training.model import (
    Model,
    encode_text,
    evaluation_batches,
)
from clipmem_core.training.views import ViewMaker


def run_units(audit: Audit, *, members: Sequence[str] = (), screen: Screen) -> None:
    """Measure the units of an audit's members, and the references of the first, unless they are
    measured already."""
    names = check_members(audit, members)
    ensure_pixels(audit, screen)
    for name, table in [*((name, t.UNITS) for name in names), (names[0], t.REFERENCES)]:
        path = t.table_file(audit, name, table)
        if path.is_file():
            screen.say(f"member {name}: its {path.stem} are measured already")
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        run = open_member(audit.folder, name)
        torch.set_num_threads(run.record.threads)  # as when it was trained
        if table == t.UNITS:
            model = trained_model(run)
            units = measure_model(run, model, t.TOWERS, run.data.rows, label=name, screen=screen)
        else:
            units = measure_references(run, screen)
        store.write_table(path, units)


def say_units(audit: Audit, *, screen: Screen) -> None:
    """Print UnitMem by layer, of the members and of the references."""
    units = t.read_units(audit)
    references = t.read_units(audit, t.REFERENCES)
    assert units is not None
    assert references is not None
    by = [t.REFERENCE, t.TOWER, t.LAYER]
    means = t.layer_means(references, by=by)[[*by, t.UNITMEM_MEAN]]
    for table in (t.layer_means(units), means):
        for line in table.round(3).to_string(index=False).splitlines():
            screen.say(line)


def check_members(audit: Audit, members: Sequence[str] = ()) -> list[str]:
    """Return the requested members, all if none is named."""
    audit.check_finished()
    if audit.record.config.lock_image or audit.record.config.lock_text:
        raise InputError(
            f"audit {audit.name!r} has a locked tower, so it trains no units: run one with "
            "--preset small"
        )
    names = audit.record.members
    if unknown := [name for name in members if name not in names]:
        raise InputError(
            f"audit {audit.name!r} has no member {unknown[0]!r}: it has {', '.join(names)}"
        )
    return list(dict.fromkeys(members or names))


def measure_references(run: MemberRun, screen: Screen) -> pd.DataFrame:
    """Measure the references of a member, as `unit_table` with a column reference."""
    config = run.config
    rows = run.data.rows
    external = run.data.external
    untrained = build_member(config, run.towers, seed=run.member.seed, pretrained=config.pretrained)
    measured = [(t.BEFORE, untrained, rows)]
    n = min(len(rows), len(external))  # as many of both: UnitMem grows with the number of pairs
    if n >= 2:
        model = trained_model(run)
        for reference, pairs in ((t.SEEN, rows), (t.UNSEEN, external)):
            drawn = draws.rng(config.seed, f"unitmem {reference}").choice(pairs, n, replace=False)
            measured.append((reference, model, np.sort(drawn)))
    tables = []
    for reference, model, pairs in measured:
        label = f"{run.name} {reference}"
        table = measure_model(run, model, t.TOWERS, pairs, label=label, screen=screen)
        tables.append(table.assign(**{t.REFERENCE: reference}))
    return pd.concat(tables, ignore_index=True)


def measure_model(
    run: MemberRun,
    model: Model,
    towers: Sequence[str],
    rows: np.ndarray,
    *,
    label: str,
    screen: Screen,
) -> pd.DataFrame:
    """Measure encoders of a model on pairs of a run under its evaluation views; returns as
    `unit_table`."""
    pair_ids = run.pairs[c.PAIR_ID].to_numpy()
    views = evaluation_views(model, run.config)
    tables = []
    for tower in towers:

        def report(done: int, tower: str = tower) -> None:
            screen.members(
                [MemberProgress(f"{label} {tower}", "units", step=done, steps=len(rows))]
            )

        tally = count_units(run, model, views, tower, rows, report)
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
    views: ViewMaker,
    tower: str,
    rows: np.ndarray,
    report: Callable[[int], None],
) -> UnitTally:
    """Compute the activation of every unit of an encoder, `image` or `text`, on some pairs, rows
    int64 [n].

    Over the `views` of a picture, or the evaluated captions. `report` gets the number of
    finished pairs.
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
                report(tally.count)
        else:
            cut = can_cut_text(model)
            # Pairs with captions of similar length share a batch
            longest = np.maximum.reduceat((data.tokens != 0).sum(axis=1), data.captions.first)
            for block in evaluation_batches(rows[np.argsort(longest[rows], kind="stable")]):
                places, captions = data.captions.take(block, first=config.eval_captions)
                tokens = torch.from_numpy(data.tokens[places].astype(np.int64)).to(config.device)
                # All up to the end token, the last that is not 0: token 0 is padding, but also a
                # word ("!")
                at = torch.arange(tokens.shape[1], device=config.device)
                mask = at <= torch.where(tokens != 0, at, 0).amax(dim=1)[:, None]
                with autocast(config.precision, config.device):
                    encode_text(model, tokens, cut=cut)
                values = torch.cat(means, dim=1).cpu().numpy()
                tally.add(block, captions.mean(values))
                report(tally.count)
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
