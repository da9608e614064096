"""A benchmark from its command to its files: it equals an audit of the same planting and goes on where it stopped."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from clipmem_core.audits.executor import PROGRAM, Looks, Task, do_work
from clipmem_core.audits.run import run_audit
from clipmem_core.commands import main, parse
from clipmem_core.config import AuditConfig, InputError
from clipmem_core.pairs.errors import ERROR_KINDS
from clipmem_core.scores import prevalence
from clipmem_core.scores.detection import DETECTORS, MISFIT_SECOND
from clipmem_core.studies.benchmark.results import Benchmark, Piece, open_benchmark, write_results
from clipmem_core.studies.benchmark.run import run_benchmark
from clipmem_core.training.model import build_model
from tests.audits.small import Silent, config_of
from tests.audits.small import here as members_here
from tests.audits.test_locked import flags

SHARE = 0.2


class Watching(Silent):
    """A screen that keeps how far a benchmark was."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int]] = []

    def plantings(self, done: int, total: int) -> None:
        self.seen.append((done, total))


def here(tasks: Sequence[Task]) -> Looks:
    """Run plantings, and shards of features, in this process; which folder and which of them is what a task's own
    process is told."""
    threads = torch.get_num_threads()
    for task in tasks:
        do_work(task.command[len(PROGRAM) :])
        torch.set_num_threads(threads)
        yield task


def run(config: AuditConfig, **more: Any) -> tuple[Benchmark, Watching]:
    screen = Watching()
    asked: dict[str, Any] = {"name": "b", "plantings": 1, "kinds": ["random"], "shares": [SHARE]}
    return run_benchmark("scenes", config, **asked | more, screen=screen, executor=here), screen


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder."""
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> AuditConfig:
    path = tmp_path_factory.mktemp("start") / "tiny.pt"
    torch.save(build_model("tiny", loss="clip", seed=5).state_dict(), path)
    return config_of(flags(str(path), "--members", "4", "--rounds", "1"))


@pytest.fixture(scope="module")
def data_of_module(tmp_path_factory: pytest.TempPathFactory, locked: AuditConfig) -> Path:
    folder = tmp_path_factory.mktemp("benchmarks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPMEM_DATA", str(folder))
        run(locked, kinds=["random", "duplicates"])
    return folder


@pytest.fixture
def made(data_of_module: Path, monkeypatch: pytest.MonkeyPatch) -> Benchmark:
    monkeypatch.setenv("CLIPMEM_DATA", str(data_of_module))
    return open_benchmark("b")


def test_a_planting_says_what_an_audit_with_the_same_planting_says(made: Benchmark, locked: AuditConfig) -> None:
    piece = Piece("random", SHARE, 0)
    planted = made.read(piece)["planted"]
    audit = run_audit(
        "scenes",
        dataclasses.replace(locked, plant_miscaptions=planted),
        name="same",
        screen=Silent(),
        executor=members_here,
    )
    table = pd.read_parquet(made.scores(piece)).set_index("row")
    before = made.pairs["planted"].isna().to_numpy()
    assert audit.pairs["planted"].notna().to_numpy()[before].sum() == planted
    own = audit.scores.loc[table.index]
    np.testing.assert_array_equal(table["planted"], audit.pairs["planted"].notna()[table.index])
    for name, sign in {"misfit": 1, "clipmem": 1, "similarity_in": -1, "similarity_out": -1, "csls_out": -1}.items():
        np.testing.assert_allclose(table[name], sign * own[name], atol=1e-5, err_msg=name)
    for name in ("learned", "log_probability_out"):
        np.testing.assert_allclose(table[name], -own[name], atol=1e-5, err_msg=name)


def test_what_is_done_is_not_done_again_and_what_is_gone_comes_back_the_same(
    made: Benchmark, locked: AuditConfig
) -> None:
    kinds = ["random", "duplicates"]
    cells = [("random", SHARE), ("duplicates", 0.05)]
    assert made.done == [Piece(*cell, 0) for cell in cells]
    files = [made.result(piece) for piece in made.done]
    before = {path: path.stat().st_mtime_ns for path in files}
    _, screen = run(locked, kinds=kinds)
    assert {path: path.stat().st_mtime_ns for path in files} == before
    assert not screen.seen
    known = json.loads(files[1].read_text())
    (files[1].parent / f".{files[1].name}.123").write_text("half")
    files[1].unlink()
    _, screen = run(locked, kinds=kinds)
    assert screen.seen == [(2, 2)]
    again = json.loads(files[1].read_text())
    for result in (known, again):
        result.pop("seconds")
        for found in result["detectors"].values():
            found.pop("seconds")
    assert again == known
    assert [path for path in files if path.stat().st_mtime_ns != before[path]] == [files[1]]


def test_plantings_of_another_misfit_are_not_mixed_with_todays(made: Benchmark, locked: AuditConfig) -> None:
    path = made.folder / "benchmark.json"
    asked = json.loads(path.read_text())
    assert asked["misfit"] == made.misfit == "−(z(learned) + 2 z(log_probability_out))"
    path.write_text(json.dumps(asked | {"misfit": "another formula"}))
    with pytest.raises(InputError, match="misfit is another formula there"):
        run(locked, kinds=["random", "duplicates"])
    path.write_text(json.dumps(asked))


def test_a_copy_is_trained_on_with_its_original_and_counts_as_planted(made: Benchmark) -> None:
    result = made.read(Piece("duplicates", 0.05, 0))
    assert result["planted"] % 2 == 0
    assert result["planted"] == pytest.approx(0.05 * result["judged"], abs=2)
    assert set(result["detectors"]) | set(result["without"]) >= {"misfit", "clipmem", "lemon_out", "random"}


def test_members_from_scratch_are_benchmarked_as_well(empty: Path) -> None:
    few = ["--scenes-pairs", "220", "--epochs", "1", "--members", "2", "--threads", "1", "--rounds", "1"]
    made, _ = run(config_of(["--preset", "tiny", *few]), kinds=["duplicates"])
    (piece,) = made.done
    found = made.read(piece)
    assert set(found["detectors"]) == set(DETECTORS) - {MISFIT_SECOND, "log_probability_second"}
    assert found["without"][MISFIT_SECOND] == "it needs a second round of training (--rounds 2)"


def test_a_second_round_says_what_that_of_an_audit_with_the_same_planting_says(
    empty: Path, locked: AuditConfig
) -> None:
    twice = dataclasses.replace(locked, rounds="2", epochs=8)
    made, _ = run(twice, shares=[0.4])
    (piece,) = made.done
    planted = dataclasses.replace(twice, plant_miscaptions=made.read(piece)["planted"])
    audit = run_audit("scenes", planted, name="a", screen=Silent(), executor=members_here)
    table = pd.read_parquet(made.scores(piece)).set_index("row")
    own = audit.scores.loc[table.index]
    assert audit.verdict["second_round_left_out"] > 0
    np.testing.assert_allclose(table["log_probability_second"], -own["log_probability_second"], atol=1e-5)
    np.testing.assert_allclose(table[MISFIT_SECOND], own["misfit"], atol=1e-5)
    assert not np.allclose(table["misfit"], own["misfit"])
    with pytest.raises(InputError, match=r"--rounds is 2 there and 1 here"):
        run(dataclasses.replace(twice, rounds="1"))


def test_a_second_round_that_leaves_nothing_out_says_what_the_first_does(
    empty: Path, locked: AuditConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(prevalence.SECOND_ROUND_FROM, "2", 2.0)
    made, _ = run(dataclasses.replace(locked, rounds="2"))
    (piece,) = made.done
    table = pd.read_parquet(made.scores(piece))
    assert table[MISFIT_SECOND].equals(table["misfit"])
    assert table["log_probability_second"].equals(table["log_probability_out"])


def test_a_kind_without_room_is_left_out_with_its_reason(empty: Path, locked: AuditConfig, tmp_path: Path) -> None:
    folder = tmp_path / "unlabelled"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(210):
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("of the\n")
    screen = Watching()
    with pytest.raises(InputError, match="no kind of mistake can be planted: no pair has a label"):
        run_benchmark(
            str(folder), locked, name="c", plantings=1, kinds=["label", "partly"], screen=screen, executor=here
        )
    told = " ".join(screen.lines)
    assert "kind 'label' is left out: no pair has a label" in told
    assert "kind 'nearest' is left out: only 0 pairs" in told
    assert set(open_benchmark("c").asked["left_out"]) == set(ERROR_KINDS) - {"vague", "duplicates"}


WRONG: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"kinds": ["swaps"]}, {}, "kind 'swaps' of mistake is unknown: choose of random, label"),
    ({"plantings": 0}, {}, "--plantings must be at least 1, not 0"),
    ({"shares": [0.2, 1.5]}, {}, "--shares must be above 0 and below 1, not 1.5"),
    ({}, {"protocol": "paper", "halves": False}, "a benchmark has members of --protocol ensemble"),
    ({}, {"plant_miscaptions": 9}, "--plant-miscaptions is what a benchmark does by itself"),
    ({}, {"image_noise": 0.1}, "without mitigations: leave out image_noise"),
    ({}, {"epochs": 9}, "benchmark 'b' exists with another config: --epochs is 3 there and 9 here"),
    ({}, {"members": 12}, "--members is 4 there and 12 here"),
    ({"name": "../b"}, {}, "name '../b'"),
]


@pytest.mark.parametrize(("asked", "fields", "message"), WRONG)
def test_what_cannot_run_is_one_line(
    made: Benchmark, locked: AuditConfig, asked: dict[str, Any], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run(dataclasses.replace(locked, **fields), **asked)


def test_too_few_pairs_leave_no_folder(empty: Path, locked: AuditConfig, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "scenes", "--scenes-pairs", "100", "--name", "few", "--kinds", "random"]) == 2
    assert capsys.readouterr().err.startswith("error: an audit needs at least 200 usable pairs, found 100")
    assert not (empty / "benchmarks" / "few").exists()


def test_the_command_takes_kinds_shares_and_any_field_of_the_config() -> None:
    asked = parse(["benchmark", "scenes", "--kinds", "random", "vague", "--shares", "0.1", "--members", "8"])
    assert (asked.kinds, asked.shares, asked.plantings) == (("random", "vague"), (0.1,), 5)
    assert (asked.config.preset, asked.config.members) == ("locked", 8)


def test_the_table_says_how_it_was_made(made: Benchmark, tmp_path: Path) -> None:
    write_results(made, tmp_path / "table.csv")
    lines = (tmp_path / "table.csv").read_text().splitlines()
    command = "# command: python -m clipmem_core benchmark scenes --name b --preset small --plantings 1"
    assert lines[0].startswith(f"{command} --kinds random duplicates --shares 0.2 ")
    assert " --lr 0.002 " in lines[0]
    assert "# seeds: 0, each another split" in "\n".join(lines)
    assert lines[[line.startswith("#") for line in lines].index(False)].startswith("kind,share,detector,measure,n,mean")
