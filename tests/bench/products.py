"""Training's share of the machine's matrix-product peak: operations counted on paper, over what plain products reach.

An audit by the paper's protocol trains two members side by side on OpenClipart. Its operations a second are those of
a batch (`flops`, each caption cut to the batch's longest) times the batches a second that the members' logs show after
the first epoch: everything a step does counts as time, augmentation and optimiser too. The peak is measured by as many
processes with as many threads, before and after; the larger counts.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from clipmem_core.audits.settings import resolve, side_by_side
from clipmem_core.audits.store import Audit
from clipmem_core.config import AuditConfig, data_folder
from clipmem_core.training.names import model_config
from tests.bench.clipart import CAPTION, Clipart, audit_config, make_clipart
from tests.bench.flops import training_flops
from tests.bench.peak import SIDE, peak_flops
from tests.bench.report import Measure, Measures, console
from tests.bench.training import run_ours

GIGA = 1e9
TARGETS = {"float32": "aim 0.5", "bfloat16": ""}


def measure(quick: bool, repeats: int) -> Measures:
    """Measure the peak, train, measure the peak again, and compare; `repeats` changes nothing."""
    trained, epochs, seconds = (200, 4, 1.0) if quick else (2_000, 10, 3.0)
    config = resolve(audit_config(trained=trained, epochs=epochs))
    crew = {"processes": side_by_side(config), "threads": config.threads}
    data_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=data_folder().resolve()) as temporary:
        clipart = make_clipart(Path(temporary) / "clipart", trained=trained, config=config)
        before = peak_flops(**crew, seconds=seconds)
        console.print("training two members")
        run_ours(clipart, config, Path(temporary) / "data")
        after = peak_flops(**crew, seconds=seconds)
        audit = Audit(Path(temporary) / "data" / "audits" / "bench")
        steps = {name: steps_a_second(audit, name) for name in clipart.trained}
    peak = {kind: max(before[kind], after[kind]) for kind in before}
    return compare(clipart, config, steps, peak, crew)


def compare(
    clipart: Clipart, config: AuditConfig, steps: dict[str, float], peak: dict[str, float], crew: dict[str, int]
) -> Measures:
    """Set what training reaches beside the peak of each kind of number."""
    batch = {name: mean_batch_flops(clipart, config, name) for name in steps}
    reached = sum(batch[name] * rate for name, rate in steps.items())
    many = f"{crew['processes']} processes of {crew['threads']} thread(s)"
    lines = [
        Measure("two members side by side (samples/s)", config.batch_size * sum(steps.values())),
        Measure("forward and backward pass of a pair (MFLOP)", min(batch.values()) / config.batch_size / 1e6),
        Measure(f"training in {config.precision} (GFLOP/s)", reached / GIGA),
    ]
    for kind, flops in peak.items():
        lines.append(Measure(f"{kind} product of side {SIDE} in {many} (GFLOP/s)", flops / GIGA))
        lines.append(Measure(f"training / {kind} peak", ratio=reached / flops, target=TARGETS[kind]))
    return lines


def steps_a_second(audit: Audit, member: str) -> float:
    """Read a member's pace after its first epoch from its log."""
    lines: list[dict[str, Any]] = [
        json.loads(line) for line in (audit.member(member) / "log.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    first = next(line for line in lines if line["epoch"] >= 1)
    last = lines[-1]
    return (last["step"] - first["step"]) / (last["seconds"] - first["seconds"])


def mean_batch_flops(clipart: Clipart, config: AuditConfig, member: str) -> float:
    """Count a batch of a member's pairs, the mean over an epoch in random order."""
    from clipmem_core.training.model import tokenize

    captions = clipart.pairs[CAPTION][clipart.trained[member]].tolist()
    lengths = (tokenize(config.model, captions) != 0).sum(axis=1)
    order = np.random.default_rng(config.seed).permutation(len(lengths))
    model = model_config(config.model)
    batches = np.array_split(lengths[order], len(lengths) // config.batch_size)
    return float(np.mean([training_flops(model, text_length=int(own.max()), batch=len(own)) for own in batches]))
