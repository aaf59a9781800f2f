"""A real mongod, a replica set of one on the loopback interface, on a copy of given data."""

import os
import random
import shutil
import socket
import subprocess
import time
from pathlib import Path

from pymongo import MongoClient
from pymongo.errors import PyMongoError

# The server ends with this process, whichever way that ends.
SUPERVISOR = '"$@" >/dev/null & read -r _; kill -KILL $! 2>/dev/null; wait'
ARGUMENTS = (
    "--bind_ip 127.0.0.1 --nounixsocket --replSet rs0 --oplogSize 256 --wiredTigerCacheSizeGB 2 "
    "--wiredTigerEngineConfigString log=(prealloc=false) "
    "--setParameter diagnosticDataCollectionEnabled=false"
).split()


def free_port():
    while True:
        port = random.randrange(12_000, 32_000)
        try:
            socket.create_server(("127.0.0.1", port)).close()
            return port
        except OSError:
            pass


class Server:
    """Started on entering, and its data gone on leaving."""

    # One for all, since a copied replica set knows its own address; and below the ports that the
    # system gives to outgoing connections.
    port = free_port()
    uri = f"mongodb://127.0.0.1:{port}/datalabvue?replicaSet=rs0"

    def __init__(self, folder: Path, data: Path | None = None):
        self.folder = folder / "data"
        self.data = data

    def __enter__(self):
        if self.data:
            shutil.copytree(self.data, self.folder)
        else:
            self.folder.mkdir()
        mongod = os.environ["MONGOD"]
        place = ["--port", str(self.port), "--dbpath", self.folder, "--logpath", self.folder / "log"]
        self.process = subprocess.Popen(
            ["sh", "-c", SUPERVISOR, "mongod", mongod, *place, *ARGUMENTS],
            stdin=subprocess.PIPE,
            process_group=0,
        )
        self.client = MongoClient(
            "127.0.0.1", self.port, directConnection=True, serverSelectionTimeoutMS=30_000
        )
        self.database = self.client["datalabvue"]
        if not self.data:
            member = {"_id": 0, "host": f"127.0.0.1:{self.port}"}
            config = {"_id": "rs0", "members": [member]}
            self.client.admin.command("replSetInitiate", config)
        self.await_primary()
        if self.data:
            self.warm()
        return self

    def __exit__(self, *_):
        self.client.close()
        self.process.communicate(b"\n")
        shutil.rmtree(self.folder)

    def await_primary(self):
        ends = time.monotonic() + 60
        while True:
            try:
                if self.client.admin.command("hello")["isWritablePrimary"]:
                    return
            except PyMongoError:
                pass
            if time.monotonic() > ends:
                log = (self.folder / "log").read_text().splitlines()[-20:]
                raise RuntimeError("\n".join(["mongod is no primary after a minute:", *log]))
            time.sleep(0.02)

    def warm(self):
        """Reads everything once, so that whoever is measured first does not pay for it."""
        for hint in ({"$natural": 1}, {"item_id": 1}):
            nothing = [{"$match": {"item_id": {"$gt": ""}, "nothing": 1}}]
            list(self.database["items"].aggregate(nothing, hint=hint))

    def keep(self, place: Path):
        """Ends the server, and moves its data to a place to copy from."""
        try:
            self.client.admin.command("shutdown", force=True)
        except PyMongoError:
            pass
        lock = self.folder / "mongod.lock"
        while lock.read_text():
            time.sleep(0.02)
        shutil.copytree(self.folder, place)

    def operations(self):
        """How many operations the server has been asked for."""
        return sum(self.client.admin.command("serverStatus")["opcounters"].values())
