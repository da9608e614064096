import dataclasses
from typing import Any

import pytest

from clipmem_core.auditing.folder.settings import check_config
from clipmem_core.config import preset_config
from clipmem_core.utils.io import InputError

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"sample": 5}, "--sample must be at least 10 pairs"),
    ({"lr": 0.0}, "--lr must be greater than 0, not 0.0"),
    ({"model": "ViT-B-33"}, "model 'ViT-B-33' is unknown"),
    ({"seeds": 2}, "--seeds belongs to --protocol paper"),
    ({"protocol": "paper", "members": 4}, "--members belongs to --protocol ensemble"),
    ({"folds": 3, "members": 4}, r"--members must be a multiple of --folds \(3\), not 4"),
    (
        {"adaptive_rest": 0.5, "loss": "siglip"},
        "--adaptive-rest works on --loss clip alone, not siglip",
    ),
    ({"min_logit_scale": 30.0, "max_logit_scale": 20.0}, "--min-logit-scale must be at most"),
    ({"stop_epoch": 31}, "--stop-epoch must be one of the 30 epochs"),
    (
        {"image_tower": "efficientnet-lite2"},
        "--image-tower efficientnet-lite2 is a locked tower: add --lock-image",
    ),
    ({"lock_text": True}, "--lock-text needs pretrained weights"),
    (
        {"lock_text": True, "pretrained": "a.pt", "text_min_df": 3},
        "--text-min-df has no effect on a locked text tower",
    ),
    ({"halves": True, "folds": 5}, "--folds must be even with --halves, not 5"),
    ({"halves": True, "protocol": "paper"}, "--halves belongs to --protocol ensemble"),
    ({"rounds": "2", "protocol": "paper"}, "--rounds belongs to --protocol ensemble"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_a_wrong_field_is_one_line_that_names_its_flag(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        check_config(dataclasses.replace(preset_config("small"), **changes))
    assert "\n" not in str(error.value)
