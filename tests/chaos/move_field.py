"""{ a } becomes { b }: what the upgrade move_field does, as a program."""

from upgrade_gate import count, transform


@transform
def move_field(thing, found):
    if "a" not in thing:
        return None
    thing["b"] = thing.pop("a")
    count("moved")
    return thing
