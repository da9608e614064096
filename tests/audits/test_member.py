import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from clipmem_core.audits.member import (
    MemberRun,
    cached_tokens,
    known_tokens,
    open_member,
    probe_rows,
    tokens_of,
    trained_model,
    utility,
)
from clipmem_core.audits.prepare import tokens_file
from clipmem_core.config import data_folder
from clipmem_core.training.model import tokenize
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


def test_tokens_are_made_once_and_read_afterwards(run: MemberRun, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    captions = [caption for captions in run.pairs["captions"] for caption in captions]
    expected = tokenize("tiny", captions)
    monkeypatch.setattr("clipmem_core.audits.member.tokenize", lambda *_: pytest.fail("made again"))
    assert np.array_equal(cached_tokens("tiny", run.pairs), expected)
    assert not list((data_folder() / "cache" / "tokens").glob(".*"))


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


def test_a_probe_is_fitted_on_shared_pairs_or_on_all_a_member_saw(made: Made, run: MemberRun) -> None:
    assert set(run.membership["group"].iloc[probe_rows(run)]) == {"shared"}
    other = open_member(made.ensemble.folder, "r0-f0")
    assert np.array_equal(probe_rows(other), other.data.rows)


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
