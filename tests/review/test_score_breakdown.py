import numpy as np
import pandas as pd
import pytest

from clipmem_core.audits.index import write_index
from clipmem_core.audits.store import Audit, write_json, write_table
from clipmem_core.config import InputError
from clipmem_core.review.score_breakdown import Chosen, chosen_captions, mean_terms, member_terms
from clipmem_core.scores.alignment import pair_terms
from clipmem_core.scores.in_out import in_side
from clipmem_core.scores.membership import Membership
from tests.made_fixtures import Copy
from tests.review.embedded import Embeddings, embed

TERMS = ["positive", "negative_text", "negative_image", "alignment", "similarity"]


@pytest.fixture(params=["ensemble", "paper"])
def audit(copy: Copy, request: pytest.FixtureRequest) -> Audit:
    return copy(request.param)


def members_of(audit: Audit) -> Membership:
    table = audit.membership
    names = table.columns[2:].tolist()
    return Membership(table["group"].to_numpy(str), tuple(names), table[names].to_numpy().T)


def test_terms_of_one_pair_are_those_of_the_pass_over_all(audit: Audit) -> None:
    vectors = embed(audit)
    external = (audit.membership["group"] == "external").to_numpy()
    whole = {name: pair_terms(*both, external) for name, both in vectors.items()}
    for row in [0, 3, 50, *np.flatnonzero(external)[:3]]:
        found = member_terms(audit, int(row))
        assert found["member"].tolist() == list(vectors)
        wanted = pd.DataFrame([{term: whole[name][term][row] for term in TERMS} for name in vectors])
        np.testing.assert_allclose(found[TERMS], wanted, atol=1e-6)


def test_sides_are_the_protocols_and_trained_is_the_truth(audit: Audit) -> None:
    embed(audit)
    membership = members_of(audit)
    config = audit.record.values
    inside = in_side(membership, protocol=config["protocol"], seed=config["config"]["seed"])
    for row in range(0, 100, 9):
        found = member_terms(audit, row)
        assert (found["side"] == "in").tolist() == inside[:, row].tolist()
        assert found["trained"].tolist() == membership.trained[:, row].tolist()
    if config["protocol"] == "paper":  # f is in and g out, whoever saw the pair
        assert found["side"].tolist() == ["in", "out"] * 3
        assert not found["trained"].any()


def slowly_chosen(audit: Audit, vectors: Embeddings, row: int, k: int) -> Chosen:
    """The definition, pair by pair and member by member."""
    texts = [set(captions) for captions in audit.pairs["captions"]]
    saw = audit.membership.iloc[row]
    strangers = [name for name in vectors if not saw[name]]
    mean = {}
    for other in range(len(texts)):
        a = [vectors[name][0][row].astype(float) for name in strangers]
        b = [vectors[name][1][other].astype(float) for name in strangers]
        cosine = [x @ y / np.sqrt((x @ x) * (y @ y)) for x, y in zip(a, b, strict=True)]
        mean[other] = sum(cosine) / len(cosine)
    choices: list[tuple[int, float]] = []
    for other in sorted(mean, key=lambda other: -mean[other]):
        known = [texts[row], *(texts[chosen] for chosen, _ in choices)]
        if texts[other] not in known and len(choices) < k:
            choices.append((other, pytest.approx(mean[other], abs=1e-6)))
    return Chosen(tuple(strangers), tuple(choices), pytest.approx(mean[row], abs=1e-6))


def rows_with_strangers(audit: Audit) -> list[int]:
    """Some rows that a member never saw; the last is external."""
    return [*np.flatnonzero(~members_of(audit).trained.all(axis=0))[5:60:20].tolist(), 99]


def test_chosen_captions_are_those_of_a_slow_search(audit: Audit) -> None:
    vectors = embed(audit)
    for row in rows_with_strangers(audit):
        for k in (1, 4, 100):
            assert chosen_captions(audit, row, k=k) == slowly_chosen(audit, vectors, row, k)
        terms = member_terms(audit, row)
        assert chosen_captions(audit, row, k=1).own == pytest.approx(terms.loc[~terms["trained"], "similarity"].mean())


def test_captions_that_are_everywhere_are_chosen_once_and_never_beside_themselves(copy: Copy) -> None:
    audit = copy()
    embed(audit)
    pairs = audit.pairs
    pairs["captions"] = pd.Series([["a house"]] * 97 + [["a dog"], ["a house", "a house"], ["a cat"]])
    write_table(audit.folder / "pairs.parquet", pairs)
    assert sorted(row for row, _ in chosen_captions(audit, 4, k=5).choices) == [97, 99]
    choices = [row for row, _ in chosen_captions(audit, 99, k=5).choices]
    assert len(choices) == 2
    assert 97 in choices
    membership = audit.membership
    membership.loc[8, membership.columns[2:]] = True
    write_table(audit.folder / "membership.parquet", membership)
    assert chosen_captions(audit, 8, k=3) == Chosen(members=(), choices=(), own=None)


def test_the_row_of_the_scores_has_every_column_and_none_for_what_is_missing(copy: Copy) -> None:
    audit = copy()
    scores = audit.scores
    scores.loc[7, "se"] = np.inf
    scores.loc[7, "q_value"] = np.nan
    write_table(audit.folder / "scores.parquet", scores)
    found = mean_terms(audit, 7)
    assert list(found) == scores.columns[2:].tolist()
    assert found["se"] is found["q_value"] is None
    assert found["clipmem"] == scores["clipmem"][7]
    assert found["similarity_out"] == scores["similarity_out"][7]
    embed(audit)
    before = member_terms(audit, 3)
    embed(audit, seed=1)
    assert (member_terms(audit, 3)["negative_text"] != before["negative_text"]).all()


def test_what_cannot_be_taken_apart_is_named(copy: Copy) -> None:
    audit = copy()
    vectors = embed(audit)
    with pytest.raises(InputError, match="audit 'made' has no row 100 in its scores"):
        mean_terms(audit, 100)
    for row in (-1, 100):
        for read in (member_terms, chosen):
            with pytest.raises(InputError, match=f"audit 'made' has no row {row}, only 100"):
                read(audit, row)
    for side in ("image", "text"):
        path = audit.member("r1-f0") / f"{side}.faiss"
        whole = path.read_bytes()
        write_index(path, vectors["r1-f0"][0][:90])
        for read, at in ((member_terms, 3), (chosen, 99)):
            with pytest.raises(InputError, match=rf"r1-f0/{side}\.faiss has 90 rows and the audit 100: delete it"):
                read(audit, at)
        path.write_bytes(whole)
    path.unlink()
    with pytest.raises(InputError, match=r"r1-f0/text\.faiss is missing: run the audit again"):
        member_terms(audit, 3)


def chosen(audit: Audit, row: int) -> Chosen:
    return chosen_captions(audit, row, k=3)


def test_a_membership_that_does_not_do_is_named(copy: Copy) -> None:
    audit = copy()
    embed(audit)
    path, membership = audit.folder / "membership.parquet", audit.membership
    write_table(path, membership.rename(columns={"r0-f0": "first"}))
    with pytest.raises(InputError, match="members of protocol ensemble must be named r<repeat>-f<fold>"):
        member_terms(audit, 3)
    write_table(path, membership.assign(group="scored"))
    with pytest.raises(InputError, match="member r0-f0 cannot be compared .*at least 2 pairs.*: delete the audit"):
        member_terms(audit, 3)
    for content in (b"", b"PAR1 not really PAR1"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"membership\.parquet cannot be read \(.*\): delete"):
            member_terms(audit, 3)
    path.unlink()
    with pytest.raises(InputError, match=r"membership\.parquet is missing: run the audit again"):
        chosen(audit, 3)


def test_a_picture_that_a_member_cannot_embed_has_no_choices(copy: Copy) -> None:
    audit = copy("paper")
    vectors = embed(audit)["f-0"][0]
    vectors[99] = np.nan
    write_index(audit.member("f-0") / "image.faiss", vectors)
    found = chosen(audit, 99)
    assert (found.choices, found.own, len(found.members)) == ((), None, 6)


def test_a_config_without_its_seed_is_named(copy: Copy) -> None:
    audit = copy("paper")
    embed(audit)
    write_json(audit.folder / "config.json", {k: v for k, v in audit.record.values.items() if k != "config"})
    with pytest.raises(InputError, match=r"config\.json lacks the field 'config': delete the audit's folder"):
        member_terms(audit, 3)
