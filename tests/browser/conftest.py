"""A browser, and a served data folder: small audits that were really trained, and a made-up hostile
one."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clipmem_core.auditing.folder.store import CAPTION_TABLE, CONFIG, Audit
from clipmem_core.review.decisions import Review, open_review
from tests.browser.server import serve
from tests.browser.watched import close_watched, open_watched
from tests.fixtures import caption_rows, make_audit, rewrite, write_words

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
PAIRS = 330  # of it


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
def data(browser: Any, tmp_path_factory: pytest.TempPathFactory, typed: Path, long: Audit) -> Path:
    """A data folder with three finished audits; that of `TRAINED` is the newest."""
    folder = tmp_path_factory.mktemp("served") / "data"
    write_words(make_audit(folder, "hostile"))
    for made in (typed, long.folder.parents[1]):
        shutil.copytree(made, folder, dirs_exist_ok=True)
    trained = Audit(folder / "audits" / TRAINED)
    write_words(trained)
    scores = caption_rows(trained)
    wrong = scores["caption"].eq(2) * 0.9
    rewrite(trained.folder / CAPTION_TABLE, scores.assign(p_word=wrong, p_wrong=wrong))
    (trained.folder / CONFIG).touch()
    return folder


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
