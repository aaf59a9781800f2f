#!/usr/bin/env python3
"""Reads and writes the record as the Python code that shares it does: pymongo and `packaging`.

    ancestor.py URI RECORD_ID FIELD [ACTION VERSION]...

stamps each VERSION by its ACTION, and prints what Python then reads, as one JSON object.
"""

import datetime
import json
import sys

from packaging.version import Version
from pymongo import MongoClient


def main(uri, record_id, field, *stamps):
    records = MongoClient(uri, tz_aware=True).get_default_database()["database_metadata"]
    for action, version in zip(stamps[::2], stamps[1::2]):
        stamp(records, record_id, field, action, version)
    print(json.dumps(read(records.find_one({"_id": record_id}))))


def stamp(records, record_id, field, action, version):
    entry = {
        "version": version,
        "action": action,
        "timestamp": datetime.datetime.now(datetime.timezone.utc),
        field: version,
    }
    records.update_one(
        {"_id": record_id},
        {"$set": {"version": version}, "$push": {"history": entry}},
        upsert=True,
    )


def read(record):
    """What Python makes of the record: it raises where a version is none, or an entry lacks a field."""
    return {
        "version": str(Version(record["version"])),
        "history": [
            {
                "action": entry["action"],
                "version": str(Version(entry["version"])),
                "floor": entry.get("floor") and str(Version(entry["floor"])),
                "age_s": age(entry["timestamp"]),
                "actions": entry.get("actions"),
            }
            for entry in record["history"]
        ],
    }


def age(timestamp):
    return (datetime.datetime.now(datetime.timezone.utc) - timestamp).total_seconds()


if __name__ == "__main__":
    main(*sys.argv[1:])
