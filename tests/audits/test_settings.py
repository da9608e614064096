import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clipmem_core.audits.settings import check_config, resolve, resolve_device
from clipmem_core.config import AuditConfig, InputError, preset_config

NAN, INFINITE = float("nan"), float("inf")
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"protocol": "loo"}, "--protocol must be one of ensemble, paper, not 'loo'"),
    ({"folds": 1}, "--folds must be at least 2, not 1"),
    ({"lr": 0.0}, "--lr must be a number above 0, not 0.0"),
    ({"model": "ViT-B-33"}, "model 'ViT-B-33' is unknown: try ViT-B"),
    ({"model": "none.json"}, "model 'none.json' is not a file"),
    ({"seeds": 2}, "--seeds belongs to --protocol paper"),
    ({"protocol": "paper", "members": 4}, "--members belongs to --protocol ensemble"),
    ({"members": 5}, r"--members must be a multiple of --folds \(2\), not 5"),
    ({"folds": 3, "members": 4}, r"--members must be a multiple of --folds \(3\), not 4"),
    ({"text_mask": 1.0}, "--text-mask must be at least 0 and below 1, not 1.0"),
    ({"adaptive_rest": 0.5, "loss": "siglip"}, "--adaptive-rest works on --loss clip alone, not siglip"),
    ({"min_logit_scale": 30.0, "max_logit_scale": 20.0}, "--min-logit-scale must be at most the cap of 20.0, not 30.0"),
    ({"stop_epoch": 31}, "--stop-epoch must be one of the 30 epochs, or 0 for none, not 31"),
    ({"probe_data": "nowhere"}, "probe-data 'nowhere' needs the folders train/ and val/"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[" ".join(map(str, wrong)) for wrong, _ in WRONG])
def test_a_wrong_field_is_one_line_with_flag_wanted_and_given(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        check_config(dataclasses.replace(AuditConfig(), **changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("preset", ["tiny", "small", "base"])
@pytest.mark.parametrize("protocol", ["ensemble", "paper"])
def test_every_preset_can_run_in_both_protocols(preset: str, protocol: str) -> None:
    resolved = resolve(dataclasses.replace(preset_config(preset), protocol=protocol, device="cpu"))
    assert resolved.members == {"ensemble": 4, "paper": 2}[protocol]
    check_config(resolved)


@pytest.mark.parametrize(
    ("changes", "members"),
    [
        ({}, 4),
        ({"folds": 3}, 6),
        ({"folds": 4, "members": 4}, 4),
        ({"members": 8}, 8),
        ({"protocol": "paper"}, 2),
        ({"protocol": "paper", "seeds": 3}, 6),
        ({"protocol": "paper", "seeds": 3, "members": 6}, 6),
    ],
)
def test_members_follow_from_protocol_folds_and_seeds(changes: dict[str, Any], members: int) -> None:
    assert resolve(dataclasses.replace(AuditConfig(device="cpu"), **changes)).members == members


@pytest.mark.parametrize(
    ("flags", "precision"), [("avx2 avx512_bf16", "amp_bf16"), ("amx_bf16", "amp_bf16"), ("avx2", "fp32")]
)
def test_precision_is_bfloat16_where_the_processor_has_it(
    flags: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.read_text

    def read_text(path: Path, encoding: str | None = None) -> str:
        return f"flags : {flags}\n" if path == Path("/proc/cpuinfo") else real(path, encoding)

    monkeypatch.setattr(Path, "read_text", read_text)
    assert resolve(AuditConfig(device="cpu")).precision == precision
    assert resolve(AuditConfig(device="cpu", precision="fp32")).precision == "fp32"


@pytest.mark.skipif(os.path.exists("/dev/nvidiactl"), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_cannot_be_asked_for() -> None:
    assert resolve_device("auto") == "cpu"
    with pytest.raises(InputError, match="--device cuda: this machine has no GPU .* take --device cpu"):
        resolve_device("cuda")


def test_a_probe_needs_classes(tmp_path: Path) -> None:
    config = AuditConfig(probe_data=str(tmp_path))
    for part in ("train", "val"):
        (tmp_path / part).mkdir()
    with pytest.raises(InputError, match="train' needs one folder a class, it has none"):
        check_config(config)
    for part in ("train", "val"):
        (tmp_path / part / "cat").mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / part / "cat" / "0.png")
    check_config(config)
