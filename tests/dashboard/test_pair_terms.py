import pandas as pd
import pytest

from clipmem_core.dashboard.pair import side_names, terms_sentence


def test_every_member_is_in_or_out_and_the_sides_are_named_by_what_they_saw() -> None:
    members = pd.DataFrame({"side": ["in", "in", "out"], "trained": [True, True, False]})
    assert side_names(members, paper=False) == {"in": "in: trained with it", "out": "out: trained without it"}
    assert side_names(members, paper=True) == {"in": "in: f, trained with it", "out": "out: g, trained without it"}
    independent = members.assign(trained=~members["trained"])
    assert side_names(independent, paper=True) == {"in": "in: f, trained without it", "out": "out: g, trained with it"}
    external = members.assign(trained=False)
    assert side_names(external, paper=False) == {"in": "in: trained without it", "out": "out: trained without it"}


def test_the_sentence_adds_up_and_names_the_largest_part() -> None:
    means = {"clipmem": -0.3, "positive_in": 0.1, "positive_out": 0.2, "negative_text_in": 0.3}
    means |= {"negative_text_out": 0.1, "negative_image_in": 0.0, "negative_image_out": 0.0}
    sentence = terms_sentence(means)
    assert sentence.startswith(
        "clipmem −0.30 = −0.10 from positive − 0.20 from negative text + 0.00 from negative image"
    )
    assert "from other captions" in sentence


@pytest.mark.parametrize("gone", ["clipmem", "positive_in", "negative_image_out"])
def test_without_a_number_the_sentence_claims_nothing(gone: str) -> None:
    means = dict.fromkeys(
        ["clipmem", *(f"{t}_{s}" for t in ("positive", "negative_text", "negative_image") for s in ("in", "out"))], 0.1
    )
    assert terms_sentence(means | {gone: None}) == "This audit has no clipmem for this pair."
