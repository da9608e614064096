from typing import Any

import pandas as pd
import pytest

from clipmem_core.audit.verdict import doubt, judge, queues, uses
from clipmem_core.config import AuditConfig

GOOD = {
    "groups": [{"group": "scored", "mean": 0.3}, {"group": "external", "mean": 0.01}],
    "injected": [],
    "detection": [],
    "membership_auroc": 0.9,
    "ranking_stability": 0.7,
    "ranking_reliability": 0.82,
    "external_pairs": 100,
    "external_sd": 0.1,
}


def verdict_of(*, recall: float = 0.5, protocol: str = "ensemble", **changes: Any) -> dict[str, Any]:
    rows = [("f-0", "image_to_text_R@5", recall), ("f-0", "text_to_image_R@5", recall), ("f-0", "zero_shot", 0.9)]
    utility = pd.DataFrame(rows, columns=["member", "metric", "value"])
    return judge(GOOD | changes, utility, AuditConfig(protocol=protocol))


@pytest.mark.parametrize(
    ("place", "changes", "good"),
    [
        # Members generalise: chance at 5 of 100 is .05, so a tenth of the way from there to 1 is .145.
        (0, {"recall": 0.144}, False),
        (0, {"recall": 0.146}, True),
        # The ranking is stable: by Spearman-Brown, halves that agree to .5 have a reliability of 2 · .5 / 1.5.
        (2, {"ranking_reliability": 1 / 1.5}, True),
        (2, {"ranking_reliability": 0.66}, False),
        (2, {"ranking_reliability": None}, None),
        # Memorization is measurable.
        (3, {"membership_auroc": 0.55}, True),
        (3, {"membership_auroc": 0.54}, False),
        (3, {"membership_auroc": None}, None),
    ],
)
def test_a_check_passes_from_its_bound_on_and_gives_advice_otherwise(
    place: int, changes: dict[str, Any], good: bool | None
) -> None:
    verdict = verdict_of(**changes)
    assert verdict["checks"][place]["good"] is good
    assert not (good and verdict["checks"][place]["advice"])
    assert [check["good"] for check in verdict_of()["checks"]] == [True] * 4


@pytest.mark.parametrize(
    ("protocol", "groups", "good"),
    [
        ("ensemble", {"scored": 0.3, "external": 0.029}, True),
        ("ensemble", {"scored": 0.3, "external": -0.031}, False),
        ("ensemble", {"scored": 0.01, "external": 0.029}, True),  # within three standard errors of 0: .1 / √100 each
        ("ensemble", {"scored": 0.01, "external": 0.031}, False),
        ("paper", {"candidate": 0.3, "independent": -0.3, "shared": 0.05, "external": 0.0}, False),
        ("ensemble", {"scored": 0.3, "shared": None, "external": 0.0}, True),
    ],
)
def test_pairs_that_nobody_memorized_score_within_a_tenth_of_the_effect(
    protocol: str, groups: dict[str, float | None], good: bool
) -> None:
    rows = [{"group": name, "mean": mean} for name, mean in groups.items()]
    assert verdict_of(protocol=protocol, groups=rows)["checks"][1]["good"] is good


def test_captions_are_called_wrong_only_if_no_check_failed_and_the_reason_is_shown() -> None:
    for verdict in (verdict_of(), verdict_of(ranking_reliability=None, ranking_stability=None)):
        assert queues(verdict)["misfit"].name == "Likely wrong captions"
        assert "probably wrong" in uses(verdict)["misfit"]
        assert doubt(verdict) == ""
    for verdict in (
        verdict_of(recall=0.095),
        verdict_of(ranking_reliability=0.4),
        verdict_of(membership_auroc=0.5),
        {},
        [],
        None,
    ):
        shown = f"{uses(verdict)} {queues(verdict)}"
        assert "robably" not in shown
        assert doubt(verdict)
        assert shown.count(doubt(verdict)) == len(queues(verdict))
    hostile = {"checks": [{"name": "<script>", "good": False}]}
    assert "<script>" not in doubt(hostile)
