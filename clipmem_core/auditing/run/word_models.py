"""The words of captions: two word models, each trained on half of the pairs, and the table of their
predictions."""

import functools
import shutil
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from clipmem_core.auditing.folder import store
from clipmem_core.auditing.folder.jobs import Screen, read_record
from clipmem_core.auditing.folder.settings import towers_of
from clipmem_core.auditing.folder.store import Audit
from clipmem_core.auditing.run.executor import Executor, Task
from clipmem_core.auditing.run.member import open_shared
from clipmem_core.dataset.languages import mostly_english
from clipmem_core.dataset.sentences import places_of
from clipmem_core.errors.words import CONSISTENT, Words, kind_of
from clipmem_core.features.embed import FeatureExtractor
from clipmem_core.features.towers import Tower
from clipmem_core.scores.membership import draw_word_halves
from clipmem_core.training.word_model import (
    VECTOR,
    Predictions,
    merge_predictions,
    save_model,
    train_words,
    word_log_ratios,
    word_vectors,
)
from clipmem_core.utils import columns as c
from clipmem_core.utils.embeddings import Vectors
from clipmem_core.utils.io import reading, replacing
from clipmem_core.utils.ragged import Ragged

HALVES = ("0", "1")  # names of the models; each has a folder until words.parquet is written
_PREDICTED = "predictions.npz"
RATIOS = "ratios.json"  # log-likelihood ratios of words, as of `fit_words`
# A row for each word that was predicted
NO_WORDS = pd.DataFrame(dtype=float, columns=[c.CAPTION_ROW, c.SURPRISE, c.CHANGED, c.WORD_KIND])
NO_WORDS = NO_WORDS.astype({c.CAPTION_ROW: int})
_SHARES = 1_000  # steps that the progress of a model is counted in
_PAIRS = 4_096  # pairs in a block: their words are Python objects


def spelled_features(tower: Tower | None, spelled: Sequence[str]) -> Vectors | None:
    """Return the text tower's features of the words of a vocabulary; None for few words, or without
    a tower."""
    if tower is None or len(spelled) <= VECTOR:
        return None
    return FeatureExtractor(tower).captions([word[:50] for word in spelled])


def run_halves(folder: Path, names: Sequence[str], words: Words) -> None:
    """Train the word models of halves of the pairs in this process, and write what each predicts
    for the other half. They run on the processor also where members train on a GPU."""
    shared = open_shared(folder)
    config = shared.config
    pictures = (shared.features.pooled or shared.features).image
    assert pictures is not None
    clusters = store.read_prepared(folder).groups
    halves = draw_word_halves(shared.membership[c.GROUP].to_numpy(), clusters, seed=config.seed)
    spelled = None if config.features else spelled_features(towers_of(config).text, words.spelled)
    screen = Screen()
    for name in names:
        half_folder = folder / store.WORD_MODELS / name
        into = Predictions.empty(len(words.ids))
        model = train_words(
            words,
            pictures,
            halves,
            int(name),
            into,
            vectors=None if spelled is None else word_vectors(spelled),
            seed=config.seed,
            precision=config.precision if config.device == "cpu" else "fp32",
            progress=lambda share: screen.captions(round(share * _SHARES), _SHARES),
        )
        if model:
            save_model(model, words, half_folder.with_suffix(".pt"))
        with replacing(half_folder / _PREDICTED) as temporary, temporary.open("wb") as file:
            np.savez(file, **into._asdict())


def ensure_words(audit: Audit, words: Words, executor: Executor, screen: Screen) -> None:
    """Write words.parquet unless it exists: train both models, or resume them, and merge their
    predictions."""
    folder = audit.folder / store.WORD_MODELS
    if not (audit.folder / store.WORD_TABLE).is_file():
        tasks = []
        for name in HALVES:
            if not (folder / name / _PREDICTED).is_file():
                (folder / name).mkdir(parents=True, exist_ok=True)
                work = functools.partial(run_halves, words=words)
                threads = audit.record.threads
                half = folder / name
                tasks.append(Task((half,), work, audit.folder, (name,), threads, "word model"))
        n = len(words.in_captions)
        with closing(executor(tasks)) as events:
            for _ in events:
                done = sum(read_record(task.folders[0]).done for task in tasks)
                screen.captions(done * n // (_SHARES * len(HALVES)), n)
        predictions: Any = [store.read_array(folder / name / _PREDICTED) for name in HALVES]
        merged = merge_predictions(*(Predictions(**arrays) for arrays in predictions))
        _write_words(audit, words, merged)
    for name in HALVES:
        shutil.rmtree(folder / name, ignore_errors=True)


def read_words(audit: Audit) -> pd.DataFrame:
    """Return caption_row, surprise, changed and kind of each word that was predicted."""
    path = audit.folder / store.WORD_TABLE
    if not path.is_file():
        return NO_WORDS
    columns = [c.CAPTION_ROW, c.SURPRISE, c.CHANGED, c.WORD]
    with reading(path):
        table = pq.read_table(path, columns=columns, read_dictionary=[c.WORD])
    words = table.to_pandas()
    listed = words.pop(c.WORD).cat
    english = mostly_english(audit.record.languages)
    kinds = [kind_of(word.lower(), english=english) for word in listed.categories]
    return words.assign(**{c.WORD_KIND: np.array(kinds, np.int8)[listed.codes]})


def _write_words(audit: Audit, words: Words, predicted: Predictions) -> None:
    """Write a row for each word that was predicted."""
    values, ratios = word_log_ratios(words, predicted)
    path = audit.folder / store.WORD_MODELS / RATIOS
    store.write_json(path, [ratio.tolist() for ratio in ratios])
    column = audit.record.texts
    first_pair = 0
    tables = []
    for block in store.pair_blocks(audit, {c.PAIR_ID, c.CAPTIONS, column}, size=_PAIRS):
        tables.append(_word_rows(block, first_pair, words, predicted, values, column))
        first_pair += len(block)
    with replacing(audit.folder / store.WORD_TABLE) as temporary:
        pq.write_table(pa.concat_tables(tables), temporary, row_group_size=store.ROW_GROUP)


def _word_rows(
    pairs: pa.RecordBatch,
    first_pair: int,
    words: Words,
    predicted: Predictions,
    values: np.ndarray,
    column: str,
) -> pa.Table:
    """Return the rows of words.parquet of a block of pairs, whose texts are in a column; `values`
    as of `word_log_ratios`."""
    captions = pairs[column].flatten().to_pylist()
    matches = [match for caption in captions for match in words.pattern.finditer(caption)]
    in_pairs, first_caption = words.captions.part(first_pair, first_pair + len(pairs))
    in_captions, first_word = words.in_captions.part(
        first_caption, first_caption + in_pairs.n_items
    )
    position = np.flatnonzero(np.isfinite(values[first_word : first_word + in_captions.n_items, 0]))
    rows = first_word + position
    caption = in_captions.owner[position]
    log_ratio, changed = values[rows].T
    without_siblings = np.exp(predicted.alone[rows, 0])
    with_siblings = np.exp(predicted.together[rows, 0])
    probability = CONSISTENT * without_siblings + (1 - CONSISTENT) * with_siblings
    better = predicted.better[rows]
    better_probability = predicted.better_probability[rows]
    is_likelier = better_probability > probability[:, None]
    is_likelier &= better != words.ids[rows][:, None]
    is_likelier &= (log_ratio > 0)[:, None]
    offsets = Ragged.of(is_likelier.sum(axis=1)).start.astype(np.int32)
    spelled = np.array(["", "", *words.spelled], dtype=object)[better[is_likelier]]
    likelier_probability = better_probability[is_likelier].astype(np.float32)
    number = in_pairs.number[caption]
    start = np.array([matches[at].start() for at in position], np.int64)
    if column == c.SENTENCES:
        spans = places_of(pairs[c.CAPTIONS].to_pylist()).iloc[caption]
        number = spans[c.CAPTION].to_numpy()
        start += spans[c.START].to_numpy()
    columns = {
        c.PAIR_ID: pairs[c.PAIR_ID].take(pa.array(in_pairs.owner[caption])),
        c.CAPTION_ROW: first_caption + caption,
        c.CAPTION: number.astype(np.int32),
        c.POSITION: in_captions.number[position].astype(np.int32),
        c.START: start.astype(np.int32),
        c.WORD: pa.array([matches[at][0] for at in position], pa.string()),
        c.PROBABILITY: probability.astype(np.float32),
        c.SURPRISE: log_ratio.astype(np.float32),
        c.CHANGED: changed.astype(np.float32),
        c.BETTER: pa.ListArray.from_arrays(offsets, pa.array(spelled, pa.string())),
        c.BETTER_PROBABILITY: pa.ListArray.from_arrays(offsets, likelier_probability),
    }
    return pa.table(columns)
