"""What a URL may be that a store is made with."""

from __future__ import annotations

from .errors import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    Login = tuple[str, str]

__all__ = ["absolute", "check_root", "check_text", "encoded", "quoted", "quoted_key"]

_SCHEMES = ("http", "https", "ftp", "file")

# RFC 3986 has these for itself inside a path, and servers have read some of them as something else
# (a plus as a space, say).
_RESERVED = {ord(character): f"%{ord(character):02X}" for character in "!$&'()*+,;=:@"}


def check_text(name: str, text: str) -> str:
    """Return a part of a URL; TypeError if it is no str, ValueError if it cannot be one."""
    if not isinstance(text, str):
        raise TypeError(f"{name} is a str, not {shown(text)}")
    text = str.__str__(text)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} must encode to UTF-8") from None
    if any(character < " " or "\x7f" <= character <= "\x9f" for character in text):
        raise ValueError(f"{name} has a control character")
    return text


def check_root(url: str) -> tuple[str, Login | None]:
    """Return the URL that all others begin with, without the user name and the password that it may have, and these."""
    url = check_text("root_url", url)
    scheme, colon, rest = url.partition(":")
    scheme = scheme.lower()
    if not colon or scheme not in _SCHEMES:
        raise ValueError(f"root_url begins with one of {', '.join(_SCHEMES)} and a colon")
    if "#" in url:
        raise ValueError("root_url has a fragment (#), which no server sees")
    if scheme == "file":
        host, path = "", rest
        if rest.startswith("//"):
            host, slash, path = rest[2:].partition("/")
            path = slash + path
        if host.lower() not in ("", "localhost") or not path.startswith("/"):
            raise ValueError("root_url has no absolute path on this machine: file:/path/")
        return f"{scheme}:{rest}", None
    if not rest.startswith("//"):
        raise ValueError(f"root_url has no host: {scheme}://host/")
    authority, rest = _split(rest[2:])
    before, at, host = authority.rpartition("@")
    login: Login | None = None
    if at:
        from urllib.parse import unquote

        user, _, password = before.partition(":")
        login = (unquote(user), unquote(password))
    _check_host(host)
    return f"{scheme}://{host}{rest}", login


def _split(text: str) -> tuple[str, str]:
    """Return what stands before a path, and the rest."""
    end = min((at for at in map(text.find, "/?") if at >= 0), default=len(text))
    return text[:end], text[end:]


def _check_host(host: str) -> None:
    name, port = host, ""
    if host.startswith("["):
        name, bracket, port = host[1:].partition("]")
        if not bracket or (port and not port.startswith(":")) or ":" not in name:
            raise ValueError("root_url has no valid IPv6 address")
        port = port[1:]
    else:
        name, _, port = host.partition(":")
    if not name or not {" ", "\\", "%", "<", ">", '"'}.isdisjoint(name):
        raise ValueError("root_url has no host")
    if port and not (port.isascii() and port.isdigit() and len(port) < 6 and int(port) < 65536):
        raise ValueError("root_url has no valid port")


def absolute(root: str, name: str, path: str) -> str:
    """Return root and path joined as they are; ValueError if that led to another host."""
    scheme, _, rest = root.partition("://")
    if scheme in ("http", "https", "ftp") and not _split(rest)[1] and path[:1] not in ("/", "?"):
        raise ValueError(
            f"there is no slash between the host in root_url and {name}: {root}/ perhaps"
        )
    return root + path


def encoded(url: str) -> str:
    """Return a URL in ASCII."""
    if url.isascii() and " " not in url:
        return url
    from urllib.parse import quote

    scheme, _, rest = url.partition(":")
    host = ""
    if rest.startswith("//"):
        host, rest = _split(rest[2:])
        name, colon, port = host.partition(":")
        try:
            if not host.isascii():
                host = name.encode("idna").decode() + colon + port
        except UnicodeError as error:
            raise ValueError("root_url has a host that is no name") from error
        host = f"//{host}"
    # All that has a meaning in a URL keeps it.
    return f"{scheme}:{host}{quote(rest, safe='!#$%&()*+,/:;=?@[]~' + chr(39))}"


def quoted(text: str) -> str:
    """Return a text as it stands in the path of a URL."""
    from urllib.parse import quote

    return quote(text)


def quoted_key(key: str) -> str:
    """Return a key as it stands in the path of a URL."""
    if key.isalnum() and key.isascii():
        return key
    from ._http import quote_key

    return quote_key(key).translate(_RESERVED)
