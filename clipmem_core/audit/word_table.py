"""The words of captions: two word models, each trained on half of the pairs, and the table of their
predictions."""

import functools
import json
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from clipmem_core import columns as c
from clipmem_core.audit import store
from clipmem_core.audit.executor import Executor, Task, in_this_process, local_processes, program_of
from clipmem_core.audit.member import Shared, open_shared
from clipmem_core.audit.settings import opens_towers, towers_of
from clipmem_core.audit.store import Audit
from clipmem_core.features.embed import text_features
from clipmem_core.features.towers import Tower
from clipmem_core.io import DELETE, reading, replacing
from clipmem_core.scores.evidence import fit_words, surprise, word_evidence
from clipmem_core.scores.membership import draw_word_halves
from clipmem_core.scores.words import CONSISTENT, WORD, Words, changed_words, kind_of, split_words
from clipmem_core.training.trainer import save_atomically
from clipmem_core.training.word_model import (
    VECTOR,
    Predictions,
    WordModel,
    fit,
    predict,
    word_vectors,
)

HALVES = ("0", "1")  # names of the models; each has a folder until words.parquet is written
_STATE = "state.pt"
_PREDICTED = "predictions.npz"
_SHARE = "share.json"
RATIOS = "ratios.json"  # of `fit_words`
_MOST_FITTED = 1_000_000  # words that log-likelihood ratios are fitted on, evenly spaced
NOTABLE = 0.0  # better words are stored of words that are more surprising than this
_SMALL = 2_000  # captions: their models train in less time than a process takes to start
REPORTED = 2.0  # seconds between two reports of progress
_SEED = 0  # of the words that words are compared with
_PAIRS = 4_096  # pairs whose words are Python objects at a time


def predict_half(
    words: Words,
    pictures: np.ndarray,
    trained: np.ndarray,
    predicted: np.ndarray,
    *,
    text_tower: Tower | None,
    seed: int,
    precision: str,
    into: Predictions,
    state: Path | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> WordModel | None:
    """Train a word model on the rows `trained`, write its predictions of the words of the rows
    `predicted`, return it.

    `text_tower` embeds each word as an input, if there is one; a killed training resumes from the
    file `state`.
    """
    if words.vocabulary_size < 4 or not len(trained):
        return None
    vectors = None
    if text_tower and len(words.spelled) > VECTOR:
        vectors = word_vectors(text_features([_embedded(words)], text_tower)[0])
    options: Any = {"seed": seed, "precision": precision, "state": state}
    model = fit(
        words, pictures, trained, vectors, progress=lambda share: progress(0.8 * share), **options
    )
    changed = changed_words(words, seed=_SEED)
    predict(
        model, words, pictures, predicted, changed, into, lambda share: progress(0.8 + 0.2 * share)
    )
    return model


def save_model(model: WordModel, words: Words, path: Path) -> None:
    """Write a word model with what it needs to predict the words of other captions."""
    vectors = None if model.embedding.vectors is None else model.embedding.vectors.half()
    known = {name: getattr(words, name) for name in ("spelled", "vocabulary_size")}
    known |= {
        "frequency": torch.from_numpy(words.frequency),
        "precision": model.precision,
        "vectors": vectors,
    }
    save_atomically({"state": model.state_dict()} | known, path)


def load_model(path: Path) -> tuple[WordModel, Words]:
    """Read a word model, and the words that it was trained on, without captions."""
    stored = torch.load(path, weights_only=True)
    state = stored["state"]
    vectors = stored["vectors"]
    size = stored["vocabulary_size"]
    vectors = None if vectors is None else vectors.float()
    model = WordModel(
        size, np.zeros((1, len(state["encoder.centre"]))), vectors, stored["precision"]
    )
    model.load_state_dict(state)
    none = np.zeros(1, np.int64)
    return model.eval(), Words(
        stored["spelled"], size, none[:0], none, none, stored["frequency"].numpy()
    )


def _embedded(words: Words) -> list[str]:
    return [word[:50] for word in words.spelled]


def rows_of_models(half: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the rows that each model is trained on and those it predicts; the first also predicts
    external pairs."""
    first = np.flatnonzero(half == 0)
    second = np.flatnonzero(half == 1)
    return [(first, np.flatnonzero(half != 0)), (second, first)]


def words_of(audit: Audit) -> Words:
    """Return the words of the captions of an audit."""
    batches = store.pair_blocks(audit, [c.CAPTIONS])
    return split_words(captions for batch in batches for captions in batch[c.CAPTIONS].to_pylist())


def predicted_evidence(
    words: Words, predicted: Predictions, changed: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the `word_evidence` of each word and of the word it is compared with, [n_words, 2, 4],
    and its kind."""
    ids = np.where(words.ids < words.vocabulary_size, words.ids, 0)
    frequency = words.frequency[np.column_stack([ids, changed])]
    evidence = word_evidence(
        predicted.alone, predicted.together, np.where(frequency > 0, frequency, np.nan)
    )
    return evidence, np.array([-1, -1, *map(kind_of, words.spelled[: words.vocabulary_size - 2])])[
        ids
    ]


def surprises(words: Words, predicted: Predictions) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return how surprising each word is, and the word it is compared with, [n_words, 2]:
    log-likelihood ratios that it is wrong, NaN if not predicted; and the result of `fit_words`."""
    evidence, kinds = predicted_evidence(words, predicted, changed_words(words, seed=_SEED))
    # A word that a caption repeats a thousand times counts once.
    caption = np.repeat(np.arange(len(words.caption_start) - 1), np.diff(words.caption_start))
    keys = caption * words.vocabulary_size + np.minimum(words.ids, words.vocabulary_size)
    different = np.unique(keys, return_index=True)[1]
    different = different[:: 1 + len(different) // _MOST_FITTED]
    ratios = fit_words(evidence[different], kinds[different])
    return surprise(ratios, evidence, kinds), ratios


def predict_words(
    shared: Shared, words: Words, pictures: np.ndarray, number: int, into: Predictions, **more: Any
) -> WordModel | None:
    """Train the word model of a half of an audit's pairs, and predict the other half; arguments as
    of `predict_half`.

    Word models run on the processor also where members train on a GPU.
    """
    config = shared.config
    clusters = store.read_prepared(shared.audit.folder).clusters
    half = draw_word_halves(shared.membership[c.GROUP].to_numpy(), clusters, seed=config.seed)
    trained, predicted = rows_of_models(half)[number]
    text_tower = None if config.features else shared.towers.text
    precision = config.precision if config.device == "cpu" else "fp32"
    seed = config.seed + number
    options: dict[str, Any] = {
        "text_tower": text_tower,
        "seed": seed,
        "precision": precision,
        **more,
    }
    return predict_half(words, pictures, trained, predicted, into=into, **options)


def run_halves(folder: Path, names: Sequence[str]) -> None:
    """Train the models of halves in this process and write their predictions."""
    shared = open_shared(folder)
    torch.set_num_threads(shared.record.threads)
    words = words_of(shared.audit)
    pictures = shared.features.image
    assert pictures is not None
    for name in names:
        half_folder = folder / store.WORD_MODELS / name
        before = time.monotonic()

        def report(share: float, half_folder: Path = half_folder) -> None:
            nonlocal before
            if time.monotonic() > before + REPORTED:
                before = time.monotonic()
                store.write_json(half_folder / _SHARE, share)

        into = Predictions.empty(len(words.ids))
        model = predict_words(
            shared, words, pictures, int(name), into, state=half_folder / _STATE, progress=report
        )
        if model:
            save_model(model, words, half_folder.with_suffix(".pt"))
        with replacing(half_folder / _PREDICTED) as temporary, temporary.open("wb") as file:
            np.savez(file, **into._asdict())


def ensure_words(
    audit: Audit,
    executor: Executor | None,
    *,
    at_once: int,
    threads: int,
    watch: Callable[[float], None],
) -> None:
    """Write words.parquet unless it exists: train both models, or resume them, and merge their
    predictions."""
    folder = audit.folder / store.WORD_MODELS
    if (audit.folder / store.WORD_TABLE).is_file():
        _remove_state(folder)
        return
    words = words_of(audit)
    config = audit.record.config
    if executor is None and opens_towers(config) and (tower := towers_of(config).text):
        text_features(
            [_embedded(words)], tower
        )  # once, for both models; the tower may be loaded already
    missing = [name for name in HALVES if not (folder / name / _PREDICTED).is_file()]
    for name in missing:
        (folder / name).mkdir(parents=True, exist_ok=True)
    program = program_of("clipmem_core.audit.word_table:run_halves", audit.folder)
    tasks = [Task((folder / name,), program, (name,), threads, "word model") for name in missing]
    small = int(store.caption_counts(audit).sum()) < _SMALL
    run = executor or (
        in_this_process if small else functools.partial(local_processes, at_once=at_once)
    )
    shown = 0.0
    with closing(run(tasks)) as events:
        for _ in events:
            shares = [folder / name / _SHARE for name in missing]
            done = sum(json.loads(share.read_text()) for share in shares if share.is_file()) / len(
                HALVES
            )
            if done != shown:
                watch(shown := done)
    files: Any = [store.read_array(folder / name / _PREDICTED) for name in HALVES]
    merged, second = (Predictions(**file) for file in files)
    added = np.isfinite(second.alone[:, 0])
    for whole, part in zip(merged, second, strict=True):
        whole[added] = part[added]
    _write_words(audit, words, merged)
    _remove_state(folder)


def _remove_state(folder: Path) -> None:
    for name in HALVES:
        shutil.rmtree(folder / name, ignore_errors=True)


def read_words(audit: Audit, counts: np.ndarray) -> pd.DataFrame:
    """Return caption, surprise, changed and kind of each word that was predicted; `counts` are
    captions of each pair.

    caption is its number among all captions.
    """
    path = audit.folder / store.WORD_TABLE
    if not path.is_file():
        return pd.DataFrame({c.CAPTION: [], c.SURPRISE: [], c.CHANGED: [], c.WORD_KIND: []}).astype(
            {c.CAPTION: int}
        )
    with reading(path, repair=DELETE):
        table = pq.read_table(path, columns=[c.PAIR_ID, c.CAPTION, c.WORD, c.SURPRISE, c.CHANGED])
    ids = pa.chunked_array([batch[c.PAIR_ID] for batch in store.pair_blocks(audit, [c.PAIR_ID])])
    pair = pc.index_in(table[c.PAIR_ID], value_set=ids.combine_chunks()).to_numpy()
    listed = pc.utf8_lower(table[c.WORD]).combine_chunks().dictionary_encode()
    kinds = np.array([kind_of(word) for word in listed.dictionary.to_pylist()], np.int8)
    return pd.DataFrame(
        {
            c.CAPTION: (np.cumsum(counts) - counts)[pair] + table[c.CAPTION].to_numpy(),
            c.SURPRISE: table[c.SURPRISE].to_numpy(),
            c.CHANGED: table[c.CHANGED].to_numpy(),
            c.WORD_KIND: kinds[listed.indices.to_numpy()],
        }
    )


def _write_words(audit: Audit, words: Words, predicted: Predictions) -> None:
    """Write a row for each word that was predicted, in blocks."""
    values, ratios = surprises(words, predicted)
    store.write_json(
        audit.folder / store.WORD_MODELS / RATIOS, [ratio.tolist() for ratio in ratios]
    )
    spelled = np.array(["", "", *words.spelled], dtype=object)
    first = 0
    writer = None
    with replacing(audit.folder / store.WORD_TABLE) as temporary:
        batches = store.pair_blocks(audit, [c.PAIR_ID, c.CAPTIONS])
        for batch in (
            whole.slice(at, _PAIRS) for whole in batches for at in range(0, len(whole), _PAIRS)
        ):
            rows = []
            starts = []
            for pair, captions in enumerate(batch[c.CAPTIONS].to_pylist()):
                for number, caption in enumerate(captions):
                    matches = list(WORD.finditer(caption))
                    rows += [
                        (pair, number, position, match.start())
                        for position, match in enumerate(matches)
                    ]
                    starts += [match[0] for match in matches]
            part = slice(first, first + len(rows))
            first = part.stop
            known = np.flatnonzero(np.isfinite(values[part, 0]))
            pair, number, position, start = np.array(rows, np.int32).reshape(-1, 4)[known].T
            own, changed = values[part][known].T
            alone, together = (
                np.exp(log[part][known, 0]) for log in (predicted.alone, predicted.together)
            )
            probability = CONSISTENT * alone + (1 - CONSISTENT) * together
            better = predicted.better[part][known]
            better_probability = predicted.better_probability[part][known]
            likelier = (better_probability > probability[:, None]) & (
                better != words.ids[part][known][:, None]
            )
            likelier &= (own > NOTABLE)[:, None]
            offsets = np.concatenate([[0], np.cumsum(likelier.sum(axis=1))]).astype(np.int32)
            columns = {
                c.PAIR_ID: batch[c.PAIR_ID].take(pa.array(pair)),
                c.CAPTION: number,
                c.POSITION: position,
                c.START: start,
                c.WORD: pa.array([starts[place] for place in known], pa.string()),
                c.PROBABILITY: probability.astype(np.float32),
                c.SURPRISE: own.astype(np.float32),
                c.CHANGED: changed.astype(np.float32),
                c.BETTER: pa.ListArray.from_arrays(
                    offsets, pa.array(spelled[better[likelier]], pa.string())
                ),
                c.BETTER_PROBABILITY: pa.ListArray.from_arrays(
                    offsets, better_probability[likelier].astype(np.float32)
                ),
            }
            table = pa.table(columns)
            writer = writer or pq.ParquetWriter(temporary, table.schema)
            writer.write_table(table)
        assert writer is not None
        writer.close()
