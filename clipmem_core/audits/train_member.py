"""One member of a prepared audit, trained by this process alone or together with others that torchrun started.

The first process holds the audit, writes all files and embeds the pairs in the end; the others embed their shares of
the batches. All of them read the audit's folder and the data set under the same path.
"""

import functools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from clipmem_core.audits.lock import hold
from clipmem_core.audits.member import cached_tokens, open_member, run_member, trained_model
from clipmem_core.audits.progress import member_progress
from clipmem_core.audits.run import Screen, make_ready
from clipmem_core.audits.store import Audit, open_audit
from clipmem_core.config import InputError
from clipmem_core.training.parallel import ParallelTrainer, follow

PATIENCE = timedelta(days=1)  # others wait while the first computes features; torchrun ends them with one that is lost


def train_member(name: str, member: str, *, accum_freq: int, grad_checkpointing: bool, screen: Screen) -> None:
    """Bring a member of an audit to its end; one that is done is left alone.

    Args:
        name: the audit's.
        member: the member's.
        accum_freq, grad_checkpointing: as `ParallelTrainer` has them.
        screen: where progress goes.

    Raises:
        InputError: there is no such audit or member, another process works on the audit, or a batch cannot be cut so.
    """
    audit, first = open_audit(name), not several() or os.environ["RANK"] == "0"
    record = audit.record
    if member not in record.members:
        raise InputError(f"audit {name!r} has no member {member!r}: choose one of {', '.join(record.members)}")
    trainer = functools.partial(ParallelTrainer, accum_freq=accum_freq, grad_checkpointing=grad_checkpointing)
    if not first:
        with processes(record.device):
            if agreed(None):
                torch.set_num_threads(record.threads)
                trained_model(open_member(audit.folder, member), trainer=trainer, train=follow)
        return
    with hold(audit.folder, what="audit"):
        left = member_progress(audit.folder, member).stage != "done"
        if left:
            make_ready(audit, screen)
            if not record.config.lock_text:
                cached_tokens(record.config.model, audit.pairs)
        else:
            screen.say(f"member {member!r} of audit {name!r} is done: nothing to do")
        with processes(record.device):
            if agreed(left):
                with watched(audit, member, screen):
                    run_member(audit.folder, member, trained=functools.partial(trained_model, trainer=trainer))


def several() -> bool:
    """Tell whether torchrun started this process beside others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def processes(device: str) -> Iterator[None]:
    """Join the group of processes that torchrun started; one that was started alone has none.

    Raises:
        InputError: there are fewer GPUs than processes.
    """
    if not several():
        yield
        return
    if device == "cuda":
        own, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if own >= there:
            raise InputError(f"this machine has {there} GPUs: ask torchrun for --nproc-per-node {there}")
        torch.cuda.set_device(own)
    store, rank, world = next(dist.rendezvous("env://", timeout=PATIENCE))
    # A group that torchrun starts again must not find the addresses of the one before.
    own_store = dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, store=own_store, rank=rank, world_size=world, timeout=PATIENCE)
    try:
        yield
    except RuntimeError as error:  # as when another process is gone
        raise RuntimeError(f"{error}; the same command goes on where it stopped") from error
    finally:
        dist.destroy_process_group()


def agreed(left: bool | None) -> bool:
    """Return in every process of the group whether the first one found something left to do."""
    told = [left]
    if dist.is_initialized():
        dist.broadcast_object_list(told, 0)
    return bool(told[0])


@contextmanager
def watched(audit: Audit, member: str, screen: Screen) -> Iterator[None]:
    """Show how far a member is while this process trains it."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(1.0):
            screen.members([member_progress(audit.folder, member)])

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        screen.members([member_progress(audit.folder, member)])
