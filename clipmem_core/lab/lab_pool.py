"""The lab's pool: trains the settings that open pages show, in processes that keep the data of an
audit. The pool itself needs no torch.

An open page calls `LabPool.ask` every second or less. Each call gives free processes the next
members.
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
from clipmem_core.lab.setting import BASELINE

NICE = 10  # lowers the priority of a process, so that the page and the browser are not slowed down
SECONDS_OPEN = 90  # a page asks more often; browsers wake a hidden tab once a minute


class LabPool:
    """The processes that train members of an audit for the pages of this server."""

    def __init__(self, audit: Audit) -> None:
        self._folder = audit.folder.absolute()
        self._size = side_by_side(audit.record.config)
        self._lock = threading.RLock()
        self._pool: Any = None
        self._running: dict[str, Any] = {}  # by name, as of `missing_pairs`
        self._faults: dict[str, str] = {}  # by setting
        self._stops = threading.Timer(SECONDS_OPEN, self.stop)

    def ask(self, setting: str, *, again: bool = False) -> str:
        """Give free processes the next members of a setting; return why one failed, if it did and
        the setting is not to be tried again."""
        with self._lock:
            for name, future in list(self._running.items()):
                if future.done():
                    del self._running[name]
                    if error := future.exception():
                        self._faults[name.partition("/")[0]] = str(error)
            if again:
                self._faults.pop(setting, None)
            if setting not in self._faults:
                self._schedule(setting)
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
        for name in mitigated.missing_pairs(Audit(self._folder), setting):
            if name not in self._running and len(self._running) < self._size:
                self._running[name] = self._pool.schedule(_train, args=(self._folder, name))


def _train(folder: Path, *names: str) -> None:
    """Open the data of an audit's members, and train pairs of members, as of `missing_pairs`."""
    lab = _open_lab(folder)
    for name in names:
        lab.train(name)


@functools.cache
def _open_lab(folder: Path) -> Any:
    from clipmem_core.lab.study import Lab  # torch, in a process of the pool

    os.nice(NICE)
    threadpool_limits(Audit(folder).record.threads)  # of BLAS
    return Lab(folder)
