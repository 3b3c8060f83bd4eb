"""Clients that tests make, which never sleep and go by no proxy."""

from urllib.request import ProxyHandler

from encore.storage._http import Client
from encore.storage._http_connections import HTTPTransport
from encore.storage.retry_policy import RetryPolicy

#: All that new_client() has made since close_all().
made = []


def close_all():
    """Close the clients that were made."""
    while made:
        made.pop().close()


class Clock:
    """A clock that moves when somebody sleeps, and by `step` whenever it is looked at."""

    def __init__(self, step=0.0):
        self.now = 0.0
        self.step = step
        self.sleeps = []
        self.on_look = lambda: None

    def __call__(self):
        self.now += self.step
        self.on_look()
        return self.now

    def sleep(self, seconds):
        self.sleeps.append(seconds)
        self.now += seconds


def new_client(auth=None, *, attempts=1, timeout=10.0, clock=None, proxies=None, **options):
    """Return a client with one attempt, or several without waits in between."""
    if clock is None:
        clock = Clock()
    policy = RetryPolicy(attempts, jitter=0, sleep=clock.sleep, clock=clock)
    transport = HTTPTransport(auth, ProxyHandler(proxies or {}), clock=clock, **options)
    client = Client(transport, timeout=timeout, policy=policy)
    made.append(client)
    return client
