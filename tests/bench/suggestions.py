"""How often a suggested caption is right: audits of real sets in which pairs have the caption of
another pair.

    python -m tests.bench.suggestions SOURCE… [--seeds 0 1 2 3 4] [--out FILE.csv]

The other pair is left out. A suggestion is usable where its cosine with a right caption, by
all-MiniLM-L6-v2, is `CLOSE` or more, and fewer than `NEAREST` different captions of other pairs are
closer. Audits stay and are resumed.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import tyro

from clipmem_core.auditing.folder import settings
from clipmem_core.auditing.folder.prepare import load_data_set
from clipmem_core.auditing.folder.store import Audit
from clipmem_core.auditing.run.console import RichScreen
from clipmem_core.auditing.run.pipeline import run_audit
from clipmem_core.config import AuditConfig, data_folder, preset_config
from clipmem_core.features.towers import minilm
from clipmem_core.review import search
from clipmem_core.utils import columns as c
from clipmem_core.utils.embeddings import unit
from tests.bench import save_table

INJECTED = 150
CLOSE = 0.6
NEAREST = 10
LEADS = (-np.inf, 0.4, 0.45, 0.5, 0.55, 0.6)  # the first: all suggestions, up to three a pair
SCENES_PAIRS = 1600  # so that enough are left for suggestions


def audited_copy(pairs: pd.DataFrame, root: Path, config: AuditConfig, name: str) -> Audit:
    """Return a finished audit of a set that has other captions; a killed one resumes."""
    path = data_folder() / "sets" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"id": pair_id, "image": str(root / image), "captions": list(captions)})
        for pair_id, image, captions in zip(
            pairs[c.PAIR_ID], pairs[c.IMAGE], pairs[c.CAPTIONS], strict=True
        )
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    options = replace(config.source, image_folder=str(root), csv_id_key="id")
    return run_audit(str(path), replace(config, source=options), name=name, screen=RichScreen())


@dataclass(frozen=True)
class Suggestions:
    """Count how many suggestions for pairs with an injected caption are usable, by the lead that is
    asked of them."""

    sources: Annotated[tuple[str, ...], tyro.conf.Positional]
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    out: str = ""  # a CSV file for the table


def measured(source: str, seeds: tuple[int, ...]) -> Iterator[dict[str, object]]:
    """Yield a row for each seed and lead: the injected pairs, those with a suggestion, suggestions,
    and usable ones."""
    config = preset_config("locked")
    name = Path(source).parent.name or source
    config = replace(config, source=replace(config.source, scenes_pairs=SCENES_PAIRS))
    data_set = load_data_set(source, settings.resolve(config))
    pairs = data_set.pairs[data_set.pairs[c.INJECTED].isna()].reset_index(drop=True)
    texts = pairs[c.CAPTIONS].explode().unique().tolist()
    place = {text: at for at, text in enumerate(texts)}
    embed = minilm().opened.embed
    parts = [embed(texts[start : start + 64]) for start in range(0, len(texts), 64)]
    vectors = unit(np.concatenate(parts))
    for seed in seeds:
        order = np.random.default_rng(seed).permutation(len(pairs))
        wrong, donors = order[: 2 * INJECTED].reshape(2, -1)
        moved = pairs[c.CAPTIONS].copy()
        moved[wrong] = moved[donors].to_numpy()
        table = pairs.assign(**{c.CAPTIONS: moved}).drop(index=donors)
        seeded = replace(config, seed=seed)
        audit = audited_copy(table, data_set.raw.root, seeded, f"suggestions-{name}-{seed}")
        right = {}
        for row in wrong:
            captions = set(pairs[c.CAPTIONS][row])
            if captions.isdisjoint(moved[row]):
                right[pairs[c.PAIR_ID][row]] = captions
        suggested = compared_with_truth(audit, right, place, vectors)
        for lead in LEADS:
            shown = suggested[suggested["lead"] >= lead]
            yield {
                "set": name,
                "seed": seed,
                "lead": lead,
                "pairs": len(audit.pairs),
                "injected": len(right),
                "with_suggestion": shown["row"].nunique(),
                "suggestions": len(shown),
                "usable": shown["usable"].sum(),
                "precision": shown["usable"].mean(),
            }


def compared_with_truth(
    audit: Audit, right: dict[str, set[str]], place: dict[str, int], vectors: np.ndarray
) -> pd.DataFrame:
    """Return what is suggested for the injected pairs of an audit whatever it leads by: row, lead,
    usable."""
    pairs = audit.pairs
    rows = []
    search.LEAD = -np.inf
    others = np.zeros(len(place), dtype=bool)
    others[[place[text] for text in pairs[c.CAPTIONS].explode()]] = True
    for row, (pair_id, captions) in enumerate(
        zip(pairs[c.PAIR_ID], pairs[c.CAPTIONS], strict=True)
    ):
        if pair_id not in right:
            continue
        suggested = search.suggested_captions(audit, row)
        close = (vectors @ vectors[[place[text] for text in right[pair_id]]].T).max(axis=1)
        is_rival = others.copy()
        is_rival[[place[text] for text in captions]] = False
        for choice in suggested.choices:
            fit = close[place[choice.caption]]
            rivals = (close[is_rival] > fit + 1e-6).sum()
            if choice.cosine > np.nanmin(suggested.cosines):
                rows.append((row, choice.lead, fit >= CLOSE and rivals < NEAREST))
    return pd.DataFrame(rows, columns=["row", "lead", "usable"])


if __name__ == "__main__":
    asked = tyro.cli(Suggestions, prog="python -m tests.bench.suggestions")
    table = pd.DataFrame([row for source in asked.sources for row in measured(source, asked.seeds)])
    save_table(table, asked.out, " ".join(__doc__.split()))
