"""Problems of a data set, counted by kind."""

from __future__ import annotations

from dataclasses import dataclass, field

_EXAMPLES = 5


@dataclass
class Findings:
    """Counts of problems, with the names of the first few of each kind.

    Attributes:
        counts: Number of problems of each kind.
        examples: Names of the first ones of each kind.
    """

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, name: str) -> None:
        """Count a problem."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        examples = self.examples.setdefault(kind, [])
        if len(examples) < _EXAMPLES:
            examples.append(name)

    def lines(self) -> list[str]:
        """One line per kind, for printing."""
        lines = []
        for kind, count in self.counts.items():
            names = ", ".join(self.examples[kind])
            lines.append(f"{kind}: {count:,} ({names}{', ...' if count > len(self.examples[kind]) else ''})")
        return lines
