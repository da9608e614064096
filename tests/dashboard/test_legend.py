from collections.abc import Callable

import pytest

from clipmem_core.audits.store import Audit
from clipmem_core.columns import GROUPS
from clipmem_core.dashboard.report import ENCODER_MEANINGS, GROUP_MEANINGS
from clipmem_core.figures.colours import ENCODER_COLOURS, GROUP_COLOURS
from tests.dashboard.test_pages import open_page


def test_every_group_and_encoder_has_a_meaning() -> None:
    assert set(GROUP_MEANINGS) == set(GROUPS)
    assert set(ENCODER_MEANINGS) == set(ENCODER_COLOURS)


@pytest.mark.parametrize(
    ("protocol", "groups"),
    [("ensemble", {"scored", "external"}), ("paper", {"candidate", "independent", "shared", "external"})],
)
def test_the_groups_of_the_audit_and_both_encoders_are_explained_once(
    copy: Callable[..., Audit], protocol: str, groups: set[str]
) -> None:
    copy(protocol)
    (legend,) = (element.value for element in open_page().get("html") if ENCODER_MEANINGS["image"] in element.value)
    for group in GROUPS:
        assert legend.count(f"{group} pairs") == (group in groups)
        assert (GROUP_COLOURS[group] in legend) == (group in groups)
    assert all(colour in legend for colour in ENCODER_COLOURS.values())
