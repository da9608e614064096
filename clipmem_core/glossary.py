"""The glossary: ten terms, each with what it is and what it means for a decision. Pages use it as help texts, and every
page shows all of it beside its links."""

CLIPMEM, MISFIT, SIMILARITY_OUT, Q_VALUE = "clipmem", "misfit", "similarity out", "q value"
MEMBER, EXTERNAL, AUROC = "member", "external pair", "membership AUROC"
PROTOCOL, ARM, DRAWN = "protocol", "arm", "drawn set"
MEANINGS = {
    MEMBER: (
        "One of the small CLIP models that an audit trains, each on other parts of the pairs.",
        "The more members, the surer every score; 16 are usual.",
    ),
    CLIPMEM: (
        "How much better picture and caption match for members that trained on the pair than for those that did not; "
        "0 is nothing, and most lie below 0.5.",
        "High: the pair is memorized. That is no reason to remove it: rare pairs that are right are too.",
    ),
    MISFIT: (
        "High where a pair was learned late, and models that never saw it prefer other captions.",
        "Start here to find wrong captions: review from the highest on, and stop where hardly any more are wrong.",
    ),
    SIMILARITY_OUT: (
        "Cosine of picture and caption for members that did not train on the pair.",
        "Low: the caption does not fit. Low with a high clipmem: it is wrong, and memorized nevertheless.",
    ),
    EXTERNAL: (
        "A pair set aside that no member trains on. These pairs show what scores look like without memorization.",
        "Read clipmem against theirs. Their captions are reviewed like all others.",
    ),
    AUROC: (
        "How well a member's match of picture and caption tells pairs it trained on from others: 0.5 is not at all, 1 "
        "always.",
        "The closer to 1, the better somebody can tell from the model which pairs it was trained on.",
    ),
    PROTOCOL: (
        "Who trains on what. Ensemble: every pair is left out of some members, so that each gets a score. Paper: two "
        "models f and g that differ in one group of pairs, as in the paper.",
        "Take ensemble to clean a data set, paper to compare with the paper's figures.",
    ),
    Q_VALUE: (
        "Of the pairs with a q this small or smaller, the share on which training had no effect at all.",
        "It says whether there is an effect, not how large: decide by misfit and clipmem.",
    ),
    ARM: (
        "One setting of a study, such as noise on captions, trained as often as the others and compared with none.",
        "Take one that lowers memorization without losing retrieval, by the ends of its intervals.",
    ),
    DRAWN: (
        "Pictures that this code draws, named scenes, with wrong captions planted on purpose.",
        "It shows what an audit finds where the truth is known; it says nothing of your data.",
    ),
}


def meaning(term: str) -> str:
    """Return what a term is and what it means for a decision."""
    return " ".join(MEANINGS[term])
