"""Search by meaning, against scikit-learn and open_clip, and names of the regions of a map."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity

from clipmem_core import open_audit
from clipmem_core.auditing.folder.store import CONFIG, Audit, write_json, write_manifest
from clipmem_core.auditing.tables.maps import name_regions
from clipmem_core.features.towers import built_in_tower
from clipmem_core.review import search as search_module
from clipmem_core.review.search import embed_texts, search
from clipmem_core.training import model_config
from clipmem_core.training.model import build_model
from clipmem_core.utils.io import InputError
from tests.fixtures import DIM, Copy, Embeddings, embed

SIDES = [("picture", 0), ("caption", 1)]


@pytest.fixture
def audit(copy: Copy) -> Audit:
    """A finished audit with random embeddings."""
    audit = copy()
    embed(audit)
    write_manifest(audit.folder)
    return audit


@pytest.fixture
def vectors(audit: Audit) -> Embeddings:
    return embed(audit)


def meaning_of(text: str) -> np.ndarray:
    """A fake text encoder: a random direction for each text."""
    vector = np.random.default_rng(list(text.encode())).normal(size=DIM).astype(np.float32)
    return vector / np.linalg.norm(vector)


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the members' encoders."""
    embed = Mock(
        side_effect=lambda audit, texts, member: np.stack([meaning_of(text) for text in texts])
    )
    monkeypatch.setattr(search_module, "embed_texts", embed)


@pytest.mark.parametrize(("by", "side"), SIDES)
@pytest.mark.parametrize(
    "requested",
    [
        {"text": "a red car"},
        {"like": "images/042.png"},
        {"text": "a red car", "like": "images/042.png"},
    ],
)
@pytest.mark.usefixtures("encoder")
def test_a_search_averages_the_cosines_of_all_members(
    audit: Audit, vectors: Embeddings, by: str, side: int, requested: dict[str, str]
) -> None:
    cosines = []
    for own in (both[side] for both in vectors.values()):
        queries = [meaning_of("a red car")] if "text" in requested else []
        queries += [own[42] / np.linalg.norm(own[42])] if "like" in requested else []
        cosines.append(cosine_similarity(np.mean(queries, axis=0)[None], own)[0])
    order = np.argsort(-np.mean(cosines, axis=0), kind="stable").tolist()
    found = search(audit, **requested, by=by, k=20)
    assert (
        found.rows.tolist() == [row for row in order if row != 42 or "like" not in requested][:20]
    )
    np.testing.assert_allclose(found.similarity, np.mean(cosines, axis=0)[found.rows], atol=1e-6)


@pytest.fixture
def written(copy: Copy) -> Audit:
    """Members f-0 and g-0 have a checkpoint."""
    audit = copy("paper")
    facts = {"seed": 0, "fingerprint": "0" * 16, "model": "tiny", "image_size": 0}
    facts |= {"model_config": model_config("tiny")}
    for seed, name in enumerate(("f-0", "g-0")):
        audit.member(name).mkdir(parents=True, exist_ok=True)
        write_json(audit.member(name) / CONFIG, facts | {"member": name})
        model = build_model("tiny", loss="clip", seed=seed)
        torch.save(model.state_dict(), audit.member(name) / "checkpoint.pt")
    return audit


def plain(checkpoint: Path, text: str) -> np.ndarray:
    """Embed a text with open_clip alone."""
    config = model_config("tiny")
    model = open_clip.CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"])
    model.load_state_dict(torch.load(checkpoint, weights_only=True))
    tokens = open_clip.SimpleTokenizer(context_length=config["text_cfg"]["context_length"])([text])
    with torch.inference_mode():
        return torch.nn.functional.normalize(model.eval().encode_text(tokens), dim=-1).numpy()[0]


def test_a_text_is_embedded_as_open_clip_embeds_it_with_each_checkpoint(written: Audit) -> None:
    texts = ["a red car", "🎻", "word " * 500]
    for member in ("f-0", "g-0"):
        path = written.member(member) / "checkpoint.pt"
        expected = [plain(path, text) for text in texts]
        np.testing.assert_allclose(embed_texts(written, texts, member), expected, atol=1e-5)


def test_a_text_is_embedded_with_the_vocabulary_of_the_member(written: Audit) -> None:
    trained = written.pairs[written.membership["g-0"].to_numpy()]
    words = pd.Series([set(" ".join(texts).split()) for texts in trained["captions"]]).explode()
    counts = words.value_counts()
    config = written.record.values
    config["config"]["text_min_df"] = int(counts.iloc[0])
    write_json(written.folder / CONFIG, config)
    read = embed_texts(written, [f"nonsuch {counts.index[0]} unheard"], "g-0")[0]
    expected = plain(written.member("g-0") / "checkpoint.pt", counts.index[0])
    np.testing.assert_allclose(read, expected, atol=1e-5)


@pytest.fixture
def locked_audit(typed: Path, monkeypatch: pytest.MonkeyPatch) -> Audit:
    """A small audit with the built-in towers; none may change it."""
    monkeypatch.setenv("CLIPMEM_DATA", str(typed))
    return Audit(typed / "audits" / "scenes")


def test_a_query_that_an_english_tower_does_not_read_is_one_line(locked_audit: Audit) -> None:
    for text in ("一艘红色的船", "ein rotes Boot auf dem Wasser"):
        with pytest.raises(InputError, match="all-MiniLM-L6-v2 reads English only"):
            search(locked_audit, text)


def test_captions_are_searched_by_the_features_of_a_locked_text_tower(locked_audit: Audit) -> None:
    audit = open_audit(locked_audit.name)
    found = audit.search("a red boat", k=5)
    assert found.columns.tolist() == ["pair_id", "caption", "similarity"]
    shown = audit.pairs.set_index("pair_id")["captions"][found["pair_id"]]
    others = audit.pairs["captions"][~audit.pairs["pair_id"].isin(found["pair_id"])][::20]
    texts = ["a red boat", *shown.explode(), *others.explode()]
    query, *vectors = built_in_tower("all-MiniLM-L6-v2").opened.embed(texts)
    cosines = pd.Series(cosine_similarity([query], vectors)[0], texts[1:])
    cosines = cosines.groupby(level=0).max()
    best = [cosines[captions].max() for captions in shown]
    assert best == sorted(best, reverse=True)
    assert cosines[others.explode()].max() <= best[-1]
    np.testing.assert_allclose(found["similarity"], best, atol=1e-3)  # stored in half precision
    np.testing.assert_allclose(cosines[found["caption"]], best, atol=1e-3)
    for wrong in ({"text": " "}, {"text": "a", "by": "smell"}, {"like": "absent"}):
        with pytest.raises(InputError):
            audit.search(**wrong)


def test_a_killed_process_is_one_line_and_the_next_call_has_a_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(search_module, "_uses_process", True)
    monkeypatch.setattr(search_module, "_pool", None)
    os.kill(
        search_module.run(os.getpid), signal.SIGKILL
    )  # it waits for work, which breaks its pool
    while search_module._pool.active:  # type: ignore[union-attr]
        time.sleep(0.05)
    assert search_module.run(os.getpid) != os.getpid()
    with pytest.raises(InputError):
        search_module.run(os._exit, 1)
    assert search_module.run(os.getpid) != os.getpid()
    search_module._pool.stop()  # type: ignore[union-attr]


def test_similar_pairs_need_no_tower(locked_audit: Audit) -> None:
    """A page that shows similar pairs must not import torch, which takes seconds."""
    code = f"""
import sys, clipmem_core
audit = clipmem_core.open_audit({locked_audit.name!r})
for by in ("caption", "picture"):
    assert len(audit.search(like=audit.pairs.pair_id[0], by=by, k=3)) == 3
assert "torch" not in sys.modules
"""
    environment = os.environ | {"CLIPMEM_DATA": str(locked_audit.folder.parents[1])}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_regions_are_named_by_the_words_of_their_captions_alone() -> None:
    places = np.repeat([[0.0, 0.0], [9.0, 9.0]], 10, axis=0)
    texts = pd.Series(["a photo of dogs\na dog, <b>wet</b>"] * 10 + ["a photo of a river"] * 10)
    assert set(name_regions(places, texts, spaced=True)) == {"dog, wet", "river"}
    unspaced = pd.Series(["一只狗"] * 10 + ["红汽车"] * 10)
    assert set(name_regions(places, unspaced, spaced=False)) == {"一只, 只狗", "汽车, 红汽"}
    for nothing in ("", "dog"):  # nothing, or the same in all regions
        assert set(name_regions(places, pd.Series([nothing] * 20), spaced=True)) == {""}
