"""The queue of the server: which items leave it together, and when."""

from __future__ import annotations

import asyncio

import pytest

from transxnet.serve.batching import BatchQueue


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def filled(*groups: object, size: int = 3, wait: float = 10.0) -> tuple[BatchQueue[str], Clock]:
    """A queue with an item of each group, put in second after second and named by their order."""
    clock = Clock()
    queue: BatchQueue[str] = BatchQueue(size, wait, clock)
    for index, group in enumerate(groups):
        clock.now = float(index)
        queue.put(group, str(index))
    return queue, clock


async def is_waiting(queue: BatchQueue[str]) -> bool:
    """Whether nothing leaves the queue now."""
    task = asyncio.create_task(queue.take())
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    return not task.done()


def take(queue: BatchQueue[str]) -> list[str]:
    return asyncio.run(queue.take())


@pytest.mark.parametrize(
    ("groups", "now", "batches"),
    [
        ("aaa", 2, ["012"]),  # full
        ("aabba", 4, ["014"]),  # the full one first, whatever waits
        ("ab", 10, ["0"]),  # waited long enough
        ("ab", 11, ["0", "1"]),  # the oldest first
        ("aaaaaaa", 6, ["012", "345"]),
        ("baaab", 20, ["04", "123"]),
    ],
)
def test_groups_leave_when_they_are_full_or_old(groups: str, now: float, batches: list[str]) -> None:
    queue, clock = filled(*groups)
    clock.now = now
    assert ["".join(take(queue)) for _ in batches] == batches
    assert len(queue) == len(groups) - sum(map(len, batches))
    assert asyncio.run(is_waiting(queue))


def test_items_without_a_group_leave_alone_and_at_once() -> None:
    queue, _ = filled("a", None, None)
    assert [take(queue), take(queue)] == [["1"], ["2"]]
    assert asyncio.run(is_waiting(queue))


def test_an_item_leaves_when_its_time_has_come() -> None:
    async def use() -> None:
        queue: BatchQueue[str] = BatchQueue(3, 0.01)
        taken = asyncio.create_task(queue.take())
        await asyncio.sleep(0)
        queue.put("a", "0")
        assert await taken == ["0"]

    asyncio.run(use())


def test_discarded_items_do_not_leave() -> None:
    queue, clock = filled("a", "a", "b")
    queue.discard("a", "0")
    queue.discard("b", "2")
    queue.discard("c", "2")  # has left
    clock.now = 20
    assert list(queue) == ["1"] and take(queue) == ["1"] and not len(queue)


def test_a_waking_ends_the_wait_of_all_and_takes_nothing() -> None:
    async def use() -> None:
        queue, _ = filled("a", wait=10**6)
        waiting = [asyncio.create_task(queue.take()) for _ in range(2)]
        await asyncio.sleep(0)
        queue.wake()
        assert await asyncio.gather(*waiting) == [[], []]
        assert list(queue) == ["0"] and await is_waiting(queue)

    asyncio.run(use())
