"""How many matrix-product operations a second the machine does, in processes side by side."""

import functools
import multiprocessing
import time
from multiprocessing.synchronize import Barrier
from typing import Any

SIDE = 2048


def peak_flops(*, processes: int, threads: int, seconds: float, side: int = SIDE) -> dict[str, float]:
    """Multiply square matrices in several processes at once and add up what they reach.

    Returns:
        Operations a second of all processes together, for float32 and bfloat16: of each process, its fastest product.
    """
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(processes), context.Queue()
    crew = [
        context.Process(target=_multiply, args=(barrier, answers, threads, seconds, side)) for _ in range(processes)
    ]
    for process in crew:
        process.start()
    reached = [answers.get(timeout=120 + 10 * seconds) for _ in crew]
    for process in crew:
        process.join()
    return {kind: sum(one[kind] for one in reached) for kind in reached[0]}


def _multiply(barrier: Barrier, answers: Any, threads: int, seconds: float, side: int) -> None:
    """Measure one process; all begin each kind together."""
    import torch

    torch.set_num_threads(threads)
    reached = {}
    for kind in (torch.float32, torch.bfloat16):
        a, b = (torch.randn(side, side).to(kind) for _ in range(2))
        product = functools.partial(torch.mm, a, b, out=torch.empty(side, side, dtype=kind))
        product()
        barrier.wait()
        reached[str(kind).removeprefix("torch.")] = 2 * side**3 / _best(product, seconds)
    answers.put(reached)


def _best(product: Any, seconds: float) -> float:
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        product()
        best = min(best, time.perf_counter() - began)
    return best
