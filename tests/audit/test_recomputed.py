"""A finished audit's scores and utility, recomputed from its files by slow loops, scikit-learn and
open_clip."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from clipmem_core.auditing.run.member import MemberRun, open_member
from clipmem_core.scores.metrics import retrieval_recalls
from tests.audit.small import PAIRS, Recomputed, aligned, embeddings
from tests.shared import Made

COMPONENTS = ("alignment", "positive", "negative_text", "negative_image")


@pytest.fixture(scope="module")
def paper(made: Made) -> Recomputed:
    return Recomputed(made.paper)


@pytest.fixture(scope="module")
def ensemble(made: Made) -> Recomputed:
    return Recomputed(made.ensemble)


@pytest.fixture(params=["paper", "ensemble"])
def run(request: pytest.FixtureRequest) -> Recomputed:
    return request.getfixturevalue(request.param)


def close(column: pd.Series, expected: np.ndarray) -> None:
    np.testing.assert_allclose(column.to_numpy(), expected, atol=3e-6)


def test_the_paper_compares_f_with_g_in_every_row(paper: Recomputed) -> None:
    f, g = paper.components
    for name in COMPONENTS:
        close(paper.scores[f"{name}_in"], f[name])
        close(paper.scores[f"{name}_out"], g[name])
    mean = paper.scores.groupby("group")["clipmem"].mean()
    assert mean["candidate"] > 0.08 > -0.08 > mean["independent"]
    assert max(abs(mean["shared"]), abs(mean["held-out"])) < mean["candidate"]


def test_the_ensemble_compares_members_with_and_without_the_pair(ensemble: Recomputed) -> None:
    scored = ~ensemble.held_out
    for name in COMPONENTS:
        close(
            ensemble.scores.loc[scored, f"{name}_in"], ensemble.over(name, ensemble.trained)[scored]
        )
        close(
            ensemble.scores.loc[scored, f"{name}_out"],
            ensemble.over(name, ~ensemble.trained)[scored],
        )


def test_clipmem_is_in_minus_out_and_similarity_follows_who_saw_the_pair(run: Recomputed) -> None:
    scores = run.scores
    clipmem = scores["clipmem"]
    close(clipmem, (scores["alignment_in"] - scores["alignment_out"]).to_numpy())
    close(scores["clipmem_relative"], (clipmem / clipmem.abs().max()).to_numpy())
    close(scores["similarity_in"], run.over("similarity", run.trained))
    close(scores["similarity_out"], run.over("similarity", ~run.trained))


def test_learned_is_the_mean_over_epochs_and_over_the_members_that_train_on_a_pair(
    run: Recomputed,
) -> None:
    trajectories = np.stack(
        [np.load(run.audit.member(name) / "trajectory.npy")[..., 1] for name in run.members]
    ).astype(np.float64)
    learned = np.full(PAIRS, np.nan)
    for row in np.flatnonzero(run.trained.any(axis=0)):
        learned[row] = trajectories[run.trained[:, row], :, row].mean()
    np.testing.assert_allclose(run.scores["learned"], learned, atol=1e-9)
    assert run.scores["misfit"].notna().all()


def test_the_encoders_parts_are_shapley_values_of_mapped_members(
    paper: Recomputed, ensemble: Recomputed
) -> None:
    for run in (paper, ensemble):
        parts = run.scores["clipmem_image"] + run.scores["clipmem_text"]
        close(parts, run.scores["clipmem"].to_numpy())
    f_image, f_text = embeddings(paper.audit, "f-0")
    g_image, g_text = embeddings(paper.audit, "g-0")
    shared = paper.group == "shared"
    rotation, _ = orthogonal_procrustes(
        np.concatenate([f_image[shared], f_text[shared]]),
        np.concatenate([g_image[shared], g_text[shared]]),
    )
    h = {
        (a, b): aligned(image, text, paper.held_out)["alignment"]
        for a, image in (("f", f_image @ rotation), ("g", g_image))
        for b, text in (("f", f_text @ rotation), ("g", g_text))
    }
    image_part = (h["f", "g"] - h["g", "g"] + h["f", "f"] - h["g", "f"]) / 2
    close(paper.scores["clipmem_image"], image_part)


def test_utility_is_that_of_the_embeddings(paper: Recomputed) -> None:
    labels = paper.audit.pairs["label"].to_numpy(dtype=str)
    shared = paper.group == "shared"
    image, text = (each[paper.held_out] for each in embeddings(paper.audit, "f-0"))
    utility = paper.audit.utility.query("member == 'f-0'").set_index("metric")["value"]
    recalls = retrieval_recalls(image, text, np.arange(len(image)))
    assert utility[list(recalls)].to_dict() == pytest.approx(recalls)
    fitted = embeddings(paper.audit, "f-0")[0][shared]
    scale = StandardScaler().fit(fitted)
    probe = LogisticRegression(max_iter=300).fit(scale.transform(fitted), labels[shared])
    accuracy = probe.score(scale.transform(image), labels[paper.held_out])
    assert utility["linear_probe"] == pytest.approx(accuracy, abs=0.021)
    assert 0 <= utility["zero_shot"] <= 1


@pytest.fixture
def member_run(made: Made, monkeypatch: pytest.MonkeyPatch) -> Iterator[MemberRun]:
    monkeypatch.setenv("CLIPMEM_DATA", str(made.data))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield open_member(made.paper.folder, "f-0")
    torch.set_num_threads(threads)


def test_candidate_and_independent_share_every_draw_and_no_others_do(member_run: MemberRun) -> None:
    group = member_run.membership["group"].to_numpy()
    keys = member_run.data.keys
    assert np.array_equal(keys[group == "candidate"], keys[group == "independent"])
    assert len(set(keys.tolist())) == PAIRS - (group == "independent").sum()
    assert member_run.data.rows.tolist() == np.flatnonzero(member_run.membership["f-0"]).tolist()
