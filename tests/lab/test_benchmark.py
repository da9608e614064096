"""A benchmark from its command to its files, and its table against SciPy and a hand-worked case."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from clipmem_core.audit.executor import in_this_process
from clipmem_core.config import AuditConfig
from clipmem_core.io import InputError
from clipmem_core.lab import benchmark
from clipmem_core.lab.benchmark import run_benchmark
from clipmem_core.lab.benchmark_results import (
    Benchmark,
    Injection,
    benchmark_table,
    show_benchmark,
    write_benchmark_results,
)
from clipmem_core.scores.metrics import METRICS
from clipmem_core.training.model import build_model
from tests.audit.small import Silent, config_of
from tests.audit.test_locked import flags

SHARE = 0.2
KINDS = ["one-caption", "one-word", "duplicates"]


def run(config: AuditConfig, **more: Any) -> Benchmark:
    asked: dict[str, Any] = {
        "name": "b",
        "injections": 1,
        "kinds": ["random"],
        "shares": [SHARE],
        "screen": Silent(),
    }
    return run_benchmark("scenes", config, **asked | more, executor=in_this_process)


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> AuditConfig:
    path = tmp_path_factory.mktemp("start") / "tiny.pt"
    torch.save(build_model("tiny", loss="clip", seed=5).state_dict(), path)
    return config_of(flags(str(path), "--members", "4", "--rounds", "1"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, locked: AuditConfig) -> Iterator[Benchmark]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPMEM_DATA", str(tmp_path_factory.mktemp("benchmarks")))
        patch.setattr("clipmem_core.training.word_model.TRAINED", 1)  # words: a single epoch
        yield run(locked, kinds=KINDS)


@pytest.mark.usefixtures("made")
def test_an_injection_of_two_rounds_resumes_after_a_kill(
    locked: AuditConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {"name": "twice", "shares": [0.4]}
    twice = dataclasses.replace(locked, rounds="2", epochs=8)
    with monkeypatch.context() as killed:
        killed.setattr(benchmark, "_measure", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(twice, **asked)
    monkeypatch.setattr("clipmem_core.audit.member.train", Mock(side_effect=AssertionError))
    resumed = run(twice, **asked)
    (result,) = resumed.results
    measured = result["detectors"]
    assert 0 < measured["misfit"]["auroc"] < 1
    assert measured["misfit"]["auroc"] != measured["misfit_second"]["auroc"]
    assert not (resumed.folder / "injections" / ".audits").exists()


def test_a_finished_injection_stays_and_a_missing_one_comes_back_the_same(
    made: Benchmark, locked: AuditConfig
) -> None:
    injections = [Injection("one-caption", SHARE, 0), Injection("one-word", SHARE, 0)]
    injections.append(Injection("duplicates", 0.05, 0))
    files = [made.result_file(injection) for injection in injections]
    before = {path: path.stat().st_mtime_ns for path in files}
    first = json.loads(files[1].read_text())
    (files[1].parent / f".{files[1].name}.123").write_text("half")
    files[1].unlink()
    run(locked, kinds=KINDS)
    assert json.loads(files[1].read_text()) == first
    assert [path for path in files if path.stat().st_mtime_ns != before[path]] == [files[1]]


def test_captions_and_words_are_measured_where_one_of_a_pair_is_wrong(made: Benchmark) -> None:
    words = {"word_first", "word_first_two"}
    for result in made.results[:2]:
        one_word = result["kind"] == "one-word"
        by_caption = {
            name for name, metrics in result["detectors"].items() if "caption_auroc" in metrics
        }
        assert by_caption == {"p_wrong", "surprise", "margin_out", "agreement", "misfit"}
        assert (words <= set(result["detectors"]["surprise"])) == one_word
        assert ("caption_auroc_noun" in result["detectors"]["p_wrong"]) == one_word
        tenths = np.array(result["detectors"]["p_wrong"]["tenths"])
        assert tenths[:, 0].sum() == 5 * result["judged"]
        n_wrong = round(SHARE * result["judged"])
        assert (tenths[:, 0] * tenths[:, 2]).sum() == pytest.approx(n_wrong, abs=1)
        assert result["detectors"]["suspicion"]["found_100"] <= n_wrong
    table = benchmark_table(made.results)
    assert set(table.loc[table["measure"] == "word_first", "kind"]) == {"one-word"}


@pytest.mark.usefixtures("made")
def test_a_kind_without_room_is_left_out_with_its_reason(
    locked: AuditConfig, tmp_path: Path
) -> None:
    single = run(dataclasses.replace(locked, captions=1), name="single", kinds=["one-caption"])
    assert single.results == []
    assert single.absent["one-caption"].startswith("only 0 pairs")
    show_benchmark(single)
    write_benchmark_results(single, tmp_path / "table.csv", command="benchmark")


WRONG: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"kinds": ["swaps"]}, {}, "kind 'swaps' of error is unknown: choose from random, nearest"),
    ({"injections": 0}, {}, "--injections must be at least 1, not 0"),
    ({"shares": [0.2, 1.5]}, {}, "--shares must be above 0 and below 1, not 1.5"),
    ({}, {"protocol": "paper", "halves": False}, "cannot have --protocol paper"),
    ({}, {"inject_miscaptions": 9}, "cannot have --inject-miscaptions"),
    ({}, {"image_noise": 0.1}, "cannot have image_noise"),
    ({}, {"members": 12}, "'b' exists with another config: --members is 4 there and 12 here"),
]


@pytest.mark.parametrize(("asked", "fields", "message"), WRONG)
def test_wrong_input_is_one_line(
    made: Benchmark,
    locked: AuditConfig,
    asked: dict[str, Any],
    fields: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(InputError, match=message):
        run(dataclasses.replace(locked, **fields), **asked)


def test_a_benchmark_is_shown_and_written_with_its_command(
    made: Benchmark, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show_benchmark(made)
    assert "one of several captions swapped, 20%, 1 injections" in capsys.readouterr().out
    write_benchmark_results(made, tmp_path / "table.csv", command="benchmark scenes")
    lines = (tmp_path / "table.csv").read_text().splitlines()
    assert lines[0] == "# command: benchmark scenes"
    table = pd.read_csv(tmp_path / "table.csv", comment="#")
    assert table.columns[:6].tolist() == ["kind", "share", "detector", "measure", "n", "mean"]
    assert table["kind"].unique().tolist() == KINDS


def test_intervals_are_scipys_of_the_mean_and_of_the_paired_differences() -> None:
    names = ("misfit", "csls_out")
    values = np.random.default_rng(0).uniform(0.5, 1, size=(6, 2))
    results: list[dict[str, Any]] = []
    for seed, pair in enumerate(values):
        detectors = {
            name: dict.fromkeys(METRICS, value) for name, value in zip(names, pair, strict=True)
        }
        results.append({"kind": "random", "share": 0.2, "seed": seed, "detectors": detectors})
    table = benchmark_table(results).set_index(["detector", "measure"])
    for name, sample in zip(names, values.T, strict=True):
        interval = stats.t.interval(0.95, 5, loc=sample.mean(), scale=stats.sem(sample))
        row = table.loc[name, "auroc"][["n", "mean", "low", "high"]]
        assert row.tolist() == pytest.approx([6, sample.mean(), *interval])
    paired = stats.ttest_rel(values[:, 1], values[:, 0]).confidence_interval(0.95)
    row = table.loc["csls_out", "auroc"]
    assert row[["over_reference_low", "over_reference_high"]].tolist() == pytest.approx([*paired])
    two = benchmark_table(results[:2])
    assert two[["low", "high", "over_reference_low", "over_reference_high"]].isna().all(axis=None)
