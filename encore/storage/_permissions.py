"""Who may do what with a key: names, each with the tags that hold it."""

from __future__ import annotations

from .errors import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["checked_permissions"]


def checked_permissions(permissions: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """Return permissions as JSON has them; TypeError if they are none."""
    from collections.abc import Iterable, Mapping

    if not isinstance(permissions, Mapping):
        raise TypeError(f"permissions are a mapping, not {shown(permissions)}")
    checked = {}
    for name, given in permissions.items():
        if not isinstance(name, str) or isinstance(given, str) or not isinstance(given, Iterable):
            raise TypeError("permissions are names, each with an iterable of tags")
        tags = set(given)
        if not all(isinstance(tag, str) for tag in tags):
            raise TypeError(f"the tags of {name!r} are str")
        checked[name] = sorted(tags)
    return checked
