"""What coordinator and relay put into a Flower message comes out byte for byte; any other content is refused."""

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as some

from client import relay
from client.relay import ContentError
from server import flower
from server.transport import TransportError

LARGE = relay.INLINE_LIMIT + 1


@given(control=some.binary(max_size=200), body=some.binary(max_size=200))
def test_what_one_side_writes_the_other_reads(control: bytes, body: bytes) -> None:
    assert relay.from_content(flower.to_content(control, body)) == (control, body)
    assert flower.from_content(relay.to_content(control, body)) == (control, body)


@pytest.mark.parametrize("length", [relay.INLINE_LIMIT - 1, relay.INLINE_LIMIT, LARGE, 25_000_000])
def test_a_large_body_travels_as_one_raw_array(length: int) -> None:
    content = flower.to_content(b"c", bytes(length))
    assert len(content.array_records) == (1 if length > relay.INLINE_LIMIT else 0)
    assert relay.from_content(content) == (b"c", bytes(length))


def array(stype: str = relay.RAW) -> Array:
    return Array(dtype="uint8", shape=(1,), stype=stype, data=b"x")


BAD = {
    "empty": RecordDict(),
    "no control": RecordDict({"sa1": ConfigRecord({"body": b""})}),
    "control as text": RecordDict({"sa1": ConfigRecord({"control": "text"})}),
    "body as number": RecordDict({"sa1": ConfigRecord({"control": b"c", "body": 1})}),
    "a field more": RecordDict({"sa1": ConfigRecord({"control": b"c", "config": b"lr=1"})}),
    "a record more": RecordDict(
        {"sa1": ConfigRecord({"control": b"c"}), "body": ArrayRecord({"body": array()}), "m": MetricRecord({"loss": 1.0})}
    ),
    "a pickle": RecordDict({"sa1": ConfigRecord({"control": b"c"}), "body": ArrayRecord({"body": array("numpy.ndarray")})}),
    "two arrays": RecordDict({"sa1": ConfigRecord({"control": b"c"}), "body": ArrayRecord({"body": array(), "more": array()})}),
    "two bodies": RecordDict({"sa1": ConfigRecord({"control": b"c", "body": b"x"}), "body": ArrayRecord({"body": array()})}),
}


@pytest.mark.parametrize("name", BAD)
def test_any_other_content_is_refused_on_both_sides(name: str) -> None:
    with pytest.raises(ContentError):
        relay.from_content(BAD[name])
    with pytest.raises(TransportError):
        flower.from_content(BAD[name])
