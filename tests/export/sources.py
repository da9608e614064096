"""Small data sets of each kind with captions that are hard to write, and a finished audit without
any training."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from clipmem_core.auditing.folder.prepare import load_data_set
from clipmem_core.auditing.folder.store import (
    CONFIG,
    PAIRS,
    QUARANTINE,
    SCORES,
    UTILITY,
    VERDICT,
    Audit,
    write_json,
    write_manifest,
    write_table,
)
from clipmem_core.config import AuditConfig, preset_config
from clipmem_core.dataset.injected_errors import inject_miscaptions
from clipmem_core.scores.registry import SCORE_COLUMNS
from clipmem_core.utils.columns import QUARANTINE_COLUMNS, UTILITY_COLUMNS
from tests.dataset.samples import write_tar
from tests.fixtures import made_record

CAPTIONS = [
    ["plain", "another of the same picture"],
    ['she said "hi", twice'],
    ["a\ttab, a comma; a semicolon | a bar"],
    ["two\nlines", "three\r\nlines\rhere"],
    ["=SUM(A1)", "'quoted'", '"'],
    ["🐊 ירוק 中文 é"],
    ["ends with a backslash \\"],
    ["<script>alert(1)</script>", "x" * 3000],
    ["123"],
    ["NA"],
]
LABELS = ["cat", None, 'a "label"\twith', "cat", "dog", "犬", "", "cat", "7", "dog"]


def picture(number: int) -> bytes:
    """Return a picture of noise; every third is a JPEG."""
    noise = np.random.default_rng(number).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "PNG" if number % 3 else "JPEG")
    return stream.getvalue()


def make_source(kind: str, folder: Path) -> Path:
    """Write the ten pairs as a data set of a kind and return what to read."""
    folder.mkdir(parents=True)
    return {"folder": _folder, "csv": _csv, "tar": _tar}[kind](folder)


def _folder(folder: Path) -> Path:
    for number, captions in enumerate(CAPTIONS):
        path = folder / f"label {number % 3}" / f"pic #{number} 50%.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture(number))
        path.with_suffix(".txt").write_text("\n".join(" ".join(text.split()) for text in captions))
    return folder


def _csv(folder: Path) -> Path:
    (folder / "images").mkdir()
    rows = []
    for number, captions in enumerate(CAPTIONS):
        (folder / "images" / f"{number}.png").write_bytes(picture(number))
        rows += [
            (f"images/{number}.png", text, f"id {number}", LABELS[number]) for text in captions
        ]
    rows.append(("images/gone.png", "lost", "gone", None))
    pd.DataFrame(rows, columns=["image", "caption", "id", "label"]).to_csv(
        folder / "captions.csv", index=False
    )
    return folder / "captions.csv"


def _tar(folder: Path) -> Path:
    for shard in range(2):
        members = dict[str, bytes | str]()
        for number in range(5 * shard, 5 * shard + 5):
            meta = {"captions": CAPTIONS[number], "label": LABELS[number]}
            members[f"./deep/{number:04d}.png"] = picture(number)
            members[f"./deep/{number:04d}.json"] = json.dumps(meta)
        write_tar(folder / f"shard-{shard}.tar", members)
    return folder


def audited(source: Path | str, name: str = "mine", /, **fields: object) -> Audit:
    """Make a finished audit of a source, with made-up scores; `inject_miscaptions` swaps captions
    as an audit does."""
    config: AuditConfig = replace(preset_config("tiny"), **fields)
    data_set = load_data_set(str(source), config)
    pairs = data_set.pairs
    injected = inject_miscaptions(pairs, np.arange(len(pairs)), n=config.inject_miscaptions, seed=0)
    scores = pd.DataFrame(
        np.random.default_rng(0).normal(size=(len(pairs), len(SCORE_COLUMNS))),
        columns=SCORE_COLUMNS,
    )
    audit = Audit(Audit.parent() / name)
    audit.folder.mkdir(parents=True)
    record = made_record(name, data_set.raw.root, config.protocol, np.repeat("scored", len(pairs)))
    record = replace(
        record, source=str(source), config=config, dataset_fingerprint=data_set.fingerprint
    )
    write_json(audit.folder / CONFIG, record.values)
    write_table(audit.folder / PAIRS, injected)
    write_table(
        audit.folder / QUARANTINE,
        data_set.quarantine.reindex(columns=QUARANTINE_COLUMNS).astype("string"),
    )
    write_table(audit.folder / SCORES, scores.assign(pair_id=pairs["pair_id"], group="scored"))
    write_table(
        audit.folder / UTILITY, pd.DataFrame([("m0", "zero_shot", 0.5)], columns=UTILITY_COLUMNS)
    )
    verdict = {"sentence": "Made up.", "checks": [], "groups": [], "part": "caption"}
    verdict["wrong_captions"] = {"missing": "too few pairs to estimate: review all"}
    write_json(audit.folder / VERDICT, verdict)
    write_manifest(audit.folder)
    return audit
