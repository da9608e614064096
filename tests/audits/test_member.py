import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clipmem_core.audits.member import (
    MemberRun,
    cached_tokens,
    known_tokens,
    open_member,
    probe_accuracy,
    tokens_of,
    trained_model,
    utility,
    view_maker,
)
from clipmem_core.audits.prepare import tokens_file
from clipmem_core.config import AuditConfig, InputError, preset_config
from clipmem_core.training.model import build_model, tokenize
from tests.audits.small import vectors
from tests.conftest import Made


@pytest.fixture
def _in_made(made: Made, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CLIPMEM_DATA", str(made.data))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def run(made: Made, _in_made: None) -> MemberRun:
    return open_member(made.paper.folder, "f-0")


def test_candidate_and_independent_share_every_draw_and_no_others_do(run: MemberRun) -> None:
    group = run.membership["group"].to_numpy()
    keys = run.data.keys
    assert np.array_equal(keys[group == "candidate"], keys[group == "independent"])
    assert len(set(keys.tolist())) == 350
    assert run.data.rows.tolist() == np.flatnonzero(run.membership["f-0"]).tolist()
    assert run.data.pixels.gather(np.arange(3)).shape == (3, 40, 40, 3)
    assert run.data.caption_start.tolist() == list(range(401))


@pytest.mark.parametrize("place", [0, 0.5, 0.9])
def test_tokens_that_are_broken_are_made_again(run: MemberRun, data: object, place: float) -> None:
    made = cached_tokens("tiny", run.pairs)
    path = tokens_file("tiny", run.pairs)
    whole = path.read_bytes()
    at = int(len(whole) * place)
    for broken in (whole[:at], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
        path.write_bytes(broken)
        assert np.array_equal(cached_tokens("tiny", run.pairs), made)
        with np.load(path) as kept:
            assert np.array_equal(kept["tokens"], made)


def test_a_member_never_reads_tokens_that_few_of_its_own_pairs_have(run: MemberRun) -> None:
    tokens, start = tokens_of(run.pairs, run.config)
    assert np.array_equal(tokens, run.data.tokens)
    assert known_tokens(run.config, tokens, start, run.data.rows) is None
    known = known_tokens(dataclasses.replace(run.config, text_min_df=40), tokens, start, run.data.rows)
    assert known is not None
    words = tokens[run.data.rows]  # one caption a pair
    counts = np.array([(words == token).any(axis=1).sum() for token in range(49408)])
    read = known.read(tokens)
    lengths = (read != 0).sum(axis=1)
    left = read[lengths > 3]  # start, two words and end: not the one that stays where none is known
    assert counts[left[left != 0]].min() >= 40
    assert 0 < (lengths < (tokens != 0).sum(axis=1)).mean() < 1
    known = known_tokens(dataclasses.replace(run.config, text_forget_df=40), tokens, start, run.data.rows)
    assert known is not None
    reading = dataclasses.replace(run, vocabulary=known)
    prompt = tokenize("tiny", ["a picture of xylophones"])
    assert reading.read(prompt).tolist() == known.read(prompt).tolist() != prompt.tolist()
    assert run.read(prompt) is prompt


def test_a_class_that_only_external_pairs_have_counts_in_zero_shot(made: Made, run: MemberRun) -> None:
    external = np.flatnonzero(run.membership["group"] == "external")
    labels = run.pairs["label"].to_numpy(dtype=object).copy()
    labels[external] = "zebra"  # the last name in the alphabet, and no pair of this class to fit on
    model = trained_model(run)
    image = vectors(run.folder / "image.npy").astype(np.float32)
    found = utility(dataclasses.replace(run, pairs=run.pairs.assign(label=labels)), model, image)
    assert found["linear_probe"] == 0
    usual = utility(run, model, image)
    assert usual == made.paper.utility.query("member == 'f-0'").set_index("metric")["value"].to_dict()
    assert found["image_to_text_R@5"] == usual["image_to_text_R@5"]
    assert 0 <= found["zero_shot"] <= 1
    found = utility(dataclasses.replace(run, pairs=run.pairs.assign(label=None)), trained_model(run), image)
    assert sorted(found) == sorted(f"{way}_R@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10))


COLOURS = {"blue": (20, 40, 200), "red": (200, 30, 20)}


@pytest.fixture
def config(tmp_path: Path) -> AuditConfig:
    """Red and blue pictures of several sizes, five of each to fit on and three to judge."""
    for part, count in (("train", 5), ("val", 3)):
        for name, colour in COLOURS.items():
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                shade = tuple(value + 5 * i for value in colour)
                Image.new("RGB", (20 + i, 30), shade).save(tmp_path / part / name / f"{i}.png")
    return dataclasses.replace(preset_config("tiny"), probe_data=str(tmp_path))


def accuracy(config: AuditConfig) -> float:
    model = build_model("tiny", loss="clip", seed=0)
    return probe_accuracy(model, config, view_maker(model, config, 0), "cpu")


def test_a_probe_tells_red_from_blue(config: AuditConfig) -> None:
    assert accuracy(config) == 1
    judged = Path(config.probe_data) / "val"
    for path in (judged / "red").iterdir():
        Image.new("RGB", (20, 30), COLOURS["blue"]).save(path)
    assert accuracy(config) == 0.5


@pytest.mark.parametrize("content", [b"", b"not a picture"])
def test_a_broken_picture_is_named(config: AuditConfig, content: bytes) -> None:
    (Path(config.probe_data) / "train" / "red" / "2.png").write_bytes(content)
    with pytest.raises(InputError, match=r"probe-data picture '.*red/2\.png' is broken .*: take it out and go on"):
        accuracy(config)
