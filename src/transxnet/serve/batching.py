"""A queue whose items leave it in batches."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class BatchQueue(Generic[Item]):
    """Items of one group leave together: when there are enough of them, or the first has waited long enough.

    Args:
        size: Maximum number of items in a batch.
        wait: Seconds that an item waits for others.
    """

    def __init__(self, size: int, wait: float) -> None:
        self.size = size
        self.wait = wait
        self._groups: dict[Hashable, deque[tuple[float, Item]]] = {}
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return sum(map(len, self._groups.values()))

    def put(self, group: Hashable, item: Item) -> None:
        """Add an item."""
        self._groups.setdefault(group, deque()).append((time.monotonic(), item))
        self._changed.set()

    async def take(self) -> list[Item]:
        """The next batch; of several that are due, the one whose first item has waited longest."""
        while True:
            now = time.monotonic()
            due = [
                (items[0][0], group)
                for group, items in self._groups.items()
                if len(items) >= self.size or now - items[0][0] >= self.wait
            ]
            if due:
                return self._removed(min(due, key=lambda pair: pair[0])[1])
            oldest = min((items[0][0] for items in self._groups.values()), default=None)
            self._changed.clear()
            try:
                async with asyncio.timeout(None if oldest is None else max(0.0, oldest + self.wait - now)):
                    await self._changed.wait()
            except TimeoutError:
                pass

    def _removed(self, group: Hashable) -> list[Item]:
        items = self._groups[group]
        batch = [items.popleft()[1] for _ in range(min(self.size, len(items)))]
        if not items:
            del self._groups[group]
        return batch
