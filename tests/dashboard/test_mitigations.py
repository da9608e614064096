"""The page Mitigations: settings turned on and off, utility against memorization, and studies started and resumed."""

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.audit.jobs import Task
from clipmem_core.audit.store import MANIFEST, Audit, acquire_lock, write_json, write_prepared, write_table
from clipmem_core.config import ARM_FIELDS, FIELDS
from clipmem_core.dashboard import running, studies
from clipmem_core.dashboard.controls import WORDS
from clipmem_core.dashboard.studies import PLANS
from clipmem_core.review.decisions import open_review
from clipmem_core.studies.plan import read_added
from clipmem_core.studies.study_folder import ARMS, STUDY, StudyFolder
from tests.dashboard.test_every_page import said
from tests.dashboard.test_pages import address, figures, labels, open_page, press, texts, titles
from tests.fixtures import Copy, leave_job
from tests.made_arms import give_audit, make_arms

PAGE = "pages/mitigations.py"
STRONG = "text_mask=0.3"  # the arm text-mask-strong
VALUES: dict[str, Any] = {
    **{"train_captions": 2, "noise_place": "before", "stop_epoch": 33},
    **{"min_logit_scale": 18, "max_logit_scale": 20, "adaptive_quantile": 0.8, "adaptive_every": 4},
}
Jobs = list[tuple[str, str]]


def make_lab(data: Path, audit: Audit, **how: Any) -> StudyFolder:
    """Write a study whose reference arm has the audit's pairs, and its strong mask half of their clipmem."""
    study = make_arms(data, name="lab", **how)
    write_json(study.folder / STUDY, study.request | {"dataset_fingerprint": audit.record.dataset_fingerprint})
    rows = np.arange(len(audit.pairs))
    for arm, scale in (("none", 1.0), ("text-mask-strong", 0.5)):
        write_prepared(give_audit(study, arm, audit, scale=scale).folder, cache_rows=rows, clusters=rows)
    return study


@pytest.fixture
def lab(data: Path, made: dict[str, Audit]) -> StudyFolder:
    """A finished study."""
    return make_lab(data, made["paper"])


@pytest.fixture
def begun(data: Path, made: dict[str, Audit]) -> StudyFolder:
    """A study of which one seed of one arm is finished."""
    return make_lab(data, made["paper"], seeds={"none": 1})


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Jobs:
    """What the page does to jobs, instead of doing it."""
    done: Jobs = []
    monkeypatch.setattr(studies.p, "resume_study", lambda study: done.append(("resume", study.name)))
    monkeypatch.setattr(running, "cancel", lambda job: done.append(("cancel", job.folder.name)))
    monkeypatch.setattr(Task, "start", lambda task: done.append((task.folder.name, shlex.join(task.arguments))))
    return done


def turn(app: AppTest, name: str, on: bool = True) -> str:
    """Turn a toggle, and return the setting in the address."""
    app.toggle(key=f"mitigation-on-{name}").set_value(on).run()
    assert not app.exception, app.exception[0].message
    return address(app).get("setting", "")


# --- Settings


@pytest.mark.usefixtures("lab")
def test_the_address_sets_every_widget_and_every_field_has_one() -> None:
    values = {name: VALUES.get(name, own.slider and own.slider.usual) for name, own in FIELDS.items() if own.part}
    written = {name: values[name] if isinstance(values[name], str) else f"{values[name]:g}" for name in ARM_FIELDS}
    setting = (
        " ".join(f"{name}={value}" for name, value in written.items()) + " removal=misfit:7 near_duplicates decisions"
    )
    app = open_page(PAGE, setting=setting)
    assert not app.warning
    assert address(app)["setting"] == setting
    assert all(toggle.value for toggle in app.toggle if toggle.key.startswith("mitigation-on-"))
    shown = {name: app.session_state[f"mitigation-{name}"] for name in ARM_FIELDS}
    assert {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in shown.items()} == written
    assert app.number_input(key="mitigation-removal-n").value == 7
    assert app.selectbox(key="mitigation-removal-by").value == "misfit"


@pytest.mark.usefixtures("lab")
@pytest.mark.parametrize("group", WORDS)
def test_a_toggle_writes_its_first_value_and_removes_it(group: str) -> None:
    app = open_page(PAGE)
    for name in WORDS[group]:
        if f"mitigation-on-{name}" in {toggle.key for toggle in app.toggle}:
            assert turn(app, name).split("=")[0].split(" ")[0] in WORDS[group]
            assert turn(app, name, on=False) == ""


@pytest.mark.usefixtures("lab")
def test_sliders_and_numbers_write_their_value() -> None:
    app = open_page(PAGE, page="3")
    turn(app, "text_mask")
    app.slider(key="mitigation-text_mask").set_value(0.1 + 0.2).run()
    assert address(app)["setting"] == STRONG  # without the noise of floats
    assert "page" not in address(app)
    assert turn(app, "removal") == f"{STRONG} removal=clipmem:20"  # half of the 40 that f and g share
    app.number_input(key="mitigation-removal-n").set_value(12).run()
    assert turn(app, "text_mask", on=False) == "removal=clipmem:12"
    app.selectbox(key="mitigations-listed").select("adaptive-rest").run()
    assert app.toggle(key="mitigation-on-adaptive_rest").value
    assert not app.toggle(key="mitigation-on-removal").value


# --- Results


def test_the_chosen_arm_has_its_sentence_arrow_row_and_pairs(lab: StudyFolder, copy: Copy) -> None:
    copy("paper", name="same-pairs")
    app = open_page(PAGE, setting="noise_place=before  text_mask=.30")
    assert not app.error, said(app)
    assert address(app)["setting"] == STRONG
    assert "text-mask-strong: " in titles(app)
    (chart,) = figures(app)
    dots = [trace for trace in chart["data"] if trace.get("customdata")]
    assert sum(len(trace["customdata"]) for trace in dots) == lab.arms["arm"].nunique()
    (arrow,) = (note for note in chart["layout"]["annotations"] if note["showarrow"])
    means = lab.arms.groupby("arm")[["clipmem_candidate", "retrieval"]].mean()
    assert [arrow["ax"], arrow["ay"]] == pytest.approx(means.loc["none"].tolist())
    assert [arrow["x"], arrow["y"]] == pytest.approx(means.loc["text-mask-strong"].tolist())
    by_name = {trace["name"]: [text.split("<br>")[0] for text in trace["customdata"]] for trace in dots}
    assert by_name["baseline"] == ["none"]
    assert "early-stop" in by_name["Pareto-optimal"]  # the factors of tests/made_arms.py
    assert "text-mask" in by_name["dominated"]
    assert app.dataframe[0].value["arm"].iloc[0] == "text-mask-strong"
    one, other = (lab.audit(arm).scores.set_index("pair_id") for arm in ("none", "text-mask-strong"))
    change = (other["clipmem"] - one["clipmem"])[one["group"] == "candidate"]
    cards = [element.value for element in app.get("html") if "difference" in element.value]
    assert f"{change[change.abs().idxmax()]:.2f}".replace("-", "−") in cards[0]
    assert len(cards) == 12
    first = next(link.proto for link in app.get("page_link") if link.proto.label == "Open pair")
    assert first.query_string == f"audit=same-pairs&order=clipmem&pair={change.abs().idxmax().replace('/', '%2F')}"
    assert "Run it" not in labels(app)


def test_measures_are_in_the_address_and_names_escaped(lab: StudyFolder) -> None:
    bad = "<img src=x>[x](//evil.test)"
    arms = lab.arms.replace({"arm": {"text-mask": bad}})
    write_table(lab.folder / ARMS, arms)
    write_json(lab.folder / STUDY, lab.request | {"arms": {arm: {} for arm in dict.fromkeys(arms["arm"])}})
    app = open_page(PAGE, memorization="membership_auroc", utility="zero_shot")
    assert figures(app)[0]["layout"]["xaxis"]["title"]["text"] == "← less memorized · membership AUROC"
    app.selectbox(key="mitigation-utility").select("linear_probe").run()
    assert address(app)["utility"] == "linear_probe"
    (chart,) = figures(app)
    assert "linear probe" in chart["layout"]["yaxis"]["title"]["text"]
    assert "<img" not in json.dumps(chart)
    parsed = [element.value for kind in ("markdown", "caption") for element in app.get(kind)]
    assert not [value for value in parsed if "evil.test" in value]


def test_a_setting_nobody_ran_is_added_and_the_study_resumed(lab: StudyFolder, jobs: Jobs) -> None:
    before = said(open_page(PAGE))
    total = lab.arms["arm"].nunique() * 3
    assert f"{total} of {total} arms × seeds finished" in before
    app = press(open_page(PAGE, setting="text_mask=0.35 text_noise=0.1"), "Run it")
    assert jobs == [("resume", "lab")]
    assert [own.text for own in read_added(lab)] == ["text_noise=0.1 text_mask=0.35"]
    assert f"{total} of {total + 3} arms × seeds finished" in said(app)
    app = press(open_page(PAGE, setting="near_duplicates"), "Run it")  # no two pictures look alike
    assert app.error
    assert len(read_added(lab)) == 1


def test_later_decisions_make_an_arm_outdated(copy: Copy, lab: StudyFolder, jobs: Jobs) -> None:
    audit, ids = copy("paper"), lab.audit("none").pairs["pair_id"].tolist()
    assert open_page(PAGE).toggle(key="mitigation-on-decisions").disabled
    open_review(audit).decide(ids[45:47], "remove", audit=audit.name)
    press(open_page(PAGE, setting="decisions"), "Run it")
    (own,) = read_added(lab)
    write_table(lab.folder / ARMS, lab.arms.replace({"arm": {"text-mask": own.name}}))
    assert "Run it" not in labels(open_page(PAGE, setting="decisions"))
    open_review(audit).decide(ids[47:48], "remove", audit=audit.name)
    press(open_page(PAGE, setting="decisions"), "Run it")
    assert len(read_added(lab)) == 2


# --- Progress


def test_a_running_study_shows_its_progress_and_can_be_cancelled(begun: StudyFolder, data: Path, jobs: Jobs) -> None:
    left = "arm none, seed 1: 2 of 10, time left: about 7 min"
    leave_job(data / "jobs" / ".studies" / "lab", running=True, said=f"{left}\ntraining 2 members\n")
    app = open_page(PAGE, setting=STRONG)
    assert app.get("progress")[0].proto.text.startswith("1 of ")
    assert {left, "training 2 members"} <= set(texts(app))
    assert "Resume" not in labels(app)
    assert "appear once both arms" not in said(app)
    press(app, "Cancel")
    assert jobs == [("cancel", "lab")]


def test_a_study_of_another_process_is_not_started_twice(begun: StudyFolder) -> None:
    with acquire_lock(begun.folder, what="study"):
        app = open_page(PAGE)
        assert labels(app) == []
    assert labels(app.run()) == ["Resume"]
    (begun.audit("none").folder / MANIFEST).unlink()
    write_table(begun.folder / ARMS, begun.arms[:0])
    assert "0 of " in said(app.run())


def test_a_stopped_study_says_why_and_resumes(begun: StudyFolder, data: Path, jobs: Jobs) -> None:
    leave_job(data / "jobs" / ".studies" / "lab", exit_code=1, said="error: *no* space\n")
    app = open_page(PAGE)
    assert app.error
    assert "error: *no* space" in texts(app)
    press(app, "Resume")
    assert jobs == [("resume", "lab")]


def test_studies_of_mitigations_are_offered_and_a_broken_one_is_one_line(data: Path, lab: StudyFolder) -> None:
    older = make_arms(data, name="older")
    older.write_request(older.request | {"study": "no longer offered"})
    make_arms(data, name="another", seeds={"none": 1})
    make_arms(data, name="broken")
    (data / "studies" / "broken" / STUDY).write_bytes(b"[]")
    app = open_page(PAGE, study="[x](javascript:alert(1))")
    assert "requested: [x](javascript:alert(1))" in texts(app)
    assert len(app.error) == len([text for text in texts(app) if text.startswith("broken: ") and STUDY in text]) == 1
    assert app.selectbox(key="mitigations-study").options == ["lab", "another"]
    app.selectbox(key="mitigations-study").select("another").run()
    assert address(app)["study"] == "another"


@pytest.mark.parametrize("file", ["own.json", ARMS])
def test_a_broken_file_of_a_study_is_named(lab: StudyFolder, file: str) -> None:
    (lab.folder / file).write_bytes(b"\x00\xff")
    app = open_page(PAGE)
    assert app.error
    assert any(file in text for text in texts(app))


# --- Starting a study


@pytest.mark.parametrize("plan", PLANS)
def test_what_is_chosen_is_what_starts_with_the_command_that_is_shown(plan: str, jobs: Jobs, tmp_path: Path) -> None:
    path = tmp_path / "my pairs.csv"
    path.touch()
    app = open_page(PAGE, view="start")
    app.selectbox(key="study-plan").select(plan)
    app.text_input(key="study-path").set_value(str(path)).run()
    app.segmented_control(key="study-preset").select("tiny").run()
    assert app.number_input(key="study-seeds").value == 5
    app.number_input(key="study-seeds").set_value(4)
    app.number_input(key="study-tiny-epochs").set_value(7)
    app.toggle(key="study-near_duplicates").set_value(True)
    app.text_input(key="study-name").set_value("mine").run()
    command = app.code[0].value
    app.button(key="study-start").click().run()
    fields = ["--name=mine", "--preset=tiny", "--seeds=4", "--drop-near-duplicates", "--epochs=7"]
    assert jobs == [("mine", shlex.join(["study", plan, str(path), *fields]))]
    assert command.endswith(jobs[0][1])
    assert address(app)["study"] == "mine"


def test_data_sets_of_audits_come_first_with_their_reading_options(copy: Copy, jobs: Jobs, tmp_path: Path) -> None:
    audit, path = copy(), str(tmp_path / "sets" / "cats.csv")
    Path(path).parent.mkdir()
    Path(path).touch()
    config = audit.record.values
    config["config"]["source"]["csv_caption_key"] = "title"
    write_json(audit.folder / "config.json", config | {"source": path})
    copy(name="broken").folder.joinpath("config.json").write_text('{"source": 5}')
    app = open_page(PAGE, view="start")
    assert app.button_group(key="study-path-offered").options == ["cats.csv", "scenes"]
    app.button(key="study-start").click().run()
    assert jobs[0][0] == "cats-combined"
    assert "--csv-caption-key=title" in jobs[0][1]


@pytest.mark.parametrize(
    ("key", "value"),
    [("study-name", "lab"), ("study-name", "../x"), ("study-path", ""), ("study-seeds", 0)],
)
def test_what_cannot_start_is_one_line(lab: StudyFolder, key: str, value: Any) -> None:
    app = open_page(PAGE, view="start")
    assert not app.button(key="study-start").disabled
    kind = "number_input" if key == "study-seeds" else "text_input"
    getattr(app, kind)(key=key).set_value(value).run()
    assert app.button(key="study-start").disabled
    assert len(app.warning) == 1
    assert all("\n" not in text for text in texts(app))
