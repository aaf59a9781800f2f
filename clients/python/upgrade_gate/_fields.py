"""What changed in a document, field by field, and whether Python held it unharmed."""

from collections.abc import Iterable, Iterator
from typing import Any

import bson
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.errors import BSONError

Document = dict[str, Any]

# Whatever a document holds, it can be read: only what is changed must also be written.
CODEC: CodecOptions[Document] = CodecOptions(
    unicode_decode_error_handler="surrogateescape",
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
)
UNWRITABLE = (BSONError, ValueError, OverflowError, TypeError, RecursionError)

# The bytes of a value by its type, where they are always the same.
_SIZES = {1: 8, 6: 0, 7: 12, 8: 1, 9: 8, 10: 0, 16: 4, 17: 8, 18: 8, 19: 16, 127: 0, 255: 0}
# What comes with the length that stands at the beginning of the others.
_BESIDES = {2: 4, 3: 0, 4: 0, 5: 5, 12: 16, 13: 4, 14: 4, 15: 0}


class Harmed(Exception):
    """An answer that cannot be given; its text names fields, and holds nothing of their contents."""


def changes(message: bytes, after: Document) -> Document:
    """`set` and `unset` that make the message's document `after`, by comparison with a second decoding of it."""
    raw = _value(_stored(message)["document"][0])
    try:
        if bson.encode(after, codec_options=CODEC) == raw:
            return {}
    except UNWRITABLE:
        pass  # the field is found below
    before, stored = bson.decode(raw, CODEC), _stored(raw)
    changed = {}
    for name, value in after.items():
        if not isinstance(name, str):
            raise Harmed(f"the name of a field is of type {type(name).__name__}, and not a string")
        if name in before and _is_same(before[name], value):
            continue
        try:
            _element(name, value)
        except UNWRITABLE as error:
            raise Harmed(f"field `{name}` cannot be written as BSON: {_reason(error)}") from None
        if name in before and not _is_held(name, before[name], stored[name]):
            raise Harmed(
                f"field `{name}` is changed, but holds what Python cannot hold unharmed: a name that occurs twice, text"
                " that is not UTF-8, or a value of a deprecated type"
            )
        changed[name] = value
    removed = [name for name in before if name not in after]
    return {**({"set": changed} if changed else {}), **({"unset": removed} if removed else {})}


def check_copies(message: bytes, written: Iterable[tuple[str, Any]], removed: Iterable[str]) -> None:
    """Refuses to write to another place what Python did not hold unharmed; `written` are places and values."""
    asked = bson.decode(message, CODEC)
    if _is_held("", asked, [b"\x03\x00" + message]):
        return
    harmed: dict[int, str] = {}
    parts = _stored(message)
    _mark_harmed("document", asked["document"], parts["document"], harmed)
    _mark_harmed("found", asked["found"], parts["found"], harmed)
    for name in removed:
        # what was moved takes the place of all that was there under its name
        value = asked["document"][name]
        if not _is_held(name, value, _stored(_value(parts["document"][0]))[name]):
            harmed.setdefault(_mark(value, set()), name)
    for place, value in written:
        marks: set[int] = set()
        _mark(value, marks)
        source = next((name for mark, name in harmed.items() if mark in marks), None)
        if source is not None:
            raise Harmed(
                f"{place} gets a value from `{source}` that Python cannot hold unharmed: a name that occurs twice,"
                " text that is not UTF-8, or a value of a deprecated type"
            )


def _elements(document: bytes) -> Iterator[tuple[str, bytes]]:
    """The elements of a document or array, each with its name, as the bytes of type, name and value."""
    at, end = 4, len(document) - 1
    while at < end:
        start, kind = at, document[at]
        value = document.index(0, at + 1) + 1
        if kind == 11:
            at = document.index(0, document.index(0, value) + 1) + 1
        elif kind in _SIZES:
            at = value + _SIZES[kind]
        else:
            at = value + int.from_bytes(document[value : value + 4], "little") + _BESIDES[kind]
        yield document[start + 1 : value - 1].decode("utf-8", "surrogateescape"), document[start:at]


def _stored(document: bytes) -> dict[str, list[bytes]]:
    """The elements by their names; of a name that occurs twice, all of them."""
    stored: dict[str, list[bytes]] = {}
    for name, element in _elements(document):
        stored.setdefault(name, []).append(element)
    return stored


def _value(element: bytes) -> bytes:
    return element[element.index(0, 1) + 1 :]


def _element(name: str, value: Any) -> bytes:
    return bson.encode({name: value}, codec_options=CODEC)[4:-1]


def _is_held(name: str, value: Any, stored: list[bytes]) -> bool:
    """Whether a field survives decoding and encoding."""
    try:
        return [_element(name, value)] == stored
    except UNWRITABLE:
        return False


def _is_same(before: Any, after: Any) -> bool:
    """Whether two values would be stored as the same bytes: 1, 1.0 and True would not."""
    try:
        return _element("", before) == _element("", after)
    except UNWRITABLE:
        return _mark(before, set()) == _mark(after, set())


def _mark(value: Any, marks: set[int]) -> int:
    """A number that equal values have in common; adds those of all parts that a copy can be recognised by."""
    if isinstance(value, dict):
        mark = hash((dict, *((name, _mark(inner, marks)) for name, inner in value.items())))
    elif isinstance(value, list):
        mark = hash((list, *(_mark(inner, marks) for inner in value)))
    else:
        mark = hash((type(value), repr(value)))
    marks.add(mark)
    return mark


def _mark_harmed(name: str, value: Any, stored: list[bytes], harmed: dict[int, str]) -> None:
    """Marks the parts of a field that do not survive, by the name of the innermost field."""
    # of a name that occurs twice, the value that was kept may be whole: what holds both is not
    if any(_is_held(name, value, [element]) for element in stored):
        return
    harmed.setdefault(_mark(value, set()), name)
    if len(stored) == 1 and isinstance(value, dict):
        for inner, elements in _stored(_value(stored[0])).items():
            if value[inner] is not None:
                _mark_harmed(inner, value[inner], elements, harmed)
    if len(stored) == 1 and isinstance(value, list):
        for part, (inner, element) in zip(value, _elements(_value(stored[0]))):
            if part is not None:
                _mark_harmed(inner, part, [element], harmed)


def _reason(error: Exception) -> str:
    """Why a value cannot be written, without the value, which the text of the error may hold."""
    if isinstance(error, UnicodeEncodeError):
        return "it holds text that is not UTF-8"
    kind = str(error).rpartition("of type: ")[2]
    return f"it holds a {kind}" if kind and len(kind) < 80 else type(error).__name__
