from collections.abc import Callable

import pytest

from clipmem_core.audits.store import CONFIG, SCORES, Audit, write_json, write_table
from clipmem_core.config import InputError
from clipmem_core.dashboard import comparable
from clipmem_core.dashboard.comparable import compared, differing_fields, finished_audits, partners, settings_of

Copy = Callable[..., Audit]


def with_config(audit: Audit, **values: object) -> Audit:
    write_json(audit.folder / CONFIG, audit.record.values | values)
    return audit


def names(audits: list[Audit]) -> list[str]:
    return [audit.name for audit in audits]


def test_the_same_data_set_comes_first_and_strangers_not_at_all(copy: Copy) -> None:
    one = copy(name="one")
    with_config(copy("paper", name="cleaned"), dataset_fingerprint="another")
    copy("paper", name="again")
    stranger = with_config(copy(name="stranger"), dataset_fingerprint="a third")
    scores = stranger.scores
    write_table(stranger.folder / SCORES, scores.assign(pair_id="x" + scores["pair_id"]))
    assert names(partners(one, finished_audits())) == ["again", "cleaned"]


def test_a_single_common_pair_is_enough(copy: Copy) -> None:
    one, other = copy(name="one"), with_config(copy(name="other"), dataset_fingerprint="another")
    scores = other.scores
    scores.loc[1:, "pair_id"] = "x" + scores.loc[1:, "pair_id"]
    write_table(other.folder / SCORES, scores)
    assert names(partners(one, finished_audits())) == ["other"]


def test_a_broken_audit_is_a_partner_only_of_its_own_data_set(copy: Copy) -> None:
    one = copy(name="one")
    for name, fingerprint in (("alike", one.record.dataset_fingerprint), ("other", "another")):
        (with_config(copy(name=name), dataset_fingerprint=fingerprint).folder / SCORES).unlink()
    (copy(name="worse").folder / CONFIG).write_text("{")
    assert names(partners(one, finished_audits())) == ["alike", "worse"]  # `worse` still has its scores


def test_unfinished_audits_and_odd_names_are_left_out(copy: Copy) -> None:
    copy(name="one")
    copy(name="a <b>")
    (copy(name="begun").folder / "manifest.json").unlink()
    assert names(finished_audits()) == ["one"]


def test_a_comparison_is_made_anew_when_a_file_changes(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = copy(name="one"), copy(name="other")
    calls: list[str] = []
    whole = comparable.compare
    monkeypatch.setattr(comparable, "compare", lambda *args, **kwargs: calls.append("") or whole(*args, **kwargs))
    assert compared(one, other, "clipmem") is compared(one, other, "clipmem")
    write_table(other.folder / SCORES, other.scores.assign(clipmem=0.5))
    assert compared(one, other, "clipmem").spearman is None
    assert len(calls) == 2


@pytest.mark.parametrize("config", [None, 3, {"source": "x"}])
def test_an_audit_that_does_not_say_how_it_ran_is_told(copy: Copy, config: object) -> None:
    one, other = copy(name="one"), with_config(copy(name="other"), config=config)
    with pytest.raises(InputError, match=r"other/config.json: config.* is wrong"):
        compared(one, other, "clipmem")


def test_the_settings_that_differ_are_those_of_a_dict_comparison(copy: Copy) -> None:
    one, other = copy(name="one"), copy("paper", name="other")
    config = other.record.values["config"]
    with_config(other, config=config | {"epochs": 3, "pretrained": "x.pt"})
    table = differing_fields(one, other).set_index("setting")
    first, second = settings_of(one), settings_of(other)
    assert set(table.index) == {name for name in first | second if first.get(name) != second.get(name)}
    assert table.loc["epochs"].tolist() == ["80", "3"]
    assert table.loc["pretrained"].tolist() == ["–", "x.pt"]
    assert differing_fields(one, one).empty
