"""Checks that need no model, and measurements of pictures."""

import numpy as np
import pytest
import scipy
from PIL import Image, ImageFilter

from clipmem_core.dataset.checks import (
    CHECKS,
    REPEATED,
    Captions,
    caption_flags,
    main_script,
    measure_pictures,
    not_captions,
)
from clipmem_core.dataset.pictures import resize
from tests.dataset.samples import drawing

SIZE = 64
PLAIN = [
    "a frog on a lily pad",
    "Knightsbridge station at night",
    "AT&T building, R&D department, Q&A",
    "x < 3 and y > 2 in a diagram",
    "HTML5 logo and CCCP badge on an NTFS disk",
    "a chemical formula C6H12O6 on a blackboard",
    "Rhythms: a crypt, a lynx and a gypsy",
    "Übergrößenträger auf dem Rücken",
    "une forêt près d'Angoulême, « été »",
    "the angle θ between two rays",
    "the 1948 edition, p. 12",
    "a picture of a dog",
    "a card that says: I'm sorry",
    "map at a scale of 1:0.5",
    "photo of IMG_0042 on a screen",
]


def flags_of(pairs: list[list[str]], name: str) -> list[bool]:
    return caption_flags(Captions.from_pairs(pairs))[name].tolist()


def test_plain_captions_pass_every_check() -> None:
    for text in PLAIN:
        results = caption_flags(Captions.from_pairs([[text]]))
        assert not [name for name, flags in results.items() if flags.any()], text


@pytest.mark.parametrize(
    ("check", "texts"),
    [
        ("empty_caption", ["?!…", "—", "12", "1234-5678", "🐊"]),
        ("short_caption", ["frog", "a b", "青", "Georgia?"]),
        ("markup", ["<b>frog</b>", "fish &amp; chips", "&#39;frog", "<!-- frog -->", "<br/>frog"]),
        ("markup", ["see https://example.org", "www.a.org", "[[File:frog]]", "[frog](x)"]),
        ("gibberish", ["CafÃ© in Paris", "fro\ufffdg in a pond", "xkcdq wrtzp", "aaaaaah nooooo"]),
        ("gibberish", ["a1b2c3d4e5f6", "qwrtpsdfg hjklzx"]),
        ("file_name", ["IMG_0042.JPG", "P1010001", "red_car_3", "Screenshot 2020-01-02"]),
        (
            "model_output",
            ["I'm sorry, but I can't", "As an AI, I see a frog", "[INST] Describe it"],
        ),
        ("model_output", ["Describe this image briefly.", "cat: 0.83", "dog (.5), cat (.1)"]),
        ("file_name", ["untitled", "image (3)", "my frog.png", "C:/pictures/frog.webp"]),
    ],
)
def test_a_wrong_caption_is_flagged(check: str, texts: list[str]) -> None:
    for text in texts:
        assert flags_of([[text]], check) == [True], text


def test_the_script_of_most_letters_counts_and_only_a_rare_one_is_another() -> None:
    assert not any(flags_of([["a frog"]] * 60 + [["лягушка на листе"]] * 40, "other_script"))
    rare = flags_of([["a frog"]] * 99 + [["лягушка, frog"]], "other_script")
    assert np.flatnonzero(rare).tolist() == [99]
    scripts = [main_script(text) for text in ("ひらがな漢字", "ｆｒｏｇ", "한국어", "")]
    assert scripts == ["CJK", "LATIN", "HANGUL", ""]
    short = flags_of([["12"], ["一只青蛙坐在荷叶上"], ["青蛙"]], "short_caption")
    assert short == [False, False, True]


def test_repeats_are_counted_over_pairs_whatever_case_and_spaces() -> None:
    often = [["A frog", "another"], ["a  FROG"], ["a frog"], ["a frog"], ["a frog ", "one more"]]
    assert not any(flags_of(often[: REPEATED - 1], "repeated_caption"))
    assert flags_of(often, "repeated_caption") == [True, False, True, True, True, True, False]
    assert not any(flags_of([["a frog"] * 9], "repeated_caption"))


def test_hostile_text_takes_no_time() -> None:
    for text in ("<", "a_", "(", "&", "Ã", "a1", "<a "):
        caption_flags(Captions.from_pairs([[text * 30_000]]))


def measured(*images: Image.Image, mode: str = "squash") -> np.ndarray:
    squares = np.stack([resize(image, SIZE, mode) for image in images])
    shape = np.array([image.size for image in images])
    return measure_pictures(lambda rows: squares[rows], shape, padded=mode == "longest")


def test_a_picture_with_edges_passes_and_dark_blurred_and_blank_ones_do_not() -> None:
    sharp = drawing(3)
    dark = sharp.point(lambda value: value // 5)
    blurred = sharp.filter(ImageFilter.GaussianBlur(12))
    brightness, contrast, sharpness = measured(
        sharp, dark, blurred, Image.new("RGB", sharp.size, (200, 190, 180))
    )
    assert CHECKS["dark"].find(brightness).tolist() == [False, True, False, False]
    assert CHECKS["blurred"].find(sharpness).tolist() == [False, False, True, False]
    assert CHECKS["uniform"].find(contrast).tolist() == [False, False, False, True]
    assert np.isinf(sharpness[3])
    # the white beside it is not measured
    brightness, _, _ = measured(dark.resize((256, 64)), mode="longest")
    assert CHECKS["dark"].find(brightness).tolist() == [True]


def test_the_measurements_equal_a_slow_loop() -> None:
    square = resize(drawing(3), SIZE, "squash").astype(float)
    brightness, contrast, sharpness = measured(drawing(3))[:, 0]
    perceived = sorted(np.sqrt(square**2 @ [0.241, 0.691, 0.068]).ravel() / 255)
    assert brightness == pytest.approx(perceived[round(0.99 * (SIZE**2 - 1))], abs=1e-5)
    assert contrast == pytest.approx(square.std(axis=(0, 1)).max(), rel=1e-4)
    grey = square.mean(axis=2)
    bends = sorted(np.abs(scipy.ndimage.laplace(grey))[1:-1, 1:-1].ravel())
    flat = sorted(grey.ravel())
    low, high = (flat[round(share * (SIZE**2 - 1))] for share in (0.01, 0.99))
    expected = bends[round(0.99 * (len(bends) - 1))] / (high - low)
    assert sharpness == pytest.approx(expected, rel=1e-4)


# As captioning services, templates and exports write them
NO_CAPTIONS = (
    "I'm unable to help with identifying the people in this picture.",
    "As an AI, I do not have access to the image.",
    "Your request was rejected as a result of our safety system.",
    '{"error": {"code": 429, "message": "slow down"}}',
    "<html><body><h1>502 Bad Gateway</h1></body></html>",
    "message is empty",
    "no image provided",
    "N/A",
    "null",
    "{caption}",
    "<caption>",
    "Describe the image in one sentence.",
    "DSC_0042.JPG",
)
CAPTIONS = (
    "a man who cannot see the ball in the photo",
    "Error of judgment: a referee shows a red card",
    "Access to the beach is denied to dogs, says the sign",
    "a sign that says no image of the king may be sold",
    "Null island, a buoy in the Atlantic",
    "a test tube on a table",
)


def test_texts_that_are_no_captions_are_told_from_captions() -> None:
    names = not_captions([*NO_CAPTIONS, *CAPTIONS, *["a frog"] * 20])
    assert all(names[: len(NO_CAPTIONS)])
    assert not any(names[len(NO_CAPTIONS) :])
