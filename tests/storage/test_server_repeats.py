"""A write whose answer is lost is done once, and tells what it has done."""

import io
import random
import threading

import pytest
from application_transport import ApplicationTransport
from wsgi_client import WSGIClient

from encore.events.event_manager import EventManager
from encore.storage._http import Client
from encore.storage._remote_finding import find_server
from encore.storage._server_repeats import Repeats
from encore.storage._server_requests import Request
from encore.storage._server_responses import Response
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.dynamic_url_store import DynamicURLStore
from encore.storage.errors import TemporaryError
from encore.storage.events import StoreModificationEvent
from encore.storage.retry_policy import RetryPolicy
from encore.storage.server import StoreApplication
from encore.testing.model import expected_transcript, random_steps, same, transcript


class LossyTransport(ApplicationTransport):
    """Loses the answers to as many writes as it is told."""

    lost = 0
    after = staticmethod(lambda: None)

    def send(self, method, url, headers, body, timeout, *, foreign=False):
        response = super().send(method, url, headers, body, timeout, foreign=foreign)
        if self.lost and method in ("PUT", "POST", "DELETE"):
            self.lost -= 1
            response.close()
            self.after()
            raise TemporaryError("the answer is lost")
        return response


class Lossy(DynamicURLStore):
    """A store whose transport loses answers."""

    def __init__(self, application, **options):
        super().__init__("http://lossy/keys", "http://lossy/query", **options)
        self.transport = LossyTransport(application)

    def _open(self, credentials):
        client = Client(self.transport, policy=RetryPolicy(3, sleep=lambda seconds: None))
        remote = find_server(client, self._sent_url, self.query_url, self._connected_remote)
        self._remote, self._user_tag, self._info = remote, "", remote.info


@pytest.fixture
def behind():
    store = DictMemoryStore()
    store.connect()
    return store


@pytest.fixture
def told():
    return []


@pytest.fixture
def store(behind, told):
    manager = EventManager()
    manager.connect(
        StoreModificationEvent,
        lambda event: told.append((type(event).__name__, event.key, event.metadata)),
    )
    store = Lossy(StoreApplication(behind), event_manager=manager)
    # Connected to the manager's listener for as long as the test runs.
    store.listener = manager
    store.connect()
    yield store
    store.disconnect()


WRITES = {
    "set": lambda store: store.set("key", (io.BytesIO(b"new"), {"n": 1})),
    "set_data": lambda store: store.set_data("key", io.BytesIO(b"new")),
    "set_metadata": lambda store: store.set_metadata("key", {"n": 1}),
}


@pytest.mark.parametrize("lost", [1, 2])
@pytest.mark.parametrize("name", WRITES)
def test_a_new_key_is_told_as_new(name, lost, store, told):
    store.transport.lost = lost
    WRITES[name](store)
    assert [kind for kind, *_ in told] == ["StoreSetEvent"]


@pytest.mark.parametrize("name", WRITES)
def test_a_key_that_was_there_is_told_as_updated(name, store, behind, told):
    behind.set("key", (io.BytesIO(b"old"), {"n": 0}))
    store.transport.lost = 1
    WRITES[name](store)
    assert [kind for kind, *_ in told] == ["StoreUpdateEvent"]


@pytest.mark.parametrize("name", WRITES)
def test_what_others_have_written_in_between_is_not_undone(name, store, behind):
    store.transport.after = lambda: behind.set("key", (io.BytesIO(b"later"), {"n": 2}))
    store.transport.lost = 1
    WRITES[name](store)
    assert behind.get_data("key").read() == b"later"
    assert behind.get_metadata("key") == {"n": 2}


def test_what_was_deleted_is_told_with_what_it_had(store, behind, told):
    behind.set("key", (io.BytesIO(b"old"), {"n": 0}))
    store.transport.lost = 1
    store.delete("key")
    assert told == [("StoreDeleteEvent", "key", {"n": 0})]


def test_what_others_make_anew_is_not_deleted_twice(store, behind):
    behind.set("key", (io.BytesIO(b"old"), {}))
    store.transport.after = lambda: behind.set("key", (io.BytesIO(b"later"), {}))
    store.transport.lost = 1
    store.delete("key")
    assert behind.get_data("key").read() == b"later"


def test_what_was_never_there_is_not_deleted(store, told):
    store.transport.lost = 1
    with pytest.raises(KeyError):
        store.delete("key")
    assert told == []


def test_each_write_has_a_name_of_its_own(store, behind):
    for number in range(3):
        store.set_metadata("key", {"n": number})
    assert behind.get_metadata("key") == {"n": 2}


def test_several_processes_know_nothing_of_each_other(behind):
    client = WSGIClient(StoreApplication(behind))
    assert client.get("/about").json["repeats"] is True
    assert client.get("/about", **{"wsgi.multiprocess": True}).json["repeats"] is False


# The memory


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def request(name, user=None, path="/keys/key/data"):
    made = Request({"REQUEST_METHOD": "PUT", "HTTP_ENCORE_REQUEST": name})
    made.path = path
    made.user = user
    return made


def doing(done, status=201, body=b"x"):
    def do():
        done.append(status)
        return Response(status, [], body)

    return do


def test_what_was_refused_is_done_again():
    repeats, done = Repeats(), []
    for status in (503, 404, 200, 200):
        repeats.answer(request("a"), doing(done, status))
    assert done == [503, 404, 200]
    assert repeats._bytes == 1


def test_what_raised_is_done_again():
    repeats, done = Repeats(), []
    with pytest.raises(ZeroDivisionError):
        repeats.answer(request("a"), lambda: 1 // 0)
    repeats.answer(request("a"), doing(done))
    assert done == [201]


def test_names_of_others_are_other_names():
    repeats, done = Repeats(), []
    for each in (request("a"), request("a", "user"), request("a", path="/keys/b"), request("b")):
        repeats.answer(each, doing(done))
    assert len(done) == 4


@pytest.mark.parametrize("name", [None, "a" * 65])
def test_without_a_name_everything_is_done(name):
    repeats, done = Repeats(), []
    environ = {} if name is None else {"HTTP_ENCORE_REQUEST": name}
    for _ in range(2):
        repeats.answer(Request({"REQUEST_METHOD": "PUT", **environ}), doing(done))
    assert len(done) == 2
    assert not repeats._writes


def test_what_is_old_or_much_is_forgotten():
    clock, done = Clock(), []
    repeats = Repeats(clock)
    for number in range(5000):
        repeats.answer(request(str(number)), doing(done))
    assert len(repeats._writes) == repeats._bytes == 4096
    repeats.answer(request("large"), doing(done, body=b"x" * (20 << 20)))
    assert not repeats._writes
    assert repeats._bytes == 0
    repeats.answer(request("old"), doing(done))
    clock.now = 121.0
    repeats.answer(request("new"), doing(done))
    assert [name[-1] for name in repeats._writes] == ["new"]


def test_what_takes_longer_than_it_is_remembered():
    clock, done = Clock(), []
    repeats = Repeats(clock)

    def slow():
        clock.now += 200.0
        repeats.answer(request("other"), doing(done))
        return doing(done)()

    repeats.answer(request("slow"), slow)
    assert [name[-1] for name in repeats._writes] == ["other"]
    assert repeats._bytes == 1


def test_the_second_attempt_waits_for_the_first():
    repeats, done, answers = Repeats(), [], []
    is_begun, may_end = threading.Event(), threading.Event()

    def slow():
        is_begun.set()
        assert may_end.wait(10)
        return doing(done)()

    def attempt(do):
        answers.append(repeats.answer(request("a"), do))

    first = threading.Thread(target=attempt, args=(slow,))
    first.start()
    assert is_begun.wait(10)
    [write] = repeats._writes.values()
    second = threading.Thread(target=attempt, args=(doing(done),))
    second.start()
    assert write.is_busy.locked()
    may_end.set()
    first.join(10)
    second.join(10)
    assert done == [201]
    assert answers[0] is answers[1]


# All together


class UnluckyTransport(ApplicationTransport):
    """Loses the answers to some requests, or the requests; two in a row at most."""

    def __init__(self, application, seed):
        super().__init__(application)
        self.random = random.Random(seed)
        self.in_a_row = 0

    def send(self, method, url, headers, body, timeout, *, foreign=False):
        fate = self.random.choice(["arrives", "lost", "done"]) if self.in_a_row < 2 else "arrives"
        self.in_a_row = 0 if fate == "arrives" else self.in_a_row + 1
        if fate == "lost":
            raise TemporaryError("the request is lost")
        response = super().send(method, url, headers, body, timeout, foreign=foreign)
        if fate == "done":
            response.close()
            raise TemporaryError("the answer is lost")
        return response


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_lost_everything_is_done_once_and_told_once(seed):
    def make_store(manager):
        behind = DictMemoryStore()
        behind.connect()
        application = StoreApplication(behind)
        store = Lossy(application, event_manager=manager)
        store.transport = UnluckyTransport(application, seed)
        return store

    steps = [
        step
        for step in random_steps(seed, 150, transactions=False, conditions=False)
        # The model has transactions, which tell of their end.
        if not step[0].startswith(("multi", "move"))
    ]
    assert same(transcript(make_store, steps), expected_transcript(steps))
