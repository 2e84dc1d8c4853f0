"""Problems of a data set, counted by kind, and remarks on how it was read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

_EXAMPLES = 5


@dataclass
class Findings:
    """Counts of problems, with the names of the first few of each kind, and remarks.

    A problem is something that is left out or changed; a remark says how something was read, or what
    is unusual about it.

    Attributes:
        counts: Number of problems of each kind.
        examples: Names of the first ones of each kind.
        remarks: One sentence each.
    """

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def add(self, kind: str, name: str) -> None:
        """Count a problem."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        examples = self.examples.setdefault(kind, [])
        if len(examples) < _EXAMPLES:
            examples.append(name)

    def remark(self, sentence: str) -> None:
        """Add a remark, unless it was made before."""
        if sentence not in self.remarks:
            self.remarks.append(sentence)

    def lines(self) -> list[str]:
        """One line for each kind of problem, then the remarks, for printing."""
        lines = []
        for kind, count in self.counts.items():
            names = ", ".join(self.examples[kind])
            lines.append(f"{kind}: {count:,} ({names}{', ...' if count > len(self.examples[kind]) else ''})")
        return lines + self.remarks


def merged(several: Iterable[Findings]) -> Findings:
    """The findings of several parts; parts that share one object are counted once."""
    result = Findings()
    for findings in {id(each): each for each in several}.values():
        for kind, count in findings.counts.items():
            result.counts[kind] = result.counts.get(kind, 0) + count
            examples = result.examples.setdefault(kind, [])
            examples += findings.examples[kind][: _EXAMPLES - len(examples)]
        for sentence in findings.remarks:
            result.remark(sentence)
    return result
