"""Cards of a kanban board, about 400 bytes each, whose `order` becomes their `position`."""

from bson import ObjectId
from pymongo import UpdateOne

BATCH = 2_000
OLD = {"position": {"$exists": False}}
PIPELINE = [{"$set": {"position": {"$ifNull": ["$order", 0]}}}, {"$unset": "order"}]


def fill(cards, n):
    cards.create_index("board")
    for start in range(0, n, BATCH):
        cards.insert_many(card(i) for i in range(start, min(start + BATCH, n)))


def card(i):
    return {
        "_id": ObjectId(),
        "board": f"board-{i % 97}",
        "title": f"Card no. {i}",
        "order": i,
        "text": "Lorem ipsum dolor sit amet. " * 8,
        "labels": [{"name": "urgent", "colour": 1}, {"name": "later", "colour": 2}],
    }


def bulk_write(cards):
    """What a script does instead: reads, computes, and writes in bulk."""
    writes = []
    for card in cards.find(OLD, {"order": 1}):
        position = card.get("order") or 0
        change = {"$set": {"position": position}, "$unset": {"order": 1}}
        writes.append(UpdateOne({"_id": card["_id"]}, change))
        if len(writes) == BATCH:
            cards.bulk_write(writes, ordered=False)
            writes = []
    if writes:
        cards.bulk_write(writes, ordered=False)


if __name__ == "__main__":
    import sys

    from pymongo import MongoClient

    bulk_write(MongoClient(sys.argv[1]).get_default_database()["cards"])
