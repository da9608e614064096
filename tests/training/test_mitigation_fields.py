"""Which mitigations are on, and what is refused."""

import dataclasses
from typing import Any

import pytest

from clipmem_core.config import AuditConfig, InputError, as_dict, preset_config
from clipmem_core.training.mitigation.fields import check_mitigations, switched_on, without_idle

NAN, INFINITE = float("nan"), float("inf")
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"text_noise": -0.1}, "--text-noise must be at least 0, not -0.1"),
    ({"image_noise": NAN}, "--image-noise must be at least 0, not nan"),
    ({"adaptive_noise": INFINITE}, "--adaptive-noise must be at least 0, not inf"),
    ({"text_mask": 1.5}, r"--text-mask is a share: it must be in \[0, 1\], not 1.5"),
    ({"text_mask": 1.0}, "--text-mask must leave something of a caption: below 1, not 1.0"),
    ({"adaptive_mask": 1.0}, "--adaptive-mask must leave something of a caption: below 1, not 1.0"),
    ({"adaptive_mask": -0.2}, r"--adaptive-mask is a share: it must be in \[0, 1\], not -0.2"),
    ({"colour": 2.0}, r"--colour is a share: it must be in \[0, 1\], not 2.0"),
    ({"adaptive_rest": NAN}, r"--adaptive-rest is a share: it must be in \[0, 1\], not nan"),
    ({"adaptive_rest": 0.5, "loss": "siglip"}, "--adaptive-rest works on --loss clip alone, not siglip"),
    ({"max_logit_scale": 0.5}, "--max-logit-scale must be at least 1, not 0.5"),
    ({"max_logit_scale": NAN}, "--max-logit-scale must be at least 1, not nan"),
    ({"min_logit_scale": 0.0}, "--min-logit-scale must be at least 1, not 0.0"),
    ({"min_logit_scale": INFINITE}, "--min-logit-scale must be at least 1, not inf"),
    ({"min_logit_scale": 30.0, "max_logit_scale": 20.0}, "--min-logit-scale must be at most the cap of 20.0, not 30.0"),
    ({"text_min_df": -1}, "--text-min-df is a number of pairs: it must be at least 0, not -1"),
    ({"text_forget_df": -2}, "--text-forget-df is a number of pairs: it must be at least 0, not -2"),
    ({"stop_epoch": -1}, "--stop-epoch must be one of the 30 epochs, or 0 for none, not -1"),
    ({"stop_epoch": 31}, "--stop-epoch must be one of the 30 epochs, or 0 for none, not 31"),
    ({"adaptive_quantile": 1.0}, "--adaptive-quantile must be between 0 and 1, not 1.0"),
    ({"adaptive_every": 0}, "--adaptive-every must be at least 1 epoch, not 0"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[" ".join(map(str, wrong)) for wrong, _ in WRONG])
def test_a_setting_out_of_range_is_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        check_mitigations(dataclasses.replace(AuditConfig(), **changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("preset", ["tiny", "small", "base"])
def test_no_preset_has_a_mitigation_on(preset: str) -> None:
    check_mitigations(preset_config(preset))
    assert switched_on(as_dict(preset_config(preset))) == {}


def test_what_gives_another_field_a_meaning_is_on_only_with_it() -> None:
    assert switched_on({"noise_place": "before", "adaptive_every": 5}) == {}
    assert switched_on({"image_noise": 0.1, "noise_place": "before"}) == {"image_noise": 0.1, "noise_place": "before"}
    assert switched_on({"adaptive_rest": 1.0, "adaptive_every": 5}) == {"adaptive_rest": 1.0, "adaptive_every": 5}


def test_what_is_idle_leaves_a_config_as_one_from_before_there_were_mitigations() -> None:
    config = as_dict(dataclasses.replace(AuditConfig(), stop_epoch=30, adaptive_quantile=0.5))
    assert not {"text_noise", "stop_epoch", "adaptive_quantile", "noise_place"} & set(without_idle(config))
    assert without_idle(config | {"text_mask": 0.3})["text_mask"] == 0.3
    assert without_idle(config)["epochs"] == 30
