"""The registry of scores. Orders, filters, queues, legends, tables and exports follow from it.

A new score that is computed from other scores is one entry in `_SCORES` (its name, its texts,
`needs` and `compute`), and its name in the list of each place where it is shown, at the end of this
module. Its column of scores.parquet follows. Audits made before have no such column: they
are refused as of another version.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from clipmem_core.errors.misfit import misfit
from clipmem_core.errors.posterior import review_place
from clipmem_core.utils import columns as c

MISFIT_FORMULA = "−(z(learned) + 6 z(fit_out))"
SECOND_NOTE = (
    "fit_out is fit_second here. Members were trained a second time without the captions that "
    "are probably wrong."
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
    help: str = ""  # on the page of a pair
    legend: str = ""  # in the gallery
    use: str = ""  # what it is for
    use_doubted: str = ""  # the same where a check of the audit failed; empty: no difference
    queue: Queue | None = None
    needs: tuple[str, ...] = ()  # arguments of `compute`: other scores
    compute: Callable[..., np.ndarray] | None = None  # None: computed by scoring
    absent: str = ""  # why an audit may not have it


def words(column: str) -> str:
    """Return a column's name as words.

    Example:
        >>> words("similarity_out")
        'similarity out'
    """
    return column.replace("_", " ")


_SCORES = (
    Score(c.N_IN),
    Score(c.N_OUT),
    Score(
        c.CLIPMEM,
        help=c.meaning(c.CLIPMEM),
        legend="alignment of picture and caption under members that were trained on the pair, "
        "minus that under members that were not: high is memorized.",
        use="says what was memorized: high for wrong captions, and for rare and odd pairs that "
        "are right",
        queue=Queue(
            "Most memorized",
            "Models trained on this pair match it far better than models that were not.",
        ),
    ),
    Score(c.CLIPMEM_RELATIVE),
    Score(c.SE),
    Score(c.P_VALUE, direction=-1),
    Score(c.Q_VALUE, direction=-1, help=c.meaning(c.Q_VALUE)),
    Score(
        c.CLIPMEM_SHRUNK,
        help="What clipmem to expect of the pair under other members: at the top of a list it is "
        "less than clipmem, since pairs are there also by luck.",
        legend="the clipmem to expect under other members: pairs at the top of a list are there "
        "also by luck.",
        absent="needs 50 scored pairs.",
    ),
    *(Score(f"{component}_{end}") for component in c.COMPONENTS[:-1] for end in ("in", "out")),
    Score(
        c.SIMILARITY_IN,
        direction=-1,
        help="How well the caption fits, for members that were trained on the pair.",
    ),
    Score(
        c.SIMILARITY_OUT,
        direction=-1,
        help=c.meaning(c.SIMILARITY_OUT),
        legend="cosine of picture and caption under members that were not trained on the pair: "
        "low means that the caption does not fit, for models that cannot have memorized it.",
        use="says how well a caption fits, for members that never saw the pair; low with a high "
        "clipmem means wrong and memorized",
        use_doubted="says how well a caption fits, for members that never saw the pair",
    ),
    Score(c.CLIPMEM_IMAGE),
    Score(c.CLIPMEM_TEXT),
    Score(c.SSLMEM_IMAGE),
    Score(c.SSLMEM_TEXT),
    Score(
        c.MISFIT,
        help=f"{c.meaning(c.MISFIT)} {MISFIT_FORMULA}.",
        needs=(c.LEARNED, c.FIT_OUT, c.FIT_SECOND),
        compute=misfit,
    ),
    Score(c.LEARNED, direction=-1),
    Score(
        c.FIT_OUT,
        direction=-1,
        help="How well the caption fits, by members that never saw the pair and by the towers "
        "alone, against captions of other pairs: log-odds, 0 is even.",
    ),
    Score(
        c.P_WRONG,
        legend="the probability that at least one caption of the pair is wrong.",
        help=c.meaning(c.P_WRONG),
        use="finds captions that are probably wrong: start with the highest",
        use_doubted="says which captions fit least",
    ),
    *map(Score, (c.P_CHECK, c.P_PAIR, c.P_CAPTION, c.P_WORD)),
    Score(
        c.SUSPICION,
        queue=Queue("Probably wrong", "Ordered by each pair's worst caption.", doubted="Low fit"),
    ),
    Score(c.REVIEW_PLACE, direction=-1, needs=(c.SUSPICION,), compute=review_place),
    Score(
        c.FIT_SECOND,
        direction=-1,
        help="Fit out under members trained a second time, without the captions that "
        "are probably wrong.",
        absent="is in audits with a second round of training (--rounds 2).",
    ),
)
BY_NAME = {score.name: score for score in _SCORES}
SCORE_COLUMNS = [c.PAIR_ID, c.GROUP, *BY_NAME]


def _scores(*names: str) -> dict[str, Score]:
    """Return scores by name."""
    return {name: BY_NAME[name] for name in names}


# Where scores are shown or used, in their order, by name.
# The lists of pairs to review first, the highest first
QUEUE_SCORES = _scores(c.CLIPMEM, c.SUSPICION)
# The verdict's advice on the use of scores
USE_SCORES = _scores(c.P_WRONG, c.CLIPMEM, c.SIMILARITY_OUT)
# The comparison at finding injected errors; the first is the reference
DETECTION_SCORES = _scores(
    c.P_WRONG,
    c.MISFIT,
    c.SIMILARITY_OUT,
    c.SIMILARITY_IN,
    c.LEARNED,
    c.CLIPMEM,
    c.FIT_OUT,
)
# The means of injected errors by kind
INJECTED_SCORES = _scores(
    c.CLIPMEM, c.SIMILARITY_OUT, c.P_WRONG, c.CLIPMEM_IMAGE, c.CLIPMEM_TEXT, c.MISFIT
)
# A pair's card in the gallery, and the legend above it
CARD_SCORES = _scores(c.CLIPMEM, c.CLIPMEM_SHRUNK, c.SIMILARITY_OUT, c.P_WRONG)
# The filters with a range
FILTER_SCORES = _scores(c.P_WRONG, c.CLIPMEM, c.SIMILARITY_OUT, c.MISFIT)
# The gallery as a table
ROW_SCORES = _scores(c.CLIPMEM, c.SE, c.CLIPMEM_SHRUNK, c.SIMILARITY_OUT, c.P_WRONG, c.MISFIT)
# A pair's own page, below clipmem
PAGE_SCORES = _scores(
    c.SIMILARITY_OUT,
    c.SIMILARITY_IN,
    c.P_WRONG,
    c.Q_VALUE,
    c.MISFIT,
    c.FIT_OUT,
    c.CLIPMEM_SHRUNK,
)
# The colours of a map
COLOUR_SCORES = _scores(c.P_WRONG, c.CLIPMEM, c.SIMILARITY_OUT)
# Exported tables and reports
EXPORT_SCORES = _scores(c.CLIPMEM, c.CLIPMEM_SHRUNK, c.P_WRONG, c.SIMILARITY_OUT, c.MISFIT)
