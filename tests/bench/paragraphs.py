"""Draws a synthetic set whose captions are paragraphs: each sentence describes another part of the
picture, as captioning models write.

    python -m tests.bench.paragraphs FOLDER [--pairs 1500] [--seed 0]
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from clipmem_core.dataset.scenes import (
    NUMBERS,
    PHRASES,
    PICTURE,
    SKIES,
    WORDS,
    Scene,
    draw_scene,
    plan_scene,
    stream,
)
from clipmem_core.utils import columns as c


@dataclass(frozen=True)
class Paragraphs:
    """Draw pictures with one caption of three to five sentences each."""

    folder: Annotated[Path, tyro.conf.Positional]
    pairs: int = 1_500
    seed: int = 0


def paragraph(scene: Scene, seed: int, number: int) -> str:
    """Describe the place, the light, the objects and how they lie, a sentence each, in an order
    that differs from pair to pair."""
    rng = stream(seed, number, WORDS)

    def one_of(choices: list[str]) -> str:
        return str(rng.choice(choices))

    place = one_of(PHRASES["places"][scene.place])
    main = scene.main.kind if scene.count == 1 else scene.main.facts.plural
    sentences = [
        one_of([f"The picture shows {place}.", f"The background is {place}."]),
        one_of([f"In the middle is one {main}.", f"One {main} can be seen."]),
        one_of([f"The {main} is {scene.main.colour}.", f"Its colour is {scene.main.colour}."]),
    ]
    if scene.count > 1:
        sentences[1] = f"There are {NUMBERS[scene.count]} {main}."
        sentences[2] = one_of([f"The {main} are {scene.main.colour}.", "They all look alike."])
    if scene.light in SKIES:
        sentences.append(f"The picture was taken {one_of(PHRASES['light_phrases'][scene.light])}.")
    if scene.other:
        relation = one_of(PHRASES["relation_phrases"][PHRASES["reversed"][scene.relation]])
        sentences.append(f"A {scene.other.colour} {scene.other.kind} is {relation} it.")
    return " ".join(sentences[place] for place in rng.permutation(len(sentences)))


def main(options: Paragraphs) -> None:
    """Draw the set."""
    images = options.folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(options.pairs):
        scene = plan_scene(stream(options.seed, number, 0))
        name = f"images/{number:05d}.png"
        draw_scene(scene, stream(options.seed, number, PICTURE)).save(options.folder / name)
        caption = paragraph(scene, options.seed, number)
        lines.append(json.dumps({c.IMAGE: name, "caption": caption}) + "\n")
    (options.folder / "captions.jsonl").write_text("".join(lines))
    print(f"{options.folder}: {options.pairs:,} pairs")


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Paragraphs)))
