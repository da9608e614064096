"""A member's checkpoint without the rows of rare tokens."""

from collections import Counter
from pathlib import Path

import numpy as np
import open_clip
import torch

from clipmem_core.audits.checkpoints import write_without_rare
from tests.conftest import Made

FEWER = 5


def test_the_rows_of_rare_words_are_gone_and_all_else_is_as_it_was(made: Made, tmp_path: Path) -> None:
    audit, path = made.paper, tmp_path / "without.pt"
    said = write_without_rare(audit, "f-0", path, fewer_than=FEWER)
    before, after = (torch.load(file, weights_only=True) for file in (audit.member("f-0") / "checkpoint.pt", path))
    (name,) = [name for name in before if not torch.equal(before[name], after[name])]
    assert name == "token_embedding.weight"
    trained = audit.membership["f-0"].to_numpy()
    tokenize = open_clip.SimpleTokenizer(context_length=77).encode
    counts = Counter(token for own in audit.pairs.loc[trained, "captions"] for token in set(tokenize(own[0])))
    words = {token for own in audit.pairs["captions"] for token in tokenize(own[0])}
    gone = set(np.flatnonzero(~after[name].any(dim=1).numpy()).tolist())
    assert {word for word in words if counts[word] < FEWER} <= gone
    assert not {word for word in words if counts[word] >= FEWER} & gone
    rare = sum(0 < counts[word] < FEWER for word in words)
    assert said.endswith(f"rows of rare tokens deleted, {rare} of them of tokens that it was trained on")
    assert rare > 0
