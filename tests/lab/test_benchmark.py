"""A benchmark from its command to its files, and its table against SciPy and a hand-worked case."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from clipmem_core.auditing.run.executor import in_this_process
from clipmem_core.config import AuditConfig
from clipmem_core.lab import benchmark as benchmarks
from clipmem_core.lab.benchmark import (
    Request,
    run_benchmark,
    show_benchmark,
    write_benchmark_results,
)
from clipmem_core.lab.experiment import Benchmark, absent_kinds, benchmark_table, mean_curves
from clipmem_core.scores.metrics import METRICS
from clipmem_core.training.model import build_model
from tests.audit.small import Silent, config_of
from tests.audit.test_locked import flags

SHARE = 0.2
KINDS = ["one-caption", "one-word", "duplicates"]


def run(config: AuditConfig, name: str = "b", **more: Any) -> Benchmark:
    asked = {"injections": 1, "kinds": ["random"], "shares": [SHARE]} | more
    return run_benchmark(Request("scenes", config, name, Silent(), in_this_process), **asked)


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
    twice = dataclasses.replace(locked, rounds="2", epochs=4)
    with monkeypatch.context() as killed:
        killed.setattr(benchmarks, "measure_injection", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(twice, "twice", shares=[0.4])
    monkeypatch.setattr("clipmem_core.auditing.run.member.train", Mock(side_effect=AssertionError))
    resumed = run(twice, "twice", shares=[0.4])
    auroc = resumed.rows.set_index("detector")["auroc"]
    assert 0 < auroc["misfit"] < 1
    assert auroc["misfit"] != auroc["misfit_second"]
    assert not (resumed.folder / "audits").exists()


def test_a_finished_injection_stays_and_a_missing_one_comes_back_the_same(
    made: Benchmark, locked: AuditConfig
) -> None:
    before = made.rows
    files = {path: path.stat().st_mtime_ns for path in made.rows_files}
    assert [path.stem for path in files] == [
        "one-caption-0.2-0",
        "one-word-0.2-0",
        "duplicates-0.05-0",
    ]
    removed = made.rows_file("one-word-0.2-0")
    (removed.parent / f".{removed.name}.123").write_text("half")
    removed.unlink()
    run(locked, kinds=KINDS)
    by = ["kind", "detector"]
    pd.testing.assert_frame_equal(
        *(rows.set_index(by).sort_index() for rows in (made.rows, before))
    )
    assert [path for path in files if path.stat().st_mtime_ns != files[path]] == [removed]


def test_captions_and_words_are_measured_where_one_of_a_pair_is_wrong(made: Benchmark) -> None:
    for kind, rows in made.rows.groupby("kind"):
        detectors = rows.set_index("detector")
        by_caption = set(detectors.index[detectors["caption_auroc"].notna()])
        expected = {"p_wrong", "surprise", "margin_out", "agreement", "misfit"}
        assert by_caption == (set() if kind == "duplicates" else expected)
        one_word = kind == "one-word"
        if by_caption:
            assert np.isfinite(detectors.loc["p_wrong", "caption_auroc_noun"]) == one_word
            assert 0 < detectors.loc["suspicion", "found_100"] <= SHARE * 200


def test_a_benchmark_is_shown_and_written_with_its_command(
    made: Benchmark, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show_benchmark(made)
    assert "one-caption" in capsys.readouterr().out
    write_benchmark_results(made, tmp_path / "table.csv", command="benchmark scenes")
    assert (tmp_path / "table.csv").read_text().startswith("# command: benchmark scenes\n")
    table = pd.read_csv(tmp_path / "table.csv", comment="#")
    assert sorted(table["kind"].unique()) == sorted(KINDS)
    assert set(table.loc[table["measure"] == "caption_auroc_noun", "kind"]) == {"one-word"}


@pytest.mark.usefixtures("made")
def test_a_kind_without_room_is_left_out_with_its_reason(
    locked: AuditConfig, tmp_path: Path
) -> None:
    single = run(dataclasses.replace(locked, captions=1), "single", kinds=["one-caption"])
    assert single.rows["detector"].isna().all()
    assert absent_kinds(single.rows)[0].startswith("one-caption: only 0 pairs")
    show_benchmark(single)
    write_benchmark_results(single, tmp_path / "table.csv", command="benchmark")
    assert "only 0 pairs" in (tmp_path / "table.csv").read_text()


def test_intervals_are_scipys_of_the_mean_and_of_the_paired_differences(tmp_path: Path) -> None:
    names = ("misfit", "fit_out")
    values = np.random.default_rng(0).uniform(0.5, 1, size=(6, 2))
    benchmark = Benchmark(tmp_path)
    for seed, pair in enumerate(values):
        rows = [
            dict.fromkeys(METRICS, value) | {"detector": name, "precision": [value, 0.2]}
            for name, value in zip(names, pair, strict=True)
        ]
        table = pd.DataFrame(rows).assign(kind="random", share=0.2, seed=seed)
        benchmark.add_rows(str(seed), table.assign(number=[[10, 100 + seed]] * 2))
    curves = mean_curves(benchmark.rows)
    table = benchmark_table(benchmark.rows).set_index(["detector", "measure"])
    for name, sample in zip(names, values.T, strict=True):
        interval = stats.t.interval(0.95, 5, loc=sample.mean(), scale=stats.sem(sample))
        row = table.loc[name, "auroc"][["n", "mean", "low", "high"]]
        assert row.tolist() == pytest.approx([6, sample.mean(), *interval])
        curve = curves[curves["detector"] == name]
        assert curve["number"].tolist() == [10, 102]
        assert curve["precision"].tolist() == pytest.approx([sample.mean(), 0.2])
    paired = stats.ttest_rel(values[:, 1], values[:, 0]).confidence_interval(0.95)
    row = table.loc["fit_out", "auroc"]
    assert row[["over_reference_low", "over_reference_high"]].tolist() == pytest.approx([*paired])
    two = benchmark_table(benchmark.rows[:4])
    assert two[["low", "high", "over_reference_low", "over_reference_high"]].isna().all(axis=None)
