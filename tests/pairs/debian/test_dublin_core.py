"""SVG metadata: honest files in several dialects, and files that are broken or mean harm."""

import time

import pytest
from clipmem_core.pairs.debian.dublin_core import LONGEST_FIELD, DublinCore, read_dublin_core

INKSCAPE = """<?xml version="1.0" encoding="{encoding}" standalone="no"?>
<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 20010904//EN" "http://www.w3.org/TR/2001/REC-SVG-20010904/DTD/svg10.dtd">
<svg xmlns="http://www.w3.org/2000/svg" xmlns:cc="http://web.resource.org/cc/"
     xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <title>a drawing's own title</title>
  <metadata><rdf:RDF><cc:Work rdf:about="">
    <dc:title>{title}</dc:title>
    <dc:description>Sits on
      a wall.</dc:description>
    <dc:subject><rdf:Bag><rdf:li>bird</rdf:li><rdf:li></rdf:li><rdf:li>night</rdf:li></rdf:Bag></dc:subject>
    <dc:creator><cc:Agent><dc:title>Ann Lee</dc:title></cc:Agent></dc:creator>
  </cc:Work></rdf:RDF></metadata>
  <path d="M 0 0"/>
</svg>"""


@pytest.mark.parametrize("encoding", ["utf-8", "iso-8859-1", "utf-16"])
def test_the_four_fields_are_read_in_any_declared_encoding(encoding: str) -> None:
    svg = INKSCAPE.format(encoding=encoding, title="Grande chouette d'été").encode(encoding)
    assert read_dublin_core(svg) == DublinCore(
        "Grande chouette d'été", "Sits on a wall.", ["bird", "night"], ["Ann Lee"]
    )


def test_other_prefixes_several_titles_entities_of_drawing_programs_and_huge_fields_are_understood() -> None:
    svg = b"""<svg><RDF xmlns="http://web.resource.org/cc/"><Work><title xmlns="http://purl.org/dc/elements/1.1/">Owl
        </title><undeclared:subject><r:Bag><r:li>bird</r:li></r:Bag></undeclared:subject></Work></RDF></svg>"""
    assert read_dublin_core(svg) == DublinCore("Owl", "", ["bird"])
    assert read_dublin_core(b"<Work><title/><title>one</title><title>two</title></Work>").title == "one"
    svg = b"""<!DOCTYPE svg [<!ENTITY ns_dc "http://purl.org/dc/elements/1.1/">]>
        <svg xmlns:dc="&ns_dc;"><Work><dc:title>Owl &amp; moon</dc:title></Work></svg>"""
    assert read_dublin_core(svg).title == "Owl & moon"
    svg = b"<Work><description>" + b"word " * 1_000_000 + b"</description></Work>"
    assert LONGEST_FIELD - 10 < len(read_dublin_core(svg).description) <= LONGEST_FIELD


@pytest.mark.parametrize(
    "svg",
    [
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"no markup",
        b"<svg><Work><title>Owl</svg>",
        b'<?xml version="1.0" encoding="x"?><a/>',
    ],
)
def test_a_file_that_is_no_xml_says_nothing(svg: bytes) -> None:
    assert read_dublin_core(svg) == DublinCore()


def test_text_in_another_encoding_says_nothing_and_fields_before_a_break_are_kept() -> None:
    svg = INKSCAPE.format(encoding="utf-8", title="été").encode("latin-1")
    assert read_dublin_core(svg) == DublinCore()
    svg = INKSCAPE.format(encoding="utf-8", title="Owl").replace('<path d="M 0 0"/>', "<path d=></wrong>").encode()
    assert read_dublin_core(svg).title == "Owl"


def test_entities_are_never_expanded_nor_files_that_they_name_opened() -> None:
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    svg = f'<!DOCTYPE svg [<!ENTITY l0 "ha">{laughs}]><svg><Work a="&l11;"><title>&l11;</title></Work></svg>'
    started = time.perf_counter()
    assert read_dublin_core(svg.encode()) == DublinCore()
    assert time.perf_counter() - started < 1
    svg = b'<!DOCTYPE svg [<!ENTITY file SYSTEM "file:///etc/hostname">]><Work><title>&file;</title></Work>'
    assert read_dublin_core(svg) == DublinCore()
