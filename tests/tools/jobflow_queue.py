#!/usr/bin/env python3
"""A queue database of the real jobflow-remote, made, checked and upgraded by its own library.

    jobflow_queue.py

fetches the package and what it imports into `.cache/jobflow-remote`, once and pinned by hash, and then
obeys one command a line, `VERB URI DATABASE`, each answered by one line of JSON: the package drags
much along, and takes seconds to import.

    reset     what `jf admin reset` makes
    age       makes of that what 0.1.4 left
    check     the version check of `jf admin upgrade`, and what it would do
    upgrade   jobflow-remote's own upgrade
"""

import contextlib
import json
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.dont_write_bytecode = True
_loader = SourceFileLoader("setup", str(HERE / "setup"))
setup = module_from_spec(spec_from_loader("setup", _loader))
_loader.exec_module(setup)

PACKAGES = setup.CACHE / "jobflow-remote"
REQUIREMENTS = HERE / "jobflow-remote.txt"
STAMP = f"{sys.implementation.cache_tag}\n{REQUIREMENTS.read_text()}"


def is_ready():
    stamp = PACKAGES / "stamp"
    return stamp.exists() and stamp.read_text() == STAMP


def fetch():
    import fcntl
    import shutil

    if sys.version_info < (3, 11):
        sys.exit("jobflow_queue.py: jobflow-remote as it is pinned needs Python 3.11 or later")
    setup.CACHE.mkdir(exist_ok=True)
    with open(setup.CACHE / "jobflow-remote.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_ready():
            return
        with setup.scratch() as folder:
            packages = folder / "packages"
            setup.pip(
                "install", "--only-binary=:all:", "--no-compile", "--target", packages,
                "--requirement", REQUIREMENTS,
            )
            (packages / "stamp").write_text(STAMP)
            shutil.rmtree(PACKAGES, ignore_errors=True)
            packages.rename(PACKAGES)


def controller(uri, database):
    from jobflow import JobStore
    from jobflow_remote.jobs.jobcontroller import JobController
    from maggma.stores import MemoryStore, MongoURIStore

    queue = MongoURIStore(uri=uri, collection_name="jobs", database=database)
    return JobController(queue_store=queue, jobstore=JobStore(MemoryStore()))


def reset(queue):
    return {"reset": queue.reset(max_limit=0)}


def age(queue):
    """No document of the running runner, states of old names, and the old management of batches."""
    queue.auxiliary.delete_one({"running_runner": {"$exists": True}})
    queue.auxiliary.insert_one({"batch_processes": {"worker": {}}})
    queue.auxiliary.update_one(
        {"jobflow_remote_version": {"$exists": True}},
        {"$set": {"jobflow_remote_version": "0.1.4"}},
    )
    states = ["TERMINATED", "COMPLETED", "REMOTE_ERROR", "TERMINATED"]
    queue.jobs.insert_many(
        [
            {"db_id": str(i), "uuid": f"job-{i}", "index": 1, "state": state, "previous_state": before}
            for i, (state, before) in enumerate(zip(states, [None, "TERMINATED", "TERMINATED", None]))
        ]
    )
    return {"jobs": len(states)}


def check(queue):
    from jobflow_remote.jobs.upgrade import DatabaseUpgrader

    upgrader = DatabaseUpgrader(queue)
    actions, failed = upgrader.dry_run()
    return {
        "database": str(queue.get_current_db_version()),
        "code": str(upgrader.current_version),
        "actions": [action.description for action in actions],
        "failed": len(failed),
        "runner": queue.get_running_runner(),
        "next_id": queue.auxiliary.count_documents({"next_id": {"$exists": True}}),
        "runners": queue.auxiliary.count_documents({"running_runner": {"$exists": True}}),
        "environment": queue.upgrade_full_check(),
    }


def upgrade(queue):
    from types import SimpleNamespace

    from jobflow_remote.jobs.upgrade import DatabaseUpgrader

    # its last upgrade moves folders of a project's workers: this one has none
    queue.project = SimpleNamespace(workers={})
    return {"upgraded": DatabaseUpgrader(queue).upgrade()}


def main():
    if not is_ready():
        fetch()
    sys.path.insert(0, str(PACKAGES))
    verbs = {"reset": reset, "age": age, "check": check, "upgrade": upgrade}
    for line in sys.stdin:
        verb, uri, database = line.split()
        with contextlib.redirect_stdout(sys.stderr):
            queue = controller(uri, database)
            answer = verbs[verb](queue)
            queue.close()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
