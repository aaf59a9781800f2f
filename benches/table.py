"""The results: medians with their spread, as lines of a Markdown table."""

from statistics import median

HEAD = (
    "| figure | median | lowest – highest | an item | peak memory | to reach |",
    "| --- | ---: | ---: | ---: | ---: | ---: |",
)


class Table:
    """Samples by their name, and the lines made of them."""

    def __init__(self):
        self.samples = {}
        self.lines = []

    def add(self, name, sample):
        self.samples.setdefault(name, []).append(sample)

    def of(self, name, field="seconds"):
        return [sample[field] for sample in self.samples.get(name, [])]

    def line(self, *cells):
        self.lines.append(f"| {' | '.join(cells)} |")
        print(self.lines[-1], flush=True)

    def heading(self, text):
        self.line(f"**{text}**", "", "", "", "", "")

    def time(self, label, name, items=None, memory_goal=None, goal=""):
        """How long it took, and what it held."""
        if not (seconds := self.of(name)):
            return self.line(label, "not measured", "", "", "", "")
        held = [kib / 1024 for kib in self.of(name, "kib") if kib]
        goals = [goal, f"≤ {memory_goal} MiB" if memory_goal else ""]
        self.line(
            label,
            duration(median(seconds)),
            f"{duration(min(seconds))} – {duration(max(seconds))}",
            f"{median(seconds) / items * 1e6:.0f} µs" if items else "",
            f"{median(held):.1f} MiB" if held else "",
            ", ".join(filter(None, goals)),
        )

    def ratio(self, label, above, below, goal="", scale=1):
        """One figure by another, round by round; `scale` makes them of equal size."""
        pairs = zip(self.of(above), self.of(below))
        self.plain(label, [a / b * scale for a, b in pairs], "×", goal)

    def plain(self, label, values, unit, goal=""):
        if not values:
            return self.line(label, "not measured", "", "", "", goal)
        shown = [
            f"{number(value)} {unit}".strip()
            for value in (median(values), min(values), max(values))
        ]
        self.line(label, shown[0], f"{shown[1]} – {shown[2]}", "", "", goal)


def duration(seconds):
    return f"{number(seconds)} s" if seconds >= 1 else f"{number(seconds * 1000)} ms"


def number(value):
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"
