"""Programs of upgrade-gate: a function that says what each document of a collection becomes.

    from upgrade_gate import transform

    @transform
    def position(document, found):
        if "position" not in document:
            document["position"] = document.pop("order", 0)
        return document
"""

import os
import select
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Any, Callable, NoReturn, Optional, TypeVar

import bson
from bson.raw_bson import RawBSONDocument

from upgrade_gate._fields import CODEC, UNREADABLE, UNWRITABLE, Document, Harmed, Message, changes, check_copies

__all__ = ["Refused", "count", "delete", "insert", "refuse", "transform"]

PROTOCOL = 1
Found = dict[str, list[Document]]
Function = TypeVar("Function", bound=Callable[[Document, Found], Optional[Document]])

_SOON = 0.02  # seconds for which an answer may wait for others, so that they are written together


class Refused(Exception):
    """Ends the upgrade; raised by `refuse`."""


class _Answer:
    """What the function says of one document besides what it returns."""

    def __init__(self) -> None:
        self.inserts: dict[str, list[RawBSONDocument]] = {}
        self.counts: dict[str, int] = {}
        self.deleted = False


_current: Optional[_Answer] = None
_served = False


def _answer() -> _Answer:
    if _current is None:
        raise RuntimeError("only the function of @transform can call this, for its document")
    return _current


def refuse(reason: str) -> NoReturn:
    """Ends the upgrade with a reason, which the operator reads: it must hold no contents of the document."""
    raise Refused(reason)


def count(name: str, n: int = 1) -> None:
    """Counts for the report, under a name that the step declares."""
    counts = _answer().counts
    if not isinstance(name, str) or not isinstance(n, int) or isinstance(n, bool) or n < 0:
        raise TypeError("count takes a name and a whole number from 0 on")
    counts[name] = counts.get(name, 0) + n


def insert(collection: str, document: Document) -> None:
    """Adds a document to a collection. Its `_id` must be the same whenever it is computed from the same input."""
    if not isinstance(collection, str) or not isinstance(document, Mapping):
        raise TypeError("insert takes the name of a collection and a document")
    if "_id" not in document:
        raise ValueError("a document to insert needs an _id that follows from the input")
    encoded = RawBSONDocument(bson.encode(document, codec_options=CODEC))
    _answer().inserts.setdefault(collection, []).append(encoded)


def delete() -> None:
    """Deletes the document; whatever else the function makes of it then does not matter."""
    _answer().deleted = True


def transform(function: Function) -> Function:
    """Makes a function the program, if this file is what was started: it is called for each document, until the input ends.

    The function gets the document, and what the step's look-ups found by their names. It returns what the document
    becomes, which may be the same object, or None to leave it as it is. It must depend on nothing but its arguments.
    Whatever is defined further down in the file does not exist yet when the function is called: write it last.
    """
    global _served
    if getattr(function, "__module__", None) == "__main__":
        if _served:
            sys.exit("a program has one function with @transform, and this file has another one, which is never called")
        _served = True
        _serve(function)
    return function


def answer(function: Callable[[Document, Found], Optional[Document]], message: bytes) -> Document:
    """What the program answers to one message of the gate, which is `{ document, found }`."""
    global _current
    _current = said = _Answer()
    try:
        again = Message(message)
    except UNREADABLE as error:
        return {"refuse": f"Python cannot read it, or what was found for it ({type(error).__name__})"}
    asked = again.asked
    try:
        result = _called(function, asked["document"], asked["found"])
        if said.deleted:
            reply: Document = {"delete": True}
        else:
            reply = changes(again, asked["document"] if result is None else result)
            if result is None and reply:
                raise Harmed("the function changed the document, but returned None: return the document")
        if ("set" in reply or said.inserts) and not again.is_held():
            written = [(f"field `{name}`", value) for name, value in reply.get("set", {}).items()]
            for collection, documents in said.inserts.items():
                written += [(f"a document for {collection}", bson.decode(one.raw, CODEC)) for one in documents]
            check_copies(again, written, reply.get("unset", []))
        if said.inserts:
            reply["insert"] = said.inserts
        if said.counts:
            reply["count"] = said.counts
        return reply
    except (Refused, Harmed) as error:
        return {"refuse": str(error).encode(errors="replace").decode()}
    except BaseException as error:  # sys.exit too; its text may hold contents: that is for the log at level debug only
        traceback.print_exc()
        return {"refuse": f"the program raised {type(error).__name__} in {_place(function, error)}"}
    finally:
        _current = None


def _called(function: Callable[[Document, Found], Optional[Document]], document: Document, found: Found) -> Optional[Document]:
    has_id = "_id" in document
    try:
        result = function(document, found)
    except TypeError as error:
        trace = error.__traceback__
        if trace is None or trace.tb_next is None:  # not from inside the function
            raise Harmed("the function of @transform cannot be called with two arguments, (document, found)") from None
        raise
    if result is not None and not isinstance(result, dict):
        raise Harmed(f"the function returned a {type(result).__name__}, and not a document")
    if result is not None and has_id and "_id" not in result and not (_current and _current.deleted):
        raise Harmed("the function returned a document without its `_id`: return the whole document, not only what changes")
    return result


def _place(function: Any, error: BaseException) -> str:
    """The innermost line of the author's own files that an error passed through."""
    frames = traceback.extract_tb(error.__traceback__)
    folder = os.path.dirname(getattr(getattr(function, "__code__", None), "co_filename", ""))
    own = [frame for frame in frames if os.path.dirname(frame.filename) == folder]
    place = (own or frames)[-1]
    return f"{os.path.basename(place.filename)}, line {place.lineno}"


def _encoded(reply: Document) -> bytes:
    try:
        return bson.encode(reply, codec_options=CODEC)
    except UNWRITABLE as error:
        return bson.encode({"refuse": f"what the program counts or inserts cannot be written as BSON ({type(error).__name__})"})


def _serve(function: Callable[[Document, Found], Optional[Document]]) -> None:
    if os.isatty(0):
        sys.exit("this is a program of upgrade-gate, which starts it and sends it documents")
    try:
        os.fstat(2)
    except OSError:  # somebody closed it: its number must not become that of a pipe of the gate
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    # Only this function uses the gate's pipes: prints, those of libraries and of child processes too, go to stderr.
    source, target = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    sys.stdout.flush()
    buffer, greeted = bytearray(), False
    answers, since = bytearray(), 0.0
    while True:
        if answers and not select.select([source], [], [], 0)[0]:
            _write(target, answers)
        chunk = os.read(source, 1 << 18)
        if not chunk:
            break
        buffer += chunk
        at = 0
        while len(buffer) - at >= 4:
            end = at + int.from_bytes(buffer[at : at + 4], "little")
            if end > len(buffer):
                break
            message = bytes(memoryview(buffer)[at:end])
            at = end
            if not answers:
                since = time.monotonic()  # the time of the answer itself counts: one that took long is not held back
            if greeted:
                reply = answer(function, message)
            else:
                reply, greeted = _greet(message), True
            answers += _encoded(reply)
            if len(answers) > 1 << 16 or time.monotonic() - since > _SOON:
                _write(target, answers)
        del buffer[:at]
    _write(target, answers)
    sys.stdout.flush()
    if buffer:
        sys.exit("the input ended within a message")


def _greet(message: bytes) -> Document:
    protocol = bson.decode(message, CODEC).get("gate")
    if protocol != PROTOCOL:
        return {"refuse": f"the program speaks protocol {PROTOCOL}, and the gate {protocol}"}
    return {"ready": 1}


def _write(target: int, answers: bytearray) -> None:
    with memoryview(answers) as view:
        written = 0
        while written < len(view):
            written += os.write(target, view[written:])
    answers.clear()
