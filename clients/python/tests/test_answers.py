"""What a program answers to a message of the gate."""

import json
import struct
import sys
import unittest
import uuid
from datetime import datetime, timedelta
from typing import Any

import bson
from bson import Binary, Decimal128, Int64, Regex
from bson.raw_bson import RawBSONDocument

import upgrade_gate
from upgrade_gate import answer, count, delete, insert, refuse


def raw(*fields: bytes) -> bytes:
    """A document of elements by their bytes."""
    inner = b"".join(fields)
    return (len(inner) + 5).to_bytes(4, "little") + inner + b"\0"


def message(document: bytes, found: bytes = raw()) -> bytes:
    return raw(b"\x03document\0" + document, b"\x03found\0" + found)


def ask(function: Any, document: Any, found: Any = None) -> dict[str, Any]:
    encoded = document if isinstance(document, bytes) else bson.encode(document)
    said = answer(function, message(encoded, bson.encode(found or {})))
    return bson.decode(bson.encode(said))


SYMBOL = b"\x0esymbol\0\x02\0\0\0a\0"
UNDEFINED = b"\x06undefined\0"
TWICE = b"\x03twice\0" + raw(b"\x10n\0\1\0\0\0", b"\x10n\0\2\0\0\0")
NOT_UTF8 = b"\x02text\0\x02\0\0\0\xff\0"
HARMED = {"symbol": SYMBOL, "undefined": UNDEFINED, "twice": TWICE, "text": NOT_UTF8}
ID = b"\x10_id\0\1\0\0\0"


class Answers(unittest.TestCase):
    def test_what_is_returned_as_it_was_is_no_change(self) -> None:
        document = {"_id": 1, "n": 1.0, "long": Int64(1), "re": Regex("a", "xi"), "b": Binary(b"", 5)}
        self.assertEqual(ask(lambda document, _: document, document), {})
        self.assertEqual(ask(lambda document, _: dict(reversed(document.items())), document), {})
        self.assertEqual(ask(lambda *_: None, document), {})

    def test_only_the_fields_that_changed_are_set(self) -> None:
        def change(document: Any, found: Any) -> Any:
            document["inner"]["a"] = 2
            document["new"] = found["other"][0]["x"]
            del document["old"]
            return document

        said = ask(change, {"_id": 1, "inner": {"a": 1, "b": 2}, "old": 1, "kept": []}, {"other": [{"x": "y"}]})
        self.assertEqual(said, {"set": {"inner": {"a": 2, "b": 2}, "new": "y"}, "unset": ["old"]})

    def test_another_type_or_another_order_inside_is_a_change(self) -> None:
        for before, after in [(1, 1.0), (1, True), (0, False), (Int64(1), 1), ({"a": 1, "b": 2}, {"b": 2, "a": 1})]:
            said = ask(lambda document, _, after=after: {**document, "n": after}, {"_id": 1, "n": before})
            self.assertEqual(bson.encode(said), bson.encode({"set": {"n": after}}))

    def test_a_document_that_was_changed_and_not_returned_is_refused(self) -> None:
        self.assertIn("returned None", ask(lambda document, _: document.clear(), {"_id": 1})["refuse"])
        self.assertIn("returned a int", ask(lambda *_: 1, {"_id": 1})["refuse"])

    def test_counts_inserts_and_deletion(self) -> None:
        def split(document: Any, _: Any) -> None:
            for part in document["parts"]:
                insert("parts", part)
                count("parts")
            count("seen", 5)
            delete()
            document["parts"] = []

        self.assertEqual(
            ask(split, {"_id": 1, "parts": [{"_id": 2}, {"_id": 3}]}),
            {"delete": True, "insert": {"parts": [{"_id": 2}, {"_id": 3}]}, "count": {"parts": 2, "seen": 5}},
        )
        with self.assertRaises(RuntimeError):
            count("outside")

    def test_a_refusal_and_an_error_say_what_the_operator_may_read(self) -> None:
        self.assertEqual(ask(lambda *_: refuse("no list has it"), {"_id": 1}), {"refuse": "no list has it"})
        self.assertRegex(
            ask(lambda document, _: document["s3cret"], {"_id": 1})["refuse"],
            r"^the program raised KeyError in test_answers.py, line \d+$",
        )
        self.assertIn("ValueError", ask(lambda *_: insert("parts", {}), {"_id": 1})["refuse"])
        for value in [{"s3cret"}, 2**64, "\udc80", object(), {1: "s3cret"}]:
            refusal = ask(lambda document, _, value=value: {**document, "n": value}, {"_id": 1})["refuse"]
            self.assertTrue(refusal.startswith("field `n` ") and "s3cret" not in refusal, refusal)


    def test_a_function_that_is_misused_says_how_it_is_used(self) -> None:
        def generator(document: Any, _: Any) -> Any:
            yield document

        async def coroutine(document: Any, _: Any) -> Any:
            return document

        def refuse_odd(_: Any, __: Any) -> Any:
            refuse("odd \udc80")

        for function, says in [
            (lambda document: document, "called with two arguments, (document, found)"),
            (lambda: None, "called with two arguments"),
            (lambda document, _: document + 1, "TypeError in test_answers.py"),
            (generator, "returned a generator, and not a document"),
            (lambda *_: coroutine(*_).close() or iter([]), "returned a list_iterator"),
            (lambda *_: {"n": 1}, "without its `_id`: return the whole document"),
            (lambda *_: count("n", 0.5), "TypeError in test_answers.py"),
            (lambda *_: count("n", -1), "TypeError"),
            (lambda *_: count("n", True), "TypeError"),
            (lambda *_: count(5), "TypeError"),
            (lambda *_: insert("parts", None), "TypeError in test_answers.py"),
            (lambda *_: insert(5, {"_id": 1}), "TypeError"),
            (lambda *_: insert("parts", {"_id": {1}}), "InvalidDocument in test_answers.py"),
            (lambda *_: sys.exit(0), "SystemExit in test_answers.py"),
            (lambda *_: json.loads("{"), "JSONDecodeError in test_answers.py"),
            (refuse_odd, "odd ?"),
            (lambda document, _: {**document, "n": uuid.uuid4()}, "Binary.from_uuid"),
            (lambda document, _: {**document, "n": [2**64]}, "more than 64 bits"),
            (lambda document, _: {**document, "a\0b": 1}, "cannot be written as BSON"),
        ]:
            self.assertIn(says, ask(function, {"_id": 1, "a": 2})["refuse"])

    def test_a_deleted_document_need_not_be_returned_whole(self) -> None:
        self.assertEqual(ask(lambda *_: delete() or {}, {"_id": 1}), {"delete": True})


class Unharmed(unittest.TestCase):
    def test_what_python_cannot_hold_stays_as_it_is_next_to_a_change(self) -> None:
        document = raw(ID, *HARMED.values())
        self.assertEqual(ask(lambda document, _: {**document, "n": 1}, document), {"set": {"n": 1}})
        self.assertEqual(ask(lambda document, _: document, document), {})

    def test_a_changed_field_that_python_cannot_hold_is_refused(self) -> None:
        for name, element in HARMED.items():
            for document in [raw(ID, element), raw(ID, b"\x03" + name.encode() + b"\0" + raw(element))]:
                refusal = ask(lambda document, _, name=name: {**document, name: 5}, document)["refuse"]
                self.assertIn(f"field `{name}` is changed", refusal)

    def test_a_field_that_python_cannot_hold_can_be_removed(self) -> None:
        for name, element in HARMED.items():
            said = ask(lambda *_: {"_id": 1}, raw(ID, element))
            self.assertEqual(said, {"unset": [name]})

    def test_one_that_is_moved_or_copied_or_was_found_is_refused(self) -> None:
        def move(document: Any, _: Any) -> Any:
            document["to"] = document.pop(next(name for name in document if name != "_id"))
            return document

        def copy(document: Any, _: Any) -> Any:
            document["to"] = [document["outer"]]
            return document

        def add(document: Any, _: Any) -> Any:
            insert("others", {"_id": 2, "to": document["outer"]})
            return document

        def take(document: Any, found: Any) -> Any:
            return {**document, "to": found["other"][0]["outer"]}

        def take_one(document: Any, found: Any) -> Any:
            return {**document, "to": next(iter(found["other"][0]["outer"].values()))}

        for name, element in HARMED.items():
            self.assertIn("to", ask(move, raw(ID, element))["refuse"])
            outer = raw(ID, b"\x03outer\0" + raw(element))
            self.assertIn("`outer`" if name != "text" else "`to`", ask(copy, outer)["refuse"])
            found = {"other": [RawBSONDocument(outer)]}
            self.assertIn("field `to` ", ask(take, {"_id": 1}, found)["refuse"])
            if name not in ["undefined", "text"]:  # the one is None, the other cannot be encoded at all
                self.assertIn(f"from `{name}`", ask(take_one, {"_id": 1}, found)["refuse"])
            if name != "text":  # which cannot be encoded at all
                self.assertIn("others", ask(add, outer)["refuse"])

    def test_a_date_beyond_those_of_python_is_held(self) -> None:
        date = b"\x09date\0" + (2**62).to_bytes(8, "little")
        inner = raw(ID, b"\x03inner\0" + raw(date))

        def change(document: Any, _: Any) -> Any:
            document["inner"]["n"] = 1
            return document

        self.assertIn(date, bson.encode(answer(change, message(inner))))


def element(kind: int, value: bytes) -> bytes:
    return bytes([kind]) + b"from\0" + value


def text(content: bytes) -> bytes:
    return (len(content) + 1).to_bytes(4, "little") + content + b"\0"


def nested(levels: int) -> bytes:
    inner = raw()
    for _ in range(levels):
        inner = raw(b"\x03d\0" + inner)
    return inner


INT = b"\1\0\0\0"
ODD = raw(NOT_UTF8, b"\x13n\0\xe7\xd0\xf1" + b"\xb8" * 13)
HELD = {
    "a double like 1.0": element(1, struct.pack("<d", 1.0)),
    "minus zero": element(1, struct.pack("<d", -0.0)),
    "a NaN with a payload": element(1, b"\1\2\3\4\0\0\xf8\xff"),
    "a signalling NaN": element(1, b"\1\0\0\0\0\0\xf0\x7f"),
    "text with a zero": element(2, text(b"a\0b")),
    "a legacy UUID": element(5, b"\x10\0\0\0\3" + bytes(range(16))),
    "a UUID": element(5, b"\x10\0\0\0\4" + bytes(range(16))),
    "old binary data": element(5, b"\7\0\0\0\2\3\0\0\0abc"),
    "a date before 1970": element(9, struct.pack("<q", -1)),
    "a date after the year 9999": element(9, struct.pack("<q", 253402300800000)),
    "the first date": element(9, struct.pack("<q", -(2**63))),
    "a regular expression of MongoDB's": element(11, b"(?<name>a)++\0imsx\0"),
    "code": element(13, text(b"f()")),
    "code with a scope": element(15, b"\x18\0\0\0" + text(b"f()") + raw(b"\x10x\0" + INT)),
    "a timestamp": element(17, b"\xff" * 8),
    "a long that fits an int": element(18, struct.pack("<q", 5)),
    "a long": element(18, struct.pack("<q", 2**63 - 1)),
    "a decimal with its zeros": element(19, bson.encode({"a": Decimal128("1.10")})[7:-1]),
    "a decimal of odd bytes": element(19, b"\xff" * 16),
    "the least key": element(255, b""),
    "the greatest key": element(127, b""),
    "a DBRef": element(3, raw(b"\x02$ref\0" + text(b"c"), b"\x10$id\0" + INT, b"\x02$db\0" + text(b"d"))),
    "half of a DBRef": element(3, raw(b"\x02$ref\0" + text(b"c"))),
    "names with dollars and dots": element(3, raw(b"\x10$set\0" + INT, b"\x10a.b\0" + INT, b"\x10\0" + INT)),
    "an _id that is not the first": element(3, raw(b"\x10x\0" + INT, b"\x10_id\0" + INT)),
    "180 levels": element(3, nested(180)),
}
UNHELD = {
    "a symbol": element(14, text(b"a")),
    "a dbPointer": element(12, text(b"db.c") + bytes(12)),
    "text that is not UTF-8": element(2, text(b"\xed\xa0\x80")),
    "a name that is not UTF-8": element(3, raw(b"\x10\xff\0" + INT)),
    "a DBRef in another order": element(3, raw(b"\x10$id\0" + INT, b"\x02$ref\0" + text(b"c"))),
    "flags in another order": element(11, b"a\0mi\0"),
    "an array of other names": element(4, raw(b"\x105\0" + INT)),
    "a boolean that is neither": element(8, b"\2"),
    "a decimal of odd bytes next to text that is not UTF-8": element(3, ODD),
    "the same in the scope of code": element(15, (len(text(b"f()") + ODD) + 4).to_bytes(4, "little") + text(b"f()") + ODD),
    "binary data of the subtype 255": element(5, b"\3\0\0\0\xffabc"),
    "binary data of a wrong length": element(5, b"\3\0\0\0\2abc"),
}


class Types(unittest.TestCase):
    """A value that the function reads is written as the same bytes, or not at all."""

    def copied(self, name: str, value: bytes) -> list[bytes]:
        def copy(document: Any, _: Any) -> Any:
            return {**document, "to": document["from"], "deep": [{"to": document["from"]}]}

        def take(document: Any, found: Any) -> Any:
            return {**document, "to": found["other"][0]["from"], "deep": [{"to": found["other"][0]["from"]}]}

        own, other = message(raw(ID, value)), message(raw(ID), raw(b"\x04other\0" + raw(b"\x030\0" + raw(value))))
        return [bson.encode(answer(copy, own)), bson.encode(answer(take, other))]

    def test_what_is_copied_keeps_its_bytes(self) -> None:
        for name, value in HELD.items():
            to = value[:1] + b"to\0" + value[6:]
            said = raw(b"\x03set\0" + raw(to, b"\x04deep\0" + raw(b"\x030\0" + raw(to))))
            self.assertEqual(self.copied(name, value), [said, said], name)

    def test_what_would_get_other_bytes_is_refused(self) -> None:
        for name, value in UNHELD.items():
            for said in self.copied(name, value):
                self.assertEqual(list(bson.decode(said)), ["refuse"], name)
            # what stays as it is may be anything that can be read
            said = answer(lambda document, _: {**document, "n": 1}, message(raw(ID, value)))
            self.assertTrue(said == {"set": {"n": 1}} or "cannot read it" in said["refuse"], name)

    def test_values_that_python_calls_equal_are_told_apart(self) -> None:
        day, millisecond = datetime(2026, 1, 1), timedelta(milliseconds=1)
        for before, after in [(0.0, -0.0), ([], {}), ("", b""), ([0.0], [-0.0]), (day, day + millisecond), (1.5, 2.5)]:
            said = ask(lambda document, _, after=after: {**document, "n": after}, {"_id": 1, "n": before})
            self.assertEqual(bson.encode(said), bson.encode({"set": {"n": after}}))
        same = {"_id": 1, "a": 1.5, "b": float("nan"), "c": day, "d": [[]], "e": {}, "f": None}
        change = {**same, "b": float("nan"), "c": day + timedelta(microseconds=1), "n": 1}
        self.assertEqual(ask(lambda *_: change, same), {"set": {"n": 1}})

    def test_a_long_stays_one_unless_the_author_says_otherwise(self) -> None:
        def add(document: Any, _: Any) -> Any:
            document["a"]["n"][0] += 1
            return document

        self.assertIn("Int64", ask(add, {"_id": 1, "a": {"n": [Int64(5)]}})["refuse"])
        self.assertEqual(ask(add, {"_id": 1, "a": {"n": [5]}}), {"set": {"a": {"n": [6]}}})
        self.assertEqual(ask(add, {"_id": 1, "a": {"n": [Int64(2**40)]}}), {"set": {"a": {"n": [2**40 + 1]}}})
        kept = ask(lambda document, _: {**document, "n": Int64(document["n"] + 1)}, {"_id": 1, "n": Int64(5)})
        self.assertIsInstance(kept["set"]["n"], Int64)


class Module(unittest.TestCase):
    def test_a_function_of_an_imported_module_stays_a_function(self) -> None:
        def function(document: Any, _: Any) -> Any:
            return document

        self.assertIs(upgrade_gate.transform(function), function)


if __name__ == "__main__":
    unittest.main()
