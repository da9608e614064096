"""The word model: predicts each word of a caption from the picture, the caption's other words and
the other captions.

Two models share the work: each is trained on half of the pairs and predicts the words of the
others.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.nn import functional

from clipmem_core.scores.words import Words
from clipmem_core.training.model import autocast
from clipmem_core.training.trainer import AdamW, save_atomically

WINDOW = 3  # words to each side that are read in order; of the others only the mean
EMBEDDING = 64
VECTOR = 128
_HIDDEN = 320
_PICTURE = 192
_OUTPUT = 128
HEADS = 4
_LONGEST = 128  # words that are read together: those of one pair, or a part of them
BATCH = 32  # pairs
TRAINED = (
    1_600_000  # words that a model is trained on, repeats included: more epochs for a smaller set,
)
# within these
FEWEST_EPOCHS = 0.25
MOST_EPOCHS = 10
_PREDICTED = 3_000  # words that are predicted at a time, in at least 2 * BATCH blocks
RATE = 2e-3
DECAY = 0.02
WARMUP = 0.1
DROPPED_WORDS = 0.2
DROPPED_PICTURE = 0.4
WITHOUT_CAPTIONS = 0.5  # share of training steps in which the pairs' other captions are hidden
RARE = 5e-3  # words more frequent than this are trained less often, as in word2vec
# words beside those of a batch that a step of training compares with, drawn from the vocabulary
SAMPLED = 500
MULTIPLE = 32  # a step predicts a multiple of 32 words: in bf16, products of new shapes are slow
BETTER = 5  # likelier words of each word
SAVED = 300  # steps between two states on disk

Progress = Callable[[float], None]  # called with the share that is done


class Block(NamedTuple):
    """Words that are read together, padded with 0, [n_blocks, n]."""

    words: Tensor
    caption: Tensor  # the number of each word's caption, from 1; 0 for padding
    picture: Tensor  # features, [n_blocks, width]
    place: np.ndarray  # of each word in `Words.ids`; −1 for padding


class Predictions(NamedTuple):
    """The predictions of both models for each word of a data set."""

    alone: (
        np.ndarray
    )  # log-probabilities given picture and caption, float32 [n_words, 2]; NaN if not predicted
    together: np.ndarray  # given the pair's other captions too
    better: np.ndarray  # numbers of the likeliest words, uint16 [n_words, BETTER]
    better_probability: np.ndarray  # float16 [n_words, BETTER]

    @classmethod
    def empty(cls, n: int) -> "Predictions":
        """Return predictions of n words, none of which is predicted yet. The two log-probabilities
        of a word are its own and that of the word it is compared with (`changed_words`)."""
        missing = np.full((n, 2), np.nan, np.float32)
        shape = (n, BETTER)
        return cls(missing, missing.copy(), np.zeros(shape, np.uint16), np.zeros(shape, np.float16))


class WordModel(nn.Module):
    """Scores of every predicted word at a place of a caption."""

    def __init__(
        self, vocabulary_size: int, pictures: np.ndarray, vectors: Tensor | None, precision: str
    ) -> None:
        """Create a model for features of pictures, [n_pairs, width], and vectors of all words that
        are read, if any."""
        super().__init__()
        self.vocabulary_size = vocabulary_size
        self.precision = precision
        sample = np.asarray(pictures[:: max(1, len(pictures) // 10_000)], np.float32)
        self.vectors: Tensor | None
        self.centre: Tensor
        self.spread: Tensor
        self.register_buffer("vectors", vectors, persistent=False)
        self.register_buffer("centre", torch.from_numpy(sample.mean(axis=0)))
        self.register_buffer("spread", torch.from_numpy(sample.std(axis=0) + 1e-3))
        self.free = nn.Embedding(vocabulary_size, EMBEDDING, padding_idx=0)
        self.out = nn.Linear(_OUTPUT, vocabulary_size)
        nn.init.normal_(self.free.weight, std=0.1 if vectors is not None else 0.3)
        nn.init.normal_(self.out.weight, std=0.03)
        self.read = nn.Linear(VECTOR, EMBEDDING, bias=False)
        self.write = nn.Linear(VECTOR, _OUTPUT, bias=False)
        nn.init.normal_(self.read.weight, std=0.3 / VECTOR**0.5)
        nn.init.normal_(self.write.weight, std=0.1 / VECTOR**0.5)
        self.picture = nn.Linear(pictures.shape[1], _PICTURE)
        self.first = nn.Linear((2 * WINDOW + 1) * EMBEDDING + _PICTURE, _HIDDEN)
        self.query = nn.Linear(_HIDDEN, _OUTPUT)
        self.key = nn.Linear(3 * EMBEDDING, _OUTPUT)
        self.value = nn.Linear(EMBEDDING, _OUTPUT)
        self.attended = nn.Linear(_OUTPUT, _HIDDEN)
        self.copied = nn.Linear(_HIDDEN, 2)
        self.second = nn.Linear(_HIDDEN, _HIDDEN)
        self.last = nn.Linear(_HIDDEN, _OUTPUT)

    def embed(self, words: Tensor) -> Tensor:
        """Return the embeddings of words, [..., EMBEDDING]; 0 for no word."""
        used, places = words.unique(return_inverse=True)
        table = functional.embedding(
            used.clamp(max=self.vocabulary_size - 1), self.free.weight, padding_idx=0
        )
        table = table * (used < self.vocabulary_size)[:, None]
        if self.vectors is not None:
            table = table + self.read(self.vectors[used])
        return table[places] * (words > 0)[..., None]

    def forward(
        self,
        block: Block,
        picked: Tensor,
        others: Sequence[bool],
        candidates: Tensor,
        added: Tensor,
    ) -> list[Tensor]:
        """Return the logits of the candidates at the picked words, [n_picked, n_candidates], for
        each of `others`.

        Args:
            block: words with their captions and pictures.
            picked: the words to predict, as places in the flattened block, [n_picked].
            others: whether the pairs' other captions are read.
            candidates: the words that compete, in order, with 0 and all words of the block among
                them.
            added: to the logit of each candidate, [n_candidates].
        """
        words = block.words
        caption = block.caption
        n_blocks, n = words.shape
        table = functional.pad(
            self.embed(words).flatten(0, 1), (0, 0, 0, 1)
        )  # the last row is no word
        # The places of the words around each word in its caption, [n_blocks * n, 2 * WINDOW].
        place = torch.arange(n)[:, None] + torch.tensor([*range(-WINDOW, 0), *range(1, WINDOW + 1)])
        inside = (
            (place >= 0) & (place < n) & (caption[:, place.clamp(0, n - 1)] == caption[..., None])
        )
        around = torch.where(
            inside, n * torch.arange(n_blocks)[:, None, None] + place, n_blocks * n
        ).flatten(0, 1)
        # Sums over each caption, whose group is its number within the batch.
        most = int(caption.max()) + 1
        group = (caption + most * torch.arange(n_blocks)[:, None]).flatten()
        sums = table.new_zeros(n_blocks * most, EMBEDDING).index_add(0, group, table[:-1])
        counts = table.new_zeros(n_blocks * most).index_add(0, group, torch.ones(len(group)))
        rest = (sums[group[picked]] - table[picked]) / (counts[group[picked]] - 1).clamp(min=1)[
            :, None
        ]
        context = self.dropout(
            torch.cat([table[around[picked]].flatten(1), rest], 1), DROPPED_WORDS
        )
        picture = functional.relu(self.picture((block.picture - self.centre) / self.spread))
        picture = self.dropout(picture, DROPPED_PICTURE)[picked // n]
        hidden = functional.relu(self.first(torch.cat([context, picture], 1)))
        weight = self.out.weight.index_select(0, candidates)
        if self.vectors is not None:
            weight = weight + self.write(self.vectors[candidates])
        added = added + self.out.bias[candidates]
        logits = []
        for others_read in others:
            attended = (
                self._attend(hidden, table, around, block, picked)
                if others_read
                else torch.zeros(1, _OUTPUT)
            )
            answer = hidden + self.attended(self.dropout(attended, DROPPED_WORDS))
            answer = functional.relu(answer + self.second(functional.relu(answer)))
            output = self.last(self.dropout(answer, DROPPED_WORDS))
            logits.append(functional.linear(output, weight).float() + added)
            if others_read:
                n_captions = (counts.view(n_blocks, most)[:, 1:] > 0).sum(1)
                read = torch.searchsorted(
                    candidates, torch.where(words < self.vocabulary_size, words, 0)
                )[picked // n]
                logits[-1].scatter_add_(1, read, self._copied(answer, block, picked, n_captions))
        return logits

    def _attend(
        self, hidden: Tensor, table: Tensor, around: Tensor, block: Block, picked: Tensor
    ) -> Tensor:
        """Attend to the words of the pair's other captions, [n_picked, OUTPUT]."""
        beside = table[around[:, WINDOW - 1]], table[:-1], table[around[:, WINDOW]]
        key = self.key(torch.cat(beside, -1))
        value = self.value(table[:-1])
        query = torch.zeros_like(key).index_copy(0, picked, self.query(hidden))
        query, key, value = (
            part.view(*block.words.shape, HEADS, -1).transpose(1, 2) for part in (query, key, value)
        )
        scores = (query @ key.transpose(2, 3)).float() * key.shape[-1] ** -0.5
        scores = scores.masked_fill(~_in_others(block)[:, None], -torch.inf)
        # The first place stands for no word, where there is no other caption.
        attended = functional.pad(scores, (1, 0)).softmax(-1)[..., 1:] @ value
        return attended.transpose(1, 2).flatten(0, 1).flatten(1)[picked]

    def _copied(self, answer: Tensor, block: Block, picked: Tensor, n_captions: Tensor) -> Tensor:
        """Return what the logit of each word of the pair gains if other captions have it too,
        [n_picked, n].

        Two parts: for a word that any other caption has, and for the share of captions that has it.
        """
        words = block.words
        caption = block.caption
        others = _in_others(block).float()
        equal = ((words[:, :, None] == words[:, None]) & (words > 0)[:, None]).float()
        in_caption = (equal * (caption[:, :, None] == caption[:, None])).sum(-1)
        any_other = others / (others @ equal).clamp(min=1)
        share = others / (in_caption * (n_captions - 1).clamp(min=1)[:, None]).clamp(min=1)[:, None]
        gate = self.copied(answer).float()
        return (
            gate[:, :1] * any_other.flatten(0, 1)[picked]
            + gate[:, 1:] * share.flatten(0, 1)[picked]
        )

    def dropout(self, values: Tensor, share: float) -> Tensor:
        """Set a share of values to 0 in training, rounded to 1/256: torch's own takes several times
        as long."""
        if not self.training:
            return values
        drawn = torch.empty(-(-values.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        dropped = round(256 * share)
        kept = drawn.view(torch.uint8)[: values.numel()].view(values.shape) >= dropped
        return values * kept * (256 / (256 - dropped))


def _in_others(block: Block) -> Tensor:
    """Return which words belong to other captions than each word, [n_blocks, n, n]."""
    return (block.words[:, None] > 0) & (block.caption[:, None] != block.caption[:, :, None])


def word_vectors(features: np.ndarray) -> Tensor:
    """Return vectors of all words that are read: a text tower's features of them, reduced to VECTOR
    dimensions."""
    vectors = np.asarray(features, np.float32)
    reduced = PCA(min(VECTOR, *vectors.shape), random_state=0).fit_transform(vectors)
    table = np.zeros((len(vectors) + 2, VECTOR), np.float32)
    table[2:, : reduced.shape[1]] = reduced / max(float(reduced.std()), 1e-6)
    return torch.from_numpy(table)


def blocks(words: Words, pictures: np.ndarray, pairs: np.ndarray, *, size: int) -> Iterator[Block]:
    """Yield the words of some pairs, in their order, `size` blocks at a time; a pair with many
    words fills several."""
    start = words.caption_start[words.pair_start]
    lengths = start[pairs + 1] - start[pairs]
    n_parts = -(-lengths // _LONGEST)
    owner = np.repeat(pairs, n_parts)
    part = np.arange(len(owner)) - np.repeat(np.cumsum(n_parts) - n_parts, n_parts)
    first = start[owner] + part * _LONGEST
    end = np.minimum(first + _LONGEST, start[owner + 1])
    for at in range(0, len(owner), size):
        rows = slice(at, at + size)
        longest = int((end[rows] - first[rows]).max())
        place = first[rows, None] + np.arange(-(-longest // 8) * 8)
        place[place >= end[rows, None]] = -1
        ids = np.where(place < 0, 0, words.ids[place])
        number = np.searchsorted(words.caption_start, place, side="right")
        caption = np.where(place < 0, 0, number - number[:, :1] + 1)
        picture = torch.from_numpy(np.asarray(pictures[owner[rows]], np.float32))
        yield Block(
            torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(caption), picture, place
        )


def trained_share(words: Words) -> np.ndarray:
    """Return how often each predicted word is trained on where it occurs, [vocabulary_size]."""
    with np.errstate(divide="ignore"):
        share = np.minimum(1.0, np.sqrt(RARE / words.frequency))
    share[:2] = 0.0
    return share


def fit(
    words: Words,
    pictures: np.ndarray,
    pairs: np.ndarray,
    vectors: Tensor | None,
    *,
    seed: int,
    precision: str = "fp32",
    state: Path | None = None,
    progress: Progress = lambda share: None,
) -> WordModel:
    """Train a model on some pairs. A killed training resumes from the file `state`.

    The softmax of a step is over the words of the batch and a sample of the others, each with the
    weight of all that it stands for.
    """
    torch.manual_seed(seed)
    share = trained_share(words)
    model = WordModel(words.vocabulary_size, pictures, vectors, precision)
    bias = np.log(np.maximum(words.frequency * share, 1e-9))
    model.out.bias.data = torch.from_numpy(
        np.where(np.arange(words.vocabulary_size) < 2, -1e4, bias)
    ).float()
    start = words.caption_start[words.pair_start]
    n_words = max(1, int((start[pairs + 1] - start[pairs]).sum()))
    per_epoch = -(-len(pairs) // BATCH)
    epochs = np.clip(TRAINED / n_words, FEWEST_EPOCHS, MOST_EPOCHS)
    steps = max(1, round(per_epoch * epochs))
    optimizer = AdamW(model.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=steps + 1, pct_start=WARMUP
    )
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "schedule": schedule}
    first = 0
    if state is not None and state.is_file():
        saved = torch.load(state, weights_only=True)
        first = saved.pop("step")
        for name, values in saved.items():
            parts[name].load_state_dict(values)
    for step in range(first, steps):
        torch.manual_seed(seed + step)  # of dropout: a resumed training draws the same
        rng = np.random.default_rng([seed, step])
        epoch = step // per_epoch
        if step == first or step % per_epoch == 0:
            order = np.random.default_rng([seed, epoch, 1]).permutation(pairs)
        at = step % per_epoch * BATCH
        for block in blocks(words, pictures, order[at : at + BATCH], size=2 * BATCH):
            ids = np.minimum(block.words.numpy(), words.vocabulary_size)
            picked = torch.from_numpy(
                np.flatnonzero(rng.random(ids.shape) < np.append(share, 0.0)[ids])
            )
            picked = picked[: len(picked) // MULTIPLE * MULTIPLE or None]
            others = rng.random() >= WITHOUT_CAPTIONS
            if len(picked):
                read = np.unique(np.append(ids[ids < words.vocabulary_size], 0))
                rest = np.setdiff1d(np.arange(2, words.vocabulary_size), read, assume_unique=True)
                sampled = rng.choice(
                    rest, min(SAMPLED + -len(read) % MULTIPLE, len(rest)), replace=False
                )
                drawn = np.sort(np.concatenate([read, sampled]))
                stands_for = np.where(
                    np.isin(drawn, sampled), len(rest) / max(len(sampled), 1), 1.0
                )
                candidates = torch.from_numpy(drawn)
                added = torch.from_numpy(np.log(stands_for)).float()
                target = torch.searchsorted(candidates, block.words.flatten()[picked])
                with autocast(precision, "cpu"):
                    logits = model(block, picked, [others], candidates, added)[0]
                loss = functional.cross_entropy(logits, target)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
        schedule.step()
        progress((step + 1) / steps)
        if state is not None and ((step + 1) % SAVED == 0 or step + 1 == steps):
            save_atomically(
                {name: part.state_dict() for name, part in parts.items()} | {"step": step + 1},
                state,
            )
    return model.eval()


@torch.inference_mode()
def predict(
    model: WordModel,
    words: Words,
    pictures: np.ndarray,
    pairs: np.ndarray,
    changed: np.ndarray,
    into: Predictions,
    progress: Progress = lambda share: None,
) -> None:
    """Write the predictions of the words of some pairs.

    `changed` has a word to compare each with, [n_words]; −1 for a word that is read, but not
    predicted.
    """
    untrained = torch.from_numpy(-np.log(np.maximum(trained_share(words), 1e-9))).float()
    untrained[:2] = -torch.inf
    candidates = torch.arange(words.vocabulary_size)
    done = 0
    n_words = max(1, int(np.diff(words.caption_start[words.pair_start])[pairs].sum()))
    size = max(2 * BATCH, _PREDICTED * len(pairs) // n_words)
    for block in blocks(words, pictures, pairs, size=size):
        predicted = (block.words > 1) & (block.words < words.vocabulary_size)
        predicted &= torch.from_numpy(changed[block.place] >= 0)
        place = block.place[predicted.numpy()]
        picked = predicted.flatten().nonzero()[:, 0]
        if len(place):
            ids = torch.stack(
                [block.words[predicted], torch.from_numpy(changed[place].astype(np.int64))], 1
            )
            others = [False, True][
                : min(2, int(block.caption.max()))
            ]  # one caption: there are no others
            with autocast(model.precision, "cpu"):
                logits = model(block, picked, others, candidates, untrained)
            for values, by_word in ((into.alone, logits[0]), (into.together, logits[-1])):
                all_words = by_word.logsumexp(-1, keepdim=True)
                values[place] = (by_word.gather(1, ids) - all_words).numpy()
            top = by_word.topk(min(BETTER, words.vocabulary_size - 2), dim=-1)
            into.better[place, : top.indices.shape[1]] = top.indices.numpy()
            into.better_probability[place, : top.indices.shape[1]] = (
                (top.values - all_words).exp().numpy()
            )
        done += int((block.place >= 0).sum())
        progress(done / n_words)
