"""How well an audit judges pairs that it has never seen: audits the first pairs of a synthetic set,
and judges the others with some captions swapped.

    python -m tests.bench.new_pairs FOLDER [--pairs 6000] [--new 2000] [--shares .01 .05 .2]
"""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import tyro
from sklearn.metrics import average_precision_score, roc_auc_score

from clipmem_core.cli import main as command
from clipmem_core.dataset.scenes import draw_scenes
from clipmem_core.utils import columns as c


@dataclass(frozen=True)
class NewPairs:
    """Measure p_wrong of new pairs."""

    folder: Annotated[Path, tyro.conf.Positional]
    pairs: int = 6_000
    new: int = 2_000
    shares: tuple[float, ...] = (0.01, 0.05, 0.2)
    seed: int = 7


def write_lines(path: Path, pairs: pd.DataFrame) -> Path:
    """Write image, pair_id and captions of pairs as JSON Lines."""
    columns = [c.IMAGE, c.PAIR_ID, c.CAPTIONS]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in pairs[columns].to_dict("records")))
    return path


def main(options: NewPairs) -> None:
    """Audit, judge, and print a line for each share."""
    listing = options.folder / "captions.jsonl"
    if not listing.is_file():
        draw_scenes(options.folder, pairs=options.pairs + options.new, seed=options.seed)
    pairs = pd.read_json(listing, lines=True)
    first = write_lines(options.folder / "first.jsonl", pairs[: options.pairs])
    command(["audit", str(first), "--name", "first"])
    new = pairs[options.pairs :]
    new = new[new[c.INJECTED].isna()].reset_index(drop=True)
    for share in options.shares:
        rng = np.random.default_rng(options.seed)
        swapped = rng.choice(len(new), round(share * len(new)), replace=False)
        batch = new.copy()
        captions = new[c.CAPTIONS].to_numpy(copy=True)
        captions[swapped] = captions[np.roll(swapped, 1)]
        batch[c.CAPTIONS] = captions
        source = write_lines(options.folder / "new.jsonl", batch)
        out = options.folder / "judged.csv"
        began = time.monotonic()
        command(["judge", "first", str(source), "--out", str(out)])
        seconds = time.monotonic() - began
        judged = pd.read_csv(out).groupby(c.PAIR_ID)
        p_wrong = judged[c.P_WRONG].max().reindex(batch[c.PAIR_ID]).to_numpy()
        expected = judged[c.P_PAIR].first().sum()
        truth = np.isin(np.arange(len(new)), swapped)
        print(
            f"{share:.0%} of {len(new):,} pairs: AUROC {roc_auc_score(truth, p_wrong):.3f}, AP "
            f"{average_precision_score(truth, p_wrong):.3f}, Σ p_pair {expected:.1f} of "
            f"{len(swapped)}, {seconds:.0f} s"
        )


if __name__ == "__main__":
    sys.exit(main(tyro.cli(NewPairs)))
