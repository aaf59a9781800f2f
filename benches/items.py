"""Items as datalab-server 0.6.0 writes them: about 1.2 KB each, with 0 to 5 relationships."""

import random

from bson import ObjectId

BATCH = 2_000


def fill(items, n):
    """Of `n` items, 80 % have a relationship to pin; one in twenty of those names no item."""
    chance = random.Random(n)
    for name, unique in (("type", False), ("item_id", True), ("refcode", True)):
        items.create_index(name, unique=unique)
    for start in range(0, n, BATCH):
        batch = [item(i, n, chance) for i in range(start, min(start + BATCH, n))]
        items.insert_many(batch, ordered=False)


def item(i, n, chance):
    # 0 to 5 relationships leave five in six items, of which 96 % have one that is not pinned
    pinned = chance.random() >= 0.96
    return {
        "_id": ObjectId(),
        "synthesis_constituents": [],
        "synthesis_description": "<p>Ground for 30 min, fired at 800 °C.</p>" * 4,
        "blocks_obj": {},
        "display_order": [],
        "revision": 1,
        "revisions": None,
        "creator_ids": [],
        "type": "samples",
        "immutable_id": None,
        "last_modified": None,
        "relationships": [relationship(n, chance, pinned) for _ in range(chance.randrange(6))],
        "refcode": f"demo:{i:08}",
        "item_id": f"sample-{i:08}",
        "description": "x" * 180,
        "name": f"Nb2O5-C-WO3 no. {i}",
        "files": None,
        "file_ObjectIds": [],
        "chemform": "Nb2O5CWO3",
    }


def relationship(n, chance, pinned):
    other = chance.randrange(n)
    gone = chance.random() < 0.05
    return {
        "description": "Is a constituent of",
        "relation": "parent",
        "type": "starting_materials",
        "immutable_id": None,
        "item_id": f"gone-{other:08}" if gone else f"sample-{other:08}",
        "refcode": f"demo:{other:08}" if pinned else None,
    }


def one_with_references(items):
    """An item with 300,000 references to a thousand others, which come to just below 16 MiB once pinned."""
    others(items, ({"item_id": f"s{i:03}", "refcode": f"demo:{i:03}"} for i in range(1000)))
    references = [{"item_id": f"s{i % 1000:03}"} for i in range(300_000)]
    items.insert_one({"item_id": "all", "refcode": "demo:all", "relationships": references})


def one_key(items):
    """An item whose reference 100,000 others answer to."""
    others(items, ({"item_id": "same", "refcode": f"demo:{i:06}"} for i in range(100_000)))
    references = [{"item_id": "same"}]
    items.insert_one({"item_id": "one", "refcode": "demo:one", "relationships": references})


def others(items, documents):
    items.create_index("item_id")
    items.create_index("refcode", unique=True)
    items.insert_many(documents)
