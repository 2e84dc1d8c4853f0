"""A queue whose items leave it in batches."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class BatchQueue(Generic[Item]):
    """Items of one group leave together: when there are enough of them, or the first has waited long enough.

    Items of the group None leave alone, and at once.

    Args:
        size: Maximum number of items in a batch.
        wait: Seconds that an item waits for others.
        clock: Gives the time in seconds.
    """

    def __init__(self, size: int, wait: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.size = size
        self.wait = wait
        self._clock = clock
        self._groups: dict[Hashable, deque[tuple[float, Item]]] = {}
        self._changed = asyncio.Event()
        self._wakings = 0
        self.removed = asyncio.Event()

    def __len__(self) -> int:
        return sum(map(len, self._groups.values()))

    def __iter__(self) -> Iterator[Item]:
        return (item for items in self._groups.values() for _, item in items)

    def put(self, group: Hashable, item: Item) -> None:
        """Add an item."""
        self._groups.setdefault(group, deque()).append((self._clock(), item))
        self._changed.set()

    def discard(self, group: Hashable, item: Item) -> None:
        """Remove an item that is not wanted any longer, if it has not left."""
        for entry in self._groups.get(group, ()):
            if entry[1] == item:
                self._groups[group].remove(entry)
                self._tidy(group)
                return

    def wake(self) -> None:
        """Let those who wait for a batch go on without one."""
        self._wakings += 1
        self._changed.set()

    async def take(self) -> list[Item]:
        """The next batch: of several that are due, that whose first item has waited longest. Empty after a waking."""
        wakings = self._wakings
        while True:
            now = self._clock()
            due = [(items[0][0], group) for group, items in self._groups.items() if self._is_due(group, items, now)]
            if due:
                return self._taken(min(due, key=lambda pair: pair[0])[1])
            if wakings != self._wakings:
                return []
            oldest = min((items[0][0] for items in self._groups.values()), default=None)
            self._changed.clear()
            try:
                async with asyncio.timeout(None if oldest is None else max(0.0, oldest + self.wait - now)):
                    await self._changed.wait()
            except TimeoutError:
                pass

    def _is_due(self, group: Hashable, items: deque[tuple[float, Item]], now: float) -> bool:
        return group is None or len(items) >= self.size or now >= items[0][0] + self.wait

    def _taken(self, group: Hashable) -> list[Item]:
        items = self._groups[group]
        batch = [items.popleft()[1] for _ in range(1 if group is None else min(self.size, len(items)))]
        self._tidy(group)
        return batch

    def _tidy(self, group: Hashable) -> None:
        if not self._groups[group]:
            del self._groups[group]
        self.removed.set()
