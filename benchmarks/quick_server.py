"""A server that answers from memory as fast as one thread can: run as a script by `serving`.

Clients are compared over it, so it must take as little as possible of what is measured, and the
same from each of them. So it does not ask what a request means: by its method and path an answer
is there already, made when the server begins, and keeping the connection alive is all it knows of
HTTP. The answers have the headers that a usual server of files, or ours, sends.

It prints its port, and ends with its standard input.
"""

from __future__ import annotations

import json
import re
import select
import socket
import sys
from gzip import compress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.stores import MANY, MIB, pairs

DATA = bytes(range(256)) * 16

_USUAL = "Server: quick\r\nDate: Sun, 01 Nov 2026 12:00:00 GMT\r\n"
_VALIDATORS = 'ETag: "5f1c2a9e-1000"\r\nLast-Modified: Sat, 31 Oct 2026 12:00:00 GMT\r\n'
_STAMPS = "Encore-Created: 1793448000.0\r\nEncore-Modified: 1793448000.0\r\n"

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_RANGE = re.compile(rb"(?i)\r\nrange: *bytes=(\d+)-(\d+)")
_LARGE = re.compile(rb"GET /(?:data|keys)/large-(\d+)(?:/data)? ")


def answer(status: str, body: bytes = b"", more: str = "", size: int | None = None) -> bytes:
    length = len(body) if size is None else size
    head = f"HTTP/1.1 {status}\r\n{_USUAL}Content-Length: {length}\r\n{more}\r\n"
    return head.encode("ascii") + body


def lines(found: list[object]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in [*found, None])


def answers() -> dict[bytes, bytes]:
    """What is answered, by the method, the first part of the path and the last one."""
    found = pairs(MANY)
    index = json.dumps(dict(found)).encode()
    metadata = json.dumps(found[7][1]).encode()
    kind = "Content-Type: application/json\r\n"
    plain = f"Content-Type: application/octet-stream\r\nAccept-Ranges: bytes\r\n{_VALIDATORS}"
    value = f"{_VALIDATORS}{_STAMPS}Encore-Metadata-Length: {len(metadata)}\r\n"
    value += f"Encore-Data-Length: {len(DATA)}\r\nVary: Encore-Data-Limit\r\n"
    about = {"encore": 1, "version": "", "info": {"streaming": True, "conditional": True}}
    keys: list[object] = [key for key, _ in found]
    return {
        b"GET data": answer("200 OK", DATA, plain),
        b"GET index": answer("200 OK", index, kind + _VALIDATORS),
        b"GET gzip": answer("200 OK", compress(index), f"{kind}Content-Encoding: gzip\r\n"),
        b"GET same": answer("304 Not Modified", b"", _VALIDATORS),
        b"OPTIONS query": answer("200 OK", json.dumps(about).encode(), kind),
        b"POST query": answer("200 OK", lines(keys), "Content-Type: application/x-ndjson\r\n"),
        b"GET value": answer("200 OK", metadata + DATA, value),
        b"GET metadata": answer("200 OK", metadata, kind + _VALIDATORS + _STAMPS),
        b"HEAD data": answer("200 OK", b"", plain + _STAMPS, len(DATA)),
        b"PUT data": answer("200 OK", b"{}", kind),
        b"PUT value": answer("200 OK", b"{}", kind),
    }


def serve() -> None:
    made = answers()
    block = memoryview(bytes(MIB))
    into = memoryview(bytearray(MIB))

    def respond(sock: socket.socket, head: bytes, rest: int) -> None:
        """Answer a request of which so much of the body is here."""
        method, path, _ = head.split(b" ", 2)
        if method in (b"PUT", b"POST"):
            length = _LENGTH.search(head)
            assert length is not None, head
            missing = int(length[1]) - rest
            if missing and b"100-continue" in head:
                sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            while missing:
                count = sock.recv_into(into, min(missing, MIB))
                if not count:
                    raise ConnectionError
                missing -= count
        large = _LARGE.match(head)
        if large:
            size = int(large[1])
            sock.sendall(answer("200 OK", b"", _VALIDATORS, size))
            for start in range(0, size, MIB):
                sock.sendall(block[: size - start])
            return
        if path.startswith(b"/data/"):
            name = b"data"
            part = _RANGE.search(head)
            if part:
                begin, end = int(part[1]), int(part[2]) + 1
                content = f"Content-Range: bytes {begin}-{end - 1}/{len(DATA)}\r\n{_VALIDATORS}"
                sock.sendall(answer("206 Partial Content", DATA[begin:end], content))
                return
        else:
            name = path.rpartition(b"/")[2].partition(b".")[0]
        sock.sendall(made[method + b" " + name])

    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    poll.register(sys.stdin, select.POLLIN)
    clients: dict[int, socket.socket] = {}
    pieces: dict[int, bytes] = {}
    print(listener.getsockname()[1], flush=True)
    while True:
        for number, _ in poll.poll():
            if number == listener.fileno():
                sock, _ = listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                clients[sock.fileno()] = sock
                poll.register(sock, select.POLLIN)
                continue
            if number == sys.stdin.fileno():
                return
            sock = clients[number]
            try:
                data = sock.recv(65536)
                if not data:
                    raise ConnectionError
                data = pieces.pop(number, b"") + data
                end = data.find(b"\r\n\r\n")
                if end < 0:
                    pieces[number] = data
                else:
                    respond(sock, data[: end + 2], len(data) - end - 4)
            except OSError:
                poll.unregister(number)
                del clients[number]
                pieces.pop(number, None)
                sock.close()


if __name__ == "__main__":
    serve()
