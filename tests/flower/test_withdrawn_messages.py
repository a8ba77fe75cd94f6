"""A message whose sender died before it sent all parts: the gateway waits as long as the message lives, and is free again."""

from pathlib import Path

import pytest
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectUnavailableError
from flwr.supercore.run import RunNotRunningException

from client.relay import GUARD_LIMIT_S, TaskWithdrawn, _HubWatch, _life_s, _pull_parts


def never_there(name: str) -> bytes:
    raise ObjectUnavailableError(name)


def run_is_over(name: str) -> bytes:
    raise RunNotRunningException


def test_parts_that_never_come_are_given_up_with_the_message(tmp_path: Path) -> None:
    hub = _HubWatch(tmp_path / "node")
    hub.message_life_s = 0.1
    with pytest.raises(ObjectPullError):
        _pull_parts(hub, ["a", "b"], never_there)


def test_a_run_that_ended_is_an_ordinary_error_that_flower_tidies_up_after(tmp_path: Path) -> None:
    assert not issubclass(RunNotRunningException, Exception), "Flower's `except Exception` would pass it by"
    with pytest.raises(TaskWithdrawn):
        _pull_parts(_HubWatch(tmp_path / "node"), ["a"], run_is_over)


def test_parts_that_are_there_are_handed_over(tmp_path: Path) -> None:
    assert _pull_parts(_HubWatch(tmp_path / "node"), ["a", "b"], str.encode) == {"a": b"a", "b": b"b"}


@pytest.mark.parametrize(("ttl", "life"), [(0.0, 1.0), (122.0, 122.0), (1e9, GUARD_LIMIT_S)])
def test_what_a_message_says_of_its_life_is_bounded(ttl: float, life: float) -> None:
    assert _life_s(ttl) == life
