import json
from typing import Any

import pandas as pd
import pytest

from clipmem_core.audits.store import write_json
from clipmem_core.audits.verdict import doubt, judge, queues, uses
from clipmem_core.config import AuditConfig

GOOD = {
    "groups": [{"group": "scored", "mean": 0.3}, {"group": "external", "mean": 0.01}],
    "planted": [],
    "detection": [],
    "membership_auroc": 0.9,
    "ranking_stability": 0.7,
    "ranking_reliability": 0.82,
    "external_pairs": 100,
    "external_sd": 0.1,
}


def utility(recall: float) -> pd.DataFrame:
    rows = [
        ("f-0", "image_to_text_R@5", recall),
        ("f-0", "text_to_image_R@5", recall),
        ("f-0", "image_to_text_R@1", 0.9),
    ]
    return pd.DataFrame(rows, columns=["member", "metric", "value"])


def judged(*, recall: float = 0.5, protocol: str = "ensemble", pretrained: str = "", **changes: Any) -> dict[str, Any]:
    return judge(GOOD | changes, utility(recall), AuditConfig(protocol=protocol, pretrained=pretrained))


def check(verdict: dict[str, Any], place: int) -> tuple[Any, str]:
    return verdict["checks"][place]["good"], verdict["checks"][place]["advice"]


def test_a_good_audit_can_be_believed_and_needs_no_advice() -> None:
    verdict = judged()
    assert verdict["sentence"].startswith("These results look reliable")
    assert [(c["good"], c["advice"]) for c in verdict["checks"]] == [(True, "")] * 4


# Chance at 5 of 100 is .05, so a tenth of the way from there to 1 is .145.
@pytest.mark.parametrize(("recall", "good"), [(0.05, False), (0.144, False), (0.146, True), (1.0, True)])
def test_members_generalise_when_they_retrieve_beyond_chance(recall: float, good: bool) -> None:
    assert check(judged(recall=recall), 0)[0] is good


@pytest.mark.parametrize(
    ("protocol", "groups", "good"),
    [
        ("ensemble", {"scored": 0.3, "external": 0.029}, True),
        ("ensemble", {"scored": 0.3, "external": -0.031}, False),
        ("ensemble", {"scored": 0.01, "external": 0.029}, True),  # within three standard errors of 0: .1 / √100 each
        ("ensemble", {"scored": 0.01, "external": 0.031}, False),
        ("paper", {"candidate": 0.3, "independent": -0.3, "shared": 0.0, "external": 0.0}, True),
        ("paper", {"candidate": 0.3, "independent": -0.3, "shared": 0.05, "external": 0.0}, False),
        ("ensemble", {"scored": 0.3, "shared": None, "external": 0.0}, True),
    ],
)
def test_the_null_groups_are_flat_within_a_tenth_of_the_effect(
    protocol: str, groups: dict[str, float | None], good: bool
) -> None:
    rows = [{"group": name, "mean": mean} for name, mean in groups.items()]
    verdict = judged(protocol=protocol, groups=rows)
    assert check(verdict, 1)[0] is good
    assert ("--seeds" in check(verdict, 1)[1]) is not good


# By Spearman-Brown, scores of halves that agree to .5 have a reliability of 2 · .5 / 1.5.
@pytest.mark.parametrize(("reliability", "good"), [(1 / 1.5, True), (0.66, False), (0.0, False), (None, None)])
def test_the_ranking_is_stable_when_the_scores_shown_are_reliable(reliability: float | None, good: bool | None) -> None:
    verdict = judged(ranking_reliability=reliability, ranking_stability=0.123)
    assert check(verdict, 2)[0] is good
    sentence = verdict["checks"][2]["sentence"]
    if reliability is not None:
        assert f"a reliability of {reliability:.2f} (Spearman–Brown)" in sentence
        assert "halves of the members rank them alike to 0.12 (Spearman)" in sentence


@pytest.mark.parametrize(("auroc", "good"), [(0.55, True), (0.54, False), (None, None)])
def test_memorization_is_measurable_when_seen_pairs_stand_out(auroc: float | None, good: bool | None) -> None:
    assert check(judged(membership_auroc=auroc), 3)[0] is good


def test_the_verdict_says_which_score_is_for_what_and_keeps_the_numbers(tmp_path: Any) -> None:
    verdict = judged()
    assert "probably wrong" in verdict["uses"]["misfit"]
    assert "memorized" in verdict["uses"]["clipmem"]
    assert verdict["membership_auroc"] == 0.9
    assert verdict["utility"] == {"image_to_text_R@5": 0.5, "text_to_image_R@5": 0.5, "image_to_text_R@1": 0.9}
    write_json(tmp_path / "verdict.json", verdict)
    assert json.loads((tmp_path / "verdict.json").read_text()) == verdict


def test_captions_are_called_wrong_only_where_every_check_holds() -> None:
    good, unknown = judged(), judged(ranking_reliability=None, ranking_stability=None)
    for verdict in (good, unknown):
        assert queues(verdict)["misfit"].name == "Likely wrong captions"
        assert doubt(verdict) == ""
    for verdict in (judged(recall=0.095), judged(ranking_reliability=0.4), judged(membership_auroc=0.5), {}, [], None):
        told = f"{uses(verdict)} {queues(verdict)}"
        assert "robably" not in told
        assert "wrong and learned" not in told


@pytest.mark.parametrize(
    ("changes", "name", "reason"),
    [
        ({"recall": 0.06}, "Low fit, not to be trusted here", "the members hardly generalise"),
        (
            {"recall": 0.06, "membership_auroc": 0.6},
            "Low fit, not to be trusted here",
            "the members have learned little",
        ),
        ({"ranking_reliability": 0.4}, "Low fit, read with care", "the ranking is not stable"),
    ],
)
def test_where_a_check_fails_the_queue_says_so_and_why(changes: dict[str, float], name: str, reason: str) -> None:
    verdict = judged(**changes)
    queue, tone = queues(verdict)["misfit"], name.removeprefix("Low fit, ")
    assert queue.name == name
    assert queue.sentence.endswith(f" {tone.capitalize()}: {reason}.")
    assert queues(verdict)["clipmem"].sentence.endswith(doubt(verdict))
    assert f"{tone}: {reason}" in verdict["uses"]["misfit"]
    assert uses(verdict) == verdict["uses"]
