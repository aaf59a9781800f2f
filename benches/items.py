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
