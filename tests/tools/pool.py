"""Builds test binaries, and runs several of them side by side."""

import json
import os
import shlex
import subprocess
import sys
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CARGO = shlex.split(os.environ.get("CARGO") or "cargo")

# Tests mostly wait, for servers to start and leases to end. Each binary has as many threads as there are cores, so
# that three keep any machine busy.
JOBS = int(os.environ.get("TEST_JOBS") or 3)

UNIT_TESTS = {"upgrade_gate": ["--lib"], "datalab-upgrade": ["--bins"]}

# What takes longest begins first, so that nothing long is left when all else has ended.
LONGEST = (
    "server_errors killed_commands failover toolshed stable_api record settings memory doubt engine harness large"
).split()


@dataclass
class Job:
    """A command to run, and how it is named in the output."""

    name: str
    command: list
    environment: dict = field(default_factory=dict)
    # run while nothing else runs
    alone: bool = False
    seconds: float = 0
    output: str = ""
    passed: bool = False

    def run(self):
        began = time.monotonic()
        done = subprocess.run(
            self.command,
            cwd=ROOT,
            env=os.environ | self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.seconds = time.monotonic() - began
        self.output = done.stdout.decode(errors="replace")
        self.passed = done.returncode == 0
        if not self.passed:
            self.output += f"\n{self.name}: ended with status {done.returncode}\n"
        return self


def build(names=()):
    """The test binaries, by name: all that `cargo test` runs, or these."""
    command = [*CARGO, "test", "--locked", "--no-run", "--message-format=json-render-diagnostics"]
    for name in names:
        command += UNIT_TESTS.get(name) or ["--test", name]
    built = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=False)
    if built.returncode != 0:
        sys.exit(built.returncode)
    messages = map(json.loads, built.stdout.decode().splitlines())
    return {
        message["target"]["name"]: message["executable"]
        for message in messages
        if message["reason"] == "compiler-artifact"
        and message["profile"]["test"]
        and message["executable"]
    }


def run(jobs, finished):
    """Runs all of the jobs, those to be run alone last, and hands each to `finished` as it ends."""
    rank = {name: position for position, name in enumerate(LONGEST)}
    jobs = sorted(jobs, key=lambda job: rank.get(job.name.split()[-1], len(rank)))
    shared = [job for job in jobs if not job.alone]
    with ThreadPoolExecutor(JOBS) as pool:
        pending = {pool.submit(job.run) for job in shared}
        try:
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for job in done:
                    finished(job.result())
        except KeyboardInterrupt:
            # the terminal has interrupted those that run
            pool.shutdown(cancel_futures=True)
            raise
    for job in jobs:
        if job.alone:
            finished(job.run())
