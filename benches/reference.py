"""What the gate is compared with in Python, as a whole process.

reference.py URI open        connects, finds the record, exits
reference.py URI open-fast   the same, without the interpreter's own way out
reference.py URI upgrade     datalab's upgrade in the plainest way
"""

import os
import sys

from pymongo import MongoClient


def upgrade(items):
    refcodes = {}
    found = list(items.find())
    for item in found:
        if item.get("refcode"):
            refcodes[item["item_id"]] = item["refcode"]
    for item in found:
        changed = False
        for entry in item.get("relationships") or []:
            if entry.get("refcode") or not entry.get("item_id"):
                continue
            refcode = refcodes.get(entry["item_id"])
            if refcode:
                entry["refcode"] = refcode
            else:
                entry["deprecated"] = True
            changed = True
        if changed:
            items.update_one(
                {"_id": item["_id"]}, {"$set": {"relationships": item["relationships"]}}
            )


uri, work = sys.argv[1:]
database = MongoClient(uri).get_default_database()
if work == "upgrade":
    upgrade(database["items"])
else:
    database["database_metadata"].find_one({"_id": "datalab_schema_version"})
    if work == "open-fast":
        os._exit(0)
