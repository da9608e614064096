"""The scores of a pair's single captions, where the audit has them."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa

from clipmem_core import columns as c
from clipmem_core.audits.store import CAPTION_TABLE, PAIRS, Audit
from clipmem_core.review.tables import fetch_arrow, fetch_rows

OWN_CAPTIONS = "own_captions"
LISTED = {c.SIMILARITY_OUT: "caption_similarity_out", c.MISFIT: "caption_misfit"}  # what lists of them are called


@dataclass(frozen=True)
class CaptionScore:
    """What is known of one caption; None where it is not."""

    similarity_out: float | None
    misfit: float | None
    odd: bool  # fits much worse than the others of its pair

    @property
    def words(self) -> str:
        """The numbers in words; empty where there are none."""
        known = {"similarity out": self.similarity_out, "misfit": self.misfit}
        return " · ".join(f"{name} {value:.2f}".replace("-", "−") for name, value in known.items() if value is not None)


def caption_scores(audit: Audit, pair_id: str) -> dict[int, CaptionScore]:
    """Return the scores of a pair's captions by their place, from 0; empty where the audit has none.

    Raises:
        InputError: the file is broken.
    """
    path = audit.folder / CAPTION_TABLE
    if not path.is_file():
        return {}
    finite = ", ".join(f"CASE WHEN isfinite({name}) THEN {name} END" for name in (c.SIMILARITY_OUT, c.MISFIT))
    query = f'SELECT "{c.CAPTION}", {finite}, {c.ODD} FROM parquet WHERE "{c.PAIR_ID}" = ?'
    return {place: CaptionScore(*values) for place, *values in fetch_rows(path, query, [pair_id])}


def listed_scores(audit: Audit, pair_ids: Sequence[str]) -> pd.DataFrame:
    """Return the own captions of some pairs, and the scores of each, as lists in their order.

    Returns:
        pair_id and own_captions; where the audit scores single captions, caption_similarity_out and caption_misfit too.
        A list has None where a caption has no such score. Pairs that the audit does not have are left out.

    Raises:
        InputError: a file is missing or broken.
    """
    asked = pa.table({"asked": pa.array(list(pair_ids), pa.string())})
    among = f'SEMI JOIN asked ON "{c.PAIR_ID}" = asked.asked'
    query = f'SELECT "{c.PAIR_ID}", "{c.CAPTIONS}" AS {OWN_CAPTIONS} FROM parquet {among}'
    own = pd.DataFrame(fetch_arrow(audit.folder / PAIRS, query, asked=asked).to_pydict(), dtype=object)
    path = audit.folder / CAPTION_TABLE
    if not path.is_file():
        return own
    lists = ", ".join(
        f'list(CASE WHEN isfinite("{name}") THEN "{name}" END ORDER BY "{c.CAPTION}") AS {listed}'
        for name, listed in LISTED.items()
    )
    query = f'SELECT "{c.PAIR_ID}", {lists} FROM parquet {among} GROUP BY "{c.PAIR_ID}"'
    return own.merge(
        pd.DataFrame(fetch_arrow(path, query, asked=asked).to_pydict(), dtype=object), on=c.PAIR_ID, how="left"
    )
