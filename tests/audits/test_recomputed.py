"""A finished audit's numbers, computed again from its embeddings, trajectories and membership table in plain numpy."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from scipy.stats import norm, t
from sklearn.metrics import roc_auc_score

from clipmem_core.scores.uncertainty import fit_prior, moderate
from tests.audits.small import Again, aligned, embeddings
from tests.conftest import Made


@pytest.fixture(scope="module")
def paper(made: Made) -> Again:
    return Again(made.paper)


@pytest.fixture(scope="module")
def ensemble(made: Made) -> Again:
    return Again(made.ensemble)


@pytest.fixture(params=["paper", "ensemble"])
def again(request: pytest.FixtureRequest) -> Again:
    return request.getfixturevalue(request.param)


def close(found: pd.Series, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found.to_numpy(), expected, atol=3e-6)


def test_the_paper_compares_f_with_g_in_every_row(paper: Again) -> None:
    f, g = paper.terms
    for name in ("alignment", "positive", "negative_text", "negative_image"):
        close(paper.scores[f"{name}_in"], f[name])
        close(paper.scores[f"{name}_out"], g[name])
    close(paper.scores["clipmem"], f["alignment"] - g["alignment"])


def test_the_ensemble_compares_members_with_and_without_the_pair(ensemble: Again) -> None:
    scored = ~ensemble.external
    for name in ("alignment", "positive", "negative_text", "negative_image"):
        close(ensemble.scores.loc[scored, f"{name}_in"], ensemble.over(name, ensemble.trained)[scored])
        close(ensemble.scores.loc[scored, f"{name}_out"], ensemble.over(name, ~ensemble.trained)[scored])


def test_an_external_pair_of_the_ensemble_has_one_labelling_a_repeat(ensemble: Again) -> None:
    values = np.stack([terms["alignment"] for terms in ensemble.terms])
    for i in np.flatnonzero(ensemble.external):
        outs = [values[[a, b], i].mean() for a, b in itertools.product((0, 1), (2, 3))]
        ins = [values[[1 - a, 5 - b], i].mean() for a, b in itertools.product((0, 1), (2, 3))]
        row = ensemble.scores.iloc[i]
        chosen = int(np.argmin(np.abs(np.array(outs) - row["alignment_out"])))
        assert row["alignment_out"] == pytest.approx(outs[chosen], abs=3e-6)
        assert row["alignment_in"] == pytest.approx(ins[chosen], abs=3e-6)


def test_clipmem_is_what_is_in_less_what_is_out(again: Again) -> None:
    scores = again.scores
    close(scores["clipmem"], (scores["alignment_in"] - scores["alignment_out"]).to_numpy())
    for side in ("in", "out"):
        parts = scores[f"positive_{side}"] - scores[f"negative_text_{side}"] - scores[f"negative_image_{side}"]
        close(scores[f"alignment_{side}"], parts.to_numpy())
    close(scores["clipmem_relative"], (scores["clipmem"] / scores["clipmem"].abs().max()).to_numpy())


def test_similarity_follows_who_saw_the_pair(again: Again) -> None:
    close(again.scores["similarity_in"], again.over("similarity", again.trained))
    close(again.scores["similarity_out"], again.over("similarity", ~again.trained))


def differences(again: Again, rows: np.ndarray, outs: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return in minus out of some pairs in each of two repeats of two folds, whose given member leaves them out."""
    values = np.stack([terms["alignment"] for terms in again.terms])
    at = np.arange(len(again.group))[rows]
    return np.stack(
        [values[2 * repeat + 1 - out, at] - values[2 * repeat + out, at] for repeat, out in enumerate(outs)]
    )


def pooled(own: np.ndarray, level: np.ndarray) -> tuple[np.ndarray, float]:
    """Return variances of one degree of freedom pooled with those of like pairs, and their degrees of freedom."""
    prior = fit_prior(own, 1, level)  # held against known truth in tests/scores/test_uncertainty.py
    if np.isinf(prior.degrees):
        return prior.scale, np.inf
    return (own + prior.degrees * prior.scale) / (1 + prior.degrees), 1 + prior.degrees


def moderated(ensemble: Again) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the rows of scored pairs, the variances of their clipmem, and the degrees of freedom of these."""
    rows = np.flatnonzero(~ensemble.external)
    outs = np.argmin(ensemble.trained[:2, rows], axis=0), np.argmin(ensemble.trained[2:, rows], axis=0)
    own = differences(ensemble, rows, outs).var(axis=0, ddof=1) / 2
    level = np.mean([terms["alignment"][rows] for terms in ensemble.terms], axis=0)
    return rows, *pooled(own, level)


def test_standard_errors_are_those_of_repeats_pooled_with_like_pairs(ensemble: Again) -> None:
    rows, variance, degrees = moderated(ensemble)
    expected = np.sqrt(variance) * t.ppf(0.975, degrees) / norm.ppf(0.975)
    np.testing.assert_allclose(ensemble.scores["se"].to_numpy()[rows], expected, rtol=0.01)
    assert ensemble.audit.verdict["se_kind"] == "moderated"


def test_one_seed_has_the_spread_of_external_pairs_for_an_error(paper: Again) -> None:
    spread = paper.scores["clipmem"][paper.external].std()
    np.testing.assert_allclose(paper.scores["se"], spread, rtol=1e-5)
    assert paper.audit.verdict["se_kind"] == "sd of external"


def test_p_values_of_one_seed_count_external_pairs_that_score_as_high(paper: Again) -> None:
    values = np.stack([terms["alignment"] for terms in paper.terms])[:, paper.external]
    null = values[0] - values[1]
    for i in range(0, 400, 3):
        sign = -1 if paper.group[i] == "independent" else 1
        score = sign * paper.scores["clipmem"].iloc[i]
        counts = [1 + (sign * null >= score + slack).sum() for slack in (1e-5, -1e-5)]  # rounding may part a tie
        assert counts[0] <= paper.scores["p_value"].iloc[i] * (1 + len(null)) + 1e-9
        assert counts[1] >= paper.scores["p_value"].iloc[i] * (1 + len(null)) - 1e-9


def test_p_values_compare_scores_in_their_errors_with_those_of_external_pairs(ensemble: Again) -> None:
    rows, variance, degrees = moderated(ensemble)
    score = norm.isf(t.sf(ensemble.scores["clipmem"].to_numpy()[rows] / np.sqrt(variance), degrees))
    at = np.flatnonzero(ensemble.external)
    level = np.mean([terms["alignment"][at] for terms in ensemble.terms], axis=0)
    counted = np.round((1 + 4 * len(at)) * ensemble.scores["p_value"].to_numpy()[rows]) - 1
    drawn = score_of_drawn(ensemble, at, level)
    expected = (drawn[None, :] >= score[:, None]).sum(axis=1)
    np.testing.assert_allclose(counted, expected, atol=0.02 * len(drawn))


def score_of_drawn(ensemble: Again, at: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Return external clipmem in its errors under all four labellings; the prior is that of the labels drawn."""
    values = np.stack([terms["alignment"] for terms in ensemble.terms])
    found = ensemble.scores["alignment_out"].to_numpy()[at]
    pairs = list(itertools.product((0, 1), (0, 1)))
    means = np.stack([(values[a, at] + values[2 + b, at]) / 2 for a, b in pairs])
    chosen = np.array(pairs)[np.abs(means - found).argmin(axis=0)].T
    own = differences(ensemble, at, (chosen[0], chosen[1])).var(axis=0, ddof=1) / 2
    prior = fit_prior(own, 1, level)
    scores = []
    for a, b in pairs:
        both = differences(ensemble, at, (np.full(len(at), a), np.full(len(at), b)))
        variance = moderate(both.var(axis=0, ddof=1) / 2, 1, prior)
        ratio = both.mean(axis=0) / np.sqrt(variance)
        scores.append(np.sign(ratio) * norm.isf(t.sf(np.abs(ratio), 1 + prior.degrees)))
    return np.concatenate(scores)


def test_q_values_are_benjamini_hochbergs_within_a_group(again: Again) -> None:
    for name in ("candidate", "independent", "scored"):
        p = again.scores["p_value"][again.group == name].to_numpy()
        ranks = [np.sum(p <= other) for other in p]
        steps = [other * len(p) / rank for other, rank in zip(p, ranks, strict=True)]
        expected = [min(1, *(step for step, q in zip(steps, p, strict=True) if q >= other)) for other in p]
        close(again.scores["q_value"][again.group == name], np.array(expected))
    assert again.scores["q_value"][np.isin(again.group, ["shared", "external"])].isna().all()


def test_misfit_joins_what_was_learned_late_with_what_strangers_do_not_know(again: Again) -> None:
    epochs = [np.load(again.audit.member(n) / "trajectory.npy")[..., 1].astype(np.float64) for n in again.members]
    learned = np.full(400, np.nan)
    for i in np.flatnonzero(again.trained.any(axis=0)):
        seen = [epochs[member][:, i] for member in np.flatnonzero(again.trained[:, i])]
        learned[i] = np.mean(seen)
    np.testing.assert_allclose(again.scores["learned"], learned, atol=1e-9)
    scored = np.isin(again.group, ["candidate", "independent", "scored"])
    late, strange = (
        -(values - values.mean()) / values.std()
        for values in (learned[scored], again.scores["log_probability_out"].to_numpy()[scored])
    )
    np.testing.assert_allclose(again.scores["misfit"][scored], late + 2 * strange, atol=1e-9)
    # A pair with one part has the misfit that is at the same quantile of the scored pairs.
    for part in (learned, again.scores["log_probability_out"].to_numpy()):
        for row in np.flatnonzero(~scored & np.isfinite(part)):
            share = (part[scored] > part[row]).mean()
            ends = np.quantile(again.scores["misfit"][scored], np.clip([share - 0.02, share + 0.02], 0, 1))
            assert ends[0] <= again.scores["misfit"][row] <= ends[1]
    assert again.scores["misfit"].notna().all()


def test_members_that_never_saw_a_pair_tell_how_sure_they_are_of_its_partner_among_external_ones(again: Again) -> None:
    values = np.full(again.trained.shape, np.nan)
    for member, name in enumerate(again.members):
        state = torch.load(again.audit.member(name) / "checkpoint.pt", weights_only=True)
        image, text = (torch.nn.functional.normalize(torch.from_numpy(own)) for own in embeddings(again.audit, name))
        logits = state["logit_scale"].exp() * image @ text.T
        for i in np.flatnonzero(~again.trained[member]):
            others = np.flatnonzero(again.external & (np.arange(len(again.group)) != i))
            ways = [torch.log_softmax(way[i, [i, *others]], dim=0)[0] for way in (logits, logits.T)]
            values[member, i] = float(sum(ways)) / 2
    expected = np.full(len(again.group), np.nan)
    unseen = ~again.trained.all(axis=0)
    expected[unseen] = np.nanmean(values[:, unseen], axis=0)
    np.testing.assert_allclose(again.scores["log_probability_out"], expected, atol=2e-5)


def test_the_encoders_parts_add_up_to_clipmem(again: Again) -> None:
    close(again.scores["clipmem_image"] + again.scores["clipmem_text"], again.scores["clipmem"].to_numpy())


def test_the_encoders_parts_are_shapley_values_of_mapped_members(paper: Again) -> None:
    (f_image, f_text), (g_image, g_text) = (embeddings(paper.audit, name) for name in ("f-0", "g-0"))
    shared = paper.group == "shared"
    fitted = np.concatenate([f_image[shared], f_text[shared]]), np.concatenate([g_image[shared], g_text[shared]])
    turn, _ = orthogonal_procrustes(*fitted)
    f_image, f_text = f_image @ turn, f_text @ turn
    h = {
        (a, b): aligned(image, text, paper.external)["alignment"]
        for a, image in (("f", f_image), ("g", g_image))
        for b, text in (("f", f_text), ("g", g_text))
    }
    image = (h["f", "g"] - h["g", "g"] + h["f", "f"] - h["g", "f"]) / 2
    close(paper.scores["clipmem_image"], image)


def test_sslmem_compares_the_mean_cosine_of_views_and_captions(again: Again) -> None:
    counts = again.audit.pairs["captions"].map(len).to_numpy()
    paper = again.members[0] == "f-0"
    rows = np.flatnonzero(~again.external)
    inside = (np.repeat([[True], [False]], 400, axis=1) if paper else again.trained)[:, rows]
    for column, place, n in (("sslmem_image", 0, np.full(400, 2)), ("sslmem_text", 1, counts)):
        n = n[rows]
        squares = np.stack([(embeddings(again.audit, name)[place][rows] ** 2).sum(axis=1) for name in again.members])
        with np.errstate(divide="ignore", invalid="ignore"):
            cosine = np.where(n < 2, np.nan, (n * squares - 1) / (n - 1))
        means = [np.where(side, cosine, 0).sum(axis=0) / side.sum(axis=0) for side in (inside, ~inside)]
        expected = np.where(n < 2, np.nan, means[0] - means[1])
        np.testing.assert_allclose(again.scores[column][rows], expected, atol=2e-5)


def test_group_means_and_membership_auroc_are_those_of_the_scores(again: Again) -> None:
    verdict = again.audit.verdict
    means = again.scores.groupby("group")["clipmem"].mean()
    for row in verdict["groups"]:
        assert row["mean"] == pytest.approx(means[row["group"]], abs=1e-6)
        assert row["kind"] == "SD over pairs"  # fewer than three seeds or repeats claim no interval
    judged = np.isin(again.group, ["candidate", "independent", "scored"])
    aurocs = [
        roc_auc_score(trained[judged], terms["alignment"][judged])
        for trained, terms in zip(again.trained, again.terms, strict=True)
    ]
    assert verdict["membership_auroc"] == pytest.approx(np.mean(aurocs), abs=1e-4)


def test_candidates_come_out_positive_and_independents_as_their_mirror(paper: Again) -> None:
    mean = paper.scores.groupby("group")["clipmem"].mean()
    assert mean["candidate"] > 0.08
    assert mean["independent"] < -0.08
    assert abs(mean["shared"]) < mean["candidate"] / 2
    assert abs(mean["external"]) < mean["candidate"]
