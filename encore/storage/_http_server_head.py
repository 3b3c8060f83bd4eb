"""The head of an HTTP/1 request, read strictly (RFC 9112).

Where a server reads a message otherwise than the proxy before it does, one client's request can be
smuggled into another's connection. So whatever can be read in two ways is refused, with status 400,
and the connection ends: lengths that contradict each other or are no plain number, folded lines,
space before a colon, line breaks of one character, repeated fields of which there is one at most.
"""

from __future__ import annotations

__all__ = ["MAX_FIELDS", "MAX_HEAD", "RequestError", "RequestHead", "check_beginning", "parse_head"]

#: The most that a head has: bytes, and fields.
MAX_HEAD = 65536
MAX_FIELDS = 100

_DIGITS = "0123456789"
_HEX = "0123456789abcdefABCDEF"
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
# RFC 9110, 5.6.2. A string is made of such characters alone if stripping them leaves nothing.
TOKEN = f"!#$%&'*+-.^_`|~{_DIGITS}{_LETTERS}"
_TOKEN = TOKEN.encode()
# RFC 3986, 3.2.2, without the comma: that would be two.
_HOST = f"-._~!$&'()*+;=%{_DIGITS}{_LETTERS}"
# Everything visible but "#": a fragment is never sent. Bytes beyond ASCII should have been escaped,
# but people type them, curl sends them, and they are not ambiguous.
_TARGET = "".join(map(chr, (*range(0x21, 0x7F), *range(0x80, 0x100)))).replace("#", "")
# What a head, or any line, may be made of; line breaks are looked at apart.
TEXT = bytes((0x09, *range(0x20, 0x7F), *range(0x80, 0x100)))
_HEAD = b"\r\n" + TEXT

# More than 10 ** 18 bytes are nobody's.
_LENGTH_DIGITS = 18

#: Fields that may come only once: a list of them says two things.
_SINGLE = {
    "HTTP_AUTHORIZATION",
    "HTTP_CONTENT_LENGTH",
    "HTTP_CONTENT_TYPE",
    "HTTP_EXPECT",
    "HTTP_HOST",
    "HTTP_IF_RANGE",
    "HTTP_RANGE",
    "HTTP_TRANSFER_ENCODING",
}


class RequestError(Exception):
    """A request that is refused; the connection ends with it.

    Attributes
    ----------
    status : int
    message : str
        It goes to the client. Nothing of the request is in it.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message


class RequestHead:
    """What a head says.

    Attributes
    ----------
    method, target, version : str
        The request line, as it is.
    path, query : str
        Those of the target; the path is decoded, one character for a byte.
    fields : dict
        By the names that they have in a WSGI environment, all with ``HTTP_``.
    length : int or None
        The size of the body; None if it is chunked.
    keep_alive : bool
        Whether the client wants the connection to go on.
    expects_continue : bool
        Whether it waits before it sends the body.
    """

    __slots__ = (
        "expects_continue",
        "fields",
        "keep_alive",
        "length",
        "method",
        "path",
        "query",
        "target",
        "version",
    )

    fields: dict[str, str]
    length: int | None
    keep_alive: bool
    expects_continue: bool
    path: str
    query: str

    def __init__(self, line: str) -> None:
        self.method, self.target, self.version = _request_line(line)


def check_beginning(data: bytes) -> bool:
    """Look at a head that is not whole yet; return whether its first line is there, and right.

    What is no HTTP (TLS, for example) is refused as soon as it can be seen, and nobody waits for
    the rest.
    """
    if data[:1].strip(_TOKEN):
        raise RequestError(400, "this is not HTTP")
    end = data.find(b"\n")
    if end < 0:
        if len(data) > MAX_HEAD:
            raise RequestError(414, "the request line is too long")
        return False
    if data[end - 1 : end] != b"\r":
        raise RequestError(400, "a line ends without CR")
    RequestHead(_lines(data[: end - 1])[0])
    return True


def parse_head(data: bytes) -> RequestHead:
    """Read a head; `data` ends before its empty line."""
    if len(data) > MAX_HEAD:
        raise RequestError(431, "the head is too large")
    line, *lines = _lines(data)
    head = RequestHead(line)
    if len(lines) > MAX_FIELDS:
        raise RequestError(431, "too many header fields")
    head.fields = fields = _fields(lines)
    is_1_0 = head.version == "HTTP/1.0"
    host = fields.get("HTTP_HOST")
    if host is None:
        if not is_1_0:
            raise RequestError(400, "the Host is missing")
    else:
        _check_host(host)
    _read_target(head)
    _read_framing(head, is_1_0)
    connection = fields.get("HTTP_CONNECTION")
    if connection is None:
        head.keep_alive = not is_1_0
    else:
        options = [option.strip(" \t") for option in connection.lower().split(",")]
        head.keep_alive = "close" not in options and (not is_1_0 or "keep-alive" in options)
    return head


def check_field(line: str) -> tuple[str, str]:
    """Split a header line; return the name that it has in a WSGI environment, and the value.

    The name is "" for what is to be ignored: with an underscore in it, it would be taken for the
    one with a hyphen.
    """
    name, colon, value = line.partition(":")
    known = _names.get(name)
    if known is None:
        if not colon or not name or name.strip(TOKEN):
            raise RequestError(400, "a header field is malformed")
        known = "" if "_" in name else "HTTP_" + name.upper().replace("-", "_")
        if len(_names) < 1000 and len(name) < 50:
            _names[name] = known
    elif not colon:
        raise RequestError(400, "a header field is malformed")
    return known, value.strip(" \t")


#: Names as they are written in requests -> those in a WSGI environment.
_names: dict[str, str] = {}


def _lines(data: bytes) -> list[str]:
    if data.translate(None, _HEAD):
        raise RequestError(400, "there are control characters in the head")
    text = data.decode("latin-1")
    lines = text.split("\r\n")
    if text.count("\r") != len(lines) - 1 or text.count("\n") != len(lines) - 1:
        raise RequestError(400, "there are line breaks inside of lines")
    return lines


def _request_line(line: str) -> list[str]:
    parts = line.split(" ")
    if len(parts) != 3:
        raise RequestError(400, "the request line is not: method, target, version")
    method, target, version = parts
    if not method or method.strip(TOKEN):
        raise RequestError(400, "the method is malformed")
    if version not in ("HTTP/1.1", "HTTP/1.0"):
        if len(version) != 8 or version[:5] != "HTTP/" or version[6] != ".":
            raise RequestError(400, "the version is malformed")
        if (version[5] + version[7]).strip(_DIGITS):
            raise RequestError(400, "the version is malformed")
        if version[5] != "1":
            raise RequestError(505, "this server speaks HTTP/1.1")
    if not target or target.strip(_TARGET):
        raise RequestError(400, "the target is malformed")
    if method == "CONNECT":
        raise RequestError(501, "this server is no proxy")
    return parts


def _fields(lines: list[str]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in lines:
        name, value = check_field(line)
        if not name:
            continue
        if name in fields:
            if name in _SINGLE:
                raise RequestError(400, "a header field is repeated that may come only once")
            separator = "; " if name == "HTTP_COOKIE" else ", "
            value = f"{fields[name]}{separator}{value}"
        fields[name] = value
    return fields


def _check_host(host: str) -> None:
    if host[:1] == "[":
        name, bracket, port = host[1:].partition("]")
        is_good = bracket and name and not name.strip(_HEX + ":.") and port[:1] in ("", ":")
        port = port[1:]
    else:
        name, _, port = host.partition(":")
        is_good = name and not name.strip(_HOST)
    if not is_good or port.strip(_DIGITS):
        raise RequestError(400, "the Host is malformed")


def _read_target(head: RequestHead) -> None:
    target = head.target
    if target[0] != "/" and target != "*":
        scheme, slashes, rest = target.partition("://")
        if not slashes or scheme.lower() not in ("http", "https"):
            raise RequestError(400, "the target is malformed")
        end = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
        host, target = rest[:end], rest[end:]
        _check_host(host)
        # RFC 9112, 3.2.2: it counts, whatever the field says.
        head.fields["HTTP_HOST"] = host
        if target[:1] != "/":
            target = f"/{target}"
    elif target == "*" and head.method != "OPTIONS":
        raise RequestError(400, "the target * is for OPTIONS")
    path, _, head.query = target.partition("?")
    head.path = _unquoted(path) if "%" in path else path


def _unquoted(path: str) -> str:
    first, *parts = path.split("%")
    decoded = [first]
    for part in parts:
        if len(part) < 2 or part[:2].strip(_HEX):
            raise RequestError(400, "an escape in the target is malformed")
        decoded.append(chr(int(part[:2], 16)) + part[2:])
    return "".join(decoded)


def _read_framing(head: RequestHead, is_1_0: bool) -> None:
    fields = head.fields
    length = fields.get("HTTP_CONTENT_LENGTH")
    coding = fields.get("HTTP_TRANSFER_ENCODING")
    head.length = 0
    if coding is not None:
        if length is not None or is_1_0:
            raise RequestError(400, "the length of the body is not clear")
        codings = [each.strip(" \t") for each in coding.lower().split(",")]
        if codings[-1] != "chunked" or "chunked" in codings[:-1]:
            raise RequestError(400, "the length of the body is not clear")
        if len(codings) > 1:
            raise RequestError(501, "this server knows no transfer coding but chunked")
        head.length = None
    elif length is not None:
        if not length or length.strip(_DIGITS):
            raise RequestError(400, "the Content-Length is malformed")
        if len(length) > _LENGTH_DIGITS:
            raise RequestError(413, "the body is too large")
        head.length = int(length)
    expected = fields.get("HTTP_EXPECT")
    head.expects_continue = False
    if expected is not None and not is_1_0:
        if expected.lower() != "100-continue":
            raise RequestError(417, "this server meets no expectation but 100-continue")
        head.expects_continue = head.length != 0
