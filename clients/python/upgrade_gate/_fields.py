"""What changed in a document, field by field, and whether Python held it unharmed."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, Optional

import bson
from bson import Int64, ObjectId
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.errors import BSONError

Document = dict[str, Any]

# Nearly whatever a document holds, it can be read: only what is changed must also be written.
CODEC: CodecOptions[Document] = CodecOptions(
    unicode_decode_error_handler="surrogateescape",
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
)
UNREADABLE = (BSONError, RecursionError)
# The last one is what `bson` ends with for binary data of the subtype 255.
UNWRITABLE = (BSONError, ValueError, OverflowError, TypeError, RecursionError, SystemError)

# Types of which equal values are stored as the same bytes. Not float, whose 0.0 equals -0.0.
_PLAIN = {str, int, bool, type(None), bytes, Int64, ObjectId, datetime}

_PARTS = {list, dict}

_LONG = b"\x12"  # the type of a long

_NOTHING = object()

_changes = False  # whether the last document was changed

_UNHELD = (
    "a name that occurs twice, text that is not UTF-8, a DBRef or the flags of a regular expression in an unusual order,"
    " binary data of the subtype 255, or a value of a deprecated type"
)

# The bytes of a value by its type, where they are always the same.
_SIZES = {1: 8, 6: 0, 7: 12, 8: 1, 9: 8, 10: 0, 16: 4, 17: 8, 18: 8, 19: 16, 127: 0, 255: 0}
# What comes with the length that stands at the beginning of the others.
_BESIDES = {2: 4, 3: 0, 4: 0, 5: 5, 12: 16, 13: 4, 14: 4, 15: 0}


class Harmed(Exception):
    """An answer that cannot be given; its text names fields, and holds nothing of their contents."""


class Message:
    """What the gate asks: the bytes of `{ document, found }`, and what decodings make of them."""

    def __init__(self, message: bytes) -> None:
        self.bytes = message
        self.asked = bson.decode(message, CODEC)
        self._again: Optional[Document] = None
        self._before: Optional[Document] = None
        self._held: Optional[bool] = None

    def document(self) -> bytes:
        if self.bytes[4:14] == b"\x03document\0":
            return self.bytes[14 : 14 + int.from_bytes(self.bytes[14:18], "little")]
        return _value(_stored(self.bytes)["document"][0])

    def before(self) -> Document:
        """The document as the function got it."""
        if self._before is None:
            self._before = bson.decode(self.document(), CODEC)
        return self._before

    def again(self) -> Document:
        """The whole message as the function got it."""
        if self._again is None:
            self._again = bson.decode(self.bytes, CODEC)
        return self._again

    def is_held(self) -> bool:
        """Whether all of it survives decoding and encoding; nearly every message does."""
        if self._held is None:
            # what was found is hardly ever changed, so that it need not be decoded again
            parts = {**self.asked, "document": self.before()}
            self._held = _is_written_as(parts, self.bytes) or _is_written_as(self.again(), self.bytes)
        return self._held


def changes(message: Message, after: Document) -> Document:
    """`set` and `unset` that make the message's document `after`, by comparison with a second decoding of it."""
    global _changes
    raw = message.document()
    # a document is likely to change where the one before it did: then the first look would be in vain
    if not _changes and _is_written_as(after, raw):
        return {}
    before, stored = message.before(), None
    changed = {}
    for name, value in after.items():
        old, kind = before.get(name, _NOTHING), type(value)
        if old is value or kind is type(old) and (kind in _PLAIN or not value and kind in _PARTS) and old == value:
            continue
        if not isinstance(name, str):
            raise Harmed(f"the name of a field is of type {type(name).__name__}, and not a string")
        try:
            element = _element(name, value)
        except UNWRITABLE as error:
            if old is not _NOTHING and _mark(old, set()) == _mark(value, set()):
                continue
            raise Harmed(f"field `{name}` cannot be written as BSON: {_reason(error)}") from None
        if old is not _NOTHING:
            if _is_held(name, old, [element]):
                continue
            if not message.is_held():
                stored = stored or _stored(raw)
                if not _is_held(name, old, stored[name]):
                    raise Harmed(f"field `{name}` is changed, but holds what Python cannot hold unharmed: {_UNHELD}")
            if _LONG in raw and _forgets(old, value):
                raise Harmed(f"field `{name}` gets a plain number where a long is: write bson.Int64(…) to keep its type")
        changed[name] = value
    removed = [name for name in before if name not in after]
    _changes = bool(changed or removed)
    return {**({"set": changed} if changed else {}), **({"unset": removed} if removed else {})}


def check_copies(message: Message, written: Iterable[tuple[str, Any]], removed: Iterable[str]) -> None:
    """Refuses to write to another place what Python did not hold unharmed; `written` are places and values."""
    if message.is_held():
        return
    asked = message.again()
    harmed: dict[int, str] = {}
    parts = _stored(message.bytes)
    _mark_harmed("document", asked["document"], parts["document"], harmed)
    _mark_harmed("found", asked["found"], parts["found"], harmed)
    for name in removed:
        # what was moved takes the place of all that was there under its name
        value = asked["document"][name]
        if not _is_held(name, value, _stored(message.document())[name]):
            harmed.setdefault(_mark(value, set()), name)
    for place, value in written:
        marks: set[int] = set()
        _mark(value, marks)
        source = next((name for mark, name in harmed.items() if mark in marks), None)
        if source is not None:
            raise Harmed(f"{place} gets a value from `{source}` that Python cannot hold unharmed: {_UNHELD}")


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
    """Whether a value is written as these bytes: a field survives decoding and encoding, or is as it was."""
    try:
        return [_element(name, value)] == stored
    except UNWRITABLE:
        return False


def _is_written_as(document: Document, stored: bytes) -> bool:
    try:
        return bson.encode(document, codec_options=CODEC) == stored
    except UNWRITABLE:
        return False


def _forgets(before: Any, after: Any) -> bool:
    """Whether a sum or the like made a plain number of a long, which is stored as an int32 where it fits.

    The same number as a plain one is what the author wants."""
    if type(after) is int:
        return type(before) is Int64 and before != after and -(2**31) <= after < 2**31
    if type(after) is list and type(before) is list and len(before) == len(after):
        return any(map(_forgets, before, after))
    if type(after) is dict and type(before) is dict:
        return any(_forgets(before.get(name), value) for name, value in after.items())
    return False


def _mark(value: Any, marks: set[int]) -> int:
    """A number that equal values have in common; adds those of all parts that a copy can be recognised by."""
    if isinstance(value, dict):
        mark = hash((dict, *((name, _mark(inner, marks)) for name, inner in value.items())))
    elif isinstance(value, list):
        mark = hash((list, *(_mark(inner, marks) for inner in value)))
    else:
        mark = hash((type(value), _text(value)))
    marks.add(mark)
    return mark


def _text(value: Any) -> Any:
    """What equal values have in common, and others have not."""
    try:
        return repr(value)
    except ArithmeticError:  # a decimal of unusual bytes
        pass
    try:
        return _element("", value)
    except UNWRITABLE:
        return object()


def _mark_harmed(name: str, value: Any, stored: list[bytes], harmed: dict[int, str]) -> None:
    """Marks the parts of a field that do not survive, by the name of the innermost field."""
    # of a name that occurs twice, the value that was kept may be whole: what holds both is not
    if any(_is_held("", value, [element[:1] + b"\0" + _value(element)]) for element in stored):
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
    if isinstance(error, OverflowError):
        return "it holds a number of more than 64 bits"
    if "uuid.UUID" in str(error):
        return "it holds a UUID: write bson.Binary.from_uuid(…)"
    kind = str(error).rpartition("of type: ")[2]
    return f"it holds a {kind}" if kind and len(kind) < 80 else type(error).__name__
