"""Captions from file names and metadata: what comes first, what is left out, and that something always remains."""

import pytest
from clipmem_core.pairs.debian.captions import name_words, write_captions
from clipmem_core.pairs.debian.dublin_core import DublinCore
from hypothesis import given
from hypothesis import strategies as st


def caption(
    name: str, title: str = "", *, keywords: list[str] | None = None, description: str = "", artist: str = ""
) -> str:
    core = DublinCore(title, description, keywords or [], [artist] if artist else [])
    return write_captions([(name, core)])[0]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("green_apple_02", "green apple"),
        ("white_h_9", "white h 9"),
        ("sheep-md-v0.1", "sheep md"),
        ("arrow08_3", "arrow 3"),
        ("books-aj.svg", "books aj"),
        ("sleepingCat", "sleeping Cat"),
        ("moon_openclip_01", "moon"),
        ("star_67pt05step", "star 67pt05step"),
        ("line_double_line", "line double"),
        ("hus_på_øya", "hus på øya"),
        ("01", "01"),
        ("___", "___"),
    ],
)
def test_words_of_file_names(name: str, words: str) -> None:
    assert " ".join(name_words(name)) == words


def test_title_then_name_then_keywords_then_description_and_no_word_twice() -> None:
    text = caption(
        "barn_owl_on_wall_03",
        "Barn Owl",
        keywords=["owls", "night_birds", "Bird"],
        description="A white owl at night. It was drawn in 2004.",
    )
    assert text == "Barn Owl wall night birds white"


def test_a_word_cut_short_in_the_name_is_known_from_the_title() -> None:
    assert caption("hotel_laundry_serv_01", "Hotel Laundry Service") == "Hotel Laundry Service"
    assert caption("piggybank", "Piggy Bank") == "Piggy Bank"


@pytest.mark.parametrize(
    ("title", "left"),
    [
        ("Clipart by Ann Lee - Germany - Bavaria", "Germany Bavaria"),
        ("SVG Road Signs", "Road Signs"),
        ("Part of the Flat Icon Collection (Wed Aug 25 23:29:46 2004)", "Flat Icon"),
        ("Gradients by Ann Lee, 2004.", "Gradients"),
        ("libyan_arab_jamahiriya", "libyan arab jamahiriya"),
        ("open book 01", "open book"),
        ("Owl ann@example.org http://example.org/owl", "Owl"),
        ("Dog&#39;s house", "Dog's house"),
        ("Ríos de España", "Ríos de España"),
        ("Stand by me", "Stand by me"),
    ],
)
def test_boilerplate_is_left_out_of_titles(title: str, left: str) -> None:
    assert caption("x", title, artist="Ann Lee") == left


@pytest.mark.parametrize(
    "title", ["", "untitled", "Untitled 3", "Clipart", "SVG", "...", "Various Cliparts", "drawing"]
)
def test_the_file_name_speaks_where_the_title_says_nothing(title: str) -> None:
    assert caption("grey_cat_01", title) == "grey cat"


def test_the_artist_is_left_out_of_a_name_at_its_end_and_costs_no_word_of_a_title_or_whole_name() -> None:
    assert caption("cavallo_architetto_franc_01", "Cavallo", artist="Architetto Francesco Rossi") == "Cavallo"
    assert caption("safety_pin_timothy_whit_r", artist="Timothy Whitman") == "safety pin"
    assert caption("chapeau_celine_b_02", artist="Céline Bois") == "chapeau"
    assert caption("bear_brown", "Brown bear", artist="Rob Brown") == "Brown bear"
    assert caption("brown", artist="Rob Brown") == "brown"
    assert caption("closed_library", artist="Open Clip Art Library") == "closed library"


def test_keywords_without_meaning_are_left_out() -> None:
    keywords = ["hash", "hash(0x8a3ecd4)", "0x8b754fc", "unsorted", "ann lee", "11", "clip art", "pet"]
    assert caption("cat", keywords=keywords, artist="Ann Lee") == "cat pet"
    assert len(caption("cat", description=" ".join(f"word{n}x" for n in range(100))).split()) == 13


@pytest.mark.parametrize(
    "description", ["ann@example.org", "EPS converted from http://example.org", "HASH(0x862bbb8)", "Made with inkscape"]
)
def test_descriptions_of_the_file_are_left_out(description: str) -> None:
    assert caption("cat", description=description) == "cat"


def test_a_title_of_many_pictures_stands_behind_the_name_unless_numbered_and_goes_where_signed() -> None:
    names = ["red_star", "blue_star", "green_moon"]
    core = DublinCore("gramastar", "One of a large family of shapes.", ["shape"])
    assert write_captions([(name, core) for name in names]) == [
        "red star gramastar shape",
        "blue star gramastar shape",
        "green moon gramastar shape",
    ]
    assert write_captions([(f"horse_0{n}", DublinCore("Cavallo")) for n in range(5)]) == ["Cavallo horse"] * 5
    core = DublinCore("Clipart by Ann Lee - contour_chipmunk", "", ["mammal"], ["Ann Lee"])
    names = ["contour_giraffe", "contour_lion", "contour_seal"]
    assert write_captions([(name, core) for name in names])[0] == "contour giraffe mammal"


TEXT = st.text(max_size=60)


@given(
    name=st.from_regex(r"[^\s/\x00-\x1f]{1,30}", fullmatch=True),
    core=st.builds(DublinCore, TEXT, TEXT, st.lists(TEXT, max_size=4), st.lists(TEXT, max_size=2)),
)
def test_every_picture_keeps_a_caption_of_one_line(name: str, core: DublinCore) -> None:
    (text,) = write_captions([(name, core)])
    assert text.strip()
    assert len(text.splitlines()) == 1
