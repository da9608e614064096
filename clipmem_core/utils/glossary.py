"""The glossary: twelve terms, what each is and what it means for a decision; pages use it as help
texts."""

CLIPMEM = "clipmem"
MISFIT = "misfit"
SIMILARITY_OUT = "similarity out"
Q_VALUE = "q value"
_SURPRISE = "surprise"
P_WRONG = "p wrong"
MEMBER = "member"
HELD_OUT = "held-out pair"
AUROC = "membership AUROC"
PROTOCOL = "protocol"
SETTING = "setting"
DRAWN = "synthetic set"
MEANINGS = {
    MEMBER: (
        "One of the small CLIP models that an audit trains, each on a different part of the pairs.",
        "More members make every score more precise; 16 are usual.",
    ),
    CLIPMEM: (
        "How much better picture and caption match for members that trained on the pair than for "
        "those that did not; 0 is no memorization, and most pairs lie below 0.5.",
        "High: the pair is memorized. That alone is no reason to remove it: rare but correct "
        "pairs are memorized too.",
    ),
    P_WRONG: (
        "The probability that a caption is wrong: it is none (such as a file name or an error "
        "text), all captions of the pair belong to another picture, this one does, or one of its "
        "words is wrong. It comes from models that never saw the pair.",
        "Review from the highest down. Of captions with a probability of 90 %, about nine in ten "
        "are wrong.",
    ),
    MISFIT: (
        "High if a pair was learned late, and models that never saw it prefer other captions.",
        "It is evidence on whole pairs, and orders the probability that all captions of a pair "
        "are wrong.",
    ),
    _SURPRISE: (
        "How much less likely a word is with this picture and these other words than without them, "
        "in log-odds.",
        "Underlined words are suspicious. Rare but correct words surprise too; a word in few "
        "captions is not judged.",
    ),
    SIMILARITY_OUT: (
        "Cosine of picture and caption for members that did not train on the pair.",
        "Low: the caption does not fit. Low with a high clipmem: it is wrong, and memorized "
        "nevertheless.",
    ),
    HELD_OUT: (
        "A pair that no member trains on. These pairs show what scores look like without "
        "memorization.",
        "Compare clipmem with theirs. Their captions are reviewed like all others.",
    ),
    AUROC: (
        "How well a member's match of picture and caption separates pairs it trained on from "
        "others: 0.5 is chance, 1 is perfect.",
        "The closer to 1, the more the model reveals which pairs it was trained on.",
    ),
    PROTOCOL: (
        "Who trains on what. Ensemble: every pair is left out by some members, so that each gets a "
        "score. Paper: two models f and g that differ in one group of pairs, as in the paper.",
        "Choose ensemble to clean a data set, paper to compare with the paper's figures.",
    ),
    Q_VALUE: (
        "Of the pairs with a q this small or smaller, the share on which training had no effect "
        "at all.",
        "It says whether there is an effect, not how large: decide by clipmem.",
    ),
    SETTING: (
        "One setting of a study, such as noise on captions, trained as often as the others and "
        "compared with the baseline.",
        "Choose one that lowers memorization without losing retrieval, judged by the ends of its "
        "intervals.",
    ),
    DRAWN: (
        "Pictures of scenes that this tool draws, with wrong captions injected on purpose.",
        "It shows what an audit finds if the truth is known; it says nothing about your data.",
    ),
}


def meaning(term: str) -> str:
    """Return what a term is and what it means for a decision."""
    return " ".join(MEANINGS[term])
