"""Commands in real processes that start at once: one process imports the package, and each command
is a fork of it."""

import functools
import gc
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SERVER = [sys.executable, "-c", "from tests.forked import serve; serve()"]


class Forked:
    """A running command, with the methods of a `subprocess.Popen` that tests use."""

    def __init__(self, server: "Server", request: dict[str, Any]) -> None:
        self.pid = server.ask(request)
        self.returncode: int | None = None
        self._server = server
        self._request = request

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._server.ask({"poll": self.pid})
        return self.returncode

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """Wait for its end and return what it printed."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            assert time.monotonic() < deadline, "it took too long"
            time.sleep(0.01)
        return Path(self._request["out"]).read_text(), Path(self._request["err"]).read_text()

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


class Server:
    """The process that has imported everything; it starts with the first command."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process = None
        self._count = 0

    def start(self, *arguments: str, data: Path, before: str = "", **environment: str) -> Forked:
        """Start `python -m clipmem_core` with arguments on a data folder, after some code was run
        in its process."""
        self._count += 1
        out, err = (str(self._folder / f"{self._count}.{kind}") for kind in ("out", "err"))
        environment = {**environment, "CLIPMEM_DATA": str(data)}
        request = {
            "arguments": arguments,
            "before": before,
            "environment": environment,
            "out": out,
            "err": err,
        }
        return Forked(self, request)

    def ask(self, request: dict[str, Any]) -> Any:
        if self._process is None:
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            self._process = subprocess.Popen(SERVER, env=environment, text=True, cwd=ROOT, **pipes)
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        if self._process is not None:
            self._process.communicate()


def serve() -> None:
    """Fork for every command until the pipe closes."""
    gc.set_threshold(50_000, 20, 20)  # as commands do
    from open_clip import factory
    from open_clip.tokenizer import SimpleTokenizer

    import clipmem_core.auditing.run.member
    import clipmem_core.cli
    import clipmem_core.lab.study  # noqa: F401
    from clipmem_core.training.model import build_model, tokenize

    os.fsync = lambda _: None
    factory.SimpleTokenizer = functools.cache(SimpleTokenizer)
    clipmem_core.cli.parse_command(["audit", "scenes"])  # what is only loaded when it is used
    build_model("tiny", loss="clip", seed=0)
    tokenize("tiny", ["a frog"])
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork() or _run_command(request)
        print(json.dumps(answer), flush=True)
    os._exit(0)  # nothing is left to do


def _run_command(request: dict[str, Any]) -> None:
    """Run the command with its output in files and Ctrl-C as in a terminal; never return."""
    from clipmem_core import cli
    from clipmem_core.auditing.run import executor, pipeline

    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ |= request["environment"]
    _redirect(os.devnull, request["out"], request["err"])
    # Tasks are forks, too.
    for module in (cli, executor, pipeline):
        module.processes = lambda: multiprocessing.get_context("fork")
    _end(lambda: exec(request["before"], {}) or cli.main(request["arguments"]))


def _redirect(*paths: str) -> None:
    sys.stdout.flush()
    for target, path in enumerate(paths):
        flags = os.O_RDONLY if target == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        opened = os.open(path, flags)
        os.dup2(opened, target)
        os.close(opened)


def _end(work: Any) -> None:
    code = 1
    try:
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
