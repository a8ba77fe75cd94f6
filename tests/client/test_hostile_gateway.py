"""A gateway that fell to an attacker sits at the guard's socket: it gets nothing that the real one would not."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from guards_in_process import SITES, Consortium, Run, answered, code_of

from client.guard_rpc import GuardClient, serve_guard
from client.guardpb import guard_pb2
from consortium.wire import KINDS

SITE = SITES[0]
METHODS = ("Exchange", "Status", "GetParameters", "Evaluate", "Fit", "Export", "Ledger", "Data", "Shell")


@pytest.fixture
def socket(training: Consortium, tmp_path: Path) -> Iterator[Path]:
    """The socket of the first site's guard, as a daemon serves it; the site really trains."""
    folder = tmp_path / "s"
    folder.mkdir(mode=0o700)
    guard = training.guard(SITE)
    server = serve_guard(guard.answer, folder / "guard.sock", guard.status, guard.offer_roster)
    yield folder / "guard.sock"
    server.stop()


@contextmanager
def gateway(path: Path) -> Iterator[GuardClient]:
    client = GuardClient(path)
    try:
        yield client
    finally:
        client.close()


def raw_call(path: Path, method: str) -> grpc.StatusCode:
    """The status of a call by name, with bytes that mean nothing."""
    with grpc.insecure_channel(f"unix:{path}") as channel:
        call = channel.stream_stream(method, request_serializer=lambda data: data, response_deserializer=lambda data: data)
        try:
            list(call(iter([b"\x00\xff garbage"]), timeout=5))
        except grpc.RpcError as error:
            return error.code()  # type: ignore[attr-defined]  # a call's error carries its code
    return grpc.StatusCode.OK


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("Exchange", "OfferRoster", "Status")])
def test_there_is_no_other_door(socket: Path, method: str) -> None:
    assert raw_call(socket, f"/wardround.guard.v1.Guard/{method}") is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    "service", ["grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "grpc.channelz.v1.Channelz/GetServers"]
)
def test_the_guard_does_not_describe_its_inside(socket: Path, service: str) -> None:
    assert raw_call(socket, f"/{service}") is grpc.StatusCode.UNIMPLEMENTED


def test_the_service_has_three_methods_and_four_kinds() -> None:
    service = guard_pb2.DESCRIPTOR.services_by_name["Guard"]
    assert [method.name for method in service.methods] == ["Exchange", "OfferRoster", "Status"]
    assert sorted(kind.name.lower() for kind in guard_pb2.DESCRIPTOR.enum_types_by_name["Kind"].values if kind.number) == sorted(
        KINDS
    )


PLACE = {"site", "task", "roster"}  # the roster's version: the gateway asks the hub for a newer one
TOLD = PLACE | {"state", "phase", "run", "round", "purpose", "request", "since", "until", "waiting", "refusals"}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def test_status_tells_no_count_path_or_patient(socket: Path, training: Consortium) -> None:
    """Before, in and after a round: ids, codes and times that passed through the gateway's hands, and nothing else."""
    run = training.run()
    with gateway(socket) as hostile:
        told = [hostile.status()]
        answered_by_socket(hostile, run)
        hostile.exchange("sa1_vote", b"\x00" * 40, b"", 10)
        told.append(hostile.status())
    assert all(set(one) <= TOLD for one in told)
    assert told[1]["waiting"][0]["run"] == run.plan.run_id
    assert told[1]["refusals"][0]["code"] == "UNDECODABLE"
    plain = json.dumps(told)
    for known in (*TIME.findall(plain), *re.findall(r'"(?:request|correlation)": "[0-9a-f]{16}"', plain)):
        plain = plain.replace(known, "")
    assert str(training.home(SITE).root) not in plain
    assert not re.search(r"\d{2,}", plain), "a number of two digits could be a count"


def answered_by_socket(hostile: GuardClient, run: Run) -> None:
    """The keys exchange of an honest coordinator, through the hostile gateway."""
    assert answered(hostile.exchange("sa1_keys", run.keys_control(1), b"", 30))


def test_a_gateway_without_a_signed_plan_gets_refusals_only(socket: Path, training: Consortium) -> None:
    before = training.ledger_bytes(SITE)
    with gateway(socket) as hostile:
        codes = {code_of(hostile.exchange(kind, b"\x00" * 40, b"", 10)) for kind in KINDS if kind != "sa1_update"}
        codes.add(code_of(hostile.exchange("sa1_update", b"\x00" * 40, b"\x00" * 64, 10)))
    assert codes == {"UNDECODABLE"}
    assert training.ledger_bytes(SITE) == before


def test_a_round_through_the_socket_gives_the_hostile_gateway_the_real_ones_bytes(socket: Path, training: Consortium) -> None:
    """It carries an honest round, then asks for everything again: the same bytes, one charge, and no second view."""
    run = training.run()
    with gateway(socket) as hostile:
        control, body, first = _one_update(run, hostile)
        spends = training.spends(SITE)
        assert hostile.exchange("sa1_update", control, body, 60) == first
        other = bytearray(body)
        other[-1] ^= 1
        assert code_of(hostile.exchange("sa1_update", control, bytes(other), 60)) == "ROUND"
        assert training.spends(SITE) == spends
        assert answered(first)


def test_what_another_site_was_asked_is_no_use_at_this_one(socket: Path, training: Consortium) -> None:
    """Requests differ by site from the first update on: ciphertexts meant for a peer open nothing here."""
    run = training.run()
    with gateway(socket) as hostile:
        phase = run.open_round(run.epoch(), 1)
        foreign = run.request(phase.requests()[SITES[-1]])
        assert code_of(hostile.exchange("sa1_update", foreign, run.model(), 60)) in ("PEERS", "SIGNATURE")
    assert training.spends(SITE) == 0


def _one_update(run: Run, hostile: GuardClient) -> tuple[bytes, bytes, tuple[bytes, bytes]]:
    """(control, body, reply) of one honest update that the gateway carried."""
    phase = run.open_round(run.epoch(), 1)
    control, body = run.request(phase.requests()[SITE]), run.model()
    return control, body, hostile.exchange("sa1_update", control, body, 60)


def test_garbage_in_place_of_a_roster_changes_nothing_and_ends_nothing(socket: Path, training: Consortium) -> None:
    before = training.home(SITE).roster.read_bytes()
    with gateway(socket) as hostile:
        for offered in (b"", b"\x00\xff garbage", b"\xff\xff\xff\xff" * 1000, bytes(2**20)):
            assert hostile.offer_roster(offered) == ("refused", training.roster.version)
        assert hostile.health()
    assert training.home(SITE).roster.read_bytes() == before


def test_an_error_that_nobody_foresaw_leaves_no_text_behind(tmp_path: Path) -> None:
    def broken(_: bytes) -> tuple[str, int]:
        raise RuntimeError("patient P294608")

    (tmp_path / "s").mkdir(mode=0o700)
    server = serve_guard(lambda *_: (b"", b""), tmp_path / "s" / "guard.sock", dict, broken)
    try:
        with gateway(tmp_path / "s" / "guard.sock") as hostile:
            assert hostile.offer_roster(b"x") == ("refused", 0)
    finally:
        server.stop(0)
