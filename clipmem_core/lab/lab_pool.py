"""The lab's pool: trains the settings that open pages show, in processes that keep the data of an
audit. The pool itself needs no torch.

An open page asks again and again. Each time, free processes get the next members.
"""

import functools
import os
import threading
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from clipmem_core.auditing.folder.settings import side_by_side
from clipmem_core.auditing.folder.store import Audit
from clipmem_core.auditing.run.executor import open_pool
from clipmem_core.lab import mitigated
from clipmem_core.lab.mitigated import MemberPair
from clipmem_core.lab.setting import BASELINE

NICE = 10  # lowers the priority of a process, so that the page and the browser are not slowed down
SECONDS_OPEN = 90  # a page asks more often; browsers wake a hidden tab once a minute
Part = tuple[str, MemberPair]  # a setting, and two members that train with it


class LabPool:
    """The processes that train members of an audit for the pages of this server."""

    def __init__(self, audit: Audit) -> None:
        self._folder = audit.folder.absolute()
        self._size = side_by_side(audit.record.config)
        self._lock = threading.RLock()
        self._pool: Any = None
        self._running: dict[Part, Any] = {}
        self._faults: dict[str, str] = {}  # by setting
        self._stops: threading.Timer | None = None

    def ask(self, setting: str, *, again: bool = False) -> str:
        """Give free processes the next members of a setting; return why one failed, if it did and
        the setting is not to be tried again."""
        with self._lock:
            for part, future in list(self._running.items()):
                if future.done():
                    del self._running[part]
                    if error := future.exception():
                        code = getattr(error, "exitcode", None)  # of a process that was killed
                        self._faults[part[0]] = f"exit code {code}" if code else str(error)
            if again:
                self._faults.pop(setting, None)
            if setting not in self._faults:
                self._schedule(setting)
            if self._stops:
                self._stops.cancel()
            self._stops = threading.Timer(SECONDS_OPEN, self.stop)
            self._stops.daemon = True
            self._stops.start()
            return self._faults.get(setting, "")

    def stop(self) -> None:
        """End the processes."""
        with self._lock:
            if self._pool:
                self._pool.stop()
                self._pool.join()
            self._pool = None
            self._running.clear()

    def _schedule(self, setting: str) -> None:
        if self._pool and not self._pool.active:  # all processes ended
            self.stop()
        if not self._pool:
            self._pool = open_pool(self._size)
            for _ in range(self._size):  # each opens the data before it is needed
                self._pool.schedule(_train, args=(self._folder,))
        if setting == BASELINE:  # the page measures it
            return
        audit = Audit(self._folder)
        finished = mitigated.finished_members(audit, setting)
        for member_pair in mitigated.member_pairs(audit.record.members):
            part = (setting, member_pair)
            if member_pair[0] in finished or part in self._running:
                continue
            if len(self._running) < self._size:
                self._running[part] = self._pool.schedule(_train, args=(self._folder, *part))


def _train(folder: Path, *part: Any) -> None:
    """Open the data of an audit's members, and train a pair of members if one is named."""
    lab = _open_lab(folder)
    if part:
        lab.train(*part)


@functools.cache
def _open_lab(folder: Path) -> Any:
    from clipmem_core.lab.study import Lab  # torch, in a process of the pool

    os.nice(NICE)
    threadpool_limits(Audit(folder).record.threads)  # of BLAS
    return Lab(folder)
