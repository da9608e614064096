"""The glossary stands once in the code, and is what pages say of a term."""

from clipmem_core.glossary import CLIPMEM, MEANINGS, MISFIT, Q_VALUE, SIMILARITY_OUT, meaning
from clipmem_core.scores.registry import BY_NAME


def test_it_has_at_most_ten_terms_each_with_what_it_means_for_a_decision() -> None:
    assert len(MEANINGS) <= 10
    assert all(what.endswith(".") and decision.endswith(".") for what, decision in MEANINGS.values())


def test_scores_are_explained_by_it() -> None:
    for term in (CLIPMEM, MISFIT, SIMILARITY_OUT, Q_VALUE):
        assert BY_NAME[term.replace(" ", "_")].help == meaning(term)
