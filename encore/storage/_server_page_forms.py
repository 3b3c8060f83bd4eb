"""Forms that a browser sends: multipart/form-data (RFC 7578), read while it arrives.

Fields come first and are short, a file is last: it can be stored while it is read, in little memory.
What no browser sends (text before the first part, fields behind the file, encodings) is refused.
"""

from __future__ import annotations

from ._server_requests import RequestError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._server_requests import Body

__all__ = ["FilePart", "read_form"]

# What is asked of the body at once.
_PIECE = 1 << 18
_LONGEST_HEAD = 8192

# RFC 2046, section 5.1.1
_BOUNDARY = r"""(?ai)multipart/form-data\s*;\s*boundary=("?)([0-9A-Z'()+_,./:=?\-]{1,70})\1\Z"""
_DISPOSITION = r"""(?ai)form-data((?:\s*;\s*[a-z*]+=(?:"[^"]*"|[^\s";]*))*)\s*\Z"""
_PARAMETER = r""";\s*([a-zA-Z*]+)=(?:"([^"]*)"|([^\s";]*))"""

# How browsers write what would end the name (HTML, "multipart/form-data encoding algorithm").
_NAME_ESCAPES = (("%22", '"'), ("%0D", "\r"), ("%0A", "\n"))

_NO_FORM = "this is no form that a browser sends"


def _refused(reason: str = _NO_FORM) -> RequestError:
    return RequestError(400, reason)


class _Parts:
    """The parts of a body, one after the other."""

    def __init__(self, content_type: str | None, body: Body) -> None:
        import re

        found = re.match(_BOUNDARY, (content_type or "").strip())
        if found is None:
            raise RequestError(415, _NO_FORM)
        self._body = body
        self._delimiter = f"\r\n--{found[2]}".encode("ascii")
        # What is read and not yet looked at; the first delimiter begins the body.
        self._rest = b"\r\n"
        # What is part of the data, from `_at` on.
        self._data = b""
        self._at = 0
        self._is_over = True
        if not self._starts_with(self._delimiter):
            raise _refused()

    def next_head(self) -> dict[str, str] | None:
        """Return the parameters of the next part; None if there is none."""
        if self.ends():
            return None
        if not self._starts_with(b"\r\n") or self._starts_with(b"\r\n"):
            raise _refused()
        head = self._until(b"\r\n\r\n", _LONGEST_HEAD)
        self._data, self._at, self._is_over = b"", 0, False
        return _parameters(head)

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes of this part, b'' at its end."""
        if self._at >= len(self._data):
            if self._is_over:
                return b""
            self._find()
        data = self._data[self._at : self._at + size]
        self._at += len(data)
        return data

    @property
    def most_left(self) -> int | None:
        missing = self._body.missing
        return None if missing is None else missing + len(self._rest) + len(self._data) - self._at

    def ends(self) -> bool:
        """Whether no part comes behind the one that has ended; then all of the body is read."""
        if not self._starts_with(b"--"):
            return False
        while len(self._rest) <= 2 and (data := self._body.read(_PIECE)):
            self._rest += data
        if self._rest not in (b"", b"\r\n"):
            raise _refused()
        return True

    def _find(self) -> None:
        """Find some data of this part, or its end."""
        delimiter = self._delimiter
        while True:
            position = self._rest.find(delimiter)
            if position >= 0:
                self._data = self._rest[:position]
                self._rest = self._rest[position + len(delimiter) :]
                self._is_over = True
                break
            # The end may be the beginning of the delimiter.
            safe = len(self._rest) - len(delimiter) + 1
            if safe > 0:
                self._data, self._rest = self._rest[:safe], self._rest[safe:]
                break
            self._read_on()
        self._at = 0

    def _read_on(self) -> None:
        data = self._body.read(_PIECE)
        if not data:
            raise _refused("the form ends too early")
        self._rest += data

    def _starts_with(self, wanted: bytes) -> bool:
        """Whether this comes next; if so it is passed over."""
        while len(self._rest) < len(wanted):
            self._read_on()
        if not self._rest.startswith(wanted):
            return False
        self._rest = self._rest[len(wanted) :]
        return True

    def _until(self, end: bytes, most: int) -> bytes:
        while (position := self._rest.find(end)) < 0:
            if len(self._rest) > most:
                raise _refused()
            self._read_on()
        if position > most:
            raise _refused()
        found = self._rest[:position]
        self._rest = self._rest[position + len(end) :]
        return found


def _parameters(head: bytes) -> dict[str, str]:
    """Return the parameters of Content-Disposition."""
    import re

    try:
        lines = head.decode().split("\r\n")
    except UnicodeDecodeError as error:
        raise _refused("a form is UTF-8") from error
    found = None
    for line in lines:
        name, _, value = line.partition(":")
        name = name.strip().lower()
        if name == "content-disposition" and found is None:
            found = re.match(_DISPOSITION, value.strip())
        elif name not in ("content-type", "content-length") or not value:
            raise _refused()
    if found is None:
        raise _refused()
    parameters: dict[str, str] = {}
    for each in re.finditer(_PARAMETER, found[1]):
        name = each[1].lower()
        if name in parameters:
            raise _refused()
        parameters[name] = each[2] if each[2] is not None else each[3]
    if "name" not in parameters:
        raise _refused()
    return parameters


class FilePart:
    """The file of a form: a stream that ends where the file does.

    If the form is cut off, or goes on behind the file, the reader gets a RequestError and no end of
    the data, so that nothing is stored.

    Attributes
    ----------
    name : str
        Without a path.
    error : RequestError or None
        What was wrong with it.
    """

    def __init__(self, parts: _Parts, name: str, most: int) -> None:
        self._parts = parts
        self._missing = most
        self._most = most
        self._is_over = False
        self.name = name
        self.error: RequestError | None = None

    @property
    def most_left(self) -> int | None:
        """How many bytes are still to come at most, None if nobody knows."""
        return self._parts.most_left

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(_PIECE), b""))
        if self.error is not None:
            raise self.error
        if not size or self._is_over:
            return b""
        try:
            data = self._parts.read(size)
            if not data:
                self._is_over = True
                if not self._parts.ends():
                    raise _refused("the file is the last field of a form")
            self._missing -= len(data)
            if self._missing < 0:
                raise RequestError(413, f"a file has at most {self._most} bytes here")
        except RequestError as error:
            self.error = error
            raise
        return data


def read_form(
    content_type: str | None, body: Body, limits: Mapping[str, int], most: int
) -> tuple[dict[str, str], FilePart | None]:
    """Return the fields of a form, and the file behind them, which has not been read.

    Parameters
    ----------
    content_type : str or None
    body : Body
    limits : mapping of str to int
        The fields there may be, and how many bytes each may have.
    most : int
        How many bytes the file may have.
    """
    parts = _Parts(content_type, body)
    fields: dict[str, str] = {}
    while (head := parts.next_head()) is not None:
        name = head["name"]
        if "filename" in head:
            if name != "file":
                raise _refused()
            return fields, FilePart(parts, _name_of(head["filename"]), most)
        if name in fields or name not in limits:
            raise _refused()
        fields[name] = _field(parts, name, limits[name])
    return fields, None


def _field(parts: _Parts, name: str, most: int) -> str:
    pieces: list[bytes] = []
    size = 0
    while piece := parts.read(_PIECE):
        size += len(piece)
        if size > most:
            raise RequestError(413, f"the field {name} has at most {most} bytes")
        pieces.append(piece)
    try:
        return b"".join(pieces).decode()
    except UnicodeDecodeError as error:
        raise _refused("a form is UTF-8") from error


def _name_of(name: str) -> str:
    """Return the name of a file without the path that some browsers add."""
    for escape, character in _NAME_ESCAPES:
        name = name.replace(escape, character)
    return name.replace("\\", "/").rpartition("/")[2]
