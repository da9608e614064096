"""OpenClipart → a folder of usable pictures and a CSV file that both sides of the benchmark read alike."""

import dataclasses
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from clipmem_core import columns as c
from clipmem_core.audits.prepare import draw_membership, look_at_pictures
from clipmem_core.audits.settings import resolve
from clipmem_core.config import AuditConfig, data_folder, preset_config
from clipmem_core.pairs.pictures import decode, resize
from clipmem_core.pairs.table import RawPairs, read_source
from clipmem_core.scores.membership import group_size
from tests.bench.report import Skipped, console

IMAGE, CAPTION = "filepath", "title"  # open_clip's defaults, with tabs between
SPARE = 50  # pictures looked at beyond those wanted: a few are broken


@dataclass(frozen=True)
class Clipart:
    """A folder with pairs.tsv and pictures/, and which of its pairs each member of an audit trains on."""

    folder: Path
    pairs: pd.DataFrame  # IMAGE and CAPTION, [n_pairs]
    trained: dict[str, np.ndarray]  # bool [n_pairs] a member

    @property
    def source(self) -> Path:
        return self.folder / "pairs.tsv"

    def write_trained(self, member: str) -> Path:
        """Write the pairs of one member as a CSV file of their own and return its path."""
        path = self.folder / f"{member}.tsv"
        self.pairs[self.trained[member]].to_csv(path, sep="\t", index=False)
        return path


def audit_config(*, trained: int, epochs: int, cache_size: int = 0) -> AuditConfig:
    """Return the config of an audit by the paper's protocol: two members, batches that divide their pairs evenly."""
    config = preset_config("small")
    return dataclasses.replace(
        config,
        protocol="paper",
        epochs=epochs,
        batch_size=min(250, trained // 4),
        cache_size=cache_size or config.cache_size,
    )


def pairs_for(trained: int) -> int:
    """Return how many pairs an audit needs for each of its two members to train on exactly `trained`.

    Example:
        >>> pairs_for(2_000)
        2444
    """
    return next(n for n in range(trained, 3 * trained) if n - 2 * group_size(n) == trained)


def make_clipart(folder: Path, *, trained: int, config: AuditConfig, size: int = 0, seed: int = 0) -> Clipart:
    """Fill a folder with pictures our reader can use, drawn by a seed, so that each member trains on `trained`.

    Args:
        folder: made, with pictures/ and pairs.tsv in it.
        trained: pairs each member trains on; a few more are drawn for the groups a member leaves out.
        config: of the audit that will be made of it.
        size: store the pictures as squares of this many pixels; 0 copies the original files.
        seed: of the draw.
    """
    raw = _usable(_open_clipart(), pairs_for(trained), config=config, seed=seed, cache=folder / "looked-at")
    (folder / "pictures").mkdir(parents=True)
    rows = []
    for number, (image, captions) in enumerate(zip(raw.pairs[c.IMAGE], raw.pairs[c.CAPTIONS], strict=True)):
        name = f"pictures/{number:05}.png"
        _store(raw.root / image, folder / name, size, config.resize_mode)
        rows.append((name, " ".join(captions[0].replace('"', " ").split())))
    pairs = pd.DataFrame(rows, columns=[IMAGE, CAPTION])
    pairs.to_csv(folder / "pairs.tsv", sep="\t", index=False)
    clipart = Clipart(folder, pairs, _trained(folder, config))
    shutil.rmtree(folder / "looked-at")
    return clipart


def _open_clipart() -> RawPairs:
    folder = data_folder() / "sets" / "openclipart"
    if not folder.is_dir():
        command = [sys.executable, "-m", "clipmem_core", "fetch", "openclipart"]
        console.print("fetching OpenClipart")
        if subprocess.run(command, check=False).returncode != 0:
            raise Skipped("OpenClipart cannot be fetched: `python -m clipmem_core fetch openclipart` says why")
    return read_source(str(folder), AuditConfig().source, data=data_folder())


def _usable(raw: RawPairs, wanted: int, *, config: AuditConfig, seed: int, cache: Path) -> RawPairs:
    """Draw pairs until enough of them have a picture our reader can use."""
    order = np.random.default_rng(seed).permutation(len(raw.pairs))[: wanted + SPARE]
    drawn = dataclasses.replace(raw, pairs=raw.pairs.iloc[order].reset_index(drop=True))
    console.print(f"looking at {len(order):,} pictures of OpenClipart")
    usable = look_at_pictures(drawn, config, cache=cache).pairs
    if len(usable) < wanted:
        raise Skipped(f"{len(usable)} of {len(order)} pictures of OpenClipart can be used, {wanted} are needed")
    return dataclasses.replace(raw, pairs=usable.iloc[:wanted])


def _store(original: Path, path: Path, size: int, resize_mode: str) -> None:
    if not size:
        shutil.copyfile(original, path)
        return
    Image.fromarray(resize(decode(original.read_bytes()), size, resize_mode)).save(path)


def _trained(folder: Path, config: AuditConfig) -> dict[str, np.ndarray]:
    """Draw the membership that an audit of the folder will draw."""
    raw = read_source(str(folder / "pairs.tsv"), config.source, data=data_folder())
    data_set = look_at_pictures(raw, config, cache=folder / "looked-at")
    membership = draw_membership(data_set.clusters, resolve(config))
    return dict(zip(membership.members, membership.trained, strict=True))
