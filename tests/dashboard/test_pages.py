import json
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.auditing.folder.store import Audit, acquire_lock
from clipmem_core.review.decisions import open_review
from tests.dashboard.conftest import Started
from tests.fixtures import HOSTILE, Copy

ROOT = Path(__file__).resolve().parents[2]


def open_page(page: str = "pages/overview.py", /, **parameters: str) -> AppTest:
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=300)
    if page != "app.py":
        app.switch_page(page)
    for key, value in parameters.items():
        app.query_params[key] = value
    app.run()
    assert not app.exception, app.exception[0].message
    return app


def texts(app: AppTest) -> list[str]:
    return [element.value for element in app.text]


def figures(app: AppTest) -> list[dict]:
    return [json.loads(element.proto.spec) for element in app.get("plotly_chart")]


def titles(app: AppTest) -> str:
    return " ".join(element.value for element in app.get("html"))


def address(app: AppTest) -> dict[str, str]:
    return {
        name: value if isinstance(value, str) else value[-1]
        for name, value in app.query_params.items()
    }


def metrics(app: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in app.metric}


def captions(app: AppTest) -> str:
    return "\n".join(element.value for element in app.caption)


def chips(app: AppTest) -> list[str]:
    """The active filters."""
    return app.multiselect(key="conditions").options if app.multiselect else []


def toasts(app: AppTest) -> str:
    return " ".join(toast.value for toast in app.toast)


def links(app: AppTest) -> list[tuple[str, str]]:
    """The links on the page itself: label and parameters."""
    sidebar = {id(element) for element in app.sidebar.get("page_link")}
    shown = [element.proto for element in app.get("page_link") if id(element) not in sidebar]
    return [(proto.label, proto.query_string) for proto in shown]


def labels(app: AppTest) -> list[str]:
    return [button.label for button in app.button]


def press(app: AppTest, label: str) -> AppTest:
    next(button for button in app.button if button.label == label).click()
    app.run()
    assert not app.exception, app.exception[0].message
    return app


@pytest.mark.parametrize(
    ("page", "protocol"), [("app.py", "ensemble"), ("pages/overview.py", "paper")]
)
def test_a_finished_audit_opens_with_its_groups_and_the_first_pairs_of_either_queue(
    copy: Copy, page: str, protocol: str
) -> None:
    audit = copy(protocol)
    decided, first = audit.pairs["pair_id"][audit.scores["suspicion"].nlargest(2).index]
    open_review(audit).decide([decided], "remove")
    app = open_page(page)
    shown = titles(app)
    assert len(app.image) == 12
    assert audit.verdict["sentence"] in shown
    found = links(app)
    wanted = ["audit=made&order=suspicion", "audit=made&order=clipmem"]
    worst = next(there for label, there in found if label.startswith("Pair "))
    assert worst == f"{wanted[0]}&pair={first.replace('/', '%2F')}"
    assert [there for label, there in found if label.startswith("Browse")] == wanted
    written = [element.value for element in app.get("html") if "pair-card" in element.value]
    assert any("&lt;script&gt;" in value for value in written)
    assert not [value for value in written if "<script" in value or HOSTILE[0] in value]


def test_without_an_audit_a_button_starts_one(started: Started) -> None:
    app = open_page()
    assert "CLIPMem" in titles(app)
    app.button[0].click().run()
    assert started == [("scenes", ["audit", "scenes", "--name", "scenes"])]
    form = press(open_page(), "Choose a file or folder")
    assert not form.text_input(key="new-path").value


def test_the_button_of_the_overview_opens_the_review(copy: Copy) -> None:
    copy()
    app = press(open_page(), "Review next")
    assert address(app) == {"audit": "made", "order": "review_place", "decision": "undecided"}


def test_an_unfinished_audit_resumes_unless_another_process_works_on_it_or_its_config_is_broken(
    copy: Copy, started: Started
) -> None:
    audit = unfinished(copy())
    app = open_page()
    app.button[0].click().run()
    ((name, words),) = started
    assert (name, words[:4]) == ("made", ["audit", "scenes", "--name=made", "--preset=tiny"])
    with acquire_lock(audit.folder, what="audit"):
        app = open_page()
        assert not app.button
        assert "Another process is running it" in app.caption[0].value
    (audit.folder / "config.json").write_text("{")
    assert "config.json is not valid JSON" in texts(open_page())[-1]


def test_an_audit_that_does_not_exist_is_told_in_plain_text_and_odd_names_are_not_offered(
    copy: Copy,
) -> None:
    copy()
    copy(name="a <b>")
    for name in ("../../etc", "[x](javascript:alert(1))"):
        app = open_page(audit=name)
        assert "does not exist" in app.warning[0].value
        assert "made" in titles(app)
    assert app.selectbox(key="audit_picker").options == ["made"]


def unfinished(audit: Audit) -> Audit:
    """Take an audit back to the time before it was finished."""
    (audit.folder / "manifest.json").unlink()
    return audit
