"""A finished audit's utility, computed again from its embeddings with scikit-learn and open_clip alone."""

import numpy as np
import open_clip
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from clipmem_core.training.names import model_config
from tests.audits.small import Again, embeddings
from tests.conftest import Made


@pytest.fixture(scope="module")
def paper(made: Made) -> Again:
    return Again(made.paper)


def ranks(queries: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """How many wrong answers come before the right one, row by row; ties count against."""
    queries, answers = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, answers))
    found = []
    for i, query in enumerate(queries):
        cosines = [float(query @ answer) for answer in answers]
        found.append(sum(cosine >= cosines[i] - 1e-6 for j, cosine in enumerate(cosines) if j != i))
    return np.array(found)


def test_recalls_with_one_caption_a_pair_are_those_of_the_indexes(paper: Again) -> None:
    for name in paper.members:
        image, text = (rows[paper.external] for rows in embeddings(paper.audit, name))
        utility = paper.audit.utility.query("member == @name").set_index("metric")["value"]
        for way, found in (("image_to_text", ranks(image, text)), ("text_to_image", ranks(text, image))):
            for k in (1, 5, 10):
                assert utility[f"{way}_R@{k}"] == pytest.approx(np.mean(found < k)), (name, way, k)


def test_the_linear_probe_is_fitted_on_pairs_that_every_member_saw(paper: Again) -> None:
    labels = paper.audit.pairs["label"].to_numpy(dtype=str)
    shared = paper.group == "shared"
    for name in paper.members:
        image = embeddings(paper.audit, name)[0].astype(np.float32)
        scale = StandardScaler().fit(image[shared])
        probe = LogisticRegression(max_iter=300).fit(scale.transform(image[shared]), labels[shared])
        accuracy = probe.score(scale.transform(image[paper.external]), labels[paper.external])
        utility = paper.audit.utility.query("member == @name").set_index("metric")["value"]
        assert utility["linear_probe"] == pytest.approx(accuracy, abs=0.021)


@pytest.fixture(scope="module")
def plain_model(made: Made) -> torch.nn.Module:
    """Member f-0 rebuilt by open_clip alone."""
    config = model_config("tiny")
    model = open_clip.CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"])
    model.load_state_dict(torch.load(made.paper.member("f-0") / "checkpoint.pt", weights_only=True))
    return model.eval()


def unit(encoded: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(encoded, dim=-1).numpy()


def test_text_vectors_are_those_of_open_clip(paper: Again, plain_model: torch.nn.Module) -> None:
    captions = [captions[0] for captions in paper.audit.pairs["captions"]]
    tokens = open_clip.SimpleTokenizer(context_length=16)(captions)
    with torch.inference_mode():
        encoded = unit(plain_model.encode_text(tokens))
    np.testing.assert_allclose(embeddings(paper.audit, "f-0")[1], encoded, atol=1e-5)


def test_zero_shot_names_the_class_among_all_classes(paper: Again, plain_model: torch.nn.Module) -> None:
    labels = paper.audit.pairs["label"].to_numpy(dtype=str)
    classes = sorted(set(labels))
    tokens = open_clip.SimpleTokenizer(context_length=16)([f"a picture of {name}" for name in classes])
    with torch.inference_mode():
        prompts = unit(plain_model.encode_text(tokens))
    image = embeddings(paper.audit, "f-0")[0][paper.external]
    nearest = [classes[place] for place in np.argmax(image @ prompts.T, axis=1)]
    utility = paper.audit.utility.query("member == 'f-0'").set_index("metric")["value"]
    assert utility["zero_shot"] == pytest.approx(np.mean(np.array(nearest) == labels[paper.external]), abs=0.021)
