import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch

from clipmem_core.audits.setup import write_members
from clipmem_core.audits.store import CONFIG, Audit, read_json, write_json
from clipmem_core.config import InputError
from clipmem_core.review import encode
from clipmem_core.review.encode import embed_text
from clipmem_core.training.model import build_model
from clipmem_core.training.names import model_config

Copy = Callable[..., Audit]


def save(path: Path, *, seed: int, loss: str = "clip") -> None:
    """Write an untrained checkpoint of the tiny model."""
    bytes_of = io.BytesIO()
    torch.save(build_model("tiny", loss=loss, seed=seed).state_dict(), bytes_of)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes_of.getvalue())


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    encode._text_encoder.cache_clear()
    encode._vocabulary.cache_clear()
    yield
    encode._text_encoder.cache_clear()


@pytest.fixture
def audit(copy: Copy) -> Audit:
    """Members f-0 and g-0 have a checkpoint, f-1 is given one, g-1 has none."""
    audit = copy("paper")
    for seed, name in enumerate(["f-0", "g-0"]):
        save(audit.member(name) / "checkpoint.pt", seed=seed)
    save(audit.folder.parent / "epoch_9.pt", seed=9)
    for name in audit.record.members:
        audit.member(name).mkdir(parents=True, exist_ok=True)
    write_members(audit, audit.record, audit.record.members)
    given = read_json(audit.member("f-1") / CONFIG) | {"checkpoint": str(audit.folder.parent / "epoch_9.pt")}
    write_json(audit.member("f-1") / CONFIG, given)
    return audit


def plain(checkpoint: Path, text: str) -> np.ndarray:
    """Embed a text with open_clip alone."""
    config = model_config("tiny")
    model = open_clip.CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"])
    model.load_state_dict(torch.load(checkpoint, weights_only=True))
    tokens = open_clip.SimpleTokenizer(context_length=config["text_cfg"]["context_length"])([text])
    with torch.inference_mode():
        return torch.nn.functional.normalize(model.eval().encode_text(tokens), dim=-1).numpy()[0]


@pytest.mark.parametrize("text", ["a red car", "music", "🎻", "word " * 500])
def test_a_text_is_embedded_as_open_clip_embeds_it(audit: Audit, text: str) -> None:
    found = embed_text(audit, text)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, plain(audit.member("f-0") / "checkpoint.pt", text), atol=1e-5)


def test_each_member_has_a_text_encoder_of_its_own(audit: Audit) -> None:
    found = embed_text(audit, "a red car", member="g-0")
    np.testing.assert_allclose(found, plain(audit.member("g-0") / "checkpoint.pt", "a red car"), atol=1e-5)
    assert np.abs(found - embed_text(audit, "a red car", member="f-0")).max() > 0.01


@pytest.mark.parametrize("field", ["text_min_df", "text_forget_df"])
def test_a_text_is_read_with_the_tokens_that_the_member_knows_after_training(audit: Audit, field: str) -> None:
    trained = audit.pairs[audit.membership["g-0"].to_numpy()]
    words = pd.Series([set(" ".join(own).split()) for own in trained["captions"]]).explode().value_counts()
    config = audit.record.values
    config["config"][field] = int(words.iloc[0])
    write_json(audit.folder / CONFIG, config)
    read = embed_text(audit, f"nonsuch {words.index[0]} unheard", member="g-0")
    np.testing.assert_allclose(read, plain(audit.member("g-0") / "checkpoint.pt", words.index[0]), atol=1e-5)


def test_a_given_checkpoint_stays_where_it_is(audit: Audit) -> None:
    found = embed_text(audit, "a red car", member="f-1")
    np.testing.assert_allclose(found, plain(audit.folder.parent / "epoch_9.pt", "a red car"), atol=1e-5)


def test_a_checkpoint_that_changes_is_loaded_anew_and_few_are_kept(audit: Audit) -> None:
    before = embed_text(audit, "music")
    assert np.array_equal(before, embed_text(audit, "music"))
    assert encode._text_encoder.cache_info().misses == 1
    save(audit.member("f-0") / "checkpoint.pt", seed=5)
    assert np.abs(before - embed_text(audit, "music")).max() > 0.01
    embed_text(audit, "music", member="g-0")
    assert encode._text_encoder.cache_info().currsize == encode.KEPT


def test_a_model_trained_with_siglip_has_its_bias(audit: Audit) -> None:
    config = audit.record.values
    config["config"]["loss"] = "siglip"
    write_json(audit.folder / CONFIG, config)
    save(audit.member("f-0") / "checkpoint.pt", seed=0, loss="siglip")
    assert np.linalg.norm(embed_text(audit, "a red car")) == pytest.approx(1, abs=1e-6)


def test_threads_are_as_many_as_before(audit: Audit) -> None:
    before = torch.get_num_threads()
    embed_text(audit, "a red car")
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("text", ["", "  \n\t", "\u2003"])
def test_nothing_is_no_text(audit: Audit, text: str) -> None:
    with pytest.raises(InputError, match="the text to search for is empty: write what"):
        embed_text(audit, text)


def test_a_missing_checkpoint_is_named_with_a_way_out(audit: Audit) -> None:
    with pytest.raises(InputError, match=r"checkpoint .*g-1/checkpoint\.pt of member g-1 is missing: run the audit"):
        embed_text(audit, "a cat", member="g-1")
    (audit.folder.parent / "epoch_9.pt").unlink()
    with pytest.raises(InputError, match=r"epoch_9\.pt of member f-1 is missing: put it back, or search with another"):
        embed_text(audit, "a cat", member="f-1")


@pytest.mark.parametrize("content", [b"", b"no checkpoint"])
def test_a_broken_checkpoint_is_one_line(audit: Audit, content: bytes) -> None:
    (audit.member("f-0") / "checkpoint.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"model 'tiny' cannot be built from .*checkpoint\.pt', which must be of this"):
        embed_text(audit, "a cat")


def test_a_config_without_its_model_is_one_line(audit: Audit) -> None:
    config = audit.record.values
    del config["config"]
    write_json(audit.folder / CONFIG, config)
    with pytest.raises(InputError, match=r"config\.json lacks the field 'config': delete"):
        embed_text(audit, "a cat")
