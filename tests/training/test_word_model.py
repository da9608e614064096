"""The word model finds words that the picture or the other captions contradict."""

import numpy as np
import pytest

from clipmem_core.errors.words import mean_ratio, split_words
from clipmem_core.training import word_model
from clipmem_core.training.word_model import train_words, word_log_ratios

COLOURS = ("red", "green", "blue", "black")
ODD = [
    "",
    "dog",
    "🐊 👩‍👩‍👧",
    "קרוקודיל ירוק",
    "new " + " ".join(f"w{i}" for i in range(40)),
    "dog " * 10_000,
]


def made_set(n: int, rng: np.random.Generator) -> tuple[list[list[str]], np.ndarray]:
    """Return captions of pictures whose features show the colour and the thing."""
    colour = rng.integers(4, size=n)
    thing = rng.integers(3, size=n)
    captions = [
        [f"a {COLOURS[k]} {t} here", f"the {t}, {COLOURS[k]}"]
        for k, t in zip(colour, np.array(["cat", "dog", "cup"])[thing], strict=True)
    ]
    features = np.hstack([np.eye(4)[colour], np.eye(3)[thing], rng.normal(size=(n, 4))]).astype(
        np.float16
    )
    return captions, features


@pytest.mark.parametrize(
    ("precision", "settings"),
    [("amp_bf16", {}), ("fp32", {"PAIRS_PER_STEP": 4, "SAMPLED": 1})],  # words are sampled
)
def test_changed_words_are_the_most_surprising(
    precision: str, settings: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"TRAINED": 20_000, **settings}.items():
        monkeypatch.setattr(word_model, name, value)
    rng = np.random.default_rng(0)
    captions, features = made_set(400, rng)
    changed = rng.choice(380, 40, replace=False)
    for row in changed:  # in one of two captions
        old = next(colour for colour in COLOURS if colour in captions[row][0])
        captions[row][0] = captions[row][0].replace(old, COLOURS[COLOURS.index(old) - 1])
    captions[380 : 380 + len(ODD)] = [[text] for text in ODD]
    words = split_words(captions, english=True)
    into = word_model.Predictions.empty(len(words.ids))
    half = rng.integers(0, 2, 400)
    for number in (0, 1):
        train_words(words, features, half, number, into, vectors=None, seed=0, precision=precision)
    scores = mean_ratio(word_log_ratios(words, into)[0][:, 0], words.in_captions)
    first = words.captions.start
    wrong = scores[first[changed]]
    right = np.delete(scores[first[:380]], changed)
    assert (wrong[:, None] > right).mean() > 0.95
    odd = scores[first[380] : first[380 + len(ODD)]]
    assert np.isnan(odd[[0, 2, 3, 4]]).all()  # no word of theirs is known
    assert np.isfinite(odd[[1, 5]]).all()
