"""For all tests: logging set up inside a test ends with it, and weights of fresh models are the same in every run."""

import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("MKL_CBWR", "AUTO")  # as `client` sets it: a test may use torch before it imports that
# The same examples in every run: what fails is then of the change, not of the day. `search` looks for new ones, when asked.
# No deadline: how long an example takes says how busy the machine is.
settings.register_profile("wardround", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile("wardround")
sys.path.insert(0, str(Path(__file__).parent / "shared"))  # the folder itself would hide the packages named like its own


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Before any fixture of the test: a test that builds a model must find the same weights in whatever order tests run."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """A program that a test calls in this process sets levels and hooks for good, as it may; the next test begins without."""
    root, ours = logging.getLogger(), logging.getLogger("wardround")
    before, levels = list(root.handlers), (root.level, ours.level)
    loud = logging.raiseExceptions
    ended, thread_ended, warned = sys.excepthook, threading.excepthook, warnings.showwarning
    yield
    for handler in [handler for handler in root.handlers if handler not in before]:
        root.removeHandler(handler)
        handler.close()
    for logger, level in zip((root, ours), levels, strict=True):
        logger.setLevel(level)
    logging.raiseExceptions = loud
    sys.excepthook, threading.excepthook, warnings.showwarning = ended, thread_ended, warned
