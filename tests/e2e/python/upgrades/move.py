from upgrade_gate import count, refuse, transform


@transform
def move(thing, found):
    if "a" in thing:
        if not thing["a"].isdigit():
            refuse("a thing is not a number: correct it")
        thing["b"] = thing.pop("a")
        count("moved")
    return thing
