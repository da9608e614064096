"""Fixtures and factories of synthetic results: finished audits with hostile captions, benchmarks,
jobs."""

import fcntl
import hashlib
import itertools
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from clipmem_core.auditing.folder import store
from clipmem_core.auditing.folder.prepare import audit_fingerprint, member_seeds, membership_table
from clipmem_core.auditing.folder.settings import library_versions, machine
from clipmem_core.auditing.folder.store import (
    Audit,
    Record,
    write_json,
    write_manifest,
    write_table,
)
from clipmem_core.auditing.tables.scoring import json_rows
from clipmem_core.auditing.tables.verdict import NULL_CHECK, make_verdict
from clipmem_core.config import AuditConfig, preset_config
from clipmem_core.dataset.injected_errors import ERROR_KINDS
from clipmem_core.lab.experiment import DETECTORS, Benchmark
from clipmem_core.review.decisions import CHOICES, Review
from clipmem_core.scores.attacks import BAVARIA
from clipmem_core.scores.membership import Membership
from clipmem_core.scores.metrics import METRICS, detection_table, numbers_reviewed
from clipmem_core.scores.registry import SCORE_COLUMNS
from clipmem_core.utils import columns as c
from clipmem_core.utils.embeddings import write_vectors
from clipmem_core.utils.io import file_sha256

HOSTILE = [
    "<script>document.title = 'taken'</script><b>bold</b><img src=x "
    "onerror=\"document.title='taken'\">",
    "costs $5 and $latex^2$ or $$\\frac{1}{2}$$",
    "[click me](javascript:alert(1)) ![x](https://example.org/x.png)",
    ":material/delete: :red[red] :smile: :streamlit: :blue-badge[badge]",
    "# heading\n\n- list\n- list\n\n> quote\n\n```python\ncode\n```",
    "קרוקודיל ירוק \u202egnorw yaw eht\u202c and مرحبا بالعالم",
    "🐊👩‍👩‍👧 é 中文 𝔘𝔫𝔦 Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢",
    "~~struck~~ *stars* _lines_ `ticks` &lt;b&gt; &amp; \\",
    "x" * 700,
    "word " * 10_000,
]
SHAPES = ["circle", "square", "triangle"]
COLOURS = ["crimson", "teal", "goldenrod", "slateblue", "olivedrab"]
GROUP_SIZES = {
    "ensemble": {"scored": 80, "held-out": 20},
    "paper": {"candidate": 20, "independent": 20, "shared": 40, "held-out": 20},
}
MEMBERS = {
    "ensemble": ("r0-f0", "r0-f1", "r1-f0", "r1-f1"),
    "paper": ("f-0", "g-0", "f-1", "g-1", "f-2", "g-2"),
}
QUARANTINED = 120
NO_PAIRS = pa.table(
    {"pair_id": pa.array([], pa.string()), "captions": pa.array([], pa.list_(pa.string()))}
)
CENTRES = {"candidate": 0.3, "scored": 0.3, "independent": -0.3, "shared": -0.02, "held-out": -0.01}


def decision_counts(review: Review) -> dict[str, int]:
    """Return the number of pairs of each decision, in the order of `CHOICES`."""
    made = [each.decision for each in review.decisions().values()]
    return {choice: made.count(choice) for choice in CHOICES}


def make_audit(
    data: Path, name: str = "made", *, protocol: str = "ensemble", seed: int = 0
) -> Audit:
    """Write a finished audit below a data folder, its pictures beside it."""
    rng = np.random.default_rng(seed)
    sizes = GROUP_SIZES[protocol]
    root = data / "sets" / name
    groups = np.repeat(list(sizes), list(sizes.values()))
    (root / "images").mkdir(parents=True)
    rows = []
    for number in range(len(groups)):
        shape = str(rng.choice(SHAPES))
        colour = rng.choice(COLOURS)
        size = tuple(int(side) for side in rng.integers(60, 160, size=2))
        image = f"images/{number:03d}.png"
        Image.new("RGB", size, colour).save(root / image)
        first = HOSTILE[number] if number < len(HOSTILE) else f"a {colour} {shape}"
        others = [f"one {shape}, painted {colour}", f"{shape} in {colour} on a plain ground"]
        digest = hashlib.sha256((root / image).read_bytes()).hexdigest()
        injected = "miscaption" if number % 10 == 0 else None
        rows.append((image, image, [first, *others], shape, *size, digest, injected))
    pairs = pd.DataFrame(rows, columns=c.PAIR_COLUMNS)
    scores = made_scores(pairs, groups, rng)
    record = made_record(name, root, protocol, groups)
    return write_audit(data / "audits" / name, record, pairs, scores, groups, rng)


def write_audit(
    folder: Path,
    record: Record,
    pairs: pd.DataFrame,
    scores: pd.DataFrame,
    groups: np.ndarray,
    rng: np.random.Generator,
) -> Audit:
    """Write every file of a finished audit but those of its members; quarantine.parquet has hostile
    reasons."""
    folder.mkdir(parents=True, exist_ok=True)
    membership = made_membership(groups, record.protocol, rng)
    metrics = [
        "image_to_text_R@1",
        "image_to_text_R@5",
        "text_to_image_R@5",
        "linear_probe",
        "zero_shot",
    ]
    rows = [(name, metric, rng.uniform(0.2, 0.6)) for name in record.members for metric in metrics]
    utility = pd.DataFrame(rows, columns=c.UTILITY_COLUMNS)
    quarantined = [
        (f"captions.csv:{row}", None, c.BAD_CAPTION, HOSTILE[row % 8]) for row in range(QUARANTINED)
    ]
    tables = {
        store.PAIRS: pairs,
        store.SCORES: scores,
        store.UTILITY: utility,
        store.QUARANTINE: pd.DataFrame(quarantined, columns=c.QUARANTINE_COLUMNS),
        store.MEMBERSHIP: membership_table(pairs, membership),
    }
    for file, table in tables.items():
        write_table(folder / file, table)
    write_json(folder / store.CONFIG, record.values)
    rows = np.arange(len(pairs))
    store.write_prepared(folder, store.Prepared(rows, rows, rows))
    for name in record.members:
        (folder / store.MEMBERS / name).mkdir(parents=True, exist_ok=True)
        config = {
            "member": name,
            "seed": record.seeds[name],
            "fingerprint": record.fingerprint,
            "model": "tiny",
            "image_size": 32,
            "model_config": {},
        }
        write_json(folder / store.MEMBERS / name / store.CONFIG, config)
    write_json(folder / store.VERDICT, made_verdict(scores, utility, record.config))
    write_manifest(folder)
    return Audit(folder)


def flip(path: Path, *places: int) -> None:
    """Flip a bit of some bytes of a file."""
    data = bytearray(path.read_bytes())
    for place in places:
        data[place] ^= 1
    path.write_bytes(data)
    os.utime(path, (0, 0))  # later than the last read: the clock of files is coarse


def rewrite(path: Path, table: pd.DataFrame) -> None:
    """Write a table of an audit, and its hash in the manifest if that lists the table."""
    write_table(path, table)
    if (files := Audit(path.parent).files).get(path.name):
        files[path.name] = file_sha256(path)
        write_json(path.with_name(store.MANIFEST), {"version": store.VERSION, "files": files})


def caption_rows(audit: Audit) -> pd.DataFrame:
    """Return the pair_id of each caption, its number in the pair, and scores of 0."""
    texts = audit.pairs.explode(c.CAPTIONS).reset_index(drop=True)
    names = (c.SIMILARITY_OUT, c.MARGIN_OUT, *c.PARTS, c.P_WRONG)
    return texts[[c.PAIR_ID]].assign(
        caption=texts.groupby(c.PAIR_ID).cumcount(),
        read=True,
        check="",
        **dict.fromkeys(names, 0.0),
    )


def write_words(audit: Audit) -> pd.DataFrame:
    """Write words.parquet with the last word of each caption, which is surprising, and a likelier
    one."""
    texts = audit.pairs[c.CAPTIONS].explode()
    table = caption_rows(audit)[[c.PAIR_ID, c.CAPTION]].assign(
        probability=0.003, surprise=3.0, p_wrong=0.9
    )
    table[c.WORD] = [text.split()[-1] for text in texts]
    table[c.START] = [text.rindex(word) for text, word in zip(texts, table[c.WORD], strict=True)]
    table[c.BETTER] = [["fox<b>"]] * len(table)
    table[c.BETTER_PROBABILITY] = [[0.71]] * len(table)
    rewrite(audit.folder / store.WORD_TABLE, table)
    return table


def write_incidents(audit: Audit) -> None:
    """Write two incidents: rows 20 to 29 have the captions of the row above, rows 40 and 50 have
    no repair."""
    rows = [(1, row, row + 1 if row < 29 else -1, 0.99) for row in range(20, 30)]
    rows += [(2, row, -1, np.nan) for row in (40, 50)]
    pairs = pd.DataFrame(rows, columns=["number", "row", "from_row", "probability"])
    incidents = pd.DataFrame(
        {
            "number": [1, 2],
            "kind": ["shift", "text"],
            "pairs": [10, 2],
            "first": [21, 41],
            "last": [30, 51],
            "evidence": [90.0, 9.0],
            "repairs": [9, 0],
            "cause": ["Captions are one row late.", HOSTILE[0]],
        }
    )
    rewrite(audit.folder / store.INCIDENTS, incidents)
    rewrite(audit.folder / store.INCIDENT_PAIRS, pairs)


def write_swaps(audit: Audit, swaps: dict[int, int]) -> None:
    """Write single swaps: rows, each with the row whose captions fit it."""
    columns = {"row": swaps.keys(), "from_row": swaps.values()}
    table = pd.DataFrame(columns).assign(number=0, probability=0.97)
    rewrite(audit.folder / store.INCIDENT_PAIRS, table)


def made_scores(pairs: pd.DataFrame, groups: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    """Draw scores.parquet; pairs with hostile captions, the first ones, come out on top."""
    scores = pd.DataFrame({column: rng.normal(size=len(pairs)) for column in SCORE_COLUMNS})
    scores["pair_id"] = pairs["pair_id"]
    scores["group"] = groups
    scores["n_in"] = 2
    scores["n_out"] = 2
    clipmem = rng.normal(size=len(pairs)) * 0.1 + [CENTRES[group] for group in groups]
    clipmem[: len(HOSTILE)] = 1.5 - np.arange(len(HOSTILE)) / 20
    scores["clipmem"] = clipmem
    scores["clipmem_relative"] = clipmem / np.abs(clipmem).max()
    scores["se"] = rng.uniform(0.01, 0.05, size=len(pairs))
    null = ~np.isin(groups, ["candidate", "independent", "scored"])
    scores.loc[null, ["misfit", "learned", "q_value"]] = np.nan
    scores["fit_second"] = np.nan  # one round of training
    scores["suspicion"] = scores["misfit"]
    scores["review_place"] = scores["misfit"].rank(ascending=False)
    scores["p_wrong"] = pd.Series(rng.uniform(size=len(pairs))).where(
        scores["review_place"].notna()
    )
    return scores


def made_record(name: str, root: Path, protocol: str, groups: np.ndarray) -> Record:
    """Return the config.json of an audit of pairs in these groups, with its pictures below
    `root`."""
    members = MEMBERS[protocol]
    counts = {"members": len(members), "seeds": 3 if protocol == "paper" else 1}
    options = {"device": "cpu", "precision": "amp_bf16", "threads": 1}
    config = replace(preset_config("tiny"), protocol=protocol, **counts, **options)
    return Record(
        name=name,
        source="scenes",
        root=str(root.resolve()),
        format="jsonl",
        pixels="cache/pixels/made",
        protocol=protocol,
        members=members,
        seeds=member_seeds(config, members),
        threads=1,
        pairs=len(groups),
        held_out_pairs=int((groups == "held-out").sum()),
        near_duplicates=0,
        quarantined=QUARANTINED,
        dataset_fingerprint="fedcba9876543210",
        fingerprint=audit_fingerprint(config, "fedcba9876543210"),
        versions=library_versions(),
        machine=machine(),
        config=config,
    )


def made_membership(groups: np.ndarray, protocol: str, rng: np.random.Generator) -> Membership:
    """Draw the training pairs: one member of each replicate leaves a scored pair out; f and g as in
    the paper."""
    if protocol == "ensemble":
        folds = rng.integers(0, 2, (2, len(groups)))
        out = [folds[replicate] == fold for replicate in (0, 1) for fold in (0, 1)]
        trained = (groups == "scored") & ~np.stack(out)
    else:
        f = np.isin(groups, ["shared", "candidate"])
        g = np.isin(groups, ["shared", "independent"])
        trained = np.stack([f, g] * 3)
    return Membership(groups, MEMBERS[protocol], trained)


def made_verdict(
    scores: pd.DataFrame, utility: pd.DataFrame, config: AuditConfig
) -> dict[str, object]:
    """Return verdict.json for made-up numbers, with checks whose advice holds Markdown."""
    spread = scores.groupby("group")["clipmem"].agg(["size", "mean", "std"])
    groups = [
        {
            "group": group,
            "n": int(n),
            "mean": mean,
            "low": mean - std,
            "high": mean + std,
            "kind": "SD over pairs",
        }
        for group, n, mean, std in spread.itertuples()
    ]
    injected = np.arange(len(scores)) % 10 == 0
    detectors = {"misfit": 0.86, "similarity_out": 0.81, "similarity_in": 0.65}
    values = {
        name: injected + np.random.default_rng(0).normal(size=len(scores)) / auc
        for name, auc in detectors.items()
    }
    summary = {
        "groups": groups,
        "injected": [
            {"injected": "miscaption", "n": 10, "clipmem": 0.55, "similarity_out": 0.1},
            {"injected": "none", "n": 90, "clipmem": 0.25, "similarity_out": 0.3},
        ],
        "detection": json_rows(detection_table(values, injected, n_boot=10))
        if len(scores) < 1000
        else [],
        "membership_auroc": 0.93,
        "membership_auroc_by_member": dict.fromkeys(MEMBERS[config.protocol], 0.93),
        "ranking_stability": 0.73,
        "ranking_reliability": 0.84,
        "se_kind": "moderated",
        "exceeding": [
            {"size": 0.2, "share": 0.6, "low": 0.5, "high": 0.7},
            {"size": 0.4, "share": 0.12, "low": 0.08, "high": 0.16},
        ],
        "attacks": [
            dict.fromkeys(["value", "members_low", "members_high", "pairs_low", "pairs_high"])
            | {"attack": BAVARIA, "measure": "auroc", "targets": 0, "missing": "too few members"}
        ],
        "encoders": {"image": 0.29, "text": 0.014, "fit": 0.88},
        "held_out_pairs": int((scores["group"] == "held-out").sum()),
        "held_out_sd": float(scores["clipmem"][scores["group"] == "held-out"].std()),
        "part": "caption",
        "wrong_captions": {"missing": "too few pairs to estimate: review all"},
    }
    rows = [
        ("generalises", True, "Held-out R@5 is 0.40, chance is 0.05.", ""),
        (NULL_CHECK[0], False, "Held-out clipmem is −0.11.", "more repeats, *or* $5"),
        ("ranking", None, "One repeat says nothing of stability.", "2 repeats"),
    ]
    checks = [dict(zip(("name", "good", "sentence", "advice"), row, strict=True)) for row in rows]
    sentence = "Usable with care: the members generalise, but one null group is not flat."
    checked = {"sentence": sentence, "checks": checks}
    return make_verdict(summary, utility, config, towers={}, cut=0) | checked


Copy = Callable[..., Audit]  # of the fixture `copy`


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder that is the test's own."""
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Audit]:
    """A finished audit of each protocol, made once; not to be changed."""
    folder = tmp_path_factory.mktemp("made")
    return {
        protocol: make_audit(folder, protocol, protocol=protocol)
        for protocol in ("ensemble", "paper")
    }


@pytest.fixture
def copy(made: dict[str, Audit], data: Path) -> Copy:
    """Copy a made audit into the test's data folder under a name; the pictures stay where they
    are."""

    def copied(protocol: str = "ensemble", *, name: str = "made") -> Audit:
        return Audit(Path(shutil.copytree(made[protocol].folder, data / "audits" / name)))

    return copied


DIM = 12

Embeddings = dict[str, tuple[np.ndarray, np.ndarray]]


def embed(audit: Audit, *, seed: int = 0) -> Embeddings:
    """Write the members' indexes of means of unit vectors and return what is in them: image and
    text float32 [n_pairs, DIM] of each member."""
    rng = np.random.default_rng(seed)
    embeddings = {}
    for name in audit.record.members:
        vectors = rng.normal(size=(2, 3, len(audit.membership), DIM))
        means = (vectors / np.linalg.norm(vectors, axis=3, keepdims=True)).mean(axis=1)
        image, text = means.astype(np.float32)
        audit.member(name).mkdir(parents=True, exist_ok=True)
        write_vectors(audit.member(name) / "image.faiss", [image])
        write_vectors(audit.member(name) / "text.faiss", [text])
        embeddings[name] = (image, text)
    return embeddings


# In place of `jobs.PROGRAM`: runs the text behind the first argument, whose variable `code` is the
# exit code.
SCRIPTS = (
    sys.executable,
    "-c",
    """
import sys
from pathlib import Path
from clipmem_core.auditing.folder.jobs import run_job

def run(words):
    space = {}
    exec(words[1], space)
    return space.get("code", 0)

sys.exit(run_job(Path(sys.argv[1]), sys.argv[2:], run))
""",
)


_held: list[TextIO] = []  # the output of jobs that run until the tests end


def leave_job(
    folder: Path,
    *,
    running: bool = False,
    exit_code: int | None = None,
    said: str = "",
    **reported: object,
) -> None:
    """Leave the job of a folder in `jobs`, which has printed and reported something."""
    folder.mkdir(parents=True)
    write_json(folder / "job.json", {"pid": os.getpid(), "arguments": ["once", "more"]})
    write_json(folder / "record.json", reported | {"exit_code": exit_code})
    (folder / "output.log").write_text(said)
    if running:
        _held.append((folder / "output.log").open())
        fcntl.flock(_held[-1], fcntl.LOCK_EX)


def make_benchmark(
    name: str, *, root: str, fingerprint: str = "another", injections: int = 3
) -> Benchmark:
    """Write a benchmark into the data folder: every kind at its shares, and better detectors
    first."""
    benchmark = Benchmark.of(name)
    rng = np.random.default_rng(0)
    benchmark.folder.mkdir(parents=True)
    record = made_record(name, Path(root), "ensemble", np.array(["scored"]))
    record = replace(record, root=root, dataset_fingerprint=fingerprint)
    write_json(benchmark.folder / store.CONFIG, record.values)
    numbers = numbers_reviewed(200)
    for kind, error in ERROR_KINDS.items():
        for share, seed in itertools.product(error.shares, range(injections)):
            rows = []
            for place, detector in enumerate(DETECTORS):
                level = 0.95 - 0.03 * place
                values = {metric: float(level + rng.normal() * 0.01) for metric in METRICS}
                curve = share + (level - share) * np.linspace(1, 0, len(numbers))
                review = {"precision": curve, "number": numbers, "found_100": 40.0 - place}
                rows.append({"detector": detector} | values | review)
            table = pd.DataFrame(rows).assign(kind=kind, share=share, seed=seed)
            benchmark.add_rows(f"{kind}-{share}-{seed}", table)
    return benchmark
