"""The word model: predicts each word of a caption from the picture, the caption's other words and the other captions.

Two models share the work: each is trained on half of the pairs and predicts the words of the others.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.nn import functional

from clipmem_core.io import replacing
from clipmem_core.scores.words import Words

WINDOW = 3  # words to each side that are read in order; of the others only the mean
EMBEDDING, VECTOR, HIDDEN, PICTURE, OUTPUT, HEADS = 64, 128, 320, 192, 128, 4
LONGEST = 128  # words that are read together: those of one pair, or a part of them
BATCH = 32  # pairs
TRAINED = 800_000  # words that a model is trained on, repeats included: more epochs for a smaller set,
FEWEST_EPOCHS, MOST_EPOCHS = 0.25, 10  # within these
PREDICTED = 3_000  # words that are predicted at a time, in at least 2 * BATCH blocks
RATE, DECAY, WARMUP = 2e-3, 0.02, 0.1
DROPPED_WORDS, DROPPED_PICTURE = 0.2, 0.4
WITHOUT_CAPTIONS = 0.5  # share of pairs whose other captions are hidden in a step of training
RARE = 5e-3  # words more frequent than this are trained less often, as in word2vec
SAMPLED = 1_000  # words beside those of a batch that a step of training compares with, drawn from the vocabulary
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

    alone: np.ndarray  # log-probabilities given picture and caption, float32 [n_words, 2]; NaN if not predicted
    together: np.ndarray  # given the pair's other captions too
    better: np.ndarray  # numbers of the likeliest words, uint16 [n_words, BETTER]
    better_probability: np.ndarray  # float16 [n_words, BETTER]

    @classmethod
    def empty(cls, n: int) -> "Predictions":
        """Return predictions of n words, none of which is predicted yet. The two log-probabilities of a word are its
        own and that of the word it is compared with (`changed_words`)."""
        missing, shape = np.full((n, 2), np.nan, np.float32), (n, BETTER)
        return cls(missing, missing.copy(), np.zeros(shape, np.uint16), np.zeros(shape, np.float16))


class WordModel(nn.Module):
    """Scores of every predicted word at a place of a caption."""

    def __init__(self, vocabulary_size: int, pictures: np.ndarray, vectors: Tensor | None) -> None:
        """Create a model for features of pictures, [n_pairs, width], and vectors of all words that are read, if any."""
        super().__init__()
        self.vocabulary_size = vocabulary_size
        sample = np.asarray(pictures[:: max(1, len(pictures) // 10_000)], np.float32)
        self.vectors: Tensor | None
        self.centre: Tensor
        self.spread: Tensor
        self.register_buffer("vectors", vectors, persistent=False)
        self.register_buffer("centre", torch.from_numpy(sample.mean(axis=0)))
        self.register_buffer("spread", torch.from_numpy(sample.std(axis=0) + 1e-3))
        self.free = nn.Embedding(vocabulary_size, EMBEDDING, padding_idx=0)
        self.out = nn.Linear(OUTPUT, vocabulary_size)
        nn.init.normal_(self.free.weight, std=0.1 if vectors is not None else 0.3)
        nn.init.normal_(self.out.weight, std=0.03)
        self.read = nn.Linear(VECTOR, EMBEDDING, bias=False)
        self.write = nn.Linear(VECTOR, OUTPUT, bias=False)
        nn.init.normal_(self.read.weight, std=0.3 / VECTOR**0.5)
        nn.init.normal_(self.write.weight, std=0.1 / VECTOR**0.5)
        self.picture = nn.Linear(pictures.shape[1], PICTURE)
        self.first = nn.Linear((2 * WINDOW + 1) * EMBEDDING + PICTURE, HIDDEN)
        self.query, self.key = nn.Linear(HIDDEN, OUTPUT), nn.Linear(3 * EMBEDDING, OUTPUT)
        self.value, self.attended = nn.Linear(EMBEDDING, OUTPUT), nn.Linear(OUTPUT, HIDDEN)
        self.copied = nn.Linear(HIDDEN, 2)
        self.second, self.last = nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, OUTPUT)
        self.drop, self.drop_picture = nn.Dropout(DROPPED_WORDS), nn.Dropout(DROPPED_PICTURE)

    def embed(self, words: Tensor) -> Tensor:
        """Return the embeddings of words, [..., EMBEDDING]; 0 for no word."""
        used, places = words.unique(return_inverse=True)
        table = functional.embedding(used.clamp(max=self.vocabulary_size - 1), self.free.weight, padding_idx=0)
        table = table * (used < self.vocabulary_size)[:, None]
        if self.vectors is not None:
            table = table + self.read(self.vectors[used])
        return table[places] * (words > 0)[..., None]

    def forward(self, block: Block, picked: Tensor, others: Tensor, candidates: Tensor, added: Tensor) -> Tensor:
        """Return the logits of the candidates at the picked words, [n_picked, n_candidates].

        Args:
            block: words with their captions and pictures.
            picked: true for the words to predict, [n_blocks, n].
            others: whether the pair's other captions are read, [n_blocks].
            candidates: the words that compete, in order, with 0 and all words of the block among them.
            added: to the logit of each candidate, [n_candidates].
        """
        words, caption = block.words, block.caption
        n_blocks, n = words.shape
        embedded = self.embed(words)
        around = []
        for offset in (*range(-WINDOW, 0), *range(1, WINDOW + 1)):
            shifted, same = embedded.roll(-offset, 1), caption.roll(-offset, 1) == caption
            neighbour = torch.arange(n) + offset
            around.append(shifted * (same & (neighbour >= 0) & (neighbour < n))[..., None])
        # Sums over each caption, whose group is its number within the batch.
        most = int(caption.max()) + 1
        group = (caption + most * torch.arange(n_blocks)[:, None]).flatten()
        sums = embedded.new_zeros(n_blocks * most, EMBEDDING).index_add(0, group, embedded.flatten(0, 1))
        counts = embedded.new_zeros(n_blocks * most).index_add(0, group, torch.ones(len(group)))
        group, at = group.view(n_blocks, n)[picked], torch.nonzero(picked)[:, 0]
        rest = (sums[group] - embedded[picked]) / (counts[group] - 1).clamp(min=1)[:, None]
        picture = self.drop_picture(functional.relu(self.picture((block.picture - self.centre) / self.spread)))
        context = [self.drop(part[picked]) for part in around]
        hidden = functional.relu(self.first(torch.cat([*context, self.drop(rest), picture[at]], 1)))

        seen = (words[:, None] > 0) & (caption[:, None] != caption[:, :, None]) & others[:, None, None]
        seen = functional.pad(seen, (1, 0), value=True)  # and nothing, where there is no other caption
        near = torch.cat([around[WINDOW - 1], embedded, around[WINDOW]], -1)
        key, value = (functional.pad(part, (0, 0, 1, 0)) for part in (self.key(near), self.value(embedded)))
        query = hidden.new_zeros(n_blocks, n, OUTPUT)
        query[picked] = self.query(hidden)
        query, key, value = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (query, key, value))
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen[:, None])
        attended = attended.transpose(1, 2).flatten(2)[picked]
        hidden = hidden + self.attended(self.drop(attended))
        hidden = functional.relu(hidden + self.second(functional.relu(hidden)))
        output = self.last(self.drop(hidden))
        weight = self.out.weight.index_select(0, candidates)
        if self.vectors is not None:
            weight = weight + self.write(self.vectors[candidates])
        logits = functional.linear(output, weight, self.out.bias[candidates] + added)

        # Words that other captions of the pair have too: whether any has it, and the share of captions that has it.
        other = seen[:, :, 1:].float()
        equal = ((words[:, :, None] == words[:, None]) & (words > 0)[:, None]).float()
        in_caption = (equal * (caption[:, :, None] == caption[:, None])).sum(-1)
        n_others = (counts.view(n_blocks, most)[:, 1:] > 0).sum(1) - 1
        any_other = (other / (other @ equal).clamp(min=1))[picked]
        share = (other / (in_caption * n_others.clamp(min=1)[:, None]).clamp(min=1)[:, None])[picked]
        gate = self.copied(hidden)
        read = torch.searchsorted(candidates, torch.where(words < self.vocabulary_size, words, 0))[at]
        return logits.scatter_add_(1, read, gate[:, :1] * any_other + gate[:, 1:] * share)


def word_vectors(words: Words, embed: Callable[[Sequence[str]], np.ndarray] | None) -> Tensor | None:
    """Return vectors of all words that are read, from a text tower, reduced to VECTOR dimensions."""
    if embed is None or len(words.spelled) <= VECTOR:
        return None
    vectors = np.asarray(embed([word[:50] for word in words.spelled]), np.float32)
    reduced = PCA(min(VECTOR, *vectors.shape), random_state=0).fit_transform(vectors)
    table = np.zeros((len(vectors) + 2, VECTOR), np.float32)
    table[2:, : reduced.shape[1]] = reduced / max(float(reduced.std()), 1e-6)
    return torch.from_numpy(table)


def blocks(words: Words, pictures: np.ndarray, pairs: np.ndarray, *, size: int) -> Iterator[Block]:
    """Yield the words of some pairs, in their order, `size` blocks at a time; a pair with many words fills several."""
    start = words.caption_start[words.pair_start]
    lengths = start[pairs + 1] - start[pairs]
    n_parts = -(-lengths // LONGEST)
    owner = np.repeat(pairs, n_parts)
    part = np.arange(len(owner)) - np.repeat(np.cumsum(n_parts) - n_parts, n_parts)
    first = start[owner] + part * LONGEST
    end = np.minimum(first + LONGEST, start[owner + 1])
    for at in range(0, len(owner), size):
        rows = slice(at, at + size)
        place = first[rows, None] + np.arange((end[rows] - first[rows]).max())
        place[place >= end[rows, None]] = -1
        ids = np.where(place < 0, 0, words.ids[place])
        number = np.searchsorted(words.caption_start, place, side="right")
        caption = np.where(place < 0, 0, number - number[:, :1] + 1)
        picture = torch.from_numpy(np.asarray(pictures[owner[rows]], np.float32))
        yield Block(torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(caption), picture, place)


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
    state: Path | None = None,
    progress: Progress = lambda share: None,
) -> WordModel:
    """Train a model on some pairs. A killed training resumes from the file `state`.

    The softmax of a step is over the words of the batch and a sample of the others, each with the weight of all that
    it stands for.
    """
    torch.manual_seed(seed)
    share = trained_share(words)
    model = WordModel(words.vocabulary_size, pictures, vectors)
    bias = np.log(np.maximum(words.frequency * share, 1e-9))
    model.out.bias.data = torch.from_numpy(np.where(np.arange(words.vocabulary_size) < 2, -1e4, bias)).float()
    start = words.caption_start[words.pair_start]
    n_words = max(1, int((start[pairs + 1] - start[pairs]).sum()))
    per_epoch = -(-len(pairs) // BATCH)
    epochs = np.clip(TRAINED / n_words, FEWEST_EPOCHS, MOST_EPOCHS)
    steps = max(1, round(per_epoch * epochs))
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps + 1, pct_start=WARMUP)
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "schedule": schedule}
    first = 0
    if state is not None and state.is_file():
        saved = torch.load(state, weights_only=True)
        first = saved.pop("step")
        for name, values in saved.items():
            parts[name].load_state_dict(values)
    for step in range(first, steps):
        torch.manual_seed(seed + step)  # of dropout: a resumed training draws the same
        rng, epoch = np.random.default_rng([seed, step]), step // per_epoch
        if step == first or step % per_epoch == 0:
            order = np.random.default_rng([seed, epoch, 1]).permutation(pairs)
        at = step % per_epoch * BATCH
        for block in blocks(words, pictures, order[at : at + BATCH], size=2 * BATCH):
            ids = np.minimum(block.words.numpy(), words.vocabulary_size)
            picked = torch.from_numpy(rng.random(ids.shape) < np.append(share, 0.0)[ids])
            others = torch.from_numpy(rng.random(len(ids)) >= WITHOUT_CAPTIONS)
            if picked.any():
                read = np.unique(np.append(ids[ids < words.vocabulary_size], 0))
                rest = np.setdiff1d(np.arange(2, words.vocabulary_size), read, assume_unique=True)
                sampled = rng.choice(rest, min(SAMPLED, len(rest)), replace=False)
                drawn = np.sort(np.concatenate([read, sampled]))
                stands_for = np.where(np.isin(drawn, sampled), len(rest) / max(len(sampled), 1), 1.0)
                candidates, added = torch.from_numpy(drawn), torch.from_numpy(np.log(stands_for)).float()
                target = torch.searchsorted(candidates, block.words[picked])
                loss = functional.cross_entropy(model(block, picked, others, candidates, added), target)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
        schedule.step()
        progress((step + 1) / steps)
        if state is not None and ((step + 1) % SAVED == 0 or step + 1 == steps):
            with replacing(state) as temporary:
                torch.save({name: part.state_dict() for name, part in parts.items()} | {"step": step + 1}, temporary)
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
    """Write the predictions of all words of some pairs; `changed` has a word to compare each with, [n_words]."""
    untrained = torch.from_numpy(-np.log(np.maximum(trained_share(words), 1e-9))).float()
    untrained[:2] = -torch.inf
    candidates, done = torch.arange(words.vocabulary_size), 0
    n_words = max(1, int(np.diff(words.caption_start[words.pair_start])[pairs].sum()))
    size = max(2 * BATCH, PREDICTED * len(pairs) // n_words)
    for block in blocks(words, pictures, pairs, size=size):
        picked = (block.words > 1) & (block.words < words.vocabulary_size)
        place = block.place[picked.numpy()]
        if len(place):
            ids = torch.stack([block.words[picked], torch.from_numpy(changed[place].astype(np.int64))], 1)
            for values, others in ((into.alone, False), (into.together, True)):
                if not others or block.caption.max() > 1:  # else there are no other captions
                    read = torch.full((len(block.words),), others)
                    logits = model(block, picked, read, candidates, untrained)
                    all_words = logits.logsumexp(-1, keepdim=True)
                values[place] = (logits.gather(1, ids) - all_words).numpy()
            top = logits.topk(min(BETTER, words.vocabulary_size - 2), dim=-1)
            into.better[place, : top.indices.shape[1]] = top.indices.numpy()
            into.better_probability[place, : top.indices.shape[1]] = (top.values - all_words).exp().numpy()
        done += int((block.place >= 0).sum())
        progress(done / n_words)
