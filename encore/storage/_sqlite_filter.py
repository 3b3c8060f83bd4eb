"""A condition in SQL for all rows whose metadata may match, and for as few others as can be.

It spares reading most of the rows in Python. JSON is looked at as text: unless there is a backslash
in it, a name or a text stands there as it is. What cannot be told so is parsed by SQLite's JSON
functions, where it has them. In the pickles of 0.8 text that is ASCII stands as it is, too, unless
there is a backslash; numbers may stand there in many ways. What else is no text may always match.
"""

from __future__ import annotations

from ._metadata_index import NAME_LENGTH, NAME_OF, VALUE_OF, is_json, lookup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    # An expression, and the values of its parameters.
    Condition = tuple[str, list[Any]]

# No more criteria are asked of each row: the first ones rule out most.
_MOST = 3

# As 0.8 does it; what else there may be is not looked at.
_PICKLED = "typeof(metadata) = 'blob' AND substr(metadata, 1, 1) = x'80'"

# Whatever number has neither stands there as its digits.
_NO_INTEGER = "metadata GLOB '*[0-9][.eE]*'"


def condition(criteria: Mapping[str, Any], has_json: bool) -> Condition:
    """Return a condition for rows with a column named metadata."""
    parts = [_one(name, criteria[name], has_json) for name in list(criteria)[:_MOST]]
    return " AND ".join(text for text, _ in parts) or "1", [
        each for _, values in parts for each in values
    ]


def _one(name: str, value: Any, has_json: bool) -> Condition:
    if "\0" in name:
        # SQLite may read it differently.
        return "1", []
    parsed, parameters = _parsed(name, value) if has_json else ("1", [])
    seen, tokens = _seen(value)
    # The value first: most rows have the name.
    tokens.append(f'"{name}"')
    sure = isinstance(value, str)
    pickled = [each for each in (value, name) if isinstance(each, str) and each.isascii()]
    found = "".join(" AND instr(metadata, CAST(? AS BLOB))" for _ in pickled)
    return (
        f"CASE WHEN {_PICKLED} THEN instr(metadata, x'5c') OR (1{found})"
        " WHEN typeof(metadata) <> 'text' OR substr(metadata, 1, 1) = char(128) THEN 1"
        f" WHEN instr(metadata, '\\') THEN {parsed}"
        f" WHEN {seen} AND instr(metadata, ?) THEN {'1' if sure else parsed} ELSE 0 END",
        [*pickled, *parameters, *tokens, *([] if sure else parameters)],
    )


def _seen(value: Any) -> Condition:
    """Return a condition that holds where the value stands in JSON that has no backslash."""
    if value is None:
        return "instr(metadata, ?)", ["null"]
    if isinstance(value, bool):
        return "instr(metadata, ?)", ["true" if value else "false"]
    if isinstance(value, str):
        return "instr(metadata, ?)", [f'"{value}"']
    if isinstance(value, int | float):
        if value != int(value):
            return _NO_INTEGER, []
        return f"(instr(metadata, ?) OR {_NO_INTEGER})", [str(abs(int(value)))]
    if value:
        # What stands in it stands in the whole.
        return _seen(next(iter(value.values() if isinstance(value, dict) else value)))
    return "instr(metadata, ?)", ["{" if isinstance(value, dict) else "["]


def _parsed(name: str, value: Any) -> Condition:
    found = lookup(value)
    if found is None:
        return "1", []
    text, values = found
    return (
        f"CASE WHEN {is_json('metadata')} THEN EXISTS (SELECT 1 FROM json_each(metadata) AS e"
        f" WHERE {NAME_OF} = ? AND {VALUE_OF} {text}) ELSE 1 END",
        [name[:NAME_LENGTH], *values],
    )
