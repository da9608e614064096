"""Where tests run: in one process more than cores, each with the fixtures of `tests.shared`."""

import gc

import pytest

from clipmem_core.utils.io import cores

# Libraries make a million objects, and a search for garbage among them takes seconds.
gc.set_threshold(50_000, 20, 20)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One process more than cores: a third of a run's time some tests wait, for browsers, clusters
    and clocks."""
    return cores() + 1


def pytest_configure(config: pytest.Config) -> None:
    """Load the fixtures, whose imports take seconds, where tests run: not in the process that
    deals them out."""
    if hasattr(config, "workerinput") or not getattr(config.option, "tx", None):
        config.pluginmanager.import_plugin("tests.shared")


def pytest_collection_finish() -> None:
    """Spare the search for garbage what was imported: it stays."""
    gc.collect()
    gc.freeze()
