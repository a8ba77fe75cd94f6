"""The SuperLink's database holds the names of files; what is in them is checked, shared, and gone when nobody needs it."""

from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.inflatable import inflatable_object
from flwr.supercore.object_store import NoObjectInStoreError
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from flwr.supercore.task_identity import TaskIdentity

from server.flower import IN_FILE, _keep_objects_in_files, raw_record
from server.object_files import ObjectFiles


class Books:
    """A store of a class of its own, and Flower's step that puts an object into it."""

    def __init__(self, folder: Path, database: str = ":memory:") -> None:
        self.folder = folder / "objects"

        class Store(SqlObjectStore):
            pass

        class State:
            taken = True

            def store_object(self, _run: int, _session: str, object_id: str, content: bytes) -> bool:
                books.store.put(object_id, content)
                return self.taken

        books = self
        _keep_objects_in_files(State, Store, ObjectFiles(self.folder))
        self.state, self.store = State(), Store(database)
        self.store.initialize()

    def preregister(self, message: Message) -> None:
        self.store.preregister(1, inflatable_object.get_object_tree(message))

    def push(self, object_id: str, content: bytes) -> bool:
        return self.state.store_object(1, "s", object_id, content)

    @property
    def files(self) -> int:
        return len(list(self.folder.iterdir()))


@pytest.fixture
def books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Books:
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    return Books(tmp_path)


def message(text: str, body: bytes = b"") -> Message:
    records: dict[str, Any] = {"sa1": ConfigRecord({"control": text})}
    return Message(RecordDict(records | ({"body": raw_record(body)} if body else {})), 7, "query.x")


def parts_of(whole: Message) -> dict[str, bytes]:
    return {name: part.deflate() for name, part in inflatable_object.get_all_nested_objects(whole).items()}


@pytest.mark.usefixtures("books")
def test_what_is_pushed_is_pulled_and_the_database_has_only_names(tmp_path: Path) -> None:
    books = Books(tmp_path, str(tmp_path / "flower.db"))
    whole = message("m", b"y" * 100_000)
    books.preregister(whole)
    parts = parts_of(whole)
    assert all(books.store.get(name) == b"" for name in parts)  # known, not yet there
    assert all(books.push(name, content) for name, content in parts.items())
    assert {name: books.store.get(name) for name in parts} == parts
    assert books.files == len(parts)
    assert b"y" * 1_000 not in b"".join(path.read_bytes() for path in tmp_path.glob("flower.db*"))


def test_a_deleted_message_leaves_no_file_but_those_that_another_one_shares(books: Books) -> None:
    first, second = message("one", b"z" * 10_000), message("two", b"z" * 10_000)
    for whole in (first, second):
        books.preregister(whole)
    parts = parts_of(first) | parts_of(second)
    for name, content in parts.items():
        assert books.push(name, content)
    books.store.delete(first.object_id)
    assert {name: books.store.get(name) for name in parts_of(second)} == parts_of(second)
    assert books.files == len(parts_of(second))
    books.store.delete(second.object_id)
    assert books.files == 0


def test_a_deletion_that_is_rolled_back_loses_nothing(books: Books) -> None:
    whole = message("m")
    books.preregister(whole)
    for name, content in parts_of(whole).items():
        books.push(name, content)

    class BrokenOffError(Exception):
        pass

    def delete_and_break_off() -> None:
        with books.store.session():
            books.store.delete(whole.object_id)
            raise BrokenOffError

    with pytest.raises(BrokenOffError):
        delete_and_break_off()
    assert {name: books.store.get(name) for name in parts_of(whole)} == parts_of(whole)


@pytest.mark.parametrize("spoil", [lambda content: content + b"x", lambda _: b"", lambda content: content[1:]])
def test_bytes_that_are_not_what_their_name_says_are_refused(books: Books, spoil: Any) -> None:
    whole = message("m")
    books.preregister(whole)
    name, content = next(iter(parts_of(whole).items()))
    assert not books.push(name, spoil(content))
    assert (books.store.get(name), books.files) == (b"", 0)


def test_bytes_that_are_no_object_are_refused_under_their_right_name_too(books: Books) -> None:
    junk = IN_FILE + b"../../hub.token"
    assert not books.push(inflatable_object.get_object_id(junk), junk)
    assert books.files == 0


def test_the_same_bytes_twice_are_one_file(books: Books) -> None:
    whole = message("m")
    books.preregister(whole)
    name, content = next(iter(parts_of(whole).items()))
    assert books.push(name, content)
    assert books.push(name, content)
    assert (books.store.get(name), books.files) == (content, 1)


def test_what_the_state_does_not_take_leaves_no_file(books: Books) -> None:
    whole = message("m")
    name, content = next(iter(parts_of(whole).items()))
    with pytest.raises(NoObjectInStoreError):
        books.store.put(name, IN_FILE + b"x")
    books.preregister(whole)
    books.state.taken = False
    books.store.put = lambda *_: None  # type: ignore[method-assign]
    assert not books.push(name, content)
    assert books.files == 0


@pytest.mark.usefixtures("books")
def test_after_a_restart_whole_objects_are_there_and_strangers_are_gone(tmp_path: Path) -> None:
    books = Books(tmp_path, str(tmp_path / "flower.db"))
    whole = message("m")
    books.preregister(whole)
    for name, content in parts_of(whole).items():
        books.push(name, content)
    (tmp_path / "objects" / "left by a killed process").write_bytes(b"x")
    again = Books(tmp_path, str(tmp_path / "flower.db"))
    assert {name: again.store.get(name) for name in parts_of(whole)} == parts_of(whole)
    assert again.files == len(parts_of(whole))


def test_a_file_that_is_missing_is_an_object_that_is_not_found(books: Books, tmp_path: Path) -> None:
    whole = message("m")
    books.preregister(whole)
    name, content = next(iter(parts_of(whole).items()))
    books.push(name, content)
    for path in (tmp_path / "objects").iterdir():
        path.unlink()
    assert books.store.get(name) is None
