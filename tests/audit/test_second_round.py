"""The second round of training: what it leaves out, what misfit is, and that a kill changes no score."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clipmem_core.audit.pipeline import run_audit
from clipmem_core.audit.store import Audit
from clipmem_core.cli import main
from clipmem_core.config import AuditConfig
from tests.audit.small import Silent, config_of, with_drawn_set
from tests.audit.test_locked import flags, kill_at_each
from tests.audit.test_resume import same
from tests.forked import Server

MANY_WRONG = ("--members", "4", "--inject-miscaptions", "80", "--epochs", "8", "--rounds", "auto")


@pytest.fixture(scope="module")
def config(start: str) -> AuditConfig:
    return config_of(flags(start, *MANY_WRONG))


@pytest.fixture(scope="module")
def finished(config: AuditConfig, tmp_path_factory: pytest.TempPathFactory) -> Audit:
    """A finished audit of two rounds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPMEM_DATA", str(tmp_path_factory.mktemp("finished")))
        return run_audit("scenes", config, name="a", screen=Silent())


def misfit(scores: pd.DataFrame, log_probability: str, weight: int) -> pd.Series:
    z = (scores - scores.mean()) / scores.std(ddof=0)
    return -(z["learned"] + weight * z[log_probability])


def test_the_most_suspicious_pairs_are_left_out_and_misfit_is_of_the_second_round(finished: Audit) -> None:
    scores = finished.scores
    scored = scores.loc[scores["group"] == "scored", ["learned", "log_probability_out", "log_probability_second"]]
    first, second = misfit(scored, "log_probability_out", 2), misfit(scored, "log_probability_second", 4)
    assert 20 < finished.verdict["wrong_captions"]["estimate"] < 200
    count = finished.verdict["second_round_left_out"]
    table = pd.read_parquet(finished.folder / "second.parquet")
    assert table["pair_id"].tolist() == finished.pairs["pair_id"].tolist()
    expected = first.sort_values(ascending=False, kind="stable").index[:count]
    assert set(np.flatnonzero(table["left_out"])) == set(expected)
    np.testing.assert_allclose(scores.loc[scored.index, "misfit"], second, atol=1e-9)
    assert not np.allclose(first, second)
    assert second.idxmax() == scores.loc[scored.index, "review_place"].idxmin()


MOMENTS = (
    "os.rename:a/second.parquet",  # it is decided what is left out
    "os.rename:second/log_probability_out.npy",
    "os.remove:second/trajectory.npy",  # one of them is finished
)


def test_a_kill_in_the_second_round_changes_no_score(
    finished: Audit, start: str, tmp_path: Path, forks: Server
) -> None:
    data = with_drawn_set(tmp_path / "data", finished.folder.parents[1])
    arguments = ["audit", "scenes", "--name", "a", *flags(start, *MANY_WRONG, "--rounds", "2")]
    kill_at_each(MOMENTS, arguments, data, forks)
    audit = Audit(data / "audits" / "a")
    same(audit, finished)
    assert not list(audit.folder.glob("members/*/second/*.pt"))


def test_the_papers_protocol_and_studies_have_one_round(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["audit", "scenes", "--protocol", "paper"], ["study", "combined", "scenes"]):
        assert main([*command, "--name", "s", "--rounds", "2"]) == 2
        assert "--rounds belongs to --protocol ensemble" in capsys.readouterr().err
