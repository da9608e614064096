"""Sentences of long captions. Each is evidence like a caption of its own."""

import re
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from clipmem_core.utils import columns as c

_FEWEST = 2  # sentences of the median caption, from which captions count as long
_WITHOUT_SPACES = re.compile(r"[^。！？]*[。！？]+[」』”’）]*|[^。！？]+")  # Chinese, Japanese


def sentence_spans(caption: str) -> list[tuple[int, int]]:
    """Return the start and end of each sentence of a caption, at least one.

    Example:
        >>> sentence_spans("A dog runs. The grass is wet.")
        [(0, 11), (12, 29)]
    """
    from simplemma import split_sentences  # slow to import

    spans = []
    end = 0
    for block in _WITHOUT_SPACES.findall(caption):
        for sentence in split_sentences(block, lang="en"):
            start = caption.find(sentence, end)
            end = start + len(sentence)
            spans.append((start, end))
    return spans or [(0, len(caption))]


def sentences_of(captions: Sequence[str]) -> list[str]:
    """Return the sentences of some captions, in order."""
    return [caption[start:end] for caption in captions for start, end in sentence_spans(caption)]


def places_of(pairs: Iterable[Sequence[str]]) -> pd.DataFrame:
    """Return the number of the caption in its pair, and of the sentence in its caption, start and
    end of each sentence of the captions of some pairs."""
    places = [
        (number, sentence, start, end)
        for captions in pairs
        for number, caption in enumerate(captions)
        for sentence, (start, end) in enumerate(sentence_spans(caption))
    ]
    return pd.DataFrame(places, columns=[c.CAPTION, c.SENTENCE, c.START, c.END], dtype=np.int32)


def are_long(captions: Sequence[Sequence[str]]) -> bool:
    """Tell whether most pairs have one caption, and the median caption two sentences or more.

    The captions of a pair agree with each other as a whole: a wrong one of two is seen less by its
    sentences (AP .07 instead of .93 on textbook figures).
    """
    if not len(captions) or np.median(list(map(len, captions))) > 1:
        return False
    counts = [len(sentence_spans(caption)) for pair in captions for caption in pair]
    return float(np.median(counts)) >= _FEWEST
