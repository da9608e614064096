"""Trains what open pages want, in processes that keep the data of an audit; needs no torch itself.

A page asks again and again while it is open, which hands the next members to a free process.
"""

import functools
import os
import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

from pebble import ProcessExpired
from threadpoolctl import threadpool_limits

from clipmem_core.auditing.folder.settings import side_by_side
from clipmem_core.auditing.folder.store import Audit
from clipmem_core.auditing.run.executor import open_pool
from clipmem_core.config import DATA_VARIABLE, data_folder
from clipmem_core.lab import mitigated
from clipmem_core.lab.mitigated import BASELINE, MemberPair

NICE = 10  # lowers the priority of a process, so that the page and the browser are not slowed down
SECONDS_OPEN = 90  # a page asks more often; browsers wake a hidden tab once a minute
Part = tuple[str, MemberPair]  # a setting, and two members that train with it


class LabPool:
    """The processes that train members of an audit for the pages of this server."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit
        self._size = side_by_side(audit.record.config)
        self._lock = threading.Lock()
        self._pool: Any = None
        self._running: dict[Part, Any] = {}
        self._asked: dict[str, tuple[float, str]] = {}  # of a session: the time, and the setting
        self._faults: dict[str, str] = {}
        self._stops: threading.Timer | None = None

    def ask(self, session: str, setting: str) -> str:
        """Train a setting while a page asks for it, and the baseline; return why that ended, if it
        failed."""
        with self._lock:
            now = time.monotonic()
            if self._asked.get(session, (0.0, ""))[1] != setting:
                self._faults.clear()  # a person has chosen anew
            self._asked[session] = now, setting
            for name, (asked, _) in list(self._asked.items()):
                if now - asked > SECONDS_OPEN:
                    del self._asked[name]
            self._collect()
            if not (fault := self._faults.get(setting) or self._faults.get(BASELINE, "")):
                self._schedule()
            if self._stops:
                self._stops.cancel()
            self._stops = threading.Timer(SECONDS_OPEN, self.stop)
            self._stops.daemon = True
            self._stops.start()
            return fault

    def stop(self) -> None:
        """End the processes."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._pool:
            self._pool.stop()
            self._pool.join()
        self._pool = None
        self._running.clear()

    def _collect(self) -> None:
        for part, future in list(self._running.items()):
            if part[0] not in (BASELINE, *(setting for _, setting in self._asked.values())):
                future.cancel()
            if future.done():
                del self._running[part]
                try:
                    future.result()
                except CancelledError:
                    pass
                except ProcessExpired as error:
                    self._faults[part[0]] = f"its process ended with exit code {error.exitcode}"
                except Exception as error:  # of any kind in the process: the page shows it
                    self._faults[part[0]] = str(error)

    def _schedule(self) -> None:
        """Hand parts to free processes: of the setting asked for last first, the baseline's beside
        it, and all others of the baseline at last."""
        if self._pool and not self._pool.active:  # all processes ended
            self._close()
        if not self._pool:  # each process opens the data before it is needed
            self._pool = open_pool(self._size)
            for _ in range(self._size):
                self._pool.schedule(_prepare, args=(self._audit.folder.absolute(),))
        asked = sorted(self._asked.values(), reverse=True)
        for setting in (
            *dict.fromkeys(setting for _, setting in asked if setting != BASELINE),
            BASELINE,
        ):
            names = dict.fromkeys((BASELINE, setting))
            finished = {name: mitigated.finished_members(self._audit, name) for name in names}
            for member_pair in mitigated.member_pairs(self._audit.record.members):
                for name in names:
                    if len(self._running) >= self._size:
                        return
                    if member_pair[0] in finished[name] or (name, member_pair) in self._running:
                        continue
                    work = (
                        self._audit.folder.absolute(),
                        name,
                        member_pair,
                        data_folder().absolute(),
                    )
                    self._running[name, member_pair] = self._pool.schedule(_train, args=work)


def _prepare(folder: Path) -> None:
    _open_lab(folder)


def _train(folder: Path, setting: str, member_pair: MemberPair, data: Path) -> None:
    os.environ[DATA_VARIABLE] = str(data)
    _open_lab(folder).train(setting, member_pair)


@functools.cache
def _open_lab(folder: Path) -> Any:
    from clipmem_core.lab.study import Lab  # torch, in a process of the pool

    os.nice(NICE)
    threadpool_limits(Audit(folder).record.threads)  # of BLAS
    return Lab(folder)
