import io

import pytest
from PIL import Image

from clipmem_core.exports.pictures import suffix_of
from clipmem_core.pairs.pictures import FORMATS


@pytest.mark.parametrize("format", [name for name in FORMATS if name != "MPO"])
def test_the_ending_is_one_that_pillow_has_for_the_format(format: str) -> None:
    Image.init()
    stream = io.BytesIO()
    Image.new("RGB", (32, 32), "teal").save(stream, format)
    suffix = suffix_of(stream.getvalue())
    assert Image.registered_extensions()[suffix] == ("JPEG2000" if format == "JPEG2000" else format)


@pytest.mark.parametrize("data", [b"", b"\xff", b"no picture"])
def test_what_is_no_known_picture_has_an_ending_all_the_same(data: bytes) -> None:
    assert suffix_of(data) == ".img"
