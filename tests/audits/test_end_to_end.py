"""The first command of the README on fewer pairs, as it is typed: its audit is shared with the search by meaning."""

from pathlib import Path

from sklearn.metrics import roc_auc_score

from clipmem_core.audits.store import Audit


def test_wrong_captions_of_the_drawn_set_come_out_on_top(typed: Path) -> None:
    audit = Audit(typed / "audits" / "scenes")
    assert audit.verdict["sentence"] in (typed / "printed.txt").read_text()
    scored = (audit.scores["group"] == "scored").to_numpy()
    scores, kind = audit.scores[scored], audit.pairs["planted"][scored]
    wrong = (kind == "miscaption").to_numpy()
    assert wrong.sum() >= 10
    aurocs = {name: roc_auc_score(wrong, scores[name]) for name in ("misfit", "clipmem")}
    assert aurocs["misfit"] > 0.9
    assert aurocs["clipmem"] > 0.65
    assert scores["clipmem"][wrong].mean() > 1.5 * scores["clipmem"][kind.isna()].mean() > 0
    assert scores["similarity_out"][wrong].mean() < 0.8 * scores["similarity_out"][kind.isna()].mean()
    external = audit.scores["clipmem"][audit.scores["group"] == "external"]
    assert abs(external.mean()) < scores["clipmem"].mean()
