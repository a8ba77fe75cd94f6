"""MLflow shows a run; it never holds one up."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from books import check_books
from consortium_of_four import Consortium, demo

pytestmark = pytest.mark.e2e

PATIENCE_S = 60.0


@contextmanager
def nobody() -> Iterator[str]:
    yield f"http://127.0.0.1:{demo.free_port()}"


@contextmanager
def somebody_who_never_answers() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("store", [nobody, somebody_who_never_answers])
def test_a_run_finishes_whatever_the_store_does(consortium: Consortium, store: Callable[[], "contextmanager[str]"]) -> None:
    with store() as address:
        going = consortium.begin(consortium.plan("schedule.rounds=3"), "--store", address)
        assert going.status() == 0, going.output[-2000:]
        ended = time.time()
    check_books(consortium, going)
    assert "catches up" in going.output, "the lead is told that MLflow is behind, and what to do"
    finished = going.events()[-1].time.timestamp()
    assert ended - finished < PATIENCE_S, "nobody waits long for a store that is away"
    assert not consortium.left_of(going), "the mirror does not stay behind"
