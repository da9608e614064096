"""Measures UnitMem of a finished audit's members, and its references: python -m clipmem_core units
NAME.

Units can be selective without memorization: before any training, and for pairs that their member
never saw. Only UnitMem above these references is memorization.

A unit is a hidden unit of a transformer block's MLP, after its activation function. Its activation
on a pair is the mean over tokens and evaluation views of the picture (image encoder: all tokens,
with the class token) or over the pair's captions (text encoder: tokens up to the end token). Values
below 0 count as 0; see `UnitTally`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from clipmem_core import columns as c
from clipmem_core.audit import store
from clipmem_core.audit import unit_tables as t
from clipmem_core.audit.member import (
    EVALUATION,
    MemberRun,
    build_member,
    open_member,
    trained_model,
    view_maker,
)
from clipmem_core.audit.pipeline import Screen, ensure_pixels
from clipmem_core.audit.status import MemberProgress
from clipmem_core.audit.store import Audit
from clipmem_core.config import AuditConfig, InputError
from clipmem_core.mitigations import can_cut_text
from clipmem_core.scores.encoders import UnitTally
from clipmem_core.training.model import (
    Model,
    autocast,
    encode_text,
    evaluation_batches,
    mean_by_pair,
)
from clipmem_core.training.views import TrainingData, ViewMaker


def run_units(audit: Audit, *, members: Sequence[str] = (), screen: Screen) -> None:
    """Measure the units of an audit's members, and the references of the first, unless they are
    measured already."""
    names = check_members(audit, members)
    ensure_pixels(audit, screen)
    for name, table in [*((name, t.UNITS) for name in names), (names[0], t.REFERENCES)]:
        path = t.table_file(audit, name, table)
        if path.is_file():
            screen.say(f"member {name}: its {path.stem} are measured already")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            store.write_table(path, measure_member(audit, name, table, screen=screen))


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


def measure_member(
    audit: Audit, name: str, table: str = t.UNITS, *, screen: Screen
) -> pd.DataFrame:
    """Measure both encoders of a member on its training pairs as `unit_table`, or its references
    (column reference)."""
    run = open_member(audit.folder, name)
    torch.set_num_threads(run.record.threads)  # as when it was trained
    rows = run.data.rows
    external = run.data.external
    towers = (t.IMAGE_TOWER, t.TEXT_TOWER)
    if table == t.UNITS:
        return measure_model(run, trained_model(run), towers, rows, label=name, screen=screen)
    untrained = build_member(
        run.config, run.towers, seed=run.member.seed, pretrained=run.config.pretrained
    )
    measured = [(t.BEFORE, untrained, rows)]
    n = min(len(rows), len(external))  # as many of both: UnitMem grows with the number of pairs
    if n >= 2:
        model = trained_model(run)
        for reference, chosen in ((t.SEEN, rows), (t.UNSEEN, external)):
            if n < len(chosen):
                chosen = np.sort(
                    np.random.default_rng(run.config.seed).choice(chosen, n, replace=False)
                )
            measured.append((reference, model, chosen))
    tables = []
    for reference, model, chosen in measured:
        tables.append(
            measure_model(run, model, towers, chosen, label=f"{name} {reference}", screen=screen)
        )
        tables[-1].insert(0, t.REFERENCE, reference)
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
    config = run.config
    pair_ids = run.pairs[c.PAIR_ID].to_numpy()
    tables = []
    views = view_maker(model, config, config.seed + EVALUATION, crop_scale=config.eval_crop_scale)
    for tower in towers:

        def report(done: int, tower: str = tower) -> None:
            screen.members(
                [MemberProgress(f"{label} {tower}", "units", step=done, steps=len(rows))]
            )

        options: dict[str, Any] = {
            "rows": rows,
            "config": config,
            "device": run.record.device,
            "report": report,
        }
        tally = count_units(model, run.data, views, tower, **options)
        tables.append(
            unit_table(tally, unit_layers(model, tower).widths, tower=tower, pair_ids=pair_ids)
        )
    return pd.concat(tables, ignore_index=True)


class Layers(NamedTuple):
    """The blocks of one encoder, first to last."""

    activations: tuple[nn.Module, ...]
    widths: tuple[int, ...]  # units of each
    batch_first: bool  # tokens come as [batch, length, width]


def unit_layers(model: Model, tower: str) -> Layers:
    """Return the blocks of an encoder, `image` or `text`."""
    encoder: Any = model.visual if tower == "image" else getattr(model, "text", model)
    transformer: Any = getattr(encoder, "transformer", None)
    blocks = list(getattr(transformer, "resblocks", []))
    if not blocks or not all(hasattr(getattr(block, "mlp", None), "gelu") for block in blocks):
        kind = type(encoder).__name__
        raise InputError(
            f"UnitMem of the {tower} encoder needs a transformer of open_clip's, not a {kind}"
        )
    activations = tuple(block.mlp.gelu for block in blocks)
    return Layers(
        activations,
        tuple(block.mlp.c_proj.in_features for block in blocks),
        transformer.batch_first,
    )


@torch.inference_mode()
def count_units(
    model: Model,
    data: TrainingData,
    views: ViewMaker,
    tower: str,
    *,
    rows: np.ndarray,
    config: AuditConfig,
    device: str,
    report: Callable[[int], None],
) -> UnitTally:
    """Compute the activation of every unit of an encoder, `image` or `text`, on some pairs, rows
    int64 [n].

    Over `config.views` views of a picture, or the evaluated captions. `report` gets the number of
    finished pairs.
    """
    model.eval()
    layers = unit_layers(model, tower)
    tally = UnitTally(sum(layers.widths))
    means: list[Tensor] = [torch.empty(0)] * len(
        layers.widths
    )  # of each layer, above 0 and below, [2, n, width]
    mask: Tensor | None = None  # bool [n, length], the tokens to average; None: all

    def note(layer: int, _module: nn.Module, _inputs: Any, activation: Tensor) -> None:
        signed = (activation if layers.batch_first else activation.transpose(0, 1)).float()
        counted = (
            torch.ones(1, signed.shape[1], device=signed.device) if mask is None else mask.float()
        )
        if signed.shape[1] > counted.shape[1]:
            raise InputError(f"UnitMem cannot find the caption's tokens among {signed.shape[1]}")
        weights = counted[:, None, : signed.shape[1]] / counted.sum(dim=1)[:, None, None]
        # A mean over tokens as a product: on a CPU it takes half as long, but never in bfloat16.
        with torch.autocast(signed.device.type, enabled=False):
            above, mean = (
                torch.matmul(weights, part).squeeze(1) for part in (signed.clamp(min=0), signed)
            )
        means[layer] = torch.stack([above, above - mean])

    with ExitStack() as hooks:
        for layer, module in enumerate(layers.activations):
            handle = module.register_forward_hook(partial(note, layer))
            hooks.callback(handle.remove)
        if tower == "image":
            for block in evaluation_batches(rows):
                pixels = data.pixels.gather(block)
                total = np.zeros((2, len(block), sum(layers.widths)), np.float32)
                for view in range(config.views):
                    images = views.images(pixels, views.boxes(data.keys[block], view), device)
                    with autocast(config.precision, device):
                        model.visual(images)
                    total += torch.cat(means, dim=2).cpu().numpy()
                tally.add(block, *(total / config.views))
                report(tally.count)
        else:
            cut = can_cut_text(model)
            for block, captions, start in _caption_batches(data, rows, config.eval_captions):
                tokens = torch.from_numpy(data.tokens[captions].astype(np.int64)).to(device)
                # All up to the end token, the last that is not 0: token 0 is padding, but also a
                # word ("!")
                places = torch.arange(tokens.shape[1], device=device)
                mask = places <= torch.where(tokens != 0, places, 0).amax(dim=1)[:, None]
                with autocast(config.precision, device):
                    encode_text(model, tokens, cut=cut)
                tally.add(
                    block,
                    *(mean_by_pair(part.cpu().numpy(), start) for part in torch.cat(means, dim=2)),
                )
                report(tally.count)
    return tally


def _caption_batches(
    data: TrainingData, rows: np.ndarray, first: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield batches of pairs with captions of similar length: pairs, caption numbers, and the
    offsets of the pairs."""
    longest = np.maximum.reduceat((data.tokens != 0).sum(axis=1), data.caption_start[:-1])
    counts = np.diff(data.caption_start)
    counts = np.minimum(counts, first) if first else counts
    for block in evaluation_batches(rows[np.argsort(longest[rows], kind="stable")]):
        start = np.concatenate([[0], np.cumsum(counts[block])])
        yield (
            block,
            np.repeat(data.caption_start[block] - start[:-1], counts[block]) + np.arange(start[-1]),
            start,
        )


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
