"""The scores of a pair's single captions, where the audit has them."""

from dataclasses import dataclass

from clipmem_core import columns as c
from clipmem_core.audits.store import CAPTION_TABLE, Audit
from clipmem_core.review.tables import fetch_rows


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
