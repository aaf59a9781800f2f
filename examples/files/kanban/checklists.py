"""Takes the checklist out of a card's text."""

import re

from upgrade_gate import count, transform

ENTRY = re.compile(r"\s*- \[(.)\] (.+)")


@transform
def checklists(card, found):
    if "checklist" in card:
        return None  # it is given what it made once more, and must leave that alone
    lines = card.get("text", "").splitlines()
    entries = [match for match in map(ENTRY.fullmatch, lines) if match]
    card["checklist"] = [{"what": what, "done": mark == "x"} for mark, what in (e.groups() for e in entries)]
    if entries:
        card["text"] = "\n".join(line for line in lines if not ENTRY.fullmatch(line))
        count("entries", len(entries))
    return card
