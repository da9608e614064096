"""The registry of scores. Orders, filters, queues, legends, tables and exports follow from it.

A new score that is computed from other scores is one entry here: its name, its texts, the places
where it is shown, `needs` and `compute`. Its column of scores.parquet follows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from clipmem_core import columns as c
from clipmem_core import glossary
from clipmem_core.scores.detectors import misfit
from clipmem_core.scores.prevalence import review_place

# Where a score is shown or used; an entry has its position there.
QUEUE = "queue"  # the lists of pairs to review first, the highest first
USE = "use"  # the verdict's advice on the use of scores
DETECTION = "detection"  # the comparison at finding injected errors; the first is the reference
INJECTED = "injected"  # the means of injected errors by kind
CARD = "card"  # a pair's card in the gallery, and the legend above it
ROW = "row"  # the gallery as a table
PAIR = "pair"  # a pair's own page, below clipmem
COLOUR = "colour"  # the colours of a map of embeddings
EXPORT = "export"  # exported tables and reports
MISFIT_FORMULA = "−(z(learned) + 2 z(log_probability_out))"
SECOND_FORMULA = "−(z(learned) + 4 z(log_probability_second))"  # with a second round of training
SECOND_NOTE = (
    f"misfit is {SECOND_FORMULA} here. Members were trained a second time without the "
    "captions that are probably wrong."
)


@dataclass(frozen=True)
class Queue:
    """The list of pairs with the highest score: its name, and the sentence about a pair at its
    top."""

    name: str
    sentence: str
    doubted: str = ""  # its name where a check of the audit failed


@dataclass(frozen=True)
class Score:
    """One number of a pair, a column of scores.parquet."""

    name: str
    direction: int = 1  # 1: the highest are memorized or suspicious; −1: the lowest
    places: Mapping[str, int] = field(
        default_factory=dict
    )  # where it is shown → its position there
    help: str = ""  # on the page of a pair
    legend: str = ""  # in the gallery
    use: str = ""  # what it is for
    use_doubted: str = ""  # the same where a check of the audit failed; empty: no difference
    queue: Queue | None = None
    needs: tuple[str, ...] = ()  # arguments of `compute`: other scores
    compute: Callable[..., np.ndarray] | None = None  # None: computed by scoring
    absent: str = ""  # why an audit may not have it

    @property
    def label(self) -> str:
        """Return the name as words."""
        return words(self.name)


def words(column: str) -> str:
    """Return a column's name as words.

    Example:
        >>> words("similarity_out")
        'similarity out'
    """
    return column.replace("_", " ")


def _misfit_of_rounds(learned: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return misfit, by the log-probability of the second round of training if any."""
    two_rounds = bool(np.isfinite(second).any())
    return misfit(learned, second if two_rounds else first, second=two_rounds)


TABLE = (
    Score(c.N_IN),
    Score(c.N_OUT),
    Score(
        c.CLIPMEM,
        places={QUEUE: 0, USE: 1, DETECTION: 5, INJECTED: 0, CARD: 0, ROW: 0, COLOUR: 0, EXPORT: 0},
        help=glossary.meaning(glossary.CLIPMEM),
        legend="alignment of picture and caption under members that were trained on the pair, "
        "minus that under "
        "members that were not: high is memorized.",
        use="says what was memorized: high for wrong captions, and for rare and odd pairs that "
        "are right",
        queue=Queue(
            "Most memorized",
            "Models trained on this pair match it far better than models that were not.",
        ),
    ),
    Score(c.CLIPMEM_RELATIVE),
    Score(c.SE, places={ROW: 1}),
    Score(c.P_VALUE, direction=-1),
    Score(c.Q_VALUE, direction=-1, places={PAIR: 3}, help=glossary.meaning(glossary.Q_VALUE)),
    Score(
        c.CLIPMEM_SHRUNK,
        places={CARD: 1, ROW: 2, PAIR: 5, EXPORT: 1},
        help="What clipmem to expect of the pair under other members: at the top of a list it is "
        "less than clipmem, "
        "since pairs are there also by luck.",
        legend="the clipmem to expect under other members: pairs at the top of a list are there "
        "also by luck.",
        absent="needs 50 scored pairs.",
    ),
    *(
        Score(f"{term}_{side}")
        for term in c.TERMS
        if term != c.SIMILARITY
        for side in ("in", "out")
    ),
    Score(
        c.SIMILARITY_IN,
        direction=-1,
        places={DETECTION: 3, PAIR: 1},
        help="How well the caption fits, for members that were trained on the pair.",
    ),
    Score(
        c.SIMILARITY_OUT,
        direction=-1,
        places={USE: 2, DETECTION: 2, INJECTED: 1, CARD: 2, ROW: 3, PAIR: 0, COLOUR: 2, EXPORT: 3},
        help=glossary.meaning(glossary.SIMILARITY_OUT),
        legend="cosine of picture and caption under members that were not trained on the pair: "
        "low means that the "
        "caption does not fit, for models that cannot have memorized it.",
        use="says how well a caption fits, for members that never saw the pair; low with a high "
        "clipmem "
        "means wrong and memorized",
        use_doubted="says how well a caption fits, for members that never saw the pair",
    ),
    Score(c.CLIPMEM_IMAGE, places={INJECTED: 3}),
    Score(c.CLIPMEM_TEXT, places={INJECTED: 4}),
    Score(c.SSLMEM_IMAGE),
    Score(c.SSLMEM_TEXT),
    Score(
        c.MISFIT,
        places={DETECTION: 1, INJECTED: 5, ROW: 5, PAIR: 3, EXPORT: 4},
        help=f"{glossary.meaning(glossary.MISFIT)} {MISFIT_FORMULA}.",
        needs=(c.LEARNED, c.LOG_PROBABILITY_OUT, c.LOG_PROBABILITY_SECOND),
        compute=_misfit_of_rounds,
        absent="needs the training history of the members, which checkpoints from outside do not "
        "have.",
    ),
    Score(c.LEARNED, direction=-1, places={DETECTION: 4}),
    Score(
        c.LOG_PROBABILITY_OUT,
        direction=-1,
        places={DETECTION: 7, PAIR: 4},
        help="How sure members that never saw the pair are of its partner among those of "
        "external pairs: at most 0, "
        "near 0 is sure.",
    ),
    Score(
        c.CSLS_OUT,
        direction=-1,
        places={DETECTION: 6, PAIR: 4},
        help="How much closer picture and caption are than the nearest of other pairs, for "
        "members that "
        "never saw the pair.",
    ),
    Score(c.CSLS_SWAPPED, direction=-1),
    Score(
        c.P_WRONG,
        places={USE: 0, DETECTION: 0, CARD: 3, ROW: 4, PAIR: 2, COLOUR: 1, EXPORT: 2, INJECTED: 2},
        legend="the probability that at least one caption of the pair is wrong.",
        help=glossary.meaning(glossary.P_WRONG),
        use="finds captions that are probably wrong: start with the highest",
        use_doubted="says which captions fit least",
        absent="needs 100 pairs.",
    ),
    Score(c.SUSPICION),
    Score(
        c.REVIEW_PLACE,
        direction=-1,
        places={QUEUE: 1},
        queue=Queue(
            "Probably wrong",
            "Ordered by each pair's worst caption.",
            doubted="Low fit",
        ),
        needs=(c.SUSPICION,),
        compute=review_place,
    ),
    Score(
        c.LOG_PROBABILITY_SECOND,
        direction=-1,
        help="Log probability out under members trained a second time, without the captions that "
        "are probably wrong.",
        absent="is in audits with a second round of training (--rounds 2).",
    ),
)
BY_NAME = {score.name: score for score in TABLE}
SCORE_COLUMNS = [c.PAIR_ID, c.GROUP, *BY_NAME]


def scores_in(place: str) -> dict[str, Score]:
    """Return the scores that are shown or used at a place, in their order, by name.

    Example:
        >>> list(scores_in(QUEUE))
        ['clipmem', 'review_place']
    """
    shown = sorted(
        (score for score in TABLE if place in score.places), key=lambda score: score.places[place]
    )
    return {score.name: score for score in shown}
