"""The guard socket carries whole requests of four kinds, and never an unforeseen error's text."""

import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from client.guard_rpc import (
    BODY_LIMIT,
    CHUNK_SIZE,
    WAITING_LIMIT,
    FrameError,
    GuardClient,
    GuardDeadline,
    GuardServer,
    GuardSocketError,
    GuardUnreachable,
    read_frames,
    serve_guard,
    write_frames,
)
from client.guardpb import guard_pb2, guard_pb2_grpc
from consortium.plan import MAX_PARAMETERS
from consortium.wire import KINDS, Refusal, decode_reply, encode_answer

ROOT = Path(__file__).parents[2]
PATIENT = "PATIENT-4711-Kowalska"


class Recorder:
    """A guard that answers with what it was asked, and counts."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, bytes, int]] = []

    def answer(self, kind: str, control: bytes, body: bytes) -> tuple[bytes, bytes]:
        self.calls.append((kind, control, len(body)))
        return encode_answer(kind.encode() + control), body

    def status(self) -> dict[str, object]:
        return {"state": "idle", "calls": len(self.calls)}


@pytest.fixture
def socket_path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "guard.sock"


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def server(recorder: Recorder, socket_path: Path) -> Iterator[GuardServer]:
    running = serve_guard(recorder.answer, socket_path, recorder.status)
    yield running
    running.stop(0)


@pytest.fixture
def guard(server: GuardServer) -> Iterator[GuardClient]:
    client = GuardClient(server.socket_path)
    yield client
    client.close()


def raw(socket_path: Path, frames: list[guard_pb2.Frame]) -> bytes:
    with grpc.insecure_channel(f"unix:{socket_path}") as channel:
        return read_frames(guard_pb2_grpc.GuardStub(channel).Exchange(iter(frames), timeout=10))[1]


def code(control: bytes) -> str:
    reply = decode_reply(control)
    assert isinstance(reply, Refusal)
    return reply.code


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_of_each_kind_reaches_the_guard_whole(guard: GuardClient, recorder: Recorder, kind: str) -> None:
    assert guard.exchange(kind, b"control", b"body", 10) == (encode_answer(kind.encode() + b"control"), b"body")
    assert recorder.calls == [(kind, b"control", 4)]


@pytest.mark.parametrize("length", [0, 1, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, 50_000_000])
def test_bodies_of_any_length_come_back_byte_for_byte(guard: GuardClient, length: int) -> None:
    body = os.urandom(min(length, 4096)) * (length // 4096 + 1)
    assert guard.exchange("sa1_update", b"", body[:length], 60)[1] == body[:length]


def test_a_body_travels_in_chunks_of_at_most_one_mebibyte() -> None:
    frames = list(write_frames(guard_pb2.SA1_UPDATE, b"c", bytes(2 * CHUNK_SIZE + 5)))
    assert [len(frame.chunk) for frame in frames[1:]] == [CHUNK_SIZE, CHUNK_SIZE, 5]


def head(kind: int = guard_pb2.SA1_UPDATE, length: int = 0) -> guard_pb2.Frame:
    return guard_pb2.Frame(head=guard_pb2.Head(kind=kind, control=b"c", body_length=length))


def chunk(length: int) -> guard_pb2.Frame:
    return guard_pb2.Frame(chunk=bytes(length))


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([], "first frame"),
        ([guard_pb2.Frame()], "first frame"),
        ([chunk(3)], "first frame"),
        ([head(length=3)], "were declared"),
        ([head(length=3), chunk(2)], "were declared"),
        ([head(length=3), chunk(4)], "more than"),
        ([head(length=3), chunk(3), chunk(1)], "more than"),
        ([head(length=3), chunk(3), chunk(0)], "chunk of 0"),
        ([head(length=3), head(length=3)], "not a chunk"),
        ([head(length=CHUNK_SIZE + 1), chunk(CHUNK_SIZE + 1)], "limit"),
        ([head(length=BODY_LIMIT + 1)], "limit"),
    ],
)
def test_frames_that_are_not_one_message_are_refused_and_never_reach_the_guard(
    server: GuardServer, recorder: Recorder, frames: list[guard_pb2.Frame], reason: str
) -> None:
    with pytest.raises(FrameError, match=reason):
        read_frames(frames)
    assert code(raw(server.socket_path, frames)) == "UNDECODABLE"
    assert recorder.calls == []


def test_no_more_is_read_than_the_largest_model_of_a_plan(server: GuardServer, recorder: Recorder) -> None:
    assert BODY_LIMIT == 4 * MAX_PARAMETERS == 2**30
    read: list[int] = []

    def endless() -> Iterator[guard_pb2.Frame]:
        yield head(length=BODY_LIMIT + 1)
        while True:
            read.append(1)
            yield chunk(CHUNK_SIZE)

    with pytest.raises(FrameError, match="declared body"):
        read_frames(endless())
    assert read == []
    read_frames([head(length=1), chunk(1)])


def test_a_third_exchange_is_turned_away_unread(socket_path: Path) -> None:
    leave, at_work = threading.Event(), threading.Semaphore(0)

    def slow(kind: str, control: bytes, body: bytes) -> tuple[bytes, bytes]:
        at_work.release()
        leave.wait(30)
        return encode_answer(control), b""

    def ask_until_answered() -> None:
        while isinstance(decode_reply(client.exchange("sa1_update", b"", b"", 60)[0]), Refusal):
            leave.wait(0.05)

    server = serve_guard(slow, socket_path, dict)
    client = GuardClient(socket_path)
    inside = [threading.Thread(target=ask_until_answered) for _ in range(WAITING_LIMIT)]
    for thread in inside:
        thread.start()
    assert at_work.acquire(timeout=30)
    busy = (code(raw(socket_path, [head(length=BODY_LIMIT)])) for _ in range(100) if not threading.Event().wait(0.1))
    assert "BUSY" in busy  # its body never came: whoever had a place would have been told UNDECODABLE
    leave.set()
    for thread in inside:
        thread.join(30)
    client.close()
    server.stop(0)


@pytest.mark.parametrize("kind", [guard_pb2.KIND_UNSPECIFIED, 5, 99, 2**31 - 1])
def test_an_unknown_kind_is_refused_and_never_reaches_the_guard(server: GuardServer, recorder: Recorder, kind: int) -> None:
    assert code(raw(server.socket_path, [head(kind)])) == "UNKNOWN_KIND"
    assert recorder.calls == []


@pytest.mark.parametrize("method", ["Train", "Evaluate", "exchange"])
def test_no_other_message_name_exists(server: GuardServer, recorder: Recorder, method: str) -> None:
    with grpc.insecure_channel(f"unix:{server.socket_path}") as channel:
        call = channel.unary_unary(f"/wardround.guard.v1.Guard/{method}")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=10)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert recorder.calls == []


def test_bytes_that_are_no_frame_end_without_a_word_of_ours(server: GuardServer, recorder: Recorder) -> None:
    with grpc.insecure_channel(f"unix:{server.socket_path}") as channel:
        call = channel.stream_stream("/wardround.guard.v1.Guard/Exchange")
        with pytest.raises(grpc.RpcError) as caught:
            list(call(iter([b"\xff\xff\xff"]), timeout=10))
    assert "Traceback" not in str(caught.value.details())
    assert recorder.calls == []


def test_the_text_of_an_unforeseen_error_stays_in_the_guard(socket_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def failing(kind: str, control: bytes, body: bytes) -> tuple[bytes, bytes]:
        raise RuntimeError(PATIENT)

    def broken_status() -> dict[str, object]:
        raise RuntimeError(PATIENT)

    server = serve_guard(failing, socket_path, broken_status)
    client = GuardClient(socket_path)
    control, body = client.exchange("sa1_vote", b"", b"", 10)
    status = client.status()
    client.close()
    server.stop(0)
    assert code(control) == "INTERNAL"
    assert body == b""
    assert PATIENT.encode() not in control
    assert PATIENT not in str(status)
    assert "RuntimeError at test_guard_socket.py" in caplog.text, "the log names class and place"
    assert PATIENT not in caplog.text


def test_one_request_at_a_time_and_status_meanwhile(socket_path: Path) -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow(kind: str, control: bytes, body: bytes) -> tuple[bytes, bytes]:
        entered.set()
        leave.wait(30)
        return encode_answer(control), b""

    server = serve_guard(slow, socket_path, lambda: {"state": "training"})
    client = GuardClient(socket_path)
    first = threading.Thread(target=client.exchange, args=("sa1_update", b"", b"", 30))
    first.start()
    entered.wait(30)
    assert client.status() == {"state": "training"}
    assert client.health()
    assert code(client.exchange("sa1_vote", b"", b"", 0.5)[0]) == "BUSY"
    leave.set()
    first.join(30)
    assert not first.is_alive()
    assert isinstance(decode_reply(client.exchange("sa1_vote", b"x", b"", 30)[0]), bytes)
    client.close()
    server.stop(0)


def test_a_guard_that_takes_too_long_is_not_waited_for(socket_path: Path) -> None:
    leave = threading.Event()

    def slow(kind: str, control: bytes, body: bytes) -> tuple[bytes, bytes]:
        leave.wait(30)
        return encode_answer(control), b""

    server = serve_guard(slow, socket_path, dict)
    client = GuardClient(socket_path)
    with pytest.raises(GuardDeadline, match=r"0\.3 s"):
        client.exchange("sa1_update", b"", b"", 0.3)
    leave.set()
    client.close()
    server.stop(0)


def test_the_standard_health_service_answers_until_the_guard_stops(server: GuardServer, guard: GuardClient) -> None:
    assert guard.health()
    server.stop(0)
    assert not guard.health()


def test_a_guard_that_is_not_there_is_named(socket_path: Path) -> None:
    client = GuardClient(socket_path)
    with pytest.raises(GuardUnreachable, match="is it running"):
        client.exchange("sa1_keys", b"", b"", 5)
    client.close()


def test_a_client_finds_a_guard_that_came_back(recorder: Recorder, socket_path: Path) -> None:
    serve_guard(recorder.answer, socket_path, recorder.status).stop(0)
    client = GuardClient(socket_path)
    assert not client.health()
    server = serve_guard(recorder.answer, socket_path, recorder.status)
    answered = any(client.health() or threading.Event().wait(0.1) for _ in range(100))
    client.close()
    server.stop(0)
    assert answered


def test_socket_and_folder_are_closed_to_others(server: GuardServer) -> None:
    assert stat.S_IMODE(server.socket_path.stat().st_mode) == 0o600
    assert stat.S_IMODE(server.socket_path.parent.stat().st_mode) == 0o700


def test_a_folder_open_to_others_is_refused(recorder: Recorder, tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o755)
    with pytest.raises(GuardSocketError, match="0755"):
        serve_guard(recorder.answer, folder / "guard.sock", recorder.status)


def test_a_second_guard_on_a_live_socket_is_refused(server: GuardServer, guard: GuardClient, recorder: Recorder) -> None:
    with pytest.raises(GuardSocketError, match="another guard"):
        serve_guard(recorder.answer, server.socket_path, recorder.status)
    assert guard.health()


def test_a_file_at_the_socket_path_is_never_removed(recorder: Recorder, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    path = tmp_path / "guard.sock"
    path.write_text("kept")
    with pytest.raises(GuardSocketError, match="not a socket"):
        serve_guard(recorder.answer, path, recorder.status)
    assert path.read_text() == "kept"


def test_the_socket_of_a_killed_guard_is_replaced(recorder: Recorder, socket_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).with_name("fake_guard.py")), str(socket_path)]
    killed = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE)
    assert killed.stdout is not None
    assert killed.stdout.readline() == b"serving\n"
    killed.send_signal(signal.SIGKILL)
    killed.wait(30)
    killed.stdout.close()
    assert socket_path.is_socket()
    server = serve_guard(recorder.answer, socket_path, recorder.status)
    client = GuardClient(socket_path)
    assert client.health()
    client.close()
    server.stop(0)


def test_a_path_too_long_for_a_socket_is_refused(recorder: Recorder, tmp_path: Path) -> None:
    with pytest.raises(GuardSocketError, match="107"):
        serve_guard(recorder.answer, tmp_path / ("x" * 120), recorder.status)


def test_the_generated_code_is_that_of_the_contract() -> None:
    service = guard_pb2.DESCRIPTOR.services_by_name["Guard"]
    assert [method.name for method in service.methods] == ["Exchange", "OfferRoster", "Status"]
    assert [value.name for value in guard_pb2.Kind.DESCRIPTOR.values][1:] == [kind.upper() for kind in KINDS]
