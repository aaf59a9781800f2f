#!/usr/bin/env python3
"""Says whether a database is what toolshed's upgrades must have made of an old one.

    expected.py OLD_URI NEW_URI [VERSION]

It computes the database of VERSION from the old one by its own logic, with all documents in memory, and
compares documents byte for byte, indexes and collections. It knows nothing of the upgrades' Rust code.
"""

import hashlib
import sys
from collections import defaultdict

import bson
from bson import Int64, ObjectId
from pymongo import MongoClient

CURRENCY = "EUR"
OWN = "database_metadata"


def main(old_uri, new_uri, version="2.5.0"):
    old, new = (MongoClient(uri).get_default_database() for uri in (old_uri, new_uri))
    documents = {name: list(old[name].find()) for name in ["members", "assets", "loans"]}
    # when the upgrade began: the only thing that the old database does not say
    gone = new.loans.distinct("gone")
    documents["gone"] = gone[0] if len(gone) == 1 else None
    indexes = {"loans": {"by_code": ([("code", 1)], False)}}
    for known, upgrade in UPGRADES.items():
        if known <= version:
            upgrade(documents, indexes)
    del documents["gone"]

    problems = compare(documents, new) + compare_indexes(indexes, new)
    record = new[OWN].find_one({"_id": "toolshed_schema_version"})
    if record["version"] != version or "journal" in record:
        problems.append(f"the record says {record['version']}")
    for problem in problems[:20]:
        print(problem)
    if problems:
        sys.exit(f"{len(problems)} differences from the expected database")
    print(f"as expected: {sum(map(len, documents.values()))} documents")


def events_leave_loans(documents, indexes):
    documents["loan_events"] = events = []
    for loan in documents["loans"]:
        for position, event in enumerate(loan.pop("events", [])):
            parts = {"0": "loan_events", "1": loan["_id"], "2": Int64(position), "3": event}
            events.append({"_id": derived_id(parts), "loan": loan["_id"], **event})
    indexes["loan_events"] = {"by_loan": ([("loan", 1), ("at", 1)], False)}


def members_become_one(documents, indexes):
    groups = defaultdict(list)
    for member in documents["members"]:
        member["email_key"] = member["email"].strip().lower()
        groups[member["email_key"]].append(member)
    kept = {}
    for group in groups.values():
        group.sort(key=lambda member: (member["joined"], member["_id"]))
        kept |= {member["_id"]: group[0]["_id"] for member in group}
    for loan in documents["loans"]:
        loan["member"] = kept[loan["member"]]
    documents["members"] = [group[0] for group in groups.values()]
    indexes["members"] = {"by_email_key": ([("email_key", 1)], True)}


def loans_show_todays_titles(documents, indexes):
    newest = {}
    for asset in sorted(documents["assets"], key=lambda asset: asset["revision"]):
        newest[asset["code"]] = asset["title"]
    loans = []
    for loan in documents["loans"]:
        if loan["code"] in newest:
            loan["title"] = newest[loan["code"]]
        elif loan["back"] is None:
            loan["gone"] = documents["gone"]
        else:
            continue
        loans.append(loan)
    documents["loans"] = loans
    there = {loan["_id"] for loan in loans}
    documents["loan_events"] = [e for e in documents["loan_events"] if e["loan"] in there]
    indexes["assets"] = {"by_code": ([("code", 1)], False)}
    indexes["loans"]["by_code"] = ([("code", 1), ("out", -1)], False)


def assets_are_tools_or_books(documents, indexes):
    for asset in documents["assets"]:
        documents.setdefault(asset.pop("kind") + "s", []).append(asset)
    documents["assets"] = []
    documents["settings"] = [
        {"_id": "lending", "days": {"tool": 7, "book": 21}, "currency": CURRENCY}
    ]
    for name in ["tools", "books"]:
        indexes[name] = {"by_code": ([("code", 1), ("revision", 1)], True)}


def loans_get_numbers(documents, indexes):
    last = defaultdict(int)
    for loan in sorted(documents["loans"], key=lambda loan: (loan["out"], loan["_id"])):
        year = loan["out"].year
        last[year] += 1
        loan["number"] = f"{year}/{last[year]:04}"
    documents["counters"] = [{"_id": f"loans {year}", "last": n} for year, n in last.items()]
    del documents["assets"], indexes["assets"]
    indexes["loans"]["by_number"] = ([("number", 1)], True)


UPGRADES = {
    "2.1.0": events_leave_loans,
    "2.2.0": members_become_one,
    "2.3.0": loans_show_todays_titles,
    "2.4.0": assets_are_tools_or_books,
    "2.5.0": loans_get_numbers,
}


def derived_id(parts):
    return ObjectId(hashlib.sha256(bson.encode(parts)).digest()[:12])


def compare(expected, database):
    problems = []
    collections = set(database.list_collection_names()) - {OWN}
    problems += [f"{name} should not be there" for name in collections - set(expected)]
    for name, documents in expected.items():
        found = list(database[name].find())
        wanted, there = (sorted(map(bson.encode, both)) for both in (documents, found))
        if wanted != there:
            for title, one, other in [("missing", wanted, there), ("too much", there, wanted)]:
                rest = list(other)
                for document in one:
                    if document in rest:
                        rest.remove(document)
                    else:
                        problems.append(f"{name}, {title}: {bson.decode(document)}")
    return problems


def compare_indexes(expected, database):
    problems = []
    for name in set(database.list_collection_names()) - {OWN}:
        found = {
            index: (description["key"], description.get("unique", False))
            for index, description in database[name].index_information().items()
            if index != "_id_"
        }
        if found != expected.get(name, {}):
            problems.append(f"{name} has the indexes {found}, not {expected.get(name, {})}")
    return problems


if __name__ == "__main__":
    main(*sys.argv[1:])
