import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from clipmem_core.audits.prepare import membership_of, sides_of
from clipmem_core.audits.store import read_embeddings
from clipmem_core.scores.alignment import pair_terms
from clipmem_core.scores.attacks import BAVARIA, Shadows, attack
from clipmem_core.studies.measure import ATTACKED, arms_to_attack, attack_arm
from clipmem_core.studies.store import StudyFolder


def test_every_row_of_a_finished_study_tells_of_the_attack_from_its_other_seeds(whole: StudyFolder) -> None:
    rows = whole.arms
    assert rows["attack_auroc"].between(0, 1).all()
    assert set(rows["attack_shadows"]) == {2}
    assert arms_to_attack(rows) == []
    assert rows["attack_TPR@0.01"].isna().all()  # fewer than 100 pairs that a member was not trained on


def test_the_attack_of_an_arm_is_that_on_the_alignments_of_its_audits(whole: StudyFolder) -> None:
    """Laid out here by hand, split by split, and measured with scikit-learn."""
    seeds, alignments, trained, judged, outside = [], [], [], [], []
    for seed in whole.arms.query("arm == 'none'")["seed"]:
        audit = whole.audit("none")
        number = seed
        compared = np.ones(len(audit.pairs), dtype=bool)
        seeds.append((audit, number, compared))
        group = audit.membership["group"].to_numpy(dtype=str)
        for name in (f"f-{number}", f"g-{number}"):
            vectors = read_embeddings(audit.member(name))
            external = sides_of(audit, audit.record.config, membership_of(audit.membership)).external
            alignments.append(pair_terms(*vectors, external)["alignment"])
            trained.append(audit.membership[name].to_numpy())
            judged.append(np.isin(group, ["candidate", "independent"]))
            outside.append(external)
    shadows = Shadows(*map(np.stack, (trained, judged, outside)), np.repeat(np.arange(len(seeds)), 2), seed=0)
    found = attack(alignments, shadows, attacks=(BAVARIA,))
    expected = [roc_auc_score(one.trained, one.scores[BAVARIA]) for one in found]
    rows = attack_arm(seeds)
    assert [row["attack_auroc"] for row in rows] == pytest.approx(np.reshape(expected, (-1, 2)).mean(axis=1), abs=0.02)


def test_an_arm_is_attacked_anew_once_it_has_more_seeds() -> None:
    done = pd.DataFrame({"arm": ["a", "a"], "seed": [0, 1], "attack_shadows": [2.0, 2.0]})
    one = pd.DataFrame({"arm": ["b"], "seed": [0]})
    more = pd.DataFrame({"arm": ["a"], "seed": [2]})
    assert arms_to_attack(pd.concat([done, one])) == []
    assert arms_to_attack(pd.concat([done, one, more])) == ["a"]
    assert arms_to_attack(done.drop(columns="attack_shadows")) == ["a"]
    assert set(ATTACKED) >= {"attack_auroc", "attack_shadows"}
