"""The page Detectors: with a benchmark, with injected errors alone, and with neither."""

from clipmem_core.audit.store import PAIRS, Audit, write_json, write_table
from tests.dashboard.test_pages import open_page, texts
from tests.dashboard.test_reviewing import mounted
from tests.fixtures import Copy, make_benchmark

PAGE = "pages/detectors.py"


def differences(audit: Audit) -> list[str]:
    shown = mounted(open_page(PAGE, audit=audit.name, one="clipmem", other="learned"))
    assert [len(given["cards"]) for given in shown] == [6, 6]
    return [given["order"] for given in shown]


def test_a_benchmark_of_the_data_set_is_shown_first_and_injected_errors_can_be_chosen(copy: Copy) -> None:
    audit = copy()
    make_benchmark("mine", root=audit.record.root)
    app = open_page(PAGE, audit="made")
    (table,) = app.dataframe
    assert [name.split(",")[0] for name in table.value.columns[1:4]] == ["captions swapped at random"] * 3
    assert "▼" in " ".join(table.value.iloc[-1])  # a random order is worse than misfit
    app.selectbox(key="detectors-from").select("this audit").run()
    assert app.query_params["from"] == "this audit"
    assert "another pair's captions" in " ".join(app.dataframe[0].value.columns)
    assert differences(audit) == ["clipmem", "learned"]


def test_without_known_errors_the_command_is_shown_and_detectors_are_compared(copy: Copy) -> None:
    audit = copy()
    write_table(audit.folder / PAIRS, audit.pairs.assign(injected=None))
    write_json(audit.folder / "config.json", audit.record.values | {"source": "my set; rm -rf $HOME"})
    app = open_page(PAGE, audit="made")
    assert [code.value for code in app.code] == ["python -m clipmem_core benchmark 'my set; rm -rf $HOME' --name made"]
    assert not app.dataframe
    assert differences(audit) == ["clipmem", "learned"]


def test_a_broken_result_leaves_the_rest_of_the_page(copy: Copy) -> None:
    audit = copy()
    benchmark = make_benchmark("mine", root=audit.record.root)
    benchmark.result(benchmark.done[0]).write_text("{")
    assert any("This benchmark cannot be shown" in text for text in texts(open_page(PAGE, audit="made")))
    assert differences(audit) == ["clipmem", "learned"]
