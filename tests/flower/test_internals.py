"""Everything of Flower's inside that client/relay.py and server/flower.py lean on, as it is in the pinned release.

When this fails, Flower moved: read the named place in the new release, adapt the two files, then this list.
"""

import importlib
import importlib.metadata
import inspect
import sys

import pytest

from client import relay
from server import flower

SIGNATURES = {
    # SuperNode, run in the gateway
    "flwr.supernode.cli:flower_supernode": "()",
    "flwr.supernode.start_client_internal:_pull_and_store_message": "(state, object_store, node_config, receive, get_run, "
    "get_fab, pull_object, confirm_message_received, trusted_entities)",
    "flwr.supernode.start_client_internal:_push_messages": "(state, object_store, send, push_object)",
    "flwr.supernode.start_client_internal:get_fused_config_from_fab": "(fab_file, run)",
    "flwr.supernode.start_client_internal:pull_objects": "(object_ids, pull_object_fn, max_concurrent_pulls, max_time, "
    "max_tries_per_object, initial_backoff, backoff_cap)",
    "flwr.supernode.fleet_http_client:FleetHttpClient.ActivateNode": "(self, request)",
    "flwr.supernode.fleet_http_client:FleetHttpClient.DeactivateNode": "(self, request)",
    "flwr.supernode.fleet_http_client:FleetHttpClient.PullMessages": "(self, request)",
    "flwr.supernode.fleet_http_client:FleetHttpClient.GetRun": "(self, request)",
    "flwr.supernode.fleet_http_client:FleetHttpClient.GetFab": "(self, request)",
    "flwr.supercore.protobuf.client:ProtobufClient._unary_unary": "(self, path, rpc_method, request, response_type, timeout)",
    "flwr.supercore.protobuf.client:ProtobufClient.from_server_address": "(server_address, insecure, root_certificates, "
    "interceptors, retry_invoker)",
    # Runtime API, spoken by relay and ServerApp
    "flwr.supercore.runtime:RuntimeHttpClient.AcquireTask": "(self, request)",
    "flwr.supercore.runtime:RuntimeHttpClient.PullTaskInput": "(self, request)",
    "flwr.supercore.runtime:RuntimeHttpClient.PullMessages": "(self, request)",
    "flwr.supercore.runtime:RuntimeHttpClient.PullObject": "(self, request)",
    "flwr.supercore.runtime:RuntimeHttpClient.ConfirmMessageReceived": "(self, request)",
    "flwr.supercore.runtime:RuntimeHttpClient.PushMessages": "(self, request)",
    "flwr.supercore.runtime:RuntimeHttpClient.PushObject": "(self, request)",
    "flwr.supercore.runtime:RuntimeHttpClient.PushTaskOutput": "(self, request)",
    "flwr.supercore.runtime:RuntimeHttpClient.SendTaskHeartbeat": "(self, request)",
    "flwr.supercore.interceptors:RuntimeTokenHttpInterceptor": "(token)",
    "flwr.supercore.interceptors:RuntimeVersionHttpInterceptor": "(component_name)",
    "flwr.supercore.interceptors:SuperExecAuthHttpInterceptor": "(master_secret, protected_methods)",
    "flwr.supercore.inflatable.inflatable_utils:inflate_object_from_contents": "(object_id, object_contents, "
    "keep_object_contents, objects)",
    "flwr.supercore.inflatable.inflatable_utils:pull_objects": "(object_ids, pull_object_fn, max_concurrent_pulls, max_time, "
    "max_tries_per_object, initial_backoff, backoff_cap)",
    "flwr.supercore.inflatable.inflatable_utils:validate_object_content": "(content)",
    "flwr.supercore.inflatable.inflatable_object:get_object_id": "(object_content)",
    "flwr.supercore.inflatable.inflatable_object:get_object_body": "(object_content, cls)",
    "flwr.supercore.inflatable.inflatable_object:get_object_children_ids_from_object_content": "(object_content)",
    "flwr.supercore.protobuf.client:ProtobufClient": "(base_url, interceptors, verify, timeout, retry_invoker)",
    "flwr.supernode.main:create_app": "(state_factory, superexec_auth_secret)",
    "flwr.supercore.inflatable.inflatable_object:get_object_tree": "(obj)",
    "flwr.supercore.inflatable.inflatable_object:iterate_object_tree": "(tree)",
    "flwr.supercore.inflatable.inflatable_object:get_all_nested_objects": "(obj)",
    "flwr.supercore.inflatable.inflatable_object:no_object_id_recompute": "()",
    "flwr.supercore.inflatable.inflatable_protobuf_utils:make_pull_object_fn_protobuf": "(pull_object_protobuf, node, run_id)",
    "flwr.supercore.inflatable.inflatable_protobuf_utils:make_push_object_fn_protobuf": "(push_object_protobuf, node, run_id, "
    "session_id)",
    "flwr.common.serde:message_from_proto": "(message_proto)",
    "flwr.common.serde:message_to_proto": "(message)",
    "flwr.app.message:remove_content_from_message": "(message)",
    # the hub
    "flwr.superlink.main:create_app": "(config, superlink_lifespan_class)",
    "flwr.superlink.main:_get_middleware": "()",
    "flwr.superlink.cli:flower_superlink": "()",
    "flwr.supercore.corestate.sql_corestate:SqlCoreState.store_object": "(self, run_id, session_id, object_id, object_content)",
    "flwr.server.superlink.linkstate.sql_linkstate:SqlLinkState.create_node": "(self, owner_aid, owner_name, public_key, "
    "heartbeat_interval, location, name)",
    "flwr.supercore.object_store.sql_object_store:SqlObjectStore.put": "(self, object_id, object_content)",
    "flwr.supercore.object_store.sql_object_store:SqlObjectStore.get": "(self, object_id)",
    "flwr.supercore.object_store.sql_object_store:SqlObjectStore.delete": "(self, object_id)",
    "flwr.supercore.object_store.sql_object_store:SqlObjectStore._mutation_session": "(self)",
    "flwr.supercore.cli:flower_superexec": "()",
    "flwr.supercore.corestate.sql_corestate:SqlCoreState._cleanup_expired_task_tokens": "(self)",
    "flwr.superlink.grid:HttpGrid.push_messages": "(self, messages)",
    "flwr.supercore.control:ControlHttpClient.RegisterNode": "(self, request)",
    "flwr.supercore.control:ControlHttpClient.UnregisterNode": "(self, request)",
    "flwr.supercore.control:ControlHttpClient.ListNodes": "(self, request)",
    "flwr.supercore.control:ControlHttpClient.StartRun": "(self, request)",
    "flwr.supercore.control:ControlHttpClient.ListRuns": "(self, request)",
    "flwr.supercore.control:ControlHttpClient.StopRun": "(self, request)",
    "flwr.cli.build:build_fab_from_files": "(files)",
    "flwr.common.serde:fab_to_proto": "(fab)",
    "flwr.common.serde:user_config_to_proto": "(user_config)",
    "flwr.supercore.primitives.asymmetric:public_key_to_bytes": "(public_key)",
    "flwr.supercore.primitives.asymmetric:uses_nist_ec_curve": "(public_key)",
}

PASSAGES = {
    # what our replacements rely on, literally
    "flwr.supercore.protobuf.client:ProtobufClient": ["self._client = httpx.Client(", "self._client.build_request("],
    "flwr.supernode.start_client_internal:start_client_internal": ["time.sleep(3)"],
    "flwr.supernode.start_client_internal:_push_messages": ["time.sleep(0.5)"],
    "flwr.supernode.start_client_internal:_pull_and_store_message": [
        "get_fused_config_from_fab(fab.content, run_info)",
        "fab = get_fab(run_info.fab_hash, run_id)",
        "TaskType.CLIENT_APP",
    ],
    "flwr.supernode.fleet_http_connection:http_request_response": ["FleetHttpClient.from_server_address("],
    "flwr.supercore.retry.http_retry:make_simple_http_retry_invoker": ["max_delay=MAX_RETRY_DELAY"],
    "flwr.superlink.cli.flower_superlink:_run_superlink_http_api": ["from flwr.superlink.main import"],
    "flwr.superlink.grid:HttpGrid": ["_retry_invoker", "_runtime_client", "self.node = Node("],
    "flwr.superlink.routers.fleet.node_auth:authenticate_node": ["FLEET_HTTP_PUBLIC_KEY_HEADER"],
    # content of objects in files
    "flwr.supercore.corestate.sql_corestate:SqlCoreState.store_object": ["self.object_store.put(object_id, object_content)"],
    "flwr.supercore.corestate.sql_corestate:SqlCoreState.get_object": [
        "content = self.object_store.get(object_id)",
        'if content != b"":',
    ],
    "flwr.supercore.object_store.sql_object_store:SqlObjectStore.delete": ["self.delete(child_id)", "self._mutation_session()"],
    "flwr.supercore.sql_mixin:_set_sqlite_pragmas": ["in SQLITE_PRAGMAS"],
    "flwr.app.message.array:Array.slice_array": ["memoryview(self.data)"],
    "flwr.supernode.cli.flower_supernode:_start_supernode_http_api": ["from flwr.supernode.main import"],
    # layers that do nothing for messages
    "flwr.superlink.routers.control.middlewares:_is_control_path": ['path.startswith("/v1/control/")'],
    "flwr.superlink.routers.control.middlewares:ControlAuthenticationMiddleware": ["if not _is_control_path(request.url.path) or"],
    "flwr.superlink.routers.control.middlewares:ControlEventLogMiddleware": ["if not _is_control_path(request.url.path) or"],
    "flwr.superlink.routers.control.middlewares:ControlLicenseMiddleware": ["or not _is_control_path(request.url.path):"],
    "flwr.superlink.routers.control.middlewares:ControlSensitiveResponseMiddleware": [
        "response = await call_next(request)",
        "if _is_control_sensitive_route(request):",
    ],
    "flwr.superlink.routers.fleet.node_auth:NodeAuthMiddleware": ['if request.url.path.startswith("/v1/fleet/") and'],
    "flwr.superlink.routers.fleet.middlewares:FleetEventLogMiddleware": ["if plugin is None or"],
    "flwr.supercore.routers.runtime.tracing:RuntimeTracingMiddleware": ['if os.getenv("FLWR_TRACING_ENABLED") != "1" or'],
    # layers that are run without Starlette's streams, dependencies without a thread, transactions that take turns
    "starlette.middleware.base:BaseHTTPMiddleware.__call__": ["response = await self.dispatch_func(request, call_next)"],
    "fastapi.dependencies.utils:solve_dependencies": ["await run_in_threadpool(call, **"],
    "flwr.superlink.dependencies.linkstate:get_linkstate": ["return linkstate_factory.state()"],
    "flwr.supercore.dependencies.runtime:get_runtime_state": ["return factory.state()"],
    "flwr.supercore.dependencies.runtime:get_runtime_handlers": ["return handlers"],
    "flwr.supercore.dependencies.version:VersionDependency.__call__": ["RuntimeVersionMetadata.from_metadata("],
    "flwr.supercore.protobuf.translation:get_protobuf_request": ['getattr(request.state, "protobuf_request", None)'],
    "flwr.supercore.sql_mixin:SqlMixin.session": ["if existing is not None:", "with session.begin():"],
}


def find(place: str) -> object:
    module_name, _, names = place.partition(":")
    found: object = importlib.import_module(module_name)
    for name in names.split("."):
        found = getattr(found, name)
    return found


def test_the_installed_flower_is_the_pinned_one() -> None:
    assert importlib.metadata.version("flwr") == relay.FLOWER_VERSION == flower.FLOWER_VERSION


@pytest.mark.parametrize("place", sorted(SIGNATURES))
def test_a_symbol_that_we_use_takes_what_we_give_it(place: str) -> None:
    found = find(place)
    assert callable(found)
    assert "(" + ", ".join(inspect.signature(found).parameters) + ")" == SIGNATURES[place]


@pytest.mark.parametrize("place", sorted(PASSAGES))
def test_a_place_that_we_change_reads_as_it_did(place: str) -> None:
    module_name, _, name = place.partition(":")
    importlib.import_module(module_name)  # some packages export a function of the module's name: ask sys.modules
    found: object = sys.modules[module_name]
    for part in name.split("."):
        found = getattr(found, part)
    source = inspect.getsource(found)  # type: ignore[arg-type]  # a function or a class
    for passage in PASSAGES[place]:
        assert passage in source


def test_both_sides_name_the_same_message_types_and_records() -> None:
    assert {kind: name for name, kind in relay.KINDS.items()} == flower.MESSAGE_TYPES
    assert (relay.CONTROL_RECORD, relay.BODY_RECORD, relay.RAW) == (flower.CONTROL_RECORD, flower.BODY_RECORD, flower.RAW)
    assert relay.INLINE_LIMIT == flower.INLINE_LIMIT


def test_every_layer_that_is_left_out_for_messages_is_one_of_flowers() -> None:
    from flwr.superlink.main import _get_middleware

    assert set(flower.IDLE_LAYERS) < {layer.cls.__name__ for layer in _get_middleware()}  # type: ignore[attr-defined]
