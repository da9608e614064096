"""Which score finds swapped captions best, over plantings and splits: members in memory, scored by the product.

    python -m tests.bench detection SOURCE [--shares 0.05 0.2 0.4] [--seeds 5] [--within-label] [--out FILE.csv]

For each seed the pairs are split anew, other captions are swapped and 16 members of the preset `locked` are trained.
Intervals are Student's t over the seeds, paired where two scores are compared, and cover split, planting and training.
"""

import dataclasses
import os
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import faiss
import numpy as np
import pandas as pd
import torch
import tyro
from scipy.stats import t

from clipmem_core import columns as c
from clipmem_core.audits import settings
from clipmem_core.audits.locked import (
    Features,
    Towers,
    build_locked,
    feature_views,
    features_of,
    fit_standards,
    towers_of,
)
from clipmem_core.audits.member import caption_starts
from clipmem_core.audits.prepare import DataSet, draw_membership, load_data_set
from clipmem_core.audits.setup import member_seeds
from clipmem_core.config import AuditConfig, InputError, preset_config
from clipmem_core.pairs.planting import plant_miscaptions
from clipmem_core.scores.alignment import pair_terms
from clipmem_core.scores.detection import AUROC, AVERAGE_PRECISION, PRECISION_AT_K, detection_table
from clipmem_core.scores.detectors import csls_out, learned, lemon, log_probability, mean_over_epochs, misfit
from clipmem_core.scores.in_out import Sides, side_means
from clipmem_core.scores.membership import Membership
from clipmem_core.scores.uncertainty import ranking_reliability, ranking_stability
from clipmem_core.scores.utility import retrieval_recalls
from clipmem_core.training.draws import draw_keys
from clipmem_core.training.embed import mean_by_pair, mean_image_embeddings, text_embeddings
from clipmem_core.training.heads import FeatureRows
from clipmem_core.training.loop import Trainer, TrainingData
from clipmem_core.training.state import Progress
from tests.bench.report import console

METRICS = [AUROC, AVERAGE_PRECISION, PRECISION_AT_K]
NEAREST = 30  # neighbours of LEMoN, its authors' untuned number
REFERENCE = "misfit"
DRAWN = "scenes"


@dataclass(frozen=True)
class Detection:
    """Compare scores at finding swapped captions, over plantings and splits."""

    source: Annotated[str, tyro.conf.Positional]
    shares: tuple[float, ...] = (0.05, 0.2, 0.4)  # of the scored pairs, whose captions are swapped
    seeds: int = 5  # plantings and splits
    members: int = 16
    within_label: bool = False  # swap among pairs of one label: what is wrong then is no matter of the topic
    scenes_pairs: int = 3000  # of the drawn set
    out: str = ""  # a CSV file for the table


@dataclass(frozen=True, eq=False)
class Job:
    """What a member needs, as it goes to another process."""

    features: Features
    config: AuditConfig
    ids: list[str]
    caption_start: np.ndarray
    rows: np.ndarray
    seed: int


@dataclass(frozen=True, eq=False)
class Left:
    """What a member leaves."""

    image: np.ndarray  # [n_pairs, dim]
    text: np.ndarray
    log_probability: np.ndarray  # mean over epochs, [n_pairs]
    logit_scale: float
    recall: float  # R@5 on external pairs, both ways


@dataclass(frozen=True, eq=False)
class Run:
    """Members of one split and planting."""

    pairs: pd.DataFrame
    sides: Sides
    features: Features
    members: list[Left]

    @property
    def truth(self) -> np.ndarray:
        return (self.pairs[c.PLANTED] == c.MISCAPTION).to_numpy()

    @property
    def scored(self) -> np.ndarray:
        return ~self.sides.external


def read(source: str, *, scenes_pairs: int, members: int) -> tuple[DataSet, AuditConfig]:
    """Read a data set without look-alikes, and return it with the config that its audits have."""
    config = preset_config("locked")
    options = dataclasses.replace(config.source, scenes_pairs=scenes_pairs)
    config = dataclasses.replace(config, drop_lookalikes=True, source=options, members=members, threads=1)
    config = settings.resolve(config)
    return load_data_set(source, config, say=console.print), config


def planted(pairs: pd.DataFrame, rows: np.ndarray, *, share: float, seed: int, within_label: bool) -> pd.DataFrame:
    """Swap the captions of a share of rows, among all of them or within each label."""
    if not within_label:
        return plant_miscaptions(pairs, rows, n=round(share * len(rows)), seed=seed)
    for _, own in pairs.iloc[rows].groupby(c.LABEL).indices.items():
        count = round(share * len(own))
        if count >= 2:
            try:
                pairs = plant_miscaptions(pairs, rows[own], n=count, seed=seed)
            except InputError:
                continue  # a label whose pairs share their captions has none to swap
    return pairs


def train(job: Job) -> Left:
    """Train one member of locked towers in memory, as `audits.member` does it in a folder."""
    torch.set_num_threads(1)
    model = build_locked(towers_of(job.config), job.config, seed=job.seed)
    fit_standards(model, job.features)
    assert job.features.image is not None
    assert job.features.text is not None
    data = TrainingData(
        FeatureRows(job.features.image), job.features.text, job.caption_start, draw_keys(job.ids), job.rows
    )
    views = feature_views(model, job.seed)
    trainer = Trainer(model, data, job.config, views, seed=job.seed, device="cpu")
    progress = Progress(0, np.full((job.config.epochs, len(job.ids), 2), np.nan, dtype=np.float16))
    model.train()
    for _ in trainer.steps(progress):
        pass
    how = {"precision": job.config.precision, "device": "cpu"}
    image = mean_image_embeddings(model, data, views, n_views=1, **how)
    captions = text_embeddings(model, job.features.text, **how)
    text = mean_by_pair(captions, job.caption_start)
    scale = float(model.logit_scale.detach().exp())
    return Left(image, text, mean_over_epochs(progress.trajectory), scale, float("nan"))


def run(
    data_set: DataSet,
    config: AuditConfig,
    towers: Towers,
    pool: Executor,
    *,
    share: float,
    within_label: bool = False,
) -> Run:
    """Split, plant and train the members of one seed."""
    membership = draw_membership(data_set.clusters, config)
    rows = np.flatnonzero(membership.group == c.SCORED)
    pairs = data_set.pairs
    if share:
        pairs = planted(pairs, rows, share=share, seed=config.seed, within_label=within_label)
    features = features_of(towers, pairs, data_set.raw.root)
    features = Features(np.asarray(features.image), np.asarray(features.text))
    start, seeds = caption_starts(pairs), member_seeds(config, membership.members)
    jobs = [
        Job(features, config, pairs[c.PAIR_ID].tolist(), start, np.flatnonzero(trained), seeds[name])
        for name, trained in zip(membership.members, membership.trained, strict=True)
    ]
    external = np.flatnonzero(membership.group == c.EXTERNAL)
    left = [
        dataclasses.replace(one, recall=recall(one.image[external], one.text[external]))
        for one in pool.map(train, jobs)
    ]
    return Run(pairs, Sides(membership, config.protocol, config.seed), features, left)


def recall(image: np.ndarray, text: np.ndarray) -> float:
    """Return R@5 of mean embeddings, mean of both directions."""
    found = retrieval_recalls(image, text, np.arange(len(image)), ks=(5,))
    return float(np.mean(list(found.values())))


def out_mean(values: Sequence[np.ndarray], membership: Membership) -> np.ndarray:
    """Average over the members that were not trained on a pair, [n_pairs]."""
    return side_means(values, membership.trained)[1]


def parts(found: Run) -> dict[str, np.ndarray]:
    """Return the scores of a run as they are, the way up that they have, [n_pairs] each."""
    sides, members = found.sides, found.members
    terms = [pair_terms(one.image, one.text, sides.external) for one in members]
    similarity_in, similarity_out = side_means([own[c.SIMILARITY] for own in terms], sides.membership.trained)
    alignment_in, alignment_out = side_means([own[c.ALIGNMENT] for own in terms], sides.inside)
    assert found.features.image is not None
    assert found.features.text is not None
    text = mean_by_pair(found.features.text.astype(np.float32), caption_starts(found.pairs))
    near_images, near_texts = nearest(found.features.image), nearest(text)
    return {
        c.SIMILARITY_OUT: similarity_out,
        c.SIMILARITY_IN: similarity_in,
        c.CLIPMEM: alignment_in - alignment_out,
        c.LEARNED: learned([one.log_probability for one in members]),
        c.CSLS_OUT: csls_out(
            [one.image for one in members], [one.text for one in members], sides.membership.trained, sides.external
        ),
        "log_probability_out": out_mean(
            [log_probability(one.image, one.text, sides.external, logit_scale=one.logit_scale) for one in members],
            sides.membership,
        ),
        "lemon_out": out_mean(
            [lemon(one.image, one.text, near_images, near_texts) for one in members], sides.membership
        ),
    }


def nearest(features: np.ndarray) -> np.ndarray:
    """Return the rows nearest to each by the cosine of centred features, itself left out, [n, NEAREST]."""
    vectors = features.astype(np.float32) - features.mean(axis=0, dtype=np.float32)
    faiss.normalize_L2(vectors)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    rows = index.search(vectors, NEAREST + 1)[1]
    own = rows == np.arange(len(rows))[:, None]
    own[~own.any(axis=1), -1] = True  # an equal row stands in its place
    return rows[~own].reshape(len(rows), NEAREST)


def suspicion(given: Mapping[str, np.ndarray], scored: np.ndarray) -> dict[str, np.ndarray]:
    """Return every score that is compared, larger more suspicious, of scored pairs."""
    late, similarity, beyond = given[c.LEARNED], given[c.SIMILARITY_OUT], given[c.CSLS_OUT]
    scores = {
        REFERENCE: misfit(late, similarity, scored),
        "misfit with csls_out": misfit(late, beyond, scored),
        # The weight was found on seeds 0 to 2 of the sets in data/results: judge it on others
        "misfit with csls_out twice": misfit(late, beyond, scored) - z_score(beyond, scored),
        "-csls_out": -beyond,
        "-log_probability_out": -given["log_probability_out"],
        "-similarity_out": -similarity,
        "-similarity_in": -given[c.SIMILARITY_IN],
        "-learned": -late,
        "lemon_out": given["lemon_out"],
        "clipmem": given[c.CLIPMEM],
    }
    return {name: values[scored] for name, values in scores.items()}


def z_score(values: np.ndarray, scored: np.ndarray) -> np.ndarray:
    """Return values less their mean over scored pairs, in standard deviations over these."""
    return (values - values[scored].mean()) / values[scored].std()


def measured(found: Run) -> pd.DataFrame:
    """Return one row a score: how well it finds what was swapped."""
    scored = found.scored
    table = detection_table(suspicion(parts(found), scored), found.truth[scored], n_boot=1)
    return table[["score", *METRICS]]


def spread(values: np.ndarray) -> tuple[float, float]:
    """Return the mean over seeds and half a 95 % interval (Student's t)."""
    if len(values) < 2:
        return float(values.mean()), float("nan")
    return float(values.mean()), float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)


def summed_up(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row a share and score: means over seeds, and the lead of the reference, paired, with intervals."""
    lines = []
    for (share, score), own in rows.groupby(["share", "score"], sort=False):
        line: dict[str, object] = {"share": share, "score": score, "seeds": len(own)}
        reference = rows[(rows["share"] == share) & (rows["score"] == REFERENCE)].set_index("seed")
        own = own.set_index("seed")
        for metric in METRICS:
            mean, half = spread(own[metric].to_numpy())
            line |= {metric: mean, f"{metric}_low": mean - half, f"{metric}_high": mean + half}
        for metric in METRICS[:2]:
            mean, half = spread((own[metric] - reference[metric]).to_numpy())
            line |= {f"{metric}_over_{REFERENCE}": mean, f"{metric}_over_low": mean - half}
            line |= {f"{metric}_over_high": mean + half}
        lines.append(line)
    return pd.DataFrame(lines)


def main(asked: Detection) -> int:
    """Measure, print and write the table; return the exit code."""
    data_set, config = read(asked.source, scenes_pairs=asked.scenes_pairs, members=asked.members)
    towers = towers_of(config)
    rows = []
    # torch must not be forked
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for seed in range(asked.seeds):
            for share in asked.shares:
                began = time.monotonic()
                own = dataclasses.replace(config, seed=seed)
                found = run(data_set, own, towers, pool, share=share, within_label=asked.within_label)
                table = measured(found)
                rows.append(table.assign(share=share, seed=seed))
                console.print(line(found, table, share, seed, time.monotonic() - began), markup=False)
    table = summed_up(pd.concat(rows, ignore_index=True))
    console.print(table.drop(columns=[name for name in table if "low" in name or "high" in name]).to_string())
    if asked.out:
        write(table, Path(asked.out), asked, data_set)
    return 0


def line(found: Run, table: pd.DataFrame, share: float, seed: int, seconds: float) -> str:
    """Say how one run came out."""
    stability = ranking_stability(
        [pair_terms(one.image, one.text, found.sides.external)[c.ALIGNMENT] for one in found.members], found.sides
    )
    reliability = ranking_reliability(stability, len(found.sides.replicates))
    recall = np.mean([one.recall for one in found.members])
    best = table.loc[table[AVERAGE_PRECISION].idxmax()]
    return (
        f"seed {seed}, {share:.0%} swapped ({found.truth.sum():,}): R@5 {recall:.3f}, reliability {reliability:.3f}, "
        f"best AP {best['score']} {best[AVERAGE_PRECISION]:.3f}, {seconds:.0f} s"
    )


def write(table: pd.DataFrame, path: Path, asked: Detection, data_set: DataSet) -> None:
    """Write the table with the command, machine and seeds that made it."""
    made_on = settings.machine()
    name = Path(asked.source).name
    shares = " ".join(map(str, asked.shares))
    within = " --within-label" if asked.within_label else ""
    lines = [
        f"# command: python -m tests.bench detection {name} --shares {shares} --seeds {asked.seeds}{within}",
        f"# machine: {made_on['processor']}, {made_on['cores']} cores; {date.today().isoformat()}",
        f"# seeds: 0 to {asked.seeds - 1}, each another split, planting and training; intervals: 95 % over them",
        f"# pairs: {len(data_set.pairs):,} with {data_set.pairs[c.CAPTIONS].map(len).sum():,} captions; "
        f"{asked.members} members of preset locked",
        f"# data set: {data_set.fingerprint[:16]}",
    ]
    path.write_text("\n".join(lines) + "\n" + table.round(4).to_csv(index=False), encoding="utf-8")


def command(arguments: Sequence[str]) -> int:
    """Run it from the command line."""
    asked = tyro.cli(
        Detection, args=arguments, prog="python -m tests.bench detection", config=(tyro.conf.FlagCreatePairsOff,)
    )
    try:
        return main(asked)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
