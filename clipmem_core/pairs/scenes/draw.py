"""Draws a whole image–caption data set, `scenes`, with planted truth: pictures, five captions each, and captions.jsonl.

A pair is a function of the seed and its number alone, so that a larger set begins with the smaller one. The only
exception: of two pairs with each other's captions, the first keeps its own where the set ends before the second.
The same seed gives the same bytes under one version of Pillow (with its zlib) and numpy; another may round an edge or
compress differently.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from clipmem_core.atomic import replacing
from clipmem_core.columns import ATYPICAL, CAPTIONS, DUPLICATE, IMAGE, LABEL, MISCAPTION, PAIR_ID, PLANTED, VAGUE
from clipmem_core.config import InputError
from clipmem_core.pairs.scenes.paint import nearly, paint
from clipmem_core.pairs.scenes.phrases import captions_of, vague_captions
from clipmem_core.pairs.scenes.plan import Scene, clearly_different, plan_atypical, plan_scene

CAPTIONS_FILE = "captions.jsonl"
BLOCK = 100  # pairs among which planted ones are placed: 4 miscaption, 4 vague, 3 atypical, 2 duplicate
PLAN, PAINT, WORDS, COPY = range(4)  # streams of random numbers of one pair


@dataclass(frozen=True)
class Plan:
    """Everything about a pair that is settled before its picture is drawn."""

    number: int
    scene: Scene
    planted: str | None = None
    partner: int | None = None  # miscaption: whose captions it has; duplicate: whose picture


def draw_scenes(folder: Path, *, pairs: int = 1100, seed: int = 0) -> None:
    """Draw a data set into a folder: images/NNNNN.png and, written last, captions.jsonl.

    Each line of captions.jsonl has image, pair_id, captions (five), label (kind of the main object) and planted (null,
    or what is wrong or odd with the pair: miscaption, vague, duplicate, atypical).

    Args:
        folder: made where it does not exist; a set that is there already is drawn over.
        pairs: how many pairs.
        seed: all randomness starts here.

    Raises:
        InputError: `pairs` is below 1 or `seed` negative.
    """
    if pairs < 1:
        raise InputError(f"scenes_pairs must be 1 or more, got {pairs}: say how many pairs to draw")
    if seed < 0:
        raise InputError(f"scenes_seed must be 0 or more, got {seed}: choose another seed")
    (folder / "images").mkdir(parents=True, exist_ok=True)
    listing = folder / CAPTIONS_FILE
    listing.unlink(missing_ok=True)  # no listing means unfinished
    plans = list(plan_pairs(pairs, seed=seed))
    for plan in plans:
        _picture(plan, seed).save(folder / _image(plan.number), compress_level=4)
    _write_lines(listing, [_record(plan, plans, seed) for plan in plans])


def plan_pairs(pairs: int, *, seed: int) -> Iterator[Plan]:
    """Yield the plans of a set's pairs in order."""
    for start in range(0, pairs, BLOCK):
        for plan in _plan_block(start, seed)[: pairs - start]:
            cut_off = plan.planted == MISCAPTION and plan.partner is not None and plan.partner >= pairs
            yield replace(plan, planted=None, partner=None) if cut_off else plan


def _plan_block(start: int, seed: int) -> list[Plan]:
    """Plan BLOCK pairs: all plain at first, then some of them planted."""
    plans = [Plan(start + i, plan_scene(_rng(seed, start + i, PLAN))) for i in range(BLOCK)]
    order = [int(i) for i in _rng(seed, start, COPY).permutation(BLOCK)]
    for first, second in (order[0:2], order[2:4]):
        _swap(plans, first, second, seed)
    for i in order[4:8]:
        plans[i] = replace(plans[i], planted=VAGUE)
    for i in order[8:11]:
        plans[i] = replace(plans[i], planted=ATYPICAL, scene=plan_atypical(_rng(seed, start + i, PLAN)))
    early, late, copy, second_copy = sorted(order[11:15])
    for i, original in ((copy, early), (second_copy, late)):
        plans[i] = replace(plans[i], planted=DUPLICATE, scene=plans[original].scene, partner=start + original)
    return plans


def _swap(plans: list[Plan], first: int, second: int, seed: int) -> None:
    """Let two pairs have each other's captions, the second planned anew until nothing of it fits the first."""
    one, other = plans[first], plans[second]
    rng = _rng(seed, other.number, PLAN)
    scene = other.scene
    while not clearly_different(one.scene, scene):
        scene = plan_scene(rng)
    plans[first] = replace(one, planted=MISCAPTION, partner=other.number)
    plans[second] = replace(other, planted=MISCAPTION, partner=one.number, scene=scene)


def _picture(plan: Plan, seed: int) -> Image.Image:
    if plan.planted == DUPLICATE and plan.partner is not None:
        return nearly(paint(plan.scene, _rng(seed, plan.partner, PAINT)), _rng(seed, plan.number, COPY))
    return paint(plan.scene, _rng(seed, plan.number, PAINT))


def _record(plan: Plan, plans: list[Plan], seed: int) -> dict[str, object]:
    told = plans[plan.partner] if plan.planted == MISCAPTION and plan.partner is not None else plan
    rng = _rng(seed, told.number, WORDS)
    return {
        IMAGE: _image(plan.number),
        PAIR_ID: f"scene-{plan.number:05d}",
        CAPTIONS: vague_captions(rng) if plan.planted == VAGUE else captions_of(told.scene, rng),
        LABEL: plan.scene.main.kind,
        PLANTED: plan.planted,
    }


def _image(number: int) -> str:
    return f"images/{number:05d}.png"


def _rng(seed: int, number: int, stream: int) -> np.random.Generator:
    return np.random.default_rng((seed, number, stream))


def _write_lines(path: Path, records: list[dict[str, object]]) -> None:
    with replacing(path) as unfinished:
        unfinished.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
