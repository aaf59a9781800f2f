#!/usr/bin/env python3
"""Fills an empty database as kanban 1.0.0 would have left it: boards, cards, people.

    old_database.py URI [SEED]

The same seed always makes the same documents. They have the faults that years of use leave: cards without an
order, labels with stray commas, assignees who have left.
"""

import random
import sys
from datetime import datetime, timedelta

from bson import ObjectId
from pymongo import MongoClient

BOARDS, CARDS, PEOPLE, LOGINS = 12, 900, 40, 300
START = datetime(2021, 3, 1, 9)
LISTS = ["todo", "doing", "done"]
LABELS = ["red", "green", "urgent", "bug", "idea", "waiting for parts"]
TASKS = ["paint the door", "order screws", "call the plumber", "measure twice", "cut once", "clean up"]
SAYINGS = ["Looks good.", "Not yet.", "Who has the key?", "Done by Friday.", "Ça marche !", "任せて"]


def main(uri, seed="1"):
    database = MongoClient(uri).get_default_database()
    generate = Generator(random.Random(int(seed)))
    people = [generate.person(n) for n in range(PEOPLE)]
    boards = [generate.board(n) for n in range(BOARDS)]
    emails = [person["email"] for person in people] + ["gone@example.org"]
    database.people.insert_many(people)
    database.boards.insert_many(boards)
    database.cards.insert_many(generate.card(n, boards, emails) for n in range(CARDS))
    database.logins.insert_many(generate.login(people) for _ in range(LOGINS))
    database.cards.create_index({"board": 1, "order": 1}, name="board_order")


class Generator:
    def __init__(self, chance):
        self.chance = chance

    def object_id(self):
        return ObjectId(self.chance.randbytes(12))

    def moment(self):
        return START + timedelta(minutes=self.chance.randrange(3 * 365 * 24 * 60))

    def person(self, n):
        return {"_id": self.object_id(), "email": f"person{n}@example.org", "name": f"Person {n}"}

    def board(self, n):
        return {"_id": self.object_id(), "title": f"Board {n}", "lists": LISTS}

    def login(self, people):
        login = {"_id": self.object_id(), "person": self.chance.choice(people)["_id"], "began": self.moment()}
        if self.chance.random() < 0.8:
            login["ended"] = login["began"] + timedelta(hours=1)
        return login

    def card(self, n, boards, emails):
        chance = self.chance
        card = {
            "_id": self.object_id(),
            "board": chance.choice(boards)["_id"],
            "list": chance.choice(LISTS),
            "title": f"Card {n}",
            "text": self.text(),
            "labels": chance.choice([", ", ","]).join(chance.sample(LABELS, chance.randrange(4))),
        }
        if chance.random() < 0.9:
            card["order"] = n
        if chance.random() < 0.6:
            card["assignee"] = chance.choice(emails)
        if chance.random() < 0.4:
            card["comments"] = [self.comment(emails) for _ in range(chance.randrange(1, 6))]
        if chance.random() < 0.2:
            card["archived"] = True
        return card

    def text(self):
        lines = ["What is to be done:"] if self.chance.random() < 0.5 else []
        for _ in range(self.chance.randrange(4)):
            lines.append(f"- [{self.chance.choice('x ')}] {self.chance.choice(TASKS)}")
        return "\n".join(lines)

    def comment(self, emails):
        return {"by": self.chance.choice(emails), "text": self.chance.choice(SAYINGS), "at": self.moment()}


if __name__ == "__main__":
    main(*sys.argv[1:])
