"""The page of detectors: with a benchmark, with planted pairs alone, and with neither."""

from collections.abc import Callable

from clipmem_core.audits.store import PAIRS, SCORES, Audit, write_json, write_table
from tests.dashboard.test_pages import captions, open_page, texts
from tests.dashboard.test_reviewing import mounted
from tests.fixtures import make_benchmark

Copy = Callable[..., Audit]
PAGE = "pages/detectors.py"


def tables(app: object) -> list[str]:
    return [" ".join(frame.value.columns) for frame in app.dataframe]  # type: ignore[attr-defined]


def test_a_benchmark_of_the_data_set_is_shown_first_and_what_was_planted_can_be_chosen(copy: Copy) -> None:
    audit = copy()
    make_benchmark("mine", root=audit.record.root)
    app = open_page(PAGE, audit="made")
    assert not app.exception
    (table,) = app.dataframe
    assert [name.split(",")[0] for name in table.value.columns[1:4]] == ["captions swapped at random"] * 3
    assert "▼" in " ".join(table.value.iloc[-1])  # a random order is worse than misfit
    assert "95 % over plantings" in captions(app)
    app.selectbox(key="detectors-from").select("this audit").run()
    assert app.query_params["from"] == "this audit"
    second = "members were trained a second time"
    assert second not in captions(app)
    write_table(audit.folder / SCORES, audit.scores.assign(log_probability_second=-1.0))
    assert second in captions(open_page(PAGE, audit="made", **{"from": "this audit"}))
    assert "another pair's captions" in tables(app)[0]
    assert "bootstrap over the pairs" in captions(app)


def test_where_nothing_was_planted_the_command_is_told_and_detectors_are_compared(copy: Copy) -> None:
    audit = copy()
    write_table(audit.folder / PAIRS, audit.pairs.assign(planted=None))
    write_json(audit.folder / "config.json", audit.record.values | {"source": "my set; rm -rf $HOME"})
    app = open_page(PAGE, audit="made")
    assert [code.value for code in app.code] == ["python -m clipmem_core benchmark 'my set; rm -rf $HOME' --name made"]
    assert not app.dataframe
    assert "misfit suspects them, similarity out does not" in texts(app)
    assert "similarity out suspects them, misfit does not" in texts(app)


def test_two_detectors_are_chosen_by_the_address_and_link_to_their_pairs(copy: Copy) -> None:
    copy()
    app = open_page(PAGE, audit="made", one="clipmem", other="learned", measure="average_precision")
    assert "clipmem suspects them, learned does not" in texts(app)
    assert [len(given["cards"]) for given in mounted(app)] == [6, 6]
    assert [given["order"] for given in mounted(app)] == ["clipmem", "learned"]


def test_a_broken_result_leaves_the_rest_of_the_page(copy: Copy) -> None:
    benchmark = make_benchmark("mine", root=copy().record.root)
    benchmark.result(benchmark.done[0]).write_text("{")
    app = open_page(PAGE, audit="made")
    assert any("This benchmark cannot be shown" in text for text in texts(app))
    assert "misfit suspects them, similarity out does not" in texts(app)
