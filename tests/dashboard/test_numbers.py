import pytest

from clipmem_core.audits.store import write_json
from clipmem_core.dashboard.plain import Noise, number, read_noise
from tests.fixtures import Copy


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.6612, "0.66"),
        (-1.5, "−1.50"),
        (0.0312, "0.031"),
        (0.0, "0.00"),
        (12.0, "12.00"),
        (None, "–"),
        (1e-9, "1e−09"),
        (float("nan"), "–"),
        (float("inf"), "–"),
    ],
)
def test_a_number_has_the_digits_that_matter(value: float | None, shown: str) -> None:
    assert number(value) == shown


@pytest.mark.parametrize(
    ("verdict", "noise"),
    [
        (
            {"se_kind": "moderated", "external_sd": 0.2},
            Noise("standard error (pooled with like pairs; ± 1.96 of it covers 95 %)", 0.2),
        ),
        ({"se_kind": "sd of external", "external_sd": 0.2}, Noise("", 0.2)),
        ({"se_kind": ["<b>"], "external_sd": "x"}, Noise()),
        ({}, Noise()),
        ([], Noise()),
    ],
)
def test_noise_is_what_the_verdict_says(copy: Copy, verdict: object, noise: Noise) -> None:
    audit = copy()
    write_json(audit.folder / "verdict.json", verdict)
    assert read_noise(audit) == noise


def test_a_missing_verdict_says_nothing(copy: Copy) -> None:
    audit = copy()
    (audit.folder / "verdict.json").unlink()
    assert read_noise(audit) == Noise()
