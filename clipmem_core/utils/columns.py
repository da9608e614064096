"""Names of columns and groups in the tables of an audit, and the glossary: what scores and other
terms mean."""

PAIR_COLUMNS = ["pair_id", "image", "captions", "label", "width", "height", "sha256", "injected"]
PAIR_ID, IMAGE, CAPTIONS, LABEL, WIDTH, HEIGHT, SHA256, INJECTED = PAIR_COLUMNS

# optional column of pairs.parquet: the sentences of long captions, in order
SENTENCES = "sentences"
MAP_X, MAP_Y = "map_x", "map_y"  # of a pair on a map
REGION = "region"  # of a map, its name
DECISION = "decision"
GROUP_KEY = "group_key"  # of pairs that are split as one, in a data set before its audit

SOURCE = "source"
KIND = "kind"
REASON = "reason"
QUARANTINE_COLUMNS = [SOURCE, PAIR_ID, KIND, REASON]
# Kinds of rows in quarantine: of what is missing, unreadable or refused
NEAR_DUPLICATE = "near-duplicate"
BAD_CAPTION, BAD_PICTURE, BAD_FEATURES, BAD_ID = "caption", "picture", "features", "id"
BAD_ROW = "row"  # the row, file or archive as a whole
INCIDENT_COLUMNS = ["number", "kind", "pairs", "first", "last", "evidence", "repairs", "cause"]
INCIDENT_PAIR_COLUMNS = ["number", "row", "from_row", "probability"]

GROUP = "group"
GROUPS = ["candidate", "independent", "scored", "shared", "held-out"]
CANDIDATE, INDEPENDENT, SCORED, SHARED, HELD_OUT = GROUPS
_GROUP_WORDS = {SCORED: "trained on", HELD_OUT: "held out"}
SCORED_GROUPS = [CANDIDATE, INDEPENDENT, SCORED]
TARGET_GROUPS = [CANDIDATE, SCORED]  # the pairs that an audit is about

MISCAPTION = "miscaption"
VAGUE = "vague"
DUPLICATE = "duplicate"
ATYPICAL = "atypical"

N_IN = "n_in"
N_OUT = "n_out"
CLIPMEM = "clipmem"
CLIPMEM_RELATIVE = "clipmem_relative"
SE = "se"
P_VALUE = "p_value"
Q_VALUE = "q_value"
CLIPMEM_SHRUNK = "clipmem_shrunk"
COMPONENTS = ["alignment", "positive", "negative_text", "negative_image", "similarity"]
ALIGNMENT, POSITIVE, NEGATIVE_TEXT, NEGATIVE_IMAGE, SIMILARITY = COMPONENTS
SIMILARITY_IN = "similarity_in"
SIMILARITY_OUT = "similarity_out"
CLIPMEM_IMAGE = "clipmem_image"
CLIPMEM_TEXT = "clipmem_text"
SSLMEM_IMAGE = "sslmem_image"
SSLMEM_TEXT = "sslmem_text"
MISFIT = "misfit"
LEARNED = "learned"
FIT_OUT = "fit_out"
FIT_SECOND = "fit_second"
P_WRONG = "p_wrong"
P_CHECK = "p_check"
CHECK = "check"  # why a text is no caption: the name of a check, or one of the two below
REPEATED_PICTURE = "repeated_picture"
RECURRING_TEXT = "recurring_text"
P_PAIR = "p_pair"
P_CAPTION = "p_caption"
P_WORD = "p_word"
PARTS = [P_CHECK, P_PAIR, P_CAPTION, P_WORD]  # of p_wrong
SUSPICION = "suspicion"
REVIEW_PLACE = "review_place"

# Row of the caption, or of the sentence where captions are long, among all of an audit: the key of
# captions.parquet or sentences.parquet, of words.parquet and of the members' captions.npy
CAPTION_ROW = "caption_row"
CAPTION = "caption"  # number of the caption in its pair, from 0
MARGIN_OUT = "margin_out"
READ = "read"  # false: in a language that the text tower does not read
AGREEMENT = "agreement"  # highest cosine with another caption of the pair
SENTENCE = "sentence"  # number of the sentence in its caption, from 0

# words.parquet: one row per word that the word model reads
POSITION = "position"  # number of the word in its caption, from 0
START = "start"  # its first character in the caption; also of a sentence
END = "end"  # the character behind the sentence
WORD = "word"
PROBABILITY = "probability"
SURPRISE = "surprise"
WORD_KIND = "kind"  # not stored
CHANGED = "changed"  # the surprise of another word of its kind in its place
BETTER = "better"  # likelier words, the likeliest first
BETTER_PROBABILITY = "better_probability"

UTILITY_COLUMNS = ["member", "metric", "value"]
MEMBER, METRIC, VALUE = UTILITY_COLUMNS
# Membership inference against a member, by measure of the attack: metrics beside its utility.
ATTACK_AUROC = "attack_auroc"
ATTACK_TPR = "attack_TPR@0.01"
ATTACK_METRICS = {"auroc": ATTACK_AUROC, "TPR@0.01": ATTACK_TPR, "TPR@0.001": "attack_TPR@0.001"}

SPLITS = "splits of the pairs"  # what an interval covers if every replicate draws groups anew

AUROC = "membership AUROC"
PROTOCOL = "protocol"
DRAWN = "synthetic set"
# The glossary: what each term is, and what it means for a decision; pages show it as help
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
    SURPRISE: (
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
    "held-out pair": (
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
    "setting": (
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


def group_words(group: str) -> str:
    """Return the name of a group for people."""
    return _GROUP_WORDS.get(group, group)


def of_one_split(kind: str) -> str:
    """Return the name of an interval. One over seeds covers the seeds of one split: with other
    pairs drawn for each group a result may move further."""
    return kind.replace("over seeds", "over training seeds of one split")


def meaning(term: str) -> str:
    """Return what a term is and what it means for a decision."""
    return " ".join(MEANINGS[term])
