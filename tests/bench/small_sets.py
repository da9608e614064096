"""How well wrong captions are found and counted in small sets: random parts of a data set with one
caption a picture, some of them exchanged.

    python -m tests.bench.small_sets PATH out.csv [DRAWS]
"""

import hashlib
import sys

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, roc_auc_score

from clipmem_core import find_wrong_captions
from clipmem_core.config import ENGLISH_TOWER, SourceOptions, data_folder
from clipmem_core.dataset.containers import read_bytes
from clipmem_core.dataset.source import read_source
from clipmem_core.features.bridge import open_bridge
from clipmem_core.features.embed import FeatureExtractor
from clipmem_core.features.towers import built_in_tower

SIZES = (30, 50, 100, 200, 500, 1_000)
SHARES = (0.0, 0.05, 0.1, 0.3)


def main(source: str, out: str, draws: int = 10) -> None:
    """Write a row a size, share and draw, and print their means."""
    raw = read_source(source, SourceOptions(), data=data_folder())
    hashes = [hashlib.sha256(read_bytes(raw.root, name)).hexdigest() for name in raw.pairs["image"]]
    towers = built_in_tower("efficientnet-lite2"), built_in_tower(ENGLISH_TOWER)
    image = FeatureExtractor(towers[0], raw.root).images(raw.pairs.assign(sha256=hashes))[:]
    text = FeatureExtractor(towers[1]).captions([texts[0] for texts in raw.pairs["captions"]])[:]
    bridge = open_bridge(*towers)
    assert bridge is not None
    rows = []
    for n in (size for size in SIZES if size <= len(image)):
        for share in SHARES:
            for draw in range(draws):
                rng = np.random.default_rng([draw, n])
                chosen = rng.permutation(len(image))[:n]
                of_caption = chosen.copy()
                exchanged = rng.permutation(n)[: round(n * share)]
                of_caption[exchanged] = chosen[np.roll(exchanged, 1)]
                pictures, captions = image[chosen], text[of_caption]
                known = bridge(pictures, captions)
                found = find_wrong_captions(pictures, captions, bridge=known, progress=False)
                wrong = of_caption != chosen
                row = {"n": n, "share": share, "draw": draw, "wrong": wrong.sum()}
                if wrong.any():
                    p_wrong = found.pairs["p_wrong"]
                    row["auroc"] = roc_auc_score(wrong, p_wrong)
                    row["ap"] = average_precision_score(wrong, p_wrong)
                count = found.count
                row |= {"estimate": count.estimate, "low": count.low, "high": count.high}
                row["covers"] = round(count.low) <= wrong.sum() <= round(count.high)
                rows.append(row)
            pd.DataFrame(rows).to_csv(out, index=False, float_format="%.4g")
    columns = ["wrong", "auroc", "ap", "estimate", "low", "high", "covers"]
    print(pd.DataFrame(rows).groupby(["n", "share"])[columns].mean().round(3).to_string())


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:]))
