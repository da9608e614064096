"""Pictures and captions through a locked tower: each different one once, here or in shards,
whatever stops the work."""

import hashlib
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from clipmem_core.config import DATA_VARIABLE
from clipmem_core.features import cache, embed
from clipmem_core.features.embed import faster, image_features, run_shards, text_features
from clipmem_core.features.towers import Opened, Tower
from clipmem_core.io import InputError


@dataclass
class Seen:
    """What a fake tower was given."""

    opened: int = 0
    batches: list[int] = field(default_factory=list)  # different inputs of each
    shapes: dict[str, set[tuple[int, int]]] = field(
        default_factory=dict
    )  # of the batches that had an input


def of_caption(caption: str) -> np.ndarray:
    """Return the first bytes of a caption's hash: only equal captions have equal features."""
    return np.frombuffer(hashlib.sha256(caption.encode()).digest()[:8], np.uint8).astype(np.float32)


def of_square(square: np.ndarray) -> np.ndarray:
    """Return a picture's mean colour and the colour of its first pixel."""
    return np.concatenate([square.mean(axis=(0, 1)), square[0, 0]]).astype(np.float32)


def _fake(seen: Seen, make: Callable[[Any], np.ndarray], fail_after: int, **facts: Any) -> Tower:
    def embed(batch: Sequence[Any]) -> np.ndarray:
        if len(seen.batches) >= fail_after:
            raise KeyboardInterrupt
        features = np.stack([make(each) for each in batch])
        seen.batches.append(len(np.unique(features, axis=0)))
        for each in map(str, batch):
            seen.shapes.setdefault(each, set()).add((len(batch), max(map(len, batch))))
        return features

    def open_it() -> Opened:
        seen.opened += 1
        return Opened(
            embed,
            lambda captions: np.array([len(caption.split()) for caption in captions], np.int32),
        )

    return Tower(name="fake", version="1", licence="", sha256="0" * 64, open=open_it, **facts)


def fake_texts(
    seen: Seen,
    *,
    context: int = 6,
    make: Callable[[str], np.ndarray] = of_caption,
    fail_after: int = 10**9,
) -> Tower:
    """Return a text tower of eight numbers whose tokens are words; it breaks down after some
    batches."""
    return _fake(seen, make, fail_after, kind="text", dim=8, context=context)


def fake_images(
    seen: Seen, *, size: int = 16, make: Callable[[np.ndarray], np.ndarray] = of_square
) -> Tower:
    """Return an image tower of six numbers."""
    return _fake(seen, make, 10**9, kind="image", dim=6, size=size)


MANY = [[f"caption {i} of {'very ' * (i % 5)}many", f"number {i % 40}"] for i in range(200)]
TEXTS = [text for pair in MANY for text in pair]
COLOURS = [(i * 3, 255 - i * 5, 7) for i in range(40)] + [(0, 255, 7), (9, 240, 7)]


def expected(captions: list[list[str]]) -> np.ndarray:
    return np.stack([of_caption(text) for pair in captions for text in pair])


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Shards of two batches, computed by fake towers on one core; what these were given."""
    seen = Seen()
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    monkeypatch.setattr(embed, "cores", lambda: 1)
    monkeypatch.setattr(cache, "SHARD", {"image": 32, "text": 128})
    monkeypatch.setattr(embed, "image_tower", lambda **_: fake_images(seen))
    monkeypatch.setattr(embed, "text_tower", lambda **_: fake_texts(seen))
    return seen


class Compute:
    """Computes shards in this process, odd ones last, and notes which."""

    def __init__(self, *, stop_after: int = 10**9) -> None:
        self.asked: list[list[str]] = []
        self.stop_after = stop_after

    def __call__(self, part: Path, names: Sequence[str]) -> Generator[Any, None, None]:
        self.asked.append(list(names))
        for count, name in enumerate(sorted(names, key=lambda name: (int(name) % 2, name))):
            if count == self.stop_after:
                raise KeyboardInterrupt
            run_shards(part, [name])
            yield None


@pytest.mark.parametrize(
    ("torch_s", "onnx_s", "angle", "engine"),
    [(0.03, 0, 0, "ONNX Runtime"), (0, 0.03, 0, "torch")] + [(0.03, 0, 1, "torch")],
)
def test_the_faster_engine_computes_all_features_if_both_agree(
    tmp_path: Path, torch_s: float, onnx_s: float, angle: float, engine: str
) -> None:
    calls = list[str]()
    said = list[str]()

    def runs(name: str, seconds: float, vector: list[float]) -> Callable[[Any], np.ndarray]:
        def embed(batch: Sequence[Any]) -> np.ndarray:
            time.sleep(seconds)
            calls.append(name)
            return np.tile(vector, (len(batch), 1))

        return embed

    compiled = runs("ONNX Runtime", onnx_s, [np.cos(angle), np.sin(angle)])
    opened = Opened(runs("torch", torch_s, [1.0, 0.0]), compile=lambda batch: compiled)
    for _ in range(2):  # the choice is stored
        faster(opened, ["a", "b"], tmp_path, said.append)(["a"])
        assert calls[-1] == engine
    assert len(calls) == 6
    assert len(said) == 1


def a_set(folder: Path, colours: list[tuple[int, int, int]]) -> pd.DataFrame:
    """Draw a picture of each colour and return their table; equal colours have equal bytes."""
    names = [f"{i}.png" for i in range(len(colours))]
    for name, colour in zip(names, colours, strict=True):
        Image.new("RGB", (20, 30), colour).save(folder / name)
    hashes = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names]
    return pd.DataFrame({"image": names, "sha256": hashes})


def test_each_different_caption_is_embedded_once(tmp_path: Path) -> None:
    seen = Seen()
    said = list[str]()
    text_features(
        [["of another set"]], fake_texts(Seen())
    )  # the next set has no caption in the cache
    for captions in (MANY[:50], MANY[::-1], MANY):
        found, cut = text_features(
            captions, fake_texts(seen), progress=lambda done, total: None, say=said.append
        )
        assert found.dtype == np.float16
        np.testing.assert_array_equal(np.asarray(found), expected(captions))
    assert seen.opened == 2
    assert sum(seen.batches) == len(set(TEXTS))
    # `caption 3 of very very very many` has seven words
    assert cut == sum(len(text.split()) > 6 for text in TEXTS)
    assert said[-1] == f"{cut} of 400 captions are longer than the 6 tokens that fake reads"
    assert text_features([[]], fake_texts(seen))[0].shape == (0, 8)


@pytest.mark.parametrize(
    "alone", [["number 3"], ["caption 4 of very very very very many", "caption 5 of many"]]
)
def test_the_shape_of_a_batch_depends_on_the_length_of_its_captions_alone(
    alone: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that features do not depend on what is computed with them: the last bits of a product do
    on its shape."""
    seen = Seen()
    few = Seen()
    text_features(MANY, fake_texts(seen))
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "alone"))
    text_features([alone], fake_texts(few))
    assert all(
        {rows for rows, _ in few.shapes[text]} == {rows for rows, _ in seen.shapes[text]}
        for text in alone
    )
    assert all(len(seen.shapes[text]) == 1 for text in alone)


@pytest.mark.parametrize(
    ("bad", "words"),
    [(np.nan, "NaN or infinity"), (np.inf, "NaN or infinity"), (1e6, "too large for float16")],
)
def test_a_tower_that_gives_no_number_names_the_caption(
    tmp_path: Path, bad: float, words: str
) -> None:
    tower = fake_texts(
        Seen(), make=lambda text: of_caption(text) if text != "number 7" else np.full(8, bad)
    )
    with pytest.raises(InputError, match=f"{words} for caption 'number 7'"):
        text_features(MANY, tower)


def test_each_different_picture_is_embedded_once_at_each_size(tmp_path: Path) -> None:
    pairs = a_set(tmp_path, COLOURS)
    seen = Seen()
    for size in (16, 24, 16):
        tower = fake_images(seen, size=size)
        found = image_features(pairs, tmp_path, tower)
        np.testing.assert_array_equal(
            found[:], np.array([[*colour, *colour] for colour in COLOURS], np.float16)
        )
    assert sum(seen.batches) == 2 * 40


@pytest.mark.parametrize("fault", ["cannot be read", "has changed", "not a picture"])
def test_a_picture_that_has_changed_is_named(tmp_path: Path, fault: str) -> None:
    pairs = a_set(tmp_path, COLOURS[:5])
    (tmp_path / "3.png").write_bytes(b"something else")
    if fault == "cannot be read":
        (tmp_path / "3.png").unlink()
    if fault == "not a picture":
        pairs.loc[3, "sha256"] = hashlib.sha256(b"something else").hexdigest()
    with pytest.raises(InputError, match=f"picture '3.png' can no longer be read .*{fault}"):
        image_features(pairs, tmp_path, fake_images(Seen()))


def test_shards_give_what_one_process_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = a_set(tmp_path, COLOURS)
    compute = Compute()
    told = list[tuple[int, int]]()
    found, cut = text_features(
        MANY, fake_texts(Seen()), compute=compute, progress=lambda *counts: told.append(counts)
    )
    assert (found[:] == expected(MANY)).all()
    assert told[:3] == [(0, 240), (128, 240), (240, 240)]
    sharded = image_features(pairs, tmp_path, fake_images(Seen()), compute=compute)
    assert [sorted(names) for names in compute.asked] == [["0", "1"], ["0", "1"]]
    assert not list(tmp_path.rglob(".part"))
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "here"))
    assert cut == text_features(MANY, fake_texts(Seen()))[1] > 0
    np.testing.assert_array_equal(
        sharded[:], image_features(pairs, tmp_path, fake_images(Seen()))[:]
    )


def test_shards_continue_where_they_were_stopped(tmp_path: Path, small: Seen) -> None:
    with pytest.raises(KeyboardInterrupt):
        text_features(MANY, fake_texts(Seen()), compute=Compute(stop_after=0))
    (part,) = tmp_path.glob("cache/features/*/.part")
    run_shards(part, ["1"])  # by a process that outlived its caller
    compute = Compute()
    found, _ = text_features(MANY, fake_texts(Seen()), compute=compute)
    np.testing.assert_array_equal(found[:], expected(MANY))
    assert compute.asked == [["0"]]
    assert sum(small.batches) == 240
