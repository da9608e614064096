"""The second round of training: what it leaves out, what it says, and that it changes nothing else."""

import shutil
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from clipmem_core.audits.member import run_member
from clipmem_core.audits.run import run_audit
from clipmem_core.audits.store import Audit, broken_files, write_table
from clipmem_core.commands import main
from clipmem_core.config import AuditConfig, InputError
from tests.audits.small import Again, Silent, config_of, embeddings, with_drawn_set
from tests.audits.test_locked import KILLS, flags
from tests.audits.test_resume import same
from tests.forked import Server

MANY_WRONG = ("--members", "4", "--plant-miscaptions", "80", "--epochs", "8", "--rounds", "auto")
TOLD = "second round: members train again without the"


@pytest.fixture(scope="module")
def config(start: str) -> AuditConfig:
    return config_of(flags(start, *MANY_WRONG))


@pytest.fixture(scope="module")
def twice(config: AuditConfig, tmp_path_factory: pytest.TempPathFactory) -> Audit:
    """A finished audit of two rounds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPMEM_DATA", str(tmp_path_factory.mktemp("twice")))
        screen = Silent()
        audit = run_audit("scenes", config, name="a", screen=screen)
        assert any(line.startswith(TOLD) for line in screen.lines)
        return audit


def left_out(audit: Audit) -> np.ndarray:
    table = pd.read_parquet(audit.folder / "second.parquet")
    assert table["pair_id"].tolist() == audit.pairs["pair_id"].tolist()
    return table["left_out"].to_numpy()


def of_first_round(audit: Audit) -> pd.Series:
    """Compute misfit by the first round, from the other columns alone."""
    scores = audit.scores
    own = scores.loc[scores["group"] == "scored", ["learned", "log_probability_out"]]
    z = (own - own.mean()) / own.std(ddof=0)
    return -(z["learned"] + 2 * z["log_probability_out"])


def test_the_most_suspicious_pairs_are_left_out_as_many_as_are_likely_wrong(twice: Audit) -> None:
    count = round(twice.verdict["wrong_captions"]["estimate"])
    assert 20 < count < 200
    count = twice.verdict["second_round_left_out"]
    wanted = of_first_round(twice).sort_values(ascending=False, kind="stable").index[:count]
    assert set(np.flatnonzero(left_out(twice))) == set(wanted)
    (said,) = (check["sentence"] for check in twice.verdict["checks"] if "second" in check["name"])
    assert said.startswith(f"Members were trained a second time, without the {count} pairs")


def test_misfit_is_by_the_second_round_and_the_order_of_review_follows(twice: Audit) -> None:
    scores = twice.scores
    own = scores.loc[scores["group"] == "scored"]
    z = [(own[name] - own[name].mean()) / own[name].std(ddof=0) for name in ("learned", "log_probability_second")]
    np.testing.assert_allclose(own["misfit"], -(z[0] + 4 * z[1]), atol=1e-9)
    assert not np.allclose(own["misfit"], of_first_round(twice))
    assert own["misfit"].idxmax() == own["review_place"].idxmin()
    held_out = scores.loc[scores["group"] == "external"]
    assert held_out["misfit"].rank().tolist() == (-held_out["log_probability_second"]).rank().tolist()


def test_what_it_says_is_that_of_members_which_train_on_the_others_alone(
    twice: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against plain members of an audit whose membership lacks the pairs, and a loop over pairs."""
    out, first = left_out(twice), Again(twice)
    fewer = Audit(Path(shutil.copytree(twice.folder, tmp_path / "audits" / "a")))
    monkeypatch.setenv("CLIPMEM_DATA", str(twice.folder.parents[1]))
    table = fewer.membership
    table[first.members] &= ~out[:, None]
    write_table(fewer.folder / "membership.parquet", table)
    values = np.full(first.trained.shape, np.nan)
    for member, name in enumerate(first.members):
        for path in fewer.member(name).iterdir():
            if path.name not in ("config.json", "second"):
                path.unlink()
        run_member(fewer.folder, name)
        state = torch.load(fewer.member(name) / "checkpoint.pt", weights_only=True)
        image, text = (torch.nn.functional.normalize(torch.from_numpy(own)) for own in embeddings(fewer, name))
        logits = state["logit_scale"].exp() * image @ text.T
        for i in np.flatnonzero(~first.trained[member]):
            others = np.flatnonzero(first.external & (np.arange(len(first.group)) != i))
            ways = [torch.log_softmax(way[i, [i, *others]], dim=0)[0] for way in (logits, logits.T)]
            values[member, i] = float(sum(ways)) / 2
    np.testing.assert_allclose(twice.scores["log_probability_second"], np.nanmean(values, axis=0), atol=2e-5)


def test_a_member_with_a_broken_file_of_it_is_trained_again_and_no_other(
    twice: Audit, config: AuditConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPMEM_DATA", str(twice.folder.parents[1]))
    name = twice.record.members[1]
    path = twice.member(name) / "second" / "log_probability_out.npy"
    kept = twice.member(twice.record.members[0]) / "checkpoint.pt"
    whole, moment = path.read_bytes(), kept.stat().st_mtime_ns
    path.write_bytes(b"broken")
    run_audit("scenes", config, name="a", screen=Silent())
    assert path.read_bytes() == whole
    assert kept.stat().st_mtime_ns == moment
    assert not broken_files(twice.folder)


MOMENTS = (
    "os.rename:a/second.parquet",  # it is known what is left out
    "os.rename:second/checkpoint.pt",
    "os.rename:second/log_probability_out.npy",
    "os.remove:second/trajectory.npy",  # one of them is done
    "os.rename:a/verdict.json",
)


def test_a_kill_in_the_second_round_changes_no_bit(twice: Audit, start: str, tmp_path: Path, forks: Server) -> None:
    data = with_drawn_set(tmp_path / "data", twice.folder.parents[1])
    audit = Audit(data / "audits" / "a")
    arguments = ["audit", "scenes", "--name", "a", *flags(start, *MANY_WRONG, "--rounds", "2")]
    for moment in (*MOMENTS, ""):
        environment = {"KILL_AT": moment} if moment else {}
        process = forks.start(*arguments, data=data, before=KILLS, **environment)
        said = process.communicate()[1]
        assert process.returncode in ((-signal.SIGKILL, 1) if moment else (0,)), (moment, said)
    same(audit, twice)
    assert not list(audit.folder.glob("members/*/second/*.pt"))


def test_the_papers_protocol_and_studies_have_one_round(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="--rounds belongs to --protocol ensemble"):
        run_audit("scenes", config_of(["--protocol", "paper", "--rounds", "2"]), name="a", screen=Silent())
    assert main(["study", "combined", "scenes", "--name", "s", "--rounds", "2"]) == 2
    assert "--rounds belongs to --protocol ensemble" in capsys.readouterr().err
