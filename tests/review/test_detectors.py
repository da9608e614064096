"""What the scores of an audit say beside each other: held against SciPy and scikit-learn, on a made audit."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata, spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score

from clipmem_core.audits.store import PAIRS, SCORES, Audit, write_table
from clipmem_core.config import InputError
from clipmem_core.review.detectors import (
    agreement,
    benchmark_findings,
    benchmarks_of,
    detector_scores,
    differ_most,
    names_in,
    planted_findings,
)
from clipmem_core.scores.registry import BY_NAME, DETECTION, scores_in
from tests.fixtures import make_benchmark

Copy = Callable[..., Audit]


@pytest.mark.parametrize("protocol", ["ensemble", "paper"])
def test_every_detector_is_the_way_up_that_is_suspicious_over_the_pairs_that_are_judged(
    copy: Copy, protocol: str
) -> None:
    audit = copy(protocol)
    found, scores = detector_scores(audit), audit.scores
    judged = scores["group"].isin(["candidate", "scored"])
    judged &= scores[list(scores_in(DETECTION))].notna().all(axis=1)
    assert found["row"].tolist() == np.flatnonzero(judged).tolist()
    assert names_in(found) == list(scores_in(DETECTION))
    for name in names_in(found):
        np.testing.assert_allclose(found[name], BY_NAME[name].direction * scores[name][judged])


def test_a_detector_that_an_audit_lacks_is_left_out(copy: Copy) -> None:
    audit = copy()
    scores = audit.scores.assign(misfit=np.nan, csls_out=np.nan)
    scores.loc[3, "clipmem"] = np.inf
    write_table(audit.folder / SCORES, scores)
    found = detector_scores(audit)
    assert not {"misfit", "csls_out"} & set(found)
    assert 3 not in found["row"].tolist()
    assert len(found) == (scores["group"] == "scored").sum() - 1


def test_what_was_planted_is_found_as_scikit_learn_says(copy: Copy) -> None:
    audit = copy()
    pairs = audit.pairs
    pairs.loc[[1, 2, 3], "planted"] = "vague"
    write_table(audit.folder / PAIRS, pairs)
    findings, scores = planted_findings(audit), detector_scores(audit)
    assert findings is not None
    table = findings.table.set_index(["kind", "detector", "measure"])
    for kind in ("miscaption", "vague"):
        own = scores[scores["planted"].isna() | (scores["planted"] == kind)]
        for name in names_in(scores):
            row = table.loc[(kind, name, "auroc")]
            assert row["mean"] == pytest.approx(roc_auc_score(own["planted"].notna(), own[name]))
            assert row["low"] <= row["mean"] <= row["high"]
            precision = average_precision_score(own["planted"].notna(), own[name])
            assert table.loc[(kind, name, "average_precision"), "mean"] == pytest.approx(precision)
    last = findings.curves.groupby(["kind", "detector"]).last()
    assert last.loc[("vague", "misfit"), "precision"] == pytest.approx(3 / last.loc[("vague", "misfit"), "number"])


def test_where_nothing_was_planted_nothing_is_said(copy: Copy) -> None:
    audit = copy()
    write_table(audit.folder / PAIRS, audit.pairs.assign(planted=None))
    assert planted_findings(audit) is None


def test_agreement_is_scipys_rank_correlation(copy: Copy) -> None:
    scores = detector_scores(copy())
    found = agreement(scores)
    expected = spearmanr(scores[names_in(scores)]).statistic
    np.testing.assert_allclose(found, expected)


def test_pairs_that_two_detectors_differ_on_are_those_whose_ranks_are_furthest_apart(copy: Copy) -> None:
    scores = detector_scores(copy())
    found = differ_most(scores, "misfit", "csls_out", limit=5)
    apart = rankdata(scores["misfit"]) - rankdata(scores["csls_out"])
    assert found["row"].tolist() == scores["row"].to_numpy()[np.argsort(-apart, kind="stable")[:5]].tolist()
    assert ((found["one"] - found["other"]) * (len(scores) - 1)).to_numpy() == pytest.approx(np.sort(apart)[::-1][:5])
    assert differ_most(scores, "misfit", "misfit", limit=5).empty


def test_benchmarks_of_the_same_pairs_come_first_and_those_of_other_pictures_not_at_all(copy: Copy) -> None:
    audit = copy()
    record = audit.record
    make_benchmark("a-root", root=record.root, fingerprint="another")
    make_benchmark("same", root="/elsewhere", fingerprint=record.dataset_fingerprint)
    make_benchmark("other", root="/elsewhere", fingerprint="another")
    (make_benchmark("broken", root=record.root).folder / "benchmark.json").write_text("{")
    assert [benchmark.name for benchmark in benchmarks_of(audit)] == ["same", "a-root"]


def test_a_benchmark_is_averaged_and_a_broken_result_is_named(copy: Copy) -> None:
    benchmark = make_benchmark("b", root=copy().record.root)
    found = benchmark_findings(benchmark)
    assert found is not None
    assert (found.table["n"] == 3).all()
    assert set(found.curves["detector"]) == set(found.table["detector"])
    path = benchmark.result(benchmark.done[0])
    path.write_text('{"kind": 5}')
    with pytest.raises(InputError, match=f"{path.name}.*delete it and run the benchmark again"):
        benchmark_findings(benchmark)


def test_a_table_of_no_pairs_has_no_findings(copy: Copy) -> None:
    empty = detector_scores(copy()).head(0)
    assert isinstance(differ_most(empty, "misfit", "clipmem", limit=3), pd.DataFrame)
