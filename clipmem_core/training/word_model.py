"""Word models: predict each word of a caption from the picture, the caption's other words and the
other captions; the scores of words that follow; and the files of models.

There are two models. Each trains on half of the pairs and predicts the words of the other half.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.nn import functional as F

from clipmem_core.errors.calibration import fit_words, word_log_ratio
from clipmem_core.errors.evidence import word_evidence
from clipmem_core.errors.words import Words, changed_words, mean_ratio, number_words
from clipmem_core.features.towers import autocast
from clipmem_core.training.trainer import save_atomically
from clipmem_core.utils import draws
from clipmem_core.utils.ragged import Ragged

_WINDOW = 3  # words before and after a word that are read in order; of others only the mean
_EMBEDDING = 64
VECTOR = 128
_HIDDEN = 320
_PICTURE = 192
_OUTPUT = 128
_HEADS = 4
_LONGEST = 128  # words of a row: all words of one pair, or a part of them
PAIRS_PER_STEP = 32
# Words that a model is trained on, repeats included: more epochs for a smaller set
TRAINED = 1_600_000
_FEWEST_EPOCHS = 0.25
_MOST_EPOCHS = 10
_PREDICTED = 3_000  # words that are predicted at a time, or those of 2 * PAIRS_PER_STEP rows
_RATE = 2e-3
_DECAY = 0.02
_WARMUP = 0.1
_DROPPED = 0.2
_DROPPED_PICTURE = 0.4
_WITHOUT_CAPTIONS = 0.5  # share of training steps in which the pairs' other captions are hidden
_RARE = 5e-3  # words more frequent than this are trained less often, as in word2vec
# words beside those of a batch that a step of training compares with, drawn from the vocabulary
SAMPLED = 500
_MULTIPLE = 32  # a step predicts a multiple of 32 words: in bf16, products of new shapes are slow
_STANDARDISED = 10_000  # pictures, evenly spaced, that mean and deviation are computed from
_LIKELIEST = 5  # likelier words of each word
_MOST_FITTED = 1_000_000  # words that log-likelihood ratios are fitted on, evenly spaced
_SEEDING = Lock()  # of torch's generator, which threads share
_VOCABULARY = (
    "spelled",
    "vocabulary_size",
    "english",
    "tags",
)  # fields of `Words` in a model's file
_TRAINING = 0.8  # share of the time of a model that its training takes


@dataclass(frozen=True, eq=False)
class WordBlock:
    """Words that are read together: a row is the words of a pair, or a part of them."""

    words: Tensor  # int64 [n_rows, n], 0 for padding
    caption: Tensor  # the number of each word's caption, from 1; 0 for padding, [n_rows, n]
    picture: Tensor  # features, [n_rows, width]
    position: np.ndarray  # of each word in `Words.ids`, [n_rows, n]; −1 for padding

    @cached_property
    def group(self) -> Tensor:
        """The number of each word's caption, unique in the block, [n_rows * n]."""
        first = torch.arange(len(self.caption)) * (self.caption.max() + 1)
        return (self.caption + first[:, None]).flatten()

    @cached_property
    def around(self) -> Tensor:
        """The positions in the flattened block of the words around each word in its caption,
        n_rows * n for no word, [n_rows * n, 6]."""
        offsets = torch.tensor([*range(-_WINDOW, 0), *range(1, _WINDOW + 1)])
        around = torch.arange(len(self.group))[:, None] + offsets
        padded = F.pad(self.group, (_WINDOW, _WINDOW), value=-1)
        same = padded[around + _WINDOW] == self.group[:, None]
        return torch.where(same, around, len(self.group))

    @cached_property
    def in_others(self) -> Tensor:
        """Which words belong to other captions than each word, bool [n_rows, n, n]."""
        return (self.words[:, None] > 0) & (self.caption[:, None] != self.caption[:, :, None])


class Predictions(NamedTuple):
    """The predictions of both models for each word of a data set.

    Each word has two log-probabilities, float32 [n_words, 2]: of the word itself, and of the word
    that it is compared with (`changed_words`). NaN stands for a word that is not predicted.
    """

    alone: np.ndarray  # given picture and caption
    together: np.ndarray  # given the pair's other captions too
    better: np.ndarray  # numbers of the likeliest words, uint16 [n_words, 5]
    better_probability: np.ndarray  # float16 [n_words, 5]

    @classmethod
    def empty(cls, n: int) -> "Predictions":
        """Return predictions of n words, none of which is predicted yet."""
        missing = np.full((n, 2), np.nan, np.float32)
        shape = (n, _LIKELIEST)
        return cls(missing, missing.copy(), np.zeros(shape, np.uint16), np.zeros(shape, np.float16))


class WordModel(nn.Module):
    """Scores of every predicted word at a position of a caption.

    A word has a free embedding if it is predicted, and a map of its vector. The encoder reads the
    words around a position and the picture. Attention reads the words of the pair's other captions,
    and the copy gate raises the logits of words that they have.
    """

    vectors: Tensor | None
    centre: Tensor
    spread: Tensor

    def __init__(
        self, vocabulary_size: int, pictures: np.ndarray, vectors: Tensor | None, precision: str
    ) -> None:
        """Create a model.

        Args:
            vocabulary_size: numbers of words that are predicted, those from 2 on.
            pictures: features of pictures, [n_pairs, width].
            vectors: of all words that are read, if any, [n_words, 128].
            precision: "fp32" or "amp_bf16".
        """
        super().__init__()
        self.size = vocabulary_size
        self.precision = precision
        self.register_buffer("vectors", vectors)
        self.free = nn.Embedding(vocabulary_size, _EMBEDDING, padding_idx=0)
        self.out = nn.Linear(_OUTPUT, vocabulary_size)
        nn.init.normal_(self.free.weight, std=0.1 if vectors is not None else 0.3)
        nn.init.normal_(self.out.weight, std=0.03)
        self.read = nn.Linear(VECTOR, _EMBEDDING, bias=False)
        self.write = nn.Linear(VECTOR, _OUTPUT, bias=False)
        nn.init.normal_(self.read.weight, std=0.3 / VECTOR**0.5)
        nn.init.normal_(self.write.weight, std=0.1 / VECTOR**0.5)
        sample = np.asarray(pictures[:: max(1, len(pictures) // _STANDARDISED)], np.float32)
        self.register_buffer("centre", torch.from_numpy(sample.mean(axis=0)))
        self.register_buffer("spread", torch.from_numpy(sample.std(axis=0) + 1e-3))
        self.picture = nn.Linear(pictures.shape[1], _PICTURE)
        self.first = nn.Linear((2 * _WINDOW + 1) * _EMBEDDING + _PICTURE, _HIDDEN)
        self.query = nn.Linear(_HIDDEN, _OUTPUT)
        self.key = nn.Linear(3 * _EMBEDDING, _OUTPUT)
        self.value = nn.Linear(_EMBEDDING, _OUTPUT)
        self.attended = nn.Linear(_OUTPUT, _HIDDEN)
        self.gate = nn.Linear(_HIDDEN, 2)
        self.second = nn.Linear(_HIDDEN, _HIDDEN)
        self.last = nn.Linear(_HIDDEN, _OUTPUT)
        self.generator = torch.Generator()  # of dropout

    def forward(
        self,
        block: WordBlock,
        picked: Tensor,
        others: Sequence[bool],
        candidates: Tensor,
        added: Tensor,
    ) -> list[Tensor]:
        """Return the logits of the candidates at the picked words, [n_picked, n_candidates], for
        each of `others`.

        Args:
            block: words with their captions and pictures.
            picked: the words to predict, as positions in the flattened block, [n_picked].
            others: whether the pairs' other captions are read.
            candidates: the words that compete, in order, with 0 and all words of the block among
                them.
            added: to the logit of each candidate, [n_candidates].
        """
        with autocast(self.precision, "cpu"):
            # A last row of 0 stands for no word.
            embedded = F.pad(self.embed(block.words).flatten(0, 1), (0, 0, 0, 1))
            hidden = self.encode(block, embedded, picked)
            weight = self.out.weight.index_select(0, candidates)
            if self.vectors is not None:
                weight = weight + self.write(self.vectors[candidates])
            added = added + self.out.bias[candidates]
            logits = []
            for others_read in others:
                attended = torch.zeros(1, _OUTPUT)
                if others_read:
                    attended = self.attend(block, embedded, picked, hidden)
                answer = hidden + self.attended(self.drop(attended))
                answer = F.relu(answer + self.second(F.relu(answer)))
                output = self.last(self.drop(answer))
                logits.append(F.linear(output, weight).float() + added)
                if others_read:
                    read = block.words * (block.words < self.size)
                    column = torch.searchsorted(candidates, read)[picked // read.shape[1]]
                    logits[-1].scatter_add_(1, column, self.copied(block, picked, answer))
        return logits

    def drop(self, values: Tensor, share: float = _DROPPED) -> Tensor:
        """Set a share of values [...] to 0 in training, rounded to 1/256: torch's own dropout takes
        several times as long."""
        if not self.training:
            return values
        dropped = round(256 * share)
        drawn = torch.empty(-(-values.numel() // 8), dtype=torch.int64)
        drawn.random_(-(2**63), None, generator=self.generator)
        bytes_ = drawn.view(torch.uint8)[: values.numel()].view(values.shape)
        return values * (bytes_ >= dropped) * (256 / (256 - dropped))

    def embed(self, words: Tensor) -> Tensor:
        """Return the input embeddings of words [...], [..., 64]; 0 for no word."""
        used, positions = words.unique(return_inverse=True)
        table = self.free(used.clamp(max=self.size - 1)) * (used < self.size)[:, None]
        if self.vectors is not None:
            table = table + self.read(self.vectors[used])
        return table[positions] * (words > 0)[..., None]

    def encode(self, block: WordBlock, embedded: Tensor, picked: Tensor) -> Tensor:
        """Return the hidden state of each picked word, [n_picked, 320], from the words around it,
        the mean of the others in its caption, and the picture.

        Args:
            block, picked: as of `forward`.
            embedded: input embeddings of the flattened block, and a last row of 0 for no word,
                [n_rows * n + 1, 64].
        """
        group = block.group
        sums = embedded.new_zeros(int(group.max()) + 1, _EMBEDDING)
        sums = sums.index_add(0, group, embedded[:-1])
        n_others = group.bincount()[group[picked]] - 1
        rest = (sums[group[picked]] - embedded[picked]) / n_others.clamp(min=1)[:, None]
        around = embedded[block.around[picked]].flatten(1)
        words = self.drop(torch.cat([around, rest], 1))
        picture = F.relu(self.picture((block.picture - self.centre) / self.spread))
        picture = self.drop(picture, _DROPPED_PICTURE)[picked // block.words.shape[1]]
        return F.relu(self.first(torch.cat([words, picture], 1)))

    def attend(self, block: WordBlock, embedded: Tensor, picked: Tensor, hidden: Tensor) -> Tensor:
        """Return the mean value of the words of the pair's other captions that a picked word
        attends to, [n_picked, 128].

        Args: as of `encode`; `hidden` is its output.
        """
        own = embedded[:-1]
        before = embedded[block.around[:, _WINDOW - 1]]
        after = embedded[block.around[:, _WINDOW]]
        key = self.key(torch.cat([before, own, after], -1))
        query = torch.zeros_like(key).index_copy(0, picked, self.query(hidden))
        # [n_rows, heads, n, 32] each
        query, key, value = (
            part.view(*block.words.shape, _HEADS, -1).transpose(1, 2)
            for part in (query, key, self.value(own))
        )
        scores = (query @ key.transpose(2, 3)).float() * key.shape[-1] ** -0.5
        scores = scores.masked_fill(~block.in_others[:, None], -torch.inf)
        # The first position stands for no word: a pair may have no other caption.
        attended = F.pad(scores, (1, 0)).softmax(-1)[..., 1:] @ value
        return attended.transpose(1, 2).flatten(0, 1).flatten(1)[picked]

    def copied(self, block: WordBlock, picked: Tensor, answer: Tensor) -> Tensor:
        """Return the increase of the logit of each word of the row at each picked word, [n_picked,
        n], if other captions of the pair have that word.

        One part is for a word that any other caption has, one for the share of captions that has
        it.

        Args:
            block, picked: as of `forward`.
            answer: hidden states, [n_picked, 320].
        """
        words = block.words
        caption = block.caption
        others = block.in_others.float()
        equal = ((words[:, :, None] == words[:, None]) & (words > 0)[:, None]).float()
        in_caption = (equal * (caption[:, :, None] == caption[:, None])).sum(-1)
        any_other = others / (others @ equal).clamp(min=1)
        starts = (caption.diff(dim=1, prepend=torch.zeros_like(caption[:, :1])) > 0).sum(1)
        n_others = (starts - 1).clamp(min=1)[:, None]
        share = others / (in_caption * n_others).clamp(min=1)[:, None]
        gate = self.gate(answer).float()
        any_other = gate[:, :1] * any_other.flatten(0, 1)[picked]
        return any_other + gate[:, 1:] * share.flatten(0, 1)[picked]


def word_vectors(features: np.ndarray) -> Tensor:
    """Reduce a text tower's features of all words that are read, [n_words, width].

    Returns:
        Vectors by a word's number, of deviation 1, and 0 for the first two numbers,
        float32 [n_words + 2, 128].
    """
    vectors = np.asarray(features, np.float32)
    reduced = PCA(min(VECTOR, *vectors.shape), random_state=0).fit_transform(vectors)
    table = np.zeros((len(vectors) + 2, VECTOR), np.float32)
    table[2:, : reduced.shape[1]] = reduced / max(float(reduced.std()), 1e-6)
    return torch.from_numpy(table)


def word_blocks(
    words: Words, pictures: np.ndarray, pairs: np.ndarray, *, size: int
) -> Iterator[WordBlock]:
    """Yield the words of some pairs, in their order, `size` rows at a time; a pair with many words
    fills several rows.

    Args:
        words: of all captions.
        pictures: features, [n_pairs, width].
        pairs: rows of the pair table, int64 [n].
        size: rows of a block.
    """
    start = words.in_captions.start[words.captions.start]
    n_parts = -(-(start[pairs + 1] - start[pairs]) // _LONGEST)
    parts = Ragged.of(n_parts)
    owner = pairs[parts.owner]
    first = start[owner] + parts.number * _LONGEST
    end = np.minimum(first + _LONGEST, start[owner + 1])
    for at in range(0, len(owner), size):
        rows = slice(at, at + size)
        longest = int((end[rows] - first[rows]).max())
        position = first[rows, None] + np.arange(-(-longest // 8) * 8)
        position[position >= end[rows, None]] = -1
        ids = np.where(position < 0, 0, words.ids[position]).astype(np.int64)
        number = np.searchsorted(words.in_captions.start, position, side="right")
        caption = np.where(position < 0, 0, number - number[:, :1] + 1)
        picture = np.asarray(pictures[owner[rows]], np.float32)
        yield WordBlock(
            torch.from_numpy(ids), torch.from_numpy(caption), torch.from_numpy(picture), position
        )


def count_words(words: Words, pairs: np.ndarray) -> int:
    """Return the number of words of some pairs, int64 [n], at least 1."""
    return max(1, int(np.diff(words.in_captions.start[words.captions.start])[pairs].sum()))


def trained_share(words: Words) -> np.ndarray:
    """Return how often each predicted word is trained on where it occurs, [vocabulary_size]."""
    with np.errstate(divide="ignore"):
        share = np.minimum(1.0, np.sqrt(_RARE / words.frequency))
    share[:2] = 0.0
    return share


def forward_loss(
    model: WordModel, block: WordBlock, share: np.ndarray, rng: np.random.Generator
) -> Tensor | None:
    """Return the loss of words that are drawn from a block; None if no word is drawn.

    The loss is a sampled softmax: cross-entropy over the words of the block and a sample of all
    other words. A sampled word is weighted by the inverse of its sampling rate.

    Args:
        model: in training.
        block: words with their captions and pictures.
        share: `trained_share`, [vocabulary_size].
        rng: of the step.
    """
    size = len(share)
    ids = np.minimum(block.words.numpy(), size)
    picked = np.flatnonzero(rng.random(ids.shape) < np.append(share, 0.0)[ids])
    picked = picked[: len(picked) // _MULTIPLE * _MULTIPLE or None]
    reads_others = rng.random() >= _WITHOUT_CAPTIONS
    in_block = np.unique(np.append(ids[ids < size], 0))
    rest = np.setdiff1d(np.arange(2, size), in_block, assume_unique=True)
    n_sampled = min(SAMPLED + -len(in_block) % _MULTIPLE, len(rest))
    sampled = rng.choice(rest, n_sampled, replace=False)
    if not len(picked):
        return None
    candidates = np.sort(np.concatenate([in_block, sampled]))
    stands_for = np.where(np.isin(candidates, sampled), len(rest) / max(n_sampled, 1), 1.0)
    logits = model(
        block,
        torch.from_numpy(picked),
        [reads_others],
        torch.from_numpy(candidates),
        torch.from_numpy(np.log(stands_for)).float(),
    )[0]
    target = np.searchsorted(candidates, ids.flat[picked])
    return F.cross_entropy(logits, torch.from_numpy(target))


def predicts(number: int, half: np.ndarray) -> np.ndarray:
    """Tell which pairs a model predicts: the half that it did not train on. The first model reads
    held-out pairs (−1), and both read new pairs (2).

    Args: number of the model; half of each pair, [n]. Returns: bool [n].
    """
    return (half == 1 - number) | (half == 2) | ((half == -1) & (number == 0))


def train_words(
    words: Words,
    pictures: np.ndarray,
    half: np.ndarray,
    number: int,
    into: Predictions,
    *,
    vectors: Tensor | None,
    seed: int,
    precision: str,
    progress: Callable[[float], None] = lambda share: None,
) -> WordModel | None:
    """Train one of both word models, and write what it predicts into `into`.

    Args:
        words: of all captions.
        pictures: features, [n_pairs, width].
        half: of each pair, as of `draw_word_halves`, [n_pairs].
        number: of the model, which is trained on this half.
        into: predictions of all words.
        vectors: `word_vectors`, if any.
        seed: of initial weights and draws.
        precision: "fp32" or "amp_bf16".
        progress: called with the share of the work that is done.

    Returns:
        The model; None for hardly any word, or without pairs to train on.
    """
    pairs = np.flatnonzero(half == number)
    if words.vocabulary_size < 4 or not len(pairs):
        return None
    seed += number
    with _SEEDING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(draws.whole_number(seed, "word model weights"))
        model = WordModel(words.vocabulary_size, pictures, vectors, precision)
    share = trained_share(words)
    bias = np.log(np.maximum(words.frequency * share, 1e-9))
    bias[:2] = -1e4
    model.out.bias.data = torch.from_numpy(bias).float()
    per_epoch = -(-len(pairs) // PAIRS_PER_STEP)
    epochs = np.clip(TRAINED / count_words(words, pairs), _FEWEST_EPOCHS, _MOST_EPOCHS)
    steps = max(1, round(per_epoch * epochs))
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=_DECAY, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, _RATE, total_steps=steps + 1, pct_start=_WARMUP
    )
    for step in range(steps):
        model.generator.manual_seed(draws.whole_number(seed, "word model dropout", step))
        rng = draws.rng(seed, "word model", step)
        epoch, batch = divmod(step, per_epoch)
        if batch == 0:
            order = draws.rng(seed, "word model order", epoch).permutation(pairs)
        rows = order[batch * PAIRS_PER_STEP :][:PAIRS_PER_STEP]
        for block in word_blocks(words, pictures, rows, size=2 * PAIRS_PER_STEP):
            loss = forward_loss(model, block, share, rng)
            if loss is not None:
                model.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
        schedule.step()
        progress(_TRAINING * (step + 1) / steps)
    model.eval()
    predict(
        model,
        words,
        pictures,
        np.flatnonzero(predicts(number, half)),
        changed_words(words),
        into,
        lambda share: progress(_TRAINING + (1 - _TRAINING) * share),
    )
    return model


@torch.inference_mode()
def predict(
    model: WordModel,
    words: Words,
    pictures: np.ndarray,
    pairs: np.ndarray,
    changed: np.ndarray,
    into: Predictions,
    progress: Callable[[float], None] = lambda share: None,
) -> None:
    """Write the predictions of the words of some pairs.

    Args:
        model: trained on other pairs.
        words: of all captions.
        pictures: features, [n_pairs, width].
        pairs: rows of the pair table, int64 [n].
        changed: a word to compare each with, [n_words]; −1 for a word that is read, but not
            predicted.
        into: predictions of all words; those of these pairs are overwritten.
        progress: called with the share of words that are done.
    """
    untrained = torch.from_numpy(-np.log(np.maximum(trained_share(words), 1e-9))).float()
    untrained[:2] = -torch.inf
    candidates = torch.arange(words.vocabulary_size)
    done = 0
    n_words = count_words(words, pairs)
    size = max(2 * PAIRS_PER_STEP, _PREDICTED * len(pairs) // n_words)
    for block in word_blocks(words, pictures, pairs, size=size):
        predicted = (block.words > 1) & (block.words < words.vocabulary_size)
        predicted &= torch.from_numpy(changed[block.position] >= 0)
        position = block.position[predicted.numpy()]
        if len(position):
            compared = torch.from_numpy(changed[position].astype(np.int64))
            ids = torch.stack([block.words[predicted], compared], 1)
            picked = predicted.flatten().nonzero()[:, 0]
            # One caption has no others to read.
            others = [False, True] if block.caption.max() > 1 else [False]
            logits = model(block, picked, others, candidates, untrained)
            for values, by_word in ((into.alone, logits[0]), (into.together, logits[-1])):
                all_words = by_word.logsumexp(-1, keepdim=True)
                values[position] = (by_word.gather(1, ids) - all_words).numpy()
            top = logits[-1].topk(min(_LIKELIEST, words.vocabulary_size - 2))
            n_better = top.indices.shape[1]
            into.better[position, :n_better] = top.indices.numpy()
            into.better_probability[position, :n_better] = (top.values - all_words).exp().numpy()
        done += int((block.position >= 0).sum())
        progress(done / n_words)


def merge_predictions(first: Predictions, second: Predictions) -> Predictions:
    """Return the predictions of both models, written into the first's arrays."""
    is_second = np.isfinite(second.alone[:, 0])
    for values, added in zip(first, second, strict=True):
        values[is_second] = added[is_second]
    return first


def predicted_evidence(
    words: Words, predicted: Predictions, changed: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the `word_evidence` of each word and of the word it is compared with, [n_words, 2, 4],
    and its kind."""
    frequency = words.frequency[np.column_stack([words.predicted, changed])]
    frequency = np.where(frequency > 0, frequency, np.nan)
    evidence = word_evidence(predicted.alone, predicted.together, frequency)
    return evidence, words.kinds[words.predicted]


def word_log_ratios(words: Words, predicted: Predictions) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return log-likelihood ratios that each word, and the word it is compared with, is wrong,
    [n_words, 2], NaN if not predicted; and the result of `fit_words`."""
    evidence, kinds = predicted_evidence(words, predicted, changed_words(words))
    # A word counts once in a caption, however often the caption repeats it.
    caption = words.in_captions.owner
    keys = caption * words.vocabulary_size + np.minimum(words.ids, words.vocabulary_size)
    different = np.unique(keys, return_index=True)[1]
    different = different[:: 1 + len(different) // _MOST_FITTED]
    ratios = fit_words(evidence[different], kinds[different])
    return word_log_ratio(ratios, evidence, kinds), ratios


class CaptionWords(NamedTuple):
    """A word model, for captions of pairs that it was not trained on."""

    model: WordModel
    vocabulary: Words  # of the captions that it was trained on
    ratios: Sequence[np.ndarray]  # of `fit_words`

    def mean_ratios(
        self, texts: Sequence[list[str]], siblings: Sequence[list[str]], pictures: np.ndarray
    ) -> np.ndarray:
        """Return the mean log-likelihood ratio that a word is wrong, of each caption, [n_captions];
        NaN without a word that the model predicts.

        Args: captions of each pair; other captions of each pair, which are read; features of
        pictures, [n_pairs, width].
        """
        captions = [[*own, *others] for own, others in zip(texts, siblings, strict=True)]
        counts = np.array([len(own) for own in texts])
        words = number_words(captions, like=self.vocabulary)
        is_judged = words.captions.number < counts[words.captions.owner]
        compared = np.where(is_judged[words.in_captions.owner], 0, -1)
        predicted = Predictions.empty(len(words.ids))
        predict(self.model, words, pictures, np.arange(len(texts)), compared, predicted)
        evidence, kinds = predicted_evidence(words, predicted, np.zeros_like(compared))
        of_words = word_log_ratio(self.ratios, evidence[:, 0], kinds)
        return mean_ratio(of_words, words.in_captions)[is_judged]


def save_model(model: WordModel, words: Words, path: Path) -> None:
    """Write a word model with what it needs to predict the words of other captions."""
    vocabulary = {name: getattr(words, name) for name in _VOCABULARY}
    frequency = torch.from_numpy(words.frequency)
    save_atomically((model.state_dict(), model.precision, frequency, vocabulary), path)


def load_model(path: Path) -> tuple[WordModel, Words]:
    """Read a word model, and the words that it was trained on, without captions."""
    state, precision, frequency, vocabulary = torch.load(path, weights_only=True)
    none = Ragged.of([])
    ids = np.empty(0, np.int64)
    words = Words(
        ids=ids, in_captions=none, captions=none, frequency=frequency.numpy(), **vocabulary
    )
    pictures = state["centre"][None].numpy()
    model = WordModel(words.vocabulary_size, pictures, state.get("vectors"), precision)
    model.load_state_dict(state)
    return model.eval(), words
