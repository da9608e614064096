"""A dry run over a data set: what is in it, what is broken and where. Nothing is kept."""

import dataclasses
import tempfile
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from clipmem_core import columns as c
from clipmem_core.audits.console import RichScreen, plain
from clipmem_core.audits.given import GivenRows, holds_features
from clipmem_core.audits.prepare import DataSet, load_data_set, look_at_pictures
from clipmem_core.config import DEFAULT_PRESET, AuditConfig, SourceOptions, data_folder, preset_config
from clipmem_core.pairs.checks import CHECKS, Captions, check_captions
from clipmem_core.pairs.table import RawPairs, read_source
from clipmem_core.scores.membership import MIN_PAIRS

SHOWN = 5
PIXELS = 32  # enough to see that a picture opens and whom it looks like


def inspect_source(source: str, options: SourceOptions) -> None:
    """Print what a data set holds.

    Raises:
        InputError: it cannot be read, or nothing in it can be used.
    """
    with tempfile.TemporaryDirectory(prefix="clipmem-") as folder, RichScreen() as screen:
        data = Path(folder)
        if holds_features(source):
            config = dataclasses.replace(preset_config(DEFAULT_PRESET), source=options, features=source)
            given = load_data_set(source, config, cache=data)
            show(source, given.raw, given, Console(highlight=False))
            return
        raw = read_source(source, options, data=data if source == "scenes" else data_folder(), say=screen.say)
        config = dataclasses.replace(AuditConfig(), cache_size=PIXELS)
        found = look_at_pictures(raw, config, cache=data / "pixels", progress=screen.pictures)
        screen.progress.stop()
        show(source, raw, found, Console(highlight=False))


def show(source: str, raw: RawPairs, found: DataSet, console: Console) -> None:
    """Print the summary, the reasons in quarantine with an example each, and the first pairs."""
    pairs = found.pairs
    counts = pairs[c.CAPTIONS].map(len)
    labels = pairs[c.LABEL].dropna()
    too_few = "" if len(pairs) >= MIN_PAIRS else f" (an audit needs {MIN_PAIRS})"
    facts = {
        "source": source,
        "format": raw.format,
        "pictures lie in": str(raw.root),
        "rows": f"{raw.rows:,}",
        "pairs that can be used": f"{len(pairs):,}{too_few}",
        "captions a pair": f"{counts.min()} to {counts.max()}, {counts.mean():.2f} on average",
        "labels": f"{labels.nunique():,} on {len(labels):,} pairs" if len(labels) else "none",
        **sizes(found),
        "look-alikes": f"{found.lookalikes:,} pictures look like an earlier one",
        "in quarantine": f"{len(found.quarantine):,} rows",
    }
    for name, value in facts.items():
        console.print(plain(f"{name:24} {value}"), soft_wrap=True)
    if len(found.quarantine):
        console.print(quarantine_table(found.quarantine))
    console.print(checks_table(pairs))
    table = Table(title=f"the first {SHOWN} pairs", title_justify="left")
    for column in (c.PAIR_ID, c.IMAGE, c.LABEL, c.CAPTIONS):
        table.add_column(column, overflow="fold")
    for _, row in pairs.head(SHOWN).iterrows():
        label = row[c.LABEL] if isinstance(row[c.LABEL], str) else "–"
        captions = " | ".join(caption[:200] for caption in row[c.CAPTIONS])
        table.add_row(*(plain(text) for text in (row[c.PAIR_ID], row[c.IMAGE], label, captions)))
    console.print(table)


def checks_table(pairs: pd.DataFrame) -> Table:
    """Return how many captions each check finds, with an example of each."""
    captions = Captions.from_pairs([list(own) for own in pairs[c.CAPTIONS]])
    table = Table(title="captions to look at", title_justify="left")
    table.add_column("captions", justify="right")
    table.add_column("check", overflow="fold")
    table.add_column("for example", overflow="fold")
    for name, flags in check_captions(captions).items():
        first = captions.texts[int(flags.argmax())][:80] if flags.any() else ""
        table.add_row(f"{flags.sum():,}", CHECKS[name].label, plain(first))
    return table


def sizes(found: DataSet) -> dict[str, str]:
    """Return how large the pictures are, or the features that stand for them."""
    if isinstance(found.pixels, GivenRows):
        return {"features": f"computed elsewhere, {found.pixels.values.shape[1]:,} numbers a picture: none is opened"}
    pairs = found.pairs
    return {
        "picture widths": f"{pairs[c.WIDTH].min():,} to {pairs[c.WIDTH].max():,} pixels",
        "picture heights": f"{pairs[c.HEIGHT].min():,} to {pairs[c.HEIGHT].max():,} pixels",
    }


def quarantine_table(quarantine: pd.DataFrame) -> Table:
    """Return the reasons rows were set aside, the commonest first, each with one place to look at."""
    table = Table(title="in quarantine", title_justify="left")
    table.add_column("rows", justify="right")
    table.add_column("reason", overflow="fold")
    table.add_column("for example", overflow="fold")
    for reason, rows in sorted(quarantine.groupby(c.REASON), key=lambda item: -len(item[1])):
        table.add_row(f"{len(rows):,}", plain(str(reason)), plain(str(rows[c.SOURCE].iloc[0])))
    return table
