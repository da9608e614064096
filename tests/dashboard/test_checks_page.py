import numpy as np
import pytest

from clipmem_core.audits.store import Audit, write_prepared
from clipmem_core.pairs.checks import CHECKS
from clipmem_core.review.decisions import KEEP, REMOVE, open_review
from clipmem_core.review.rows import check_counts
from tests.dashboard.test_deciding import decided
from tests.dashboard.test_pages import links, open_page
from tests.fixtures import Copy

PAGE = "pages/decisions.py"


@pytest.fixture
def audit(copy: Copy) -> Audit:
    made = copy()
    rows = np.arange(len(made.pairs))
    clusters = rows.copy()
    clusters[[7, 9]] = 5
    write_prepared(made.folder, cache_rows=rows, clusters=clusters)
    return made


def test_each_check_has_its_count_and_the_way_to_its_pairs(audit: Audit) -> None:
    app = open_page(PAGE, audit="made", view="checks")
    counts = check_counts(audit)
    shown = {f"{check.label}: **{counts[name]:,}**": name for name, check in CHECKS.items() if counts[name]}
    found = {label: query for label, query in links(app) if label in shown}
    assert found == {label: f"audit=made&order=clipmem&check={name}" for label, name in shown.items()}
    nothing = next(element.value for element in app.caption if element.value.startswith("Nothing found"))
    assert all(check.label.lower() in nothing for check in CHECKS.values() if counts[check.name] == 0)


def test_a_check_is_a_filter_of_browse(audit: Audit) -> None:
    app = open_page("pages/browse.py", audit="made", check="lookalike")
    assert "**3 pairs.**" in " ".join(element.value for element in app.caption)
    assert app.selectbox(key="check").value == "lookalike"
    app.selectbox(key="check").select("").run()
    assert "check" not in app.query_params


def test_one_of_a_group_is_kept_and_the_others_removed_or_all_are_kept(audit: Audit) -> None:
    ids = audit.pairs["pair_id"].iloc[[5, 7, 9]].tolist()
    app = open_page(PAGE, audit="made", view="checks")
    app.button(key="keep-one-7").click().run()
    assert [decided(audit, pair_id) for pair_id in ids] == [REMOVE, KEEP, REMOVE]
    next(button for button in app.button if button.label == "Undo").click().run()
    assert [decided(audit, pair_id) for pair_id in ids] == [None, KEEP, None]
    app.button(key="keep-all-5").click().run()
    assert [decided(audit, pair_id) for pair_id in ids] == [KEEP] * 3
    assert open_review(audit).counts() == {"keep": 3, "remove": 0, "recaption": 0}
    assert not app.exception
