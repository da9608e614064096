"""Words that most captions of a set have, such as the trigger word of a LoRA, and captions that are
lists of tags. Trigger words say nothing about a picture, so they are neither embedded nor
predicted."""

import re
from collections import Counter
from collections.abc import Collection, Sequence

from clipmem_core.errors.words import TAG_PATTERN, WORD_PATTERN

_FEWEST_PAIRS = 10
_FEWEST_TAGS = 3
_MOST_WORDS = 4  # of a tag
_SENTENCE_END = re.compile(r"[.!?](?:\s|$)")


def is_tag_list(captions: Sequence[Sequence[str]]) -> bool:
    """Tell whether most captions are lists of short tags, separated by commas.

    Example:
        >>> is_tag_list([["1girl, solo, red hair"], ["A girl, alone, looks up."]] * 2)
        False
        >>> is_tag_list([["1girl, solo, red hair"], ["2girls, sky, looking at viewer"]])
        True
    """
    listed = [_is_tags(text) for texts in captions for text in texts]
    return 2 * sum(listed) > len(listed)


def _is_tags(text: str) -> bool:
    tags = TAG_PATTERN.findall(text)
    is_short = all(len(tag.split()) <= _MOST_WORDS for tag in tags)
    return len(tags) >= _FEWEST_TAGS and is_short and not _SENTENCE_END.search(text)


def _function_words() -> Collection[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS  # slow to import

    return ENGLISH_STOP_WORDS


def trigger_words(captions: Sequence[Sequence[str]]) -> list[str]:
    """Return the words, or tags of tag lists, that are in more than half of the captions, in lower
    case, without English function words; none for a few pairs.

    Args: the captions of each pair.

    Example:
        >>> trigger_words([["a photo of sks dog"], ["the sks dog, asleep"], ["a cat"]] * 4)
        ['dog', 'sks']
    """
    if len(captions) < _FEWEST_PAIRS:
        return []
    pattern = TAG_PATTERN if is_tag_list(captions) else WORD_PATTERN
    counts = Counter[str]()
    total = 0
    for texts in captions:
        total += len(texts)
        for text in texts:
            counts.update(set(pattern.findall(text.lower())))
    common = {word for word, count in counts.items() if 2 * count > total}
    return sorted(common.difference(_function_words()))


def without_triggers(text: str, triggers: Collection[str], *, tags: bool = False) -> str:
    """Return a caption without trigger words, or a list of tags without those tags; as it is if
    only function words would remain.

    Example:
        >>> without_triggers("a photo of sks, in snow", ["sks"])
        'a photo of, in snow'
    """
    if not triggers:
        return text
    if tags:
        rest = ", ".join(tag for tag in TAG_PATTERN.findall(text) if tag.lower() not in triggers)
    else:
        rest = WORD_PATTERN.sub(lambda word: "" if word[0].lower() in triggers else word[0], text)
        rest = re.sub(r"\s+(?=[\s,.;:])", "", rest).lstrip(" ,.;:").rstrip(" ,;:")
    words = WORD_PATTERN.findall(rest.lower())
    return rest if set(words).difference(_function_words()) else text
