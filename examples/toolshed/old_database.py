#!/usr/bin/env python3
"""Fills an empty database as toolshed 2.0.0 would have left it: a workshop that lends tools and books.

    old_database.py URI [SEED]

The same seed always makes the same documents. The data has the faults that years of use leave: members
who signed up twice, loans of things that are no longer there, titles that have changed since.
"""

import random
import sys
from datetime import datetime, timedelta

from bson import ObjectId
from pymongo import MongoClient

MEMBERS, ASSETS, LOANS = 180, 200, 620
START = datetime(2022, 1, 3, 9)
TOOLS = ["Plane", "Router", "Mitre saw", "Spokeshave", "Clamp", "Lathe chisel", "Drill", "Sander"]
BOOKS = ["Joinery", "Turning", "Finishing", "Boat building", "Sharpening", "Marquetry"]
WHAT = ["reserved", "handed over", "reminded", "extended", "handed back", "damaged"]
CODES_GONE = ["T-9001", "T-9002", "B-9003"]


def main(uri, seed="1"):
    database = MongoClient(uri).get_default_database()
    generate = Generator(random.Random(int(seed)))
    members = generate.members()
    assets = generate.assets()
    loans = generate.loans(members, assets)
    for name, documents in [("members", members), ("assets", assets), ("loans", loans)]:
        database[name].insert_many(documents)
    database.loans.create_index({"code": 1}, name="by_code")


class Generator:
    def __init__(self, chance):
        self.chance = chance

    def object_id(self):
        return ObjectId(self.chance.randbytes(12))

    def moment(self):
        return START + timedelta(minutes=self.chance.randrange(4 * 365 * 24 * 60))

    def members(self):
        members = []
        for n in range(MEMBERS):
            again = members and self.chance.random() < 0.2
            email = self.chance.choice(members)["email"] if again else f"member{n}@example.org"
            if self.chance.random() < 0.4:
                email = self.chance.choice([email.upper(), email.title(), f" {email}", f"{email} "])
            members.append(
                {
                    "_id": self.object_id(),
                    "email": email,
                    "name": f"Member {n}",
                    # several of one second, so that the order needs the _id too
                    "joined": START + timedelta(days=self.chance.randrange(60)),
                }
            )
        return members

    def assets(self):
        """One document for each revision of a thing: the newest describes it."""
        assets = []
        while len(assets) < ASSETS:
            n = len(assets)
            tool = self.chance.random() < 0.6
            code = f"{'T' if tool else 'B'}-{n:04}"
            title = self.chance.choice(TOOLS if tool else BOOKS)
            revisions = [*range(1, self.chance.choice([2, 2, 3, 4]))]
            self.chance.shuffle(revisions)
            for revision in revisions:
                asset = {
                    "_id": self.object_id(),
                    "kind": "tool" if tool else "book",
                    "code": code,
                    "title": title if revision == 1 else f"{title}, revision {revision}",
                    "revision": revision,
                }
                if tool:
                    asset |= {"serial": f"S{n:05}", "watts": self.chance.choice([0, 350, 1200.5])}
                else:
                    asset |= {"isbn": f"978-0-{n:06}", "pages": self.chance.randrange(40, 900)}
                assets.append(asset)
        return assets

    def loans(self, members, assets):
        loans = []
        for _ in range(LOANS):
            asset = self.chance.choice(assets)
            code, title = asset["code"], asset["title"]
            if self.chance.random() < 0.06:
                code, title = self.chance.choice(CODES_GONE), "Gone"
            out = self.moment()
            loan = {
                "_id": self.object_id(),
                "member": self.chance.choice(members)["_id"],
                "code": code,
                "title": title,
                "out": out,
                "back": None if self.chance.random() < 0.1 else out + timedelta(days=5),
            }
            # a fifth of all loans began under code that kept no events
            if self.chance.random() < 0.8:
                loan["events"] = [self.event(out, n) for n in range(self.chance.randrange(4))]
            loans.append(loan)
        return loans

    def event(self, out, n):
        event = {"at": out + timedelta(days=n), "what": self.chance.choice(WHAT)}
        if self.chance.random() < 0.3:
            event["note"] = "ask the caretaker"
        return event


if __name__ == "__main__":
    main(*sys.argv[1:])
