"""One function: features of pictures and captions in, wrong captions out. No folder is read or
written.

It trains the heads of an audit of precomputed features, and computes the same scores.
"""

import dataclasses
import functools
import html
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch._dynamo  # which the first step of an optimizer imports, in seconds
from rich.progress import Progress
from threadpoolctl import threadpool_limits

from clipmem_core.auditing.folder import settings
from clipmem_core.auditing.run.word_models import NO_WORDS
from clipmem_core.auditing.tables.verdict import PART, summary_lines
from clipmem_core.config import DEFAULT_PRESET, AuditConfig, preset_config
from clipmem_core.dataset.checks import Captions, not_captions
from clipmem_core.dataset.faults import ascending_stretches, caption_reasons, text_faults
from clipmem_core.dataset.languages import language_shares, mostly_english, spaces_words
from clipmem_core.dataset.near_duplicates import join_clusters, near_duplicates_by_features
from clipmem_core.dataset.trigger_words import is_tag_list, trigger_words
from clipmem_core.errors import misfit
from clipmem_core.errors.batch import Fitted
from clipmem_core.errors.calibration import Probabilities
from clipmem_core.errors.evidence import draw_decoys
from clipmem_core.errors.misfit import HeldOut
from clipmem_core.errors.runs import (
    DisplacedRun,
    Fits,
    displaced_probability,
    find_runs,
    find_swaps,
)
from clipmem_core.errors.tower_fit import Bridge, TowerModel, draw_swaps, tower_values
from clipmem_core.errors.words import split_words
from clipmem_core.scores.alignment import pair_components
from clipmem_core.scores.membership import InOut, draw_word_halves, ensemble_membership, group_size
from clipmem_core.scores.score_tables import (
    Evidence,
    Texts,
    caption_evidence,
    judge_texts,
    score_table,
    second_round,
    update_scores,
    with_recurring,
    wrong_captions,
)
from clipmem_core.training import model as models
from clipmem_core.training import model_config
from clipmem_core.training.augmentation import FeatureRows, TrainingData
from clipmem_core.training.model import (
    LockedModel,
    Standard,
    caption_blocks,
    encode_image,
    feature_views,
    score_captions,
    set_standards,
)
from clipmem_core.training.trainer import Trainer, learned_captions
from clipmem_core.training.word_model import (
    CaptionWords,
    Predictions,
    WordModel,
    merge_predictions,
    train_words,
    word_log_ratios,
)
from clipmem_core.utils import columns as c
from clipmem_core.utils.draws import draw_keys
from clipmem_core.utils.embeddings import unit
from clipmem_core.utils.io import InputError, spill_to_disk
from clipmem_core.utils.io import cores as available_cores
from clipmem_core.utils.ragged import Ragged

_SHOWN = 6  # pairs of a result in a notebook
_PARTS = ("no caption", "all captions", "one caption", "one word")


class Count(NamedTuple):
    """How many pairs have a wrong caption; NaN with the reason in `missing` if that is unknown."""

    estimate: float
    low: float  # of a 95 % interval
    high: float
    of: int  # pairs that were scored
    parts: dict[str, float]  # the estimate by what is wrong
    missing: str
    sentence: str

    def __str__(self) -> str:
        return self.sentence


@dataclass(frozen=True)
class CaptionModel:
    """Tells which captions of new pairs are wrong, without training."""

    heads: Sequence[LockedModel]
    beside: Sequence[HeldOut]  # under each head
    towers: TowerModel
    fitted: Fitted
    words: Sequence[CaptionWords]

    def judge(
        self,
        image_features: Any,
        text_features: Any,
        *,
        captions: Any = None,
        pair: Any = None,
        bridge: tuple[Any, Any] | None = None,
    ) -> pd.DataFrame:
        """Return the probability that captions of new pairs are wrong.

        Args: as for `find_wrong_captions`, from the same towers.

        Returns:
            A row a caption: pair, caption (its number in the pair), similarity_out, margin_out,
            agreement, p_check, p_pair, p_caption, p_word, p_wrong.
        """
        if self.fitted.missing:
            raise InputError(f"this model cannot judge captions: {self.fitted.missing}")
        pairs = _checked(image_features, text_features, captions, pair, bridge)
        if (pairs.bridge is None) != (self.towers.centres is None):
            raise InputError("bridge must be given if it was for the fitted pairs, and only then")
        head: Any = self.heads[0]
        widths = [len(part.standard.mean) for part in (head.visual, head.text)]
        for name, values, width in zip(_SIDES, (pairs.image, pairs.text), widths, strict=True):
            if values.shape[1] != width:
                raise InputError(
                    f"{name} must have {width} columns as those of the fitted pairs, not "
                    f"{values.shape[1]}"
                )
        is_new = np.full(len(pairs.image), -1)  # not one of the held-out pairs
        by_member = []
        on_cpu = AuditConfig(precision="fp32", device="cpu")
        for head, beside in zip(self.heads, self.beside, strict=True):
            text = models.text_embeddings(head, pairs.text, on_cpu)
            with torch.inference_mode():
                image = encode_image(head, torch.from_numpy(pairs.image).float()).numpy()
            by_member.append(misfit.fit_beside(unit(text), pairs.of_pairs, image, is_new, beside))
        beside_held_out = misfit.nan_mean(by_member)
        text = pairs.of_pairs.mean(unit(pairs.text.astype(np.float32)))
        towers = self.towers.values(pairs.image, text, pairs.bridge, (is_new, is_new))
        agree = self.fitted.agreement(pairs.text, pairs.of_pairs, np.arange(len(pairs.text)))
        ratios = np.full(len(pairs.text), np.nan)
        refused = np.zeros(len(pairs.text), bool)
        if pairs.captions is not None:
            refused = not_captions([text for texts in pairs.captions for text in texts]) != ""
            if self.words and "words" in self.fitted.curves:
                no_siblings: list[list[str]] = [[] for _ in pairs.captions]
                ratios = misfit.nan_mean(
                    model.mean_ratios(pairs.captions, no_siblings, pairs.image)
                    for model in self.words
                )
        probabilities = self.fitted.judge(
            pairs.of_pairs,
            beside_held_out,
            towers[pairs.of_pairs.owner],
            agree,
            ratios,
            is_new=np.ones(len(pairs.text), bool),
            not_captions=refused,
        )
        scores = {
            "pair": pairs.of_pairs.owner,
            c.CAPTION: pairs.of_pairs.number,
            c.SIMILARITY_OUT: beside_held_out[:, 0],
            c.MARGIN_OUT: beside_held_out[:, 1],
            c.AGREEMENT: agree[:, 0],
        }
        table = pd.DataFrame(scores).join(probabilities)
        return table.iloc[pairs.position].reset_index(drop=True)


@dataclass(frozen=True)
class WrongCaptions:
    """What `find_wrong_captions` found.

    Attributes:
        pairs: a row a pair: pair_id, group, p_wrong (that at least one caption is wrong), its parts
            p_check, p_pair, p_caption, p_word, clipmem, clipmem_image, clipmem_text, se, misfit and
            the other columns of scores.parquet.
        captions: a row a caption, in the order of the input; here p_wrong is that of the caption.
        words: a row a predicted word: caption_row, position, word, surprise, p_wrong.
        count: how many pairs have a wrong caption.
        runs: a row a pair of a run of displaced captions: run, kind, pair, from_pair (the row whose
            captions belong to it), probability.
        notes: what the result does not know, and why.
        model: judges new pairs.
    """

    pairs: pd.DataFrame
    captions: pd.DataFrame
    words: pd.DataFrame
    count: Count
    runs: pd.DataFrame
    notes: list[str]
    model: CaptionModel

    def _repr_html_(self) -> str:
        lines = "".join(f"<p>{html.escape(line)}</p>" for line in (str(self.count), *self.notes))
        columns = [c.PAIR_ID, c.P_WRONG, *c.PARTS, c.CLIPMEM]
        worst = self.pairs.nlargest(_SHOWN, c.P_WRONG)[columns]
        return lines + worst.round(3).to_html(index=False)


class _Pairs(NamedTuple):
    """The checked input, pair by pair."""

    image: np.ndarray  # float16 [n_pairs, width]
    text: np.ndarray  # float16 [n_captions, width]
    of_pairs: Ragged
    captions: list[list[str]] | None
    position: np.ndarray  # row in `text` of each caption of the input, [n_captions]
    bridge: Bridge | None  # of pictures and of the mean captions of pairs, [n_pairs, width] each


_SIDES = ("image_features", "text_features")


def find_wrong_captions(
    image_features: Any,
    text_features: Any,
    *,
    captions: Sequence[str] | None = None,
    pair: Any = None,
    ids: Sequence[str] | None = None,
    group: Any = None,
    held_out: Any = None,
    bridge: tuple[Any, Any] | None = None,
    members: int = 16,
    epochs: int = 12,
    seed: int = 0,
    threads: int = 0,
    progress: bool | None = None,
) -> WrongCaptions:
    """Find captions that are probably wrong, and count them.

    Args:
        image_features: of a pretrained image tower, [n_pairs, width]; numpy, torch, or anything
            with `__array__`. They are read as float16.
        text_features: of a pretrained text tower, [n_captions, width]; the widths may differ.
        captions: the texts; without them there is no p_word and no p_check.
        pair: the row of each caption's picture, [n_captions]; needed if a picture has several.
        ids: of pairs, which random draws depend on; their numbers by default.
        group: a key of each pair, such as a product: pairs with the same key, and near-duplicate
            pictures, are trained on or left out together.
        held_out: true for pairs that no member trains on, [n_pairs]; one in eleven by default.
        bridge: vectors of pictures and of captions in one space, [n_pairs, width] and [n_captions,
            width], such as the embeddings of a CLIP: what is known before training, which helps
            small sets.
        members: trained heads, a multiple of 8.
        epochs: of their training.
        seed: of all draws.
        threads: members trained at once; 0: one a core.
        progress: show a bar; by default in a terminal and in a notebook.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> image = rng.normal(size=(400, 32))
        >>> text = image[:, :24] + 0.1 * rng.normal(size=(400, 24))
        >>> text[:40] = np.roll(text[:40], 7, axis=0)
        >>> found = find_wrong_captions(image, text, members=8, progress=False)
        >>> bool(found.pairs.p_wrong[:40].mean() > 0.8 > 0.1 > found.pairs.p_wrong[40:].mean())
        True
    """
    pairs = _checked(image_features, text_features, captions, pair, bridge)
    n = len(pairs.image)
    preset = preset_config(DEFAULT_PRESET)
    if members < 1 or members % preset.folds:
        raise InputError(f"members must be a multiple of {preset.folds}, not {members}")
    config = settings.resolve(
        dataclasses.replace(
            preset, members=members, epochs=epochs, seed=seed, threads=1, device="cpu"
        )
    )
    keys = [str(row) for row in range(n)] if ids is None else [str(each) for each in ids]
    _check_length("ids", keys, n)
    if len(set(keys)) < n:
        raise InputError("ids must differ from pair to pair")
    clusters = groups = near_duplicates_by_features(pairs.image)
    if group is not None:
        _check_length("group", group, n)
        groups = join_clusters(clusters, [f"={key}" for key in group])
    if held_out is not None:
        held_out = np.asarray(held_out)
        if held_out.shape != (n,) or held_out.dtype != bool:
            raise InputError(
                f"held_out must be bool [{n}], not {held_out.dtype} {list(held_out.shape)}"
            )
        least = group_size(n)
        if not least <= held_out.sum() <= n - least:
            raise InputError(
                f"held_out must name at least {least} pairs and leave as many, not "
                f"{held_out.sum()} of {n}"
            )
    membership = ensemble_membership(
        groups,
        folds=config.folds,
        replicates=members // config.folds,
        seed=seed,
        halves=config.halves,
        held_out=held_out,
    )
    in_out = InOut(membership, seed)
    decoys = np.empty(0, misfit.DECOY)
    if pairs.of_pairs.counts.max() > 1:  # with BLAS as an audit has it
        decoys = draw_decoys(pairs.text, pairs.of_pairs, groups, seed=seed)
    if progress is None:
        progress = sys.stderr.isatty() or "ipykernel" in sys.modules
    with Progress(disable=not progress, transient=True) as shown, _alone():
        return _Search(pairs, config, in_out, clusters, groups, keys, shown, threads, decoys).run()


def _checked(
    image: Any, text: Any, captions: Any, pair: Any, bridge: tuple[Any, Any] | None
) -> _Pairs:
    """Check the input, and order captions by pair."""
    features = [_features(name, values) for name, values in zip(_SIDES, (image, text), strict=True)]
    n, n_captions = map(len, features)
    if pair is None:
        if n != n_captions:
            raise InputError(
                f"text_features has {n_captions:,} rows and image_features {n:,}: give pair, the "
                "row of the picture of each caption"
            )
        pair = np.arange(n)
    pair = np.asarray(pair)
    if pair.shape != (n_captions,) or pair.dtype.kind not in "iu":
        raise InputError(
            f"pair must be whole numbers [{n_captions}], not {pair.dtype} {list(pair.shape)}"
        )
    if pair.min(initial=0) < 0 or pair.max(initial=0) >= n:
        raise InputError(f"pair must be rows of image_features, 0 to {n - 1}")
    counts = np.bincount(pair, minlength=n)
    if not counts.all():
        raise InputError(f"picture {int(counts.argmin())} has no caption: leave it out, or add one")
    order = np.argsort(pair, kind="stable")
    of_pairs = Ragged.of(counts)
    texts = None
    if captions is not None:
        _check_length("captions", captions, n_captions)
        listed = [str(captions[at]) for at in order.tolist()]
        ends = of_pairs.start.tolist()
        texts = [listed[at:end] for at, end in zip(ends, ends[1:], strict=False)]
    if (order != np.arange(n_captions)).any():
        features[1] = features[1][order]
    both = None
    if bridge is not None:
        names = [f"the bridge of {name}" for name in _SIDES]
        vectors = [_features(name, part) for name, part in zip(names, bridge, strict=True)]
        if [len(part) for part in vectors] != [n, n_captions]:
            raise InputError(f"bridge must have {n:,} and {n_captions:,} rows, as the features")
        if vectors[0].shape[1] != vectors[1].shape[1]:
            raise InputError("the two parts of bridge must have as many columns as each other")
        first, second = (unit(part.astype(np.float32)) for part in vectors)
        both = first, of_pairs.mean(second[order])
    return _Pairs(features[0], features[1], of_pairs, texts, order.argsort(), both)


def _features(name: str, values: Any) -> np.ndarray:
    """Return features as float16 [n, width]; refuse those that cannot be used."""
    if hasattr(values, "detach"):  # torch, perhaps bfloat16 or on a GPU
        values = values.detach().to("cpu", torch.float16)
    values = np.asarray(values)
    if values.ndim != 2 or values.dtype.kind not in "fiu" or not values.size:
        raise InputError(
            f"{name} must be numbers [n, width], not {values.dtype} {list(values.shape)}"
        )
    with np.errstate(over="ignore"):  # becomes infinite
        values = np.ascontiguousarray(values, dtype=np.float16)
    for reason, wrong in (
        ("NaN, infinite or above 65,504", ~np.isfinite(values).all(axis=1)),
        ("all equal", values.min(axis=1) == values.max(axis=1)),
    ):
        if wrong.any():
            raise InputError(
                f"{name} has {wrong.sum():,} rows that are {reason}, the first is row "
                f"{int(wrong.argmax())}: leave these pairs out"
            )
    return values


def _check_length(name: str, values: Sequence[Any], n: int) -> None:
    if isinstance(values, str) or len(values) != n:
        raise InputError(f"{name} must have {n:,} items, not {len(values):,}")


@contextmanager
def _alone() -> Iterator[None]:
    """Leave torch's random numbers and threads as they are; BLAS has one thread, since members
    share the cores."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]), threadpool_limits(1, "blas"):
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


class _Member(NamedTuple):
    """The outputs of a trained head for all pairs."""

    head: LockedModel
    image: np.ndarray  # [n_pairs, dim]
    text: np.ndarray
    components: dict[str, np.ndarray]  # as of `pair_components`
    beside: HeldOut
    learned: np.ndarray  # [n_pairs]
    captions: np.ndarray  # `CAPTION_SCORES` [n_captions + n_decoys]; none if pairs have one caption


@dataclass(frozen=True)
class _Search:
    """One call of `find_wrong_captions`."""

    pairs: _Pairs
    config: AuditConfig
    in_out: InOut
    clusters: np.ndarray  # of near-duplicates
    groups: np.ndarray  # of pairs that are split as one
    ids: list[str]
    progress: Progress
    threads: int
    decoys: np.ndarray

    @functools.cached_property
    def tower_model(self) -> TowerModel:
        """The fit of the features themselves."""
        pairs = self.pairs
        return TowerModel.of(
            pairs.image, self._mean_text, pairs.bridge, self.groups, seed=self.config.seed
        )

    @functools.cached_property
    def _mean_text(self) -> np.ndarray:
        return self.pairs.of_pairs.mean(unit(self.pairs.text.astype(np.float32)))

    @functools.cached_property
    def towers(self) -> tuple[np.ndarray, np.ndarray]:
        """How well captions fit by the features alone, as of `tower_values`."""
        swaps = draw_swaps(self.in_out.held_out, seed=self.config.seed)
        return tower_values(
            self.tower_model, self.pairs.image, self._mean_text, self.pairs.bridge, swaps
        )

    def run(self) -> WrongCaptions:
        of_pairs = self.pairs.of_pairs
        captions = self.pairs.captions
        trained = self.in_out.membership.trained
        notes = list[str]()
        words, word_models = self._words(notes)
        members = self._train_all("members")
        evidence = self._evidence(members)
        scores, _, fit = score_table(evidence)
        all_read = np.ones(len(scores), bool)
        left_out = second_round(scores, fit.swapped, self.config.rounds, all_read)
        if left_out.any():
            again = self._train_all("second round", left_out)
            embeddings = [member.image for member in again], [member.text for member in again]
            csls = misfit.csls_out(*embeddings, trained, self.in_out.held_out)
            scores = update_scores(scores, **{c.FIT_SECOND: fit.fit_out(csls)})
        fits = Fits(evidence.image, evidence.text, trained, seed=self.config.seed)
        reasons = np.full(of_pairs.n_items, "", object)
        stretches: list[np.ndarray] = []
        if captions is not None:
            reasons = caption_reasons(Captions.from_pairs(captions), self.clusters)
            stretches = ascending_stretches([texts[0] for texts in captions])
        runs = find_runs(fits, stretches)
        read = np.ones(of_pairs.n_items, bool)
        texts = Texts(of_pairs, read, reasons, self.clusters, self.pairs.text)
        of_members = [member.captions for member in members]
        on_captions, table = caption_evidence(
            scores, fit.swapped, texts, self.in_out, of_members, self.decoys, words
        )
        faults = []
        if captions is not None:
            reasons = with_recurring(texts, scores, table)
            shown = pd.DataFrame({c.IMAGE: self.ids, c.CAPTIONS: pd.Series(captions)})
            no_flags = pd.DataFrame(False, shown.index, ["other_language", "other_script"])
            faults = text_faults(shown, self.clusters, no_flags, reasons)
        judged = judge_texts(
            scores, table, on_captions, reasons, [fault.rows for fault in faults], runs
        )
        wrong = judged.wrong
        by_pair = np.nan_to_num(wrong.parts[1])
        by_pair[displaced_probability(runs, len(by_pair)) > 0] = 0.0
        counted = wrong_captions(pd.Series(None, scores.index, object), judged.scores, wrong)
        verdict = {"wrong_captions": counted, PART: "caption", "checks": []}
        sentence, unseen = summary_lines(verdict)
        if unseen:
            notes.append(unseen)
        unknown = dict.fromkeys(("estimate", "low", "high"), np.nan)
        count = Count(
            **counted.get("all", unknown),
            of=counted.get("of", 0),
            parts=dict(zip(_PARTS, counted.get("parts", []), strict=False)),
            missing=counted["missing"] or "",
            sentence=sentence,
        )
        heads = [member.head for member in members]
        beside = [member.beside for member in members]
        return WrongCaptions(
            pairs=judged.scores,
            captions=self._in_order(judged.captions),
            words=self._word_rows(words, wrong),
            count=count,
            runs=_run_rows([*runs, find_swaps(fits, by_pair)]),
            notes=notes,
            model=CaptionModel(
                heads, beside, self.tower_model, Fitted.of(wrong, fit.weights), word_models
            ),
        )

    def _at_once(self, work: Callable[..., Any], *arguments: Iterable[Any]) -> list[Any]:
        """Return the results of work in threads, each with one thread of torch."""
        size = self.threads or available_cores()
        with ThreadPoolExecutor(size, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(work, *arguments))

    def _train_all(self, label: str, left_out: np.ndarray | None = None) -> list[_Member]:
        """Train all members, without some pairs, and embed all pairs with each."""
        image_features, text_features, of_pairs, *_ = self.pairs
        config = self.config
        held_out = self.in_out.held_out
        n_captions = of_pairs.n_items
        shared = TrainingData(
            pixels=FeatureRows(image_features),
            tokens=text_features,
            captions=of_pairs,
            keys=draw_keys(self.ids),
            rows=np.array([], np.int64),
            held_out=np.flatnonzero(held_out),
        )
        standards = {"image": Standard.of(image_features), "text": Standard.of(text_features)}
        widths = image_features.shape[1], text_features.shape[1]
        dim = int(model_config(config.model)["embed_dim"])
        # First weights depend on the replicate alone. Torch's generator is not safe in threads.
        seeds = [config.seed + number // config.folds for number in range(config.members)]
        heads = [
            models.locked_model(*widths, dim=dim, loss=config.loss, seed=seed) for seed in seeds
        ]
        trained = self.in_out.membership.trained
        if left_out is not None:
            trained = trained & ~left_out
        folder = Path(tempfile.gettempdir())
        task = self.progress.add_task(label, total=config.members * config.epochs)

        def train(head: LockedModel, seed: int, in_training: np.ndarray) -> _Member:
            set_standards(head, standards)
            data = dataclasses.replace(shared, rows=np.flatnonzero(in_training))
            views = feature_views(head, seed)
            trainer = Trainer(head, data, config, views, seed=seed)
            for _ in trainer.steps():
                if trainer.done % trainer.batches == 0:
                    self.progress.advance(task)
            views = feature_views(head, config.seed)
            image = np.concatenate(list(models.image_blocks(head, data, views, config, n_views=1)))
            blocks = caption_blocks(head, data, config)
            scores = np.empty(0, misfit.CAPTION_SCORES)
            if of_pairs.counts.max() > 1:
                scores = np.full(n_captions + len(self.decoys), np.nan, misfit.CAPTION_SCORES)
                scores["learned"][:n_captions] = learned_captions(
                    trainer.trajectory, data, seed=seed, first=config.train_captions
                )
                pictures = HeldOut.of(image, image, held_out)
                blocks = score_captions(
                    blocks, image, of_pairs.owner, pictures, self.decoys, scores
                )
            text = np.concatenate([part.mean(vectors) for part, vectors in blocks])
            return _Member(
                head,
                spill_to_disk(image, folder),
                spill_to_disk(text, folder),
                pair_components(image, text, held_out),
                HeldOut.of(image, text, held_out),
                misfit.mean_over_epochs(trainer.trajectory),
                scores,
            )

        return self._at_once(train, heads, seeds, trained)

    def _evidence(self, members: Sequence[_Member]) -> Evidence:
        return Evidence(
            pairs=pd.DataFrame({c.PAIR_ID: self.ids, c.INJECTED: None}),
            in_out=self.in_out,
            views=1,
            components=[member.components for member in members],
            image=[member.image for member in members],
            text=[member.text for member in members],
            log_probability=[member.learned for member in members],
            n_captions=self.pairs.of_pairs.counts,
            towers=self.towers,
        )

    def _words(self, notes: list[str]) -> tuple[pd.DataFrame, list[CaptionWords]]:
        """Train the word models. Return a row for each word that was predicted, and the models;
        note why there are none."""
        captions = self.pairs.captions
        if captions is None:
            notes.append("No captions were given: p_word and p_check are 0.")
            return NO_WORDS, []
        shares = language_shares([text for texts in captions for text in texts])
        if not spaces_words(shares):
            notes.append("The captions have no spaces between words: p_word is 0.")
            return NO_WORDS, []
        tags = is_tag_list(captions)
        english = mostly_english(shares)
        triggers = trigger_words(captions) if tags or english else ()
        words = split_words(captions, english=english, triggers=triggers, tags=tags)
        half = draw_word_halves(self.in_out.membership.group, self.groups, seed=self.config.seed)
        predicted = [Predictions.empty(len(words.ids)) for _ in range(2)]

        def train(number: int) -> WordModel | None:
            task = self.progress.add_task("words", total=1.0)
            return train_words(
                words,
                self.pairs.image,
                half,
                number,
                predicted[number],
                vectors=None,
                seed=self.config.seed,
                precision=self.config.precision,
                progress=lambda share: self.progress.update(task, completed=share),
            )

        word_models = self._at_once(train, range(2))
        if None in word_models:
            notes.append("The captions have too few words in common: p_word is 0.")
            return NO_WORDS, []
        ratios, of_kinds = word_log_ratios(words, merge_predictions(*predicted))
        rows = np.flatnonzero(np.isfinite(ratios[:, 0]))
        table = {
            c.CAPTION_ROW: words.in_captions.owner[rows],
            c.SURPRISE: ratios[rows, 0].astype(np.float32),
            c.CHANGED: ratios[rows, 1].astype(np.float32),
            c.WORD_KIND: words.kinds[words.predicted[rows]],
            c.POSITION: words.in_captions.number[rows],
            c.WORD: np.array(words.spelled, object)[words.ids[rows] - 2],
        }
        return pd.DataFrame(table), [CaptionWords(model, words, of_kinds) for model in word_models]

    def _word_rows(self, table: pd.DataFrame, wrong: Probabilities) -> pd.DataFrame:
        """Return a row a predicted word, with its part in the p_word of its caption."""
        caption = table[c.CAPTION_ROW]
        rows = table.reindex(columns=[c.CAPTION_ROW, c.POSITION, c.WORD, c.SURPRISE])
        rows[c.P_WRONG] = wrong.word_share * wrong.captions[c.P_WORD].to_numpy()[caption]
        rows[c.CAPTION_ROW] = np.argsort(self.pairs.position)[caption]
        return rows

    def _in_order(self, captions: pd.DataFrame) -> pd.DataFrame:
        """Return the table of captions in the order of the input."""
        if self.pairs.captions is not None:
            listed = [text for texts in self.pairs.captions for text in texts]
            captions.insert(3, "text", np.array(listed, object))
        table = captions.iloc[self.pairs.position].reset_index(drop=True)
        table[c.CAPTION_ROW] = table.index
        return table


def _run_rows(runs: Sequence[DisplacedRun]) -> pd.DataFrame:
    """Return a row for each pair of a run whose captions probably belong to another one."""
    blocks = [
        pd.DataFrame(
            {
                "run": number,
                "kind": run.kind,
                "pair": run.rows,
                "from_pair": run.partners,
                "probability": run.probability,
            }
        )
        for number, run in enumerate(runs, start=1)
    ]
    return pd.concat(blocks, ignore_index=True)
