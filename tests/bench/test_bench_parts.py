import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from clipmem_core.training.model import HIDDEN, build_model, encode_image, encode_text, locked_model
from clipmem_core.training.names import model_config
from clipmem_core.training.trainer import partner_log_probability
from tests.bench import coverage
from tests.bench.flops import head_flops, loss_flops, training_flops
from tests.bench.report import spread
from tests.scores.simulated import simulate


@pytest.mark.parametrize(("name", "length"), [("tiny", 16), ("tiny", 9), ("small", 13)])
def test_the_count_on_paper_is_that_of_torchs_own_counter(name: str, length: int) -> None:
    model = build_model(name, loss="clip", seed=0)
    side = model_config(name)["vision_cfg"]["image_size"]
    tokens = torch.zeros(6, 16, dtype=torch.long)
    tokens[:, :length] = 5
    tokens[:, length - 1] = 49407
    with FlopCounterMode(display=False) as counter:
        image = encode_image(model, torch.randn(6, 3, side, side))
        text = encode_text(model, tokens, cut=True)
        (-partner_log_probability(image, text, model.logit_scale.exp())[1].mean()).backward()
    assert training_flops(model_config(name), text_length=length, batch=6) == counter.get_total_flops()


def test_the_count_of_heads_is_that_of_torchs_own_counter() -> None:
    model = locked_model(24, 40, dim=16, loss="clip", seed=0)
    with FlopCounterMode(display=False) as counter:
        image, text = model.encode_image(torch.randn(6, 24)), model.encode_text(torch.randn(6, 40))
        (-partner_log_probability(image, text, model.logit_scale.exp())[1].mean()).backward()
    assert head_flops(24, 40, hidden=HIDDEN, dim=16, batch=6) + loss_flops(16, 6) == counter.get_total_flops()


def test_a_spread_gives_the_median_and_its_ends() -> None:
    assert [line.ratio for line in spread("x", [3.0, 1.0, 2.5], "at least 2")] == [2.5, 1.0, 3.0]
    assert [line.target for line in spread("x", [3.0], "at least 2")] == ["at least 2"]


def test_blocks_of_members_are_held_against_each_other() -> None:
    """What the benchmark of coverage does with an audit, on a simulated one: four blocks of four members."""
    drawn = simulate(0, members=16, folds=4)
    blocks = list(coverage._blocks(np.stack(drawn.alignments), drawn.sides, 1))
    found = coverage._against(list(zip(blocks[::2], blocks[1::2], strict=True)), drawn.scored)
    assert found["comparisons"] == 2
    assert 0.93 <= found["coverage"] <= 0.97
    assert found["coverage_of_own_members_alone"] < 0.92  # two members a side, without what like pairs say
    assert found["top_50_shrunk"] == pytest.approx(found["top_50_other_members"], abs=0.04)
    assert found["top_50"] > found["top_50_other_members"] + 0.05
