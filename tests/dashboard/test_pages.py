import json
import os
import time
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.auditing.folder.jobs import JobRequest
from clipmem_core.auditing.folder.store import Audit, acquire_lock
from clipmem_core.review.decisions import open_review
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


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], str]]:
    """Every audit that a button starts, instead of starting it."""
    calls: list[tuple[list[str], str]] = []
    monkeypatch.setattr(
        JobRequest, "start", lambda task: calls.append((list(task.arguments[1:]), task.folder.name))
    )
    return calls


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
    assert "made" in shown
    assert any(text.endswith(f"protocol {protocol}") for text in texts(app))
    assert "Quarantine: 120" in app.expander[-2].label
    assert app.get("progress")[0].proto.text == "1 of 100 pairs decided"
    assert len(app.image) == 12
    assert audit.verdict["sentence"] in shown
    assert "→ more repeats, *or* $5" in texts(app)
    found = links(app)
    shown_values = [
        float(text.removeprefix("clipmem")) for text, _ in found if text.startswith("clipmem")
    ]
    assert shown_values == pytest.approx(audit.scores["clipmem"].nlargest(6).tolist(), abs=0.006)
    wanted = ["audit=made&order=suspicion", "audit=made&order=clipmem"]
    worst = next(there for label, there in found if label.startswith("Pair "))
    assert worst == f"{wanted[0]}&pair={first.replace('/', '%2F')}"
    assert [there for label, there in found if label.startswith("Browse")] == wanted
    written = [element.value for element in app.get("html") if "pair-card" in element.value]
    assert any("&lt;script&gt;" in value for value in written)
    assert not [value for value in written if "<script" in value or HOSTILE[0] in value]


def test_without_an_audit_a_button_starts_one(started: list[tuple[list[str], str]]) -> None:
    app = open_page()
    assert "CLIPMem" in titles(app)
    app.button[0].click().run()
    assert started == [(["scenes", "--name", "scenes"], "scenes")]
    form = press(open_page(), "Choose a file or folder")
    assert not form.text_input(key="new-path").value


def test_the_button_of_the_overview_opens_the_review(copy: Copy) -> None:
    copy()
    app = press(open_page(), "Review next")
    assert address(app) == {"audit": "made", "order": "review_place", "decision": "undecided"}


def test_an_unfinished_audit_resumes_unless_another_process_works_on_it_or_its_config_is_broken(
    copy: Copy, started: list[tuple[list[str], str]]
) -> None:
    audit = unfinished(copy())
    app = open_page()
    app.button[0].click().run()
    assert [(words[:3], name) for words, name in started] == [
        (["scenes", "--name=made", "--preset=tiny"], "made")
    ]
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
    """Take an audit back to its training: one member at a quarter, one embedding, one done, one
    waiting."""
    (audit.folder / "manifest.json").unlink()
    for name in ("r0-f0", "r0-f1", "r1-f0", "r1-f1"):
        (audit.folder / "members" / name).mkdir(parents=True, exist_ok=True)
    for name in ("r0-f0", "r0-f1", "r1-f0"):
        _log(audit, name)
    for name in ("r0-f1", "r1-f0"):
        (audit.folder / "members" / name / "checkpoint.pt").write_bytes(b"x")
    (audit.folder / "members" / "r1-f0" / "text.faiss").write_bytes(b"x")
    for path in audit.folder.rglob("*"):
        os.utime(path, (time.time() - 1000, time.time() - 1000))
    return audit


def _log(audit: Audit, name: str) -> None:
    line = {"step": 25, "steps": 100, "epoch": 2.5, "loss": 3.0, "log_probability": -2.0}
    line |= {"seconds": 10.0, "samples_per_second": 900.0}
    (audit.folder / "members" / name / "log.jsonl").write_text(f"{json.dumps(line)}\n")
