"""The pairs on a map of an audit, with a value that colours them."""

import pandas as pd

from clipmem_core.audit.maps import require_map
from clipmem_core.audit.store import Audit, read_table
from clipmem_core.columns import DECISION, INJECTED, LABEL
from clipmem_core.review.decisions import CODES, decided
from clipmem_core.review.queries import fetch_all


def map_points(audit: Audit, side: str, column: str) -> pd.DataFrame:
    """Return row, map_x, map_y, region and one more column of the pairs on a map."""
    points = read_table(require_map(audit, side), repair="delete it and open the page Map again")
    if column == DECISION:
        values = pd.Series(decided(audit).codes).map({code: name for name, code in CODES.items()})
    elif column in (LABEL, INJECTED):
        values = fetch_all(audit, [], [column])[column]
    else:
        values = fetch_all(audit, [f'"{column}"'])[column]
    points[column] = values[points["row"]].to_numpy()
    return points
