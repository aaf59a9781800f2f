"""Runs a program of upgrade-gate, and appends to a file how often it was asked: `counted.py FILE PROGRAM`."""

import atexit
import runpy
import sys

import upgrade_gate

_, file, program = sys.argv
asked = 0
answer = upgrade_gate.answer


def counted(function, message):
    global asked
    asked += 1
    return answer(function, message)


def write():
    with open(file, "a") as target:
        print(asked, file=target)


upgrade_gate.answer = counted
atexit.register(write)
sys.argv = [program]
runpy.run_path(program, run_name="__main__")
