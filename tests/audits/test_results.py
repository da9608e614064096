"""The CSV behind the README's tables: what it holds of units."""

from pathlib import Path

import pandas as pd
import pytest

from clipmem_core.audits.console import unit_rows
from clipmem_core.commands import main
from tests.fixtures import Copy, copy, data, made
from tests.made_encoders import make_members, make_units

__all__ = ["copy", "data", "made"]


def test_units_are_averaged_by_layer_over_members_beside_what_they_are_read_against(copy: Copy) -> None:
    audit = copy("paper")
    make_members(audit)
    assert unit_rows(audit) == []
    units = make_units(audit)
    rows = pd.DataFrame(unit_rows(audit)).set_index(["of", "measure"])
    first = units[(units["tower"] == "image") & (units["layer"] == 2)].groupby("member")["unitmem_mean"].mean()
    found = rows.loc[("image encoder, layer 2", "members")]
    assert found["value"] == pytest.approx(first.mean())
    assert (found["low"], found["high"], found["n"]) == (first.min(), first.max(), len(first))
    assert set(rows.index.get_level_values("measure")) == {"members", "before training", "seen", "unseen"}
    make_units(audit, references=False)
    assert len(unit_rows(audit)) == len(rows)  # the references of before are there


@pytest.mark.parametrize(("more", "what"), [([], "audit"), (["--study"], "study")])
def test_one_that_is_not_there_is_one_line(
    data: Path, capsys: pytest.CaptureFixture[str], more: list[str], what: str
) -> None:
    assert main(["results", "none", "out.csv", *more]) == 2
    assert capsys.readouterr().err.startswith(f"error: there is no {what} 'none'")
