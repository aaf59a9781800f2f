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
from typing import Any, Callable, NoReturn, Optional, TypeVar

import bson
from bson.raw_bson import RawBSONDocument

from upgrade_gate._fields import CODEC, UNREADABLE, Document, Harmed, Message, changes, check_copies

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
    counts[name] = counts.get(name, 0) + n


def insert(collection: str, document: Document) -> None:
    """Adds a document to a collection. Its `_id` must be the same whenever it is computed from the same input."""
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
    if function.__module__ == "__main__":
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
        result = function(asked["document"], asked["found"])
        if result is not None and not isinstance(result, dict):
            raise Harmed(f"the function returned a {type(result).__name__}, and not a document")
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
        return {"refuse": str(error)}
    except Exception as error:  # its text may hold contents: that is for the log at level debug only
        traceback.print_exc()
        place = traceback.extract_tb(error.__traceback__)[-1]
        name = os.path.basename(place.filename)
        return {"refuse": f"the program raised {type(error).__name__} in {name}, line {place.lineno}"}
    finally:
        _current = None


def _serve(function: Callable[[Document, Found], Optional[Document]]) -> None:
    if os.isatty(0):
        sys.exit("this is a program of upgrade-gate, which starts it and sends it documents")
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
            if greeted:
                reply = answer(function, message)
            else:
                reply, greeted = _greet(message), True
            if not answers:
                since = time.monotonic()
            answers += bson.encode(reply, codec_options=CODEC)
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
