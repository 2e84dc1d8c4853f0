"""What was wrong with a data set, counted by kind."""

from __future__ import annotations

from dataclasses import dataclass, field

_EXAMPLES = 5


@dataclass
class Findings:
    """Counts of what was found, with the first few of each kind by name.

    Attributes:
        counts: How often each kind was found.
        examples: The first ones' names.
    """

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, name: str) -> None:
        """Count one of a kind."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        examples = self.examples.setdefault(kind, [])
        if len(examples) < _EXAMPLES:
            examples.append(name)

    def lines(self) -> list[str]:
        """One line for each kind, to print."""
        lines = []
        for kind, count in self.counts.items():
            names = ", ".join(self.examples[kind])
            lines.append(f"{kind}: {count:,} ({names}{', ...' if count > len(self.examples[kind]) else ''})")
        return lines
