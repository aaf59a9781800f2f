"""A program as a process, as the gate runs it."""

import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import bson

CLIENT = Path(__file__).resolve().parent.parent
GREETING = bson.encode({"gate": 1, "version": "1.1.0", "step": "pin", "collection": "items"})


def run(source: str, messages: bytes) -> "subprocess.CompletedProcess[bytes]":
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "program.py")
        program.write_text(source)
        # as the gate starts it: with hardly any variables
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join([str(CLIENT), *sys.path])}
        return subprocess.run([sys.executable, str(program)], input=messages, capture_output=True, env=env, timeout=60)


def ask(**document: object) -> bytes:
    return bson.encode({"document": document, "found": {}})


def of_the_readme() -> str:
    """The program that the README begins with."""
    return (CLIENT / "README.md").read_text().split("```python\n")[1].split("```")[0]


class Process(unittest.TestCase):
    def test_the_program_of_the_readme_leaves_its_own_output_as_it_is(self) -> None:
        asked = ask(_id=1, order=7) + ask(_id=2) + ask(_id=1, position=7) + ask(_id=2, position=0)
        ended = run(of_the_readme(), GREETING + asked)
        moved = {"set": {"position": 7}, "unset": ["order"], "count": {"moved": 1}}
        without = {"set": {"position": 0}, "count": {"moved": 1}}
        self.assertEqual(bson.decode_all(ended.stdout), [{"ready": 1}, moved, without, {}, {}])

    def test_answers_in_order_until_the_input_ends(self) -> None:
        source = """
from upgrade_gate import transform
@transform
def double(document, found):
    document["n"] *= 2
    return document
"""
        ended = run(source, GREETING + b"".join(ask(_id=n, n=n) for n in range(1000)))
        answers = bson.decode_all(ended.stdout)
        self.assertEqual(answers[0], {"ready": 1})
        self.assertEqual(answers[1:], [{"set": {"n": 2 * n}} if n else {} for n in range(1000)])
        self.assertEqual((ended.returncode, ended.stderr), (0, b""))

    def test_keeps_what_is_printed_off_the_answers(self) -> None:
        source = """
import ctypes, os, subprocess, sys
print("before")
from upgrade_gate import transform
@transform
def noisy(document, found):
    print("a print")
    os.write(1, b"a write\\n")
    sys.__stdout__.write("the first stdout\\n")
    libc = ctypes.CDLL(None); libc.puts(b"a library"); libc.fflush(None)
    subprocess.run(["sh", "-c", "echo a child; cat"])
    return document
"""
        ended = run(source, GREETING + ask(_id=1) + ask(_id=2))
        self.assertEqual(bson.decode_all(ended.stdout), [{"ready": 1}, {}, {}])
        for text in [b"before", b"a print", b"a write", b"the first stdout", b"a library", b"a child"]:
            self.assertIn(text, ended.stderr)
        self.assertEqual(ended.returncode, 0)

    def test_an_error_is_an_answer_and_its_text_goes_to_stderr(self) -> None:
        source = """
from upgrade_gate import transform
@transform
def broken(document, found):
    raise ValueError("a secret")
"""
        ended = run(source, GREETING + ask(_id=1))
        self.assertEqual(
            bson.decode_all(ended.stdout)[1], {"refuse": "the program raised ValueError in program.py, line 5"}
        )
        self.assertIn(b"a secret", ended.stderr)

    def test_a_program_that_ends_itself_says_so_for_the_document_that_it_was_asked_about(self) -> None:
        source = """
import sys
from upgrade_gate import transform
@transform
def end(document, found):
    if document["_id"] == 2:
        sys.exit(0)
    return {**document, "n": 1}
"""
        ended = run(source, GREETING + b"".join(ask(_id=n) for n in range(1, 4)))
        answers = bson.decode_all(ended.stdout)
        self.assertEqual(answers[:2], [{"ready": 1}, {"set": {"n": 1}}])
        self.assertIn("SystemExit in program.py, line 7", answers[2]["refuse"])

    def test_a_second_function_is_an_error_and_not_silently_ignored(self) -> None:
        one = "@transform\ndef one(document, found):\n    return document\n"
        ended = run(f"from upgrade_gate import transform\n{one}{one}", GREETING + ask(_id=1))
        self.assertEqual(bson.decode_all(ended.stdout), [{"ready": 1}, {}])
        self.assertEqual(ended.returncode, 1)
        self.assertIn(b"has one function with @transform", ended.stderr)

    def test_names_that_cannot_be_written_are_refused_and_do_not_end_the_program(self) -> None:
        source = """
from upgrade_gate import count, transform
@transform
def odd(document, found):
    count("a\\0b")
"""
        answers = bson.decode_all(run(source, GREETING + ask(_id=1) + ask(_id=2)).stdout)
        self.assertEqual(len(answers), 3)
        self.assertIn("cannot be written as BSON", answers[1]["refuse"])

    def test_a_slow_answer_is_not_held_back_by_the_next_one(self) -> None:
        source = """
import os, time
from upgrade_gate import transform
@transform
def slow(document, found):
    if document["_id"] == 3:
        os._exit(3)
    time.sleep(0.05)
    return {**document, "n": 1}
"""
        answers = bson.decode_all(run(source, GREETING + b"".join(ask(_id=n) for n in range(1, 4))).stdout)
        self.assertEqual(answers, [{"ready": 1}, {"set": {"n": 1}}, {"set": {"n": 1}}])

    def test_another_protocol_and_a_message_that_is_cut_off(self) -> None:
        source = """
from upgrade_gate import transform
@transform
def nothing(document, found):
    return document
"""
        ended = run(source, bson.encode({"gate": 2}))
        self.assertIn("protocol 1, and the gate 2", bson.decode(ended.stdout)["refuse"])
        self.assertNotEqual(run(source, GREETING + ask(_id=1)[:-1]).returncode, 0)


if __name__ == "__main__":
    unittest.main()
