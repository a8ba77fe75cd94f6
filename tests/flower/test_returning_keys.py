"""A site that was taken off the roster comes back with its key: the SuperLink's database lets it."""

from pathlib import Path

import pytest
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.constant import NodeStatus
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from flwr.superlink.federation.noop_federation_manager import NoOpFederationManager

from server.flower import _with_a_former_key

KEY, OTHER = b"key of a site", b"key of another site"


class State(SqlLinkState):  # type: ignore[misc]  # Flower is not typed for us
    create_node = _with_a_former_key(SqlLinkState.create_node)


def opened(kind: type[SqlLinkState], folder: Path) -> SqlLinkState:
    store = SqlObjectStore(str(folder / "flower.db"))
    store.initialize()
    state = kind(str(folder / "flower.db"), NoOpFederationManager(), store)
    state.initialize()
    return state


def test_a_key_that_was_unregistered_is_registered_again_as_another_node(tmp_path: Path) -> None:
    state = opened(State, tmp_path)
    first, other = state.create_node("a", "a", KEY, 30.0), state.create_node("a", "a", OTHER, 30.0)
    state.delete_node("a", first)
    second = state.create_node("a", "a", KEY, heartbeat_interval=30.0, name="site")
    assert len({first, other, second}) == 3
    assert state.get_node_id_by_public_key(KEY) == second
    assert state.get_node_id_by_public_key(OTHER) == other
    found = {node.node_id: (node.status, node.public_key) for node in state.get_node_info()}
    assert found[first] == (NodeStatus.UNREGISTERED, b"")
    state.delete_node("a", second)
    assert state.create_node("a", "a", KEY, 30.0) not in (first, second)  # as often as founders want


def test_a_key_in_use_is_refused_as_before(tmp_path: Path) -> None:
    state = opened(State, tmp_path)
    first = state.create_node("a", "a", KEY, 30.0)
    with pytest.raises(ValueError, match="already in use"):
        state.create_node("a", "a", KEY, 30.0)
    assert state.get_node_id_by_public_key(KEY) == first


def test_flower_alone_refuses_the_key_for_ever(tmp_path: Path) -> None:
    """Where this fails, `_with_a_former_key` has become superfluous."""
    state = opened(SqlLinkState, tmp_path)
    state.delete_node("a", state.create_node("a", "a", KEY, 30.0))
    with pytest.raises(ValueError, match="already in use"):
        state.create_node("a", "a", KEY, 30.0)
