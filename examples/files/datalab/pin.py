"""Pins each item_id reference of an item to the refcode of the item that it names."""

from upgrade_gate import count, transform


def key(value):
    """The same for values of the same type and value, and for numbers of the same value."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return ("number", value) if is_number else (type(value).__name__, repr(value))


@transform
def pin(item, found):
    others = [other for other in found["refcode"] if other.get("refcode") is not None]
    refcodes = {key(other["item_id"]): other["refcode"] for other in others}
    entries = item["relationships"] if isinstance(item.get("relationships"), list) else []
    for entry in entries:
        if not isinstance(entry, dict) or entry.get("refcode") or not entry.get("item_id"):
            continue
        refcode = refcodes.get(key(entry["item_id"]))
        name, value = ("deprecated", True) if refcode is None else ("refcode", refcode)
        if type(entry.get(name)) is not type(value) or entry[name] != value:
            entry[name] = value
            count("deprecated" if refcode is None else "pinned")
    return item
