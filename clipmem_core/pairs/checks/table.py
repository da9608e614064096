"""The checks that need no model, each said in one place: what it is called, how it is found and what to do about it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from clipmem_core.pairs.checks import captions as of_captions
from clipmem_core.pairs.checks import pictures as of_pictures
from clipmem_core.pairs.checks.captions import Captions
from clipmem_core.pairs.checks.pictures import Pictures

VERSION = 1  # of the checks and their thresholds; a new number has every table of them made anew
VALUES = ("brightness", "contrast", "sharpness")  # of pictures, beside the checks in the table


@dataclass(frozen=True)
class Check:
    """One check. A pair has it where its picture has, or one of its captions."""

    name: str
    label: str
    of: Literal["captions", "pictures"]
    find: Callable[[Any], np.ndarray]  # of Captions, bool [n_captions]; of what it needs of Pictures, bool [n_pairs]
    help: str  # what is found, and why it matters
    advice: str  # what a person should do
    needs: str = ""  # the field of Captions or Pictures without which it is not known


CHECKS = (
    Check(
        "empty_caption",
        "Caption without a word",
        "captions",
        of_captions.empty,
        "No letter in it: signs or numbers only.",
        "Write a caption, or remove it.",
    ),
    Check(
        "short_caption",
        "Very short caption",
        "captions",
        of_captions.short,
        "One word, or fewer than 6 characters: it cannot tell two pictures of a kind apart. (DataComp's basic filter "
        "asks for more than two words.)",
        "Say more, or keep it where one word is all there is to say.",
    ),
    Check(
        "long_caption",
        "Caption cut off",
        "captions",
        of_captions.long,
        "Longer than the text encoder of this audit reads: what comes after is never seen.",
        "Put what the picture shows first, or shorten it.",
        "cut",
    ),
    Check(
        "markup",
        "Markup or web address",
        "captions",
        of_captions.markup,
        "Tags or entities of HTML, links of a wiki or of Markdown, web addresses: a text encoder reads them as words.",
        "Take them out with find and replace.",
    ),
    Check(
        "gibberish",
        "Gibberish",
        "captions",
        of_captions.gibberish,
        "Letters decoded wrongly (Ã© for é), or mostly words that no language has: no vowels, one letter four times, "
        "letters and digits mixed.",
        "Write it anew, or remove the pair.",
    ),
    Check(
        "other_script",
        "Another script",
        "captions",
        of_captions.other_script,
        "Mostly in a script that fewer than 5 % of the captions are in: encoders learn little of it.",
        "Translate it, or remove it.",
    ),
    Check(
        "file_name",
        "File name",
        "captions",
        of_captions.file_name,
        "A name as files have (IMG_0042, red_car_3), or one that ends in .jpg and the like.",
        "Write a caption, or remove it.",
    ),
    Check(
        "repeated_caption",
        "Same caption on many pictures",
        "captions",
        of_captions.repeated,
        "The caption of 5 pictures or more: nothing can tell which of them it belongs to, and it is a wrong negative "
        "for all the others.",
        "Say what sets each apart, or keep one of them.",
    ),
    Check(
        "dark",
        "Dark picture",
        "pictures",
        of_pictures.dark,
        "99 of 100 pixels are below 32 % of full brightness.",
        "Brighten it, or remove the pair where nothing can be made out.",
        "brightness",
    ),
    Check(
        "blurred",
        "Blurred picture",
        "pictures",
        of_pictures.blurred,
        "No edge is narrower than about a sixtieth of the picture's side: blurred even at the size that encoders see.",
        "Remove the pair where nothing can be made out.",
        "sharpness",
    ),
    Check(
        "uniform",
        "Nearly uniform picture",
        "pictures",
        of_pictures.uniform,
        "Every colour varies by less than 2 of 255 levels: as good as blank.",
        "Remove the pair.",
        "contrast",
    ),
    Check(
        "tiny",
        "Tiny picture",
        "pictures",
        of_pictures.tiny,
        "Shorter side below 64 pixels: encoders look at 192 and more.",
        "Find a larger copy, or remove the pair.",
        "shorter",
    ),
    Check(
        "lookalike",
        "Look-alikes",
        "pictures",
        of_pictures.lookalike,
        "The same picture again, rescaled or compressed anew: a twin in training hides memorization, and counts twice.",
        "Judge each group side by side: keep one, or keep all.",
        "clusters",
    ),
)
BY_NAME = {check.name: check for check in CHECKS}
OF_CAPTIONS = tuple(check for check in CHECKS if check.of == "captions")


def check_captions(captions: Captions) -> dict[str, np.ndarray]:
    """Return what each check of captions finds, bool [n_captions], by its name.

    Example:
        >>> found = check_captions(of_captions.of_pairs([["a frog &amp; a pond"], ["IMG_0042.jpg"]]))
        >>> [name for name, flags in found.items() if flags[1]]
        ['file_name']
    """
    return {check.name: check.find(captions) for check in OF_CAPTIONS}


def check_table(captions: Captions, pictures: Pictures, *, pairs: int) -> pd.DataFrame:
    """Return one row a pair: true or false for each check, null where it is not known, and what is measured.

    Args:
        captions: of all pairs.
        pictures: of all pairs.
        pairs: how many there are.
    """
    found, columns = check_captions(captions), dict[str, Any]()
    for check in CHECKS:
        needed = getattr(captions if check.of == "captions" else pictures, check.needs) if check.needs else ()
        if needed is None:
            columns[check.name] = None
        elif check.of == "captions":
            columns[check.name] = np.bincount(captions.owner, weights=found[check.name], minlength=pairs) > 0
        else:
            columns[check.name] = check.find(needed)
    columns |= {name: getattr(pictures, name) for name in VALUES}
    table = pd.DataFrame(columns, index=range(pairs))
    return table.astype({check.name: "boolean" for check in CHECKS} | dict.fromkeys(VALUES, "float32"))
