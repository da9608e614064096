"""A browser, and a served data folder: a small audit that was really trained, and made-up hostile
ones."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clipmem_core.auditing.folder.store import CAPTION_TABLE, Audit
from clipmem_core.review.decisions import Review, open_review
from tests.audit.small import made_once
from tests.browser.server import serve
from tests.browser.watched import close_watched, open_watched
from tests.fixtures import caption_rows, make_audit, rewrite, write_words
from tests.forked import Server

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# a page's scripts are compiled once, not for each page that is opened
ONE_PROCESS = "--process-per-site"
TRAINED = "scenes"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder: Playwright does not close its pipes."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"))


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    """A chromium without a window. It ends with this folder: its event loop must not run below
    other tests."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=path, args=[*FLAGS, ONE_PROCESS])
        yield opened
        opened.close()


@pytest.fixture(scope="package")
def data(browser: Any, tmp_path_factory: pytest.TempPathFactory, run: Callable[..., str]) -> Path:
    """A data folder with two finished audits; the trained one is the newest."""

    def make(folder: Path) -> None:
        write_words(make_audit(folder, "hostile"))
        run(
            folder,
            "audit",
            "scenes",
            "--name",
            TRAINED,
            "--preset",
            "tiny",
            "--epochs",
            "3",
            "--scenes-pairs",
            "220",
        )
        write_words(trained := Audit(folder / "audits" / TRAINED))
        wrong = (scores := caption_rows(trained))["caption"].eq(2) * 0.9
        rewrite(trained.folder / CAPTION_TABLE, scores.assign(p_word=wrong, p_wrong=wrong))

    made = made_once(tmp_path_factory, "served", make)
    return Path(shutil.copytree(made, tmp_path_factory.mktemp("served") / "data"))


@pytest.fixture(scope="package")
def run(forks: Server) -> Callable[..., str]:
    """Types a command on a data folder, which must go well, and gives what it prints."""

    def typed(data: Path, *arguments: str) -> str:
        process = forks.start(*arguments, data=data)
        out, errors = process.communicate()
        assert process.returncode == 0, errors or out
        return out

    return typed


@pytest.fixture(scope="package")
def address(data: Path) -> Iterator[str]:
    """Where the data folder is served."""
    with serve(data) as served:
        yield served


@pytest.fixture(scope="package")
def context(browser: Any, address: str) -> Any:
    """What pages of one browser have in common: a cache, and a process, which a first page
    keeps."""
    context = browser.new_context()
    context.new_page().goto(f"{address}/_stcore/health")
    return context


@pytest.fixture
def page(request: pytest.FixtureRequest, context: Any, address: str) -> Iterator[Any]:
    """A page in the light theme, or the parametrized one, without errors and without requests to
    other hosts."""
    if "review" in request.fixturenames:
        request.getfixturevalue(
            "review"
        )  # its file is deleted after the page, which reads it every second, is closed
    opened = open_watched(context, theme=getattr(request, "param", "light"))
    yield opened
    close_watched(opened, address)


@pytest.fixture
def review(data: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Review]:
    """The decisions of the audit, none yet and none afterwards."""
    monkeypatch.setenv("CLIPMEM_DATA", str(data))
    review = open_review(Audit(data / "audits" / TRAINED))
    backup = review.path.with_suffix(".backup")
    if review.path.exists():
        review.path.rename(backup)
    yield review
    for path in review.path.parent.glob(f"{review.path.name}*"):
        path.unlink(missing_ok=True)  # the server may close it meanwhile
    if backup.exists():
        backup.rename(review.path)
