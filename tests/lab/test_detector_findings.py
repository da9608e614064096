import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from clipmem_core.auditing.folder.store import PAIRS
from clipmem_core.lab.experiment import detector_scores, injected_findings
from clipmem_core.scores.registry import BY_NAME, DETECTION_SCORES
from tests.fixtures import Copy, copy, data, made, rewrite

__all__ = ["copy", "data", "made"]


@pytest.mark.parametrize("protocol", ["ensemble", "paper"])
def test_detector_scores_are_oriented_scores_of_complete_pairs(copy: Copy, protocol: str) -> None:
    audit = copy(protocol)
    table = detector_scores(audit)
    scores = audit.scores
    complete = scores["group"].isin(["candidate", "scored"])
    complete &= scores[list(DETECTION_SCORES)].notna().all(axis=1)
    assert table.index.tolist() == np.flatnonzero(complete).tolist()
    assert list(table) == list(DETECTION_SCORES)
    for name in table:
        np.testing.assert_allclose(table[name], BY_NAME[name].direction * scores[name][complete])


def test_injected_findings_agree_with_scikit_learn(copy: Copy) -> None:
    audit = copy()
    pairs = audit.pairs
    pairs.loc[[1, 2, 3], "injected"] = "vague"
    rewrite(audit.folder / PAIRS, pairs)
    findings = injected_findings(audit)
    scores = detector_scores(audit)
    assert findings is not None
    table = findings.table.set_index(["kind", "detector", "measure"])
    injected = pairs["injected"][scores.index]
    for kind in ("miscaption", "vague"):
        among = injected.isna() | (injected == kind)
        subset = scores[among]
        truth = injected[among].notna()
        for name in scores:
            row = table.loc[(kind, name, "auroc")]
            assert row["mean"] == pytest.approx(roc_auc_score(truth, subset[name]))
            assert row["low"] <= row["mean"] <= row["high"]
            precision = average_precision_score(truth, subset[name])
            assert table.loc[(kind, name, "average_precision"), "mean"] == pytest.approx(precision)
    last = findings.curves.groupby(["kind", "detector"]).last().loc[("vague", "misfit")]
    assert last["precision"] == pytest.approx(3 / last["number"], abs=1e-4)
