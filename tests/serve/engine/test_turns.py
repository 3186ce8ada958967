"""Callers take turns: what one sends cannot hold up another."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

import pytest

from secateur.serve.engine.turns import Stage, Turns, long_part, with_spare
from secateur.serve.failures import RpcError

STEP = 100


class Queue:
    """Turns of requests that are told when to go on; `inside` says whose are in the engine, in order."""

    def __init__(self, sequences: int = 4, held: int = 1000, held_tokens: int | None = None) -> None:
        self.turns = Turns(sequences, STEP, held, held_tokens)
        self.inside: list[str] = []
        self.stages: dict[str, Stage] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def send(self, *names: str, tokens: int = 10, sequences: int = 1, priority: int = 0) -> None:
        """Send requests named ``CALLER NUMBER``, which last until their stage is DONE."""
        for name in names:
            self.tasks[name] = asyncio.create_task(self._request(name, tokens, sequences, priority))
        await self.settle()

    async def _request(self, name: str, tokens: int, sequences: int, priority: int) -> None:
        async with self.turns.turn(name.split()[0], tokens, sequences, priority) as turn:
            turn.request_id = name
            self.stages[name] = Stage.READING
            self.inside.append(name)
            while self.stages[name] is not Stage.DONE:
                await asyncio.sleep(0)

    async def step(self, stage: Stage, *names: str) -> None:
        self.stages.update(dict.fromkeys(names, stage))
        self.turns.look(self.stages.__getitem__)
        await self.settle()

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    async def close(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        assert self.turns.waiting == 0 and not self.turns._callers and not self.turns._inside


def names(caller: str, count: int) -> list[str]:
    return [f"{caller} {number}" for number in range(count)]


def refusal(task: asyncio.Task[None]) -> str:
    error = task.exception()
    assert isinstance(error, RpcError)
    return error.reason


async def test_a_caller_alone_has_all_its_places_and_others_find_some() -> None:
    queue = Queue(sequences=4)
    await queue.send(*names("flood", 50))
    assert queue.inside == names("flood", 4)
    await queue.send("polite 0", "polite 1", tokens=5)
    assert queue.inside[4:] == ["polite 0"]
    await queue.step(Stage.DONE, "flood 0")
    assert len(queue.inside) == 5  # the last place is for one who has none
    await queue.step(Stage.DONE, "flood 1")
    assert queue.inside[5:] == ["polite 1"]
    await queue.close()


async def test_who_has_had_less_is_next_whatever_the_priority() -> None:
    queue = Queue(sequences=1)
    await queue.send("flood 0")
    await queue.send("third 0")  # takes the place that is kept for others
    await queue.send(*(f"flood {number}" for number in range(1, 30)), priority=100)
    await queue.send("polite 0")
    await queue.step(Stage.DONE, "flood 0")
    await queue.step(Stage.DONE, "third 0")
    assert queue.inside[2] == "polite 0"
    await queue.close()


async def test_priority_orders_the_requests_of_a_caller() -> None:
    queue = Queue(sequences=1)
    await queue.send("a 0")
    await queue.send("a low", priority=-5)
    await queue.send("a first", "a second")
    await queue.send("a high", priority=5)
    for name in ("a 0", "a high", "a first", "a second"):
        await queue.step(Stage.DONE, name)
    assert queue.inside == ["a 0", "a high", "a first", "a second", "a low"]
    await queue.close()


async def test_long_prompts_are_read_one_at_a_time_and_short_ones_pass() -> None:
    queue = Queue(sequences=8)
    await queue.send(*names("score", 3), tokens=4000)
    await queue.send("polite 0", "score small")
    assert queue.inside == ["score 0", "polite 0", "score small"]
    await queue.send("polite long", tokens=STEP + 1)
    await queue.step(Stage.READING, "score 0")
    assert len(queue.inside) == 3
    await queue.step(Stage.ANSWERING, "score 0")  # its prompt is read
    assert queue.inside[3:] == ["polite long"]  # although two of the other wait longer
    await queue.step(Stage.DONE, "polite long")
    assert queue.inside[4:] == ["score 1"]
    await queue.close()


async def test_the_engine_has_two_steps_of_short_prompts() -> None:
    queue = Queue(sequences=100)
    await queue.send(*names("a", 9), tokens=STEP // 2)
    assert len(queue.inside) == 4
    await queue.step(Stage.ANSWERING, "a 0")
    assert len(queue.inside) == 5
    await queue.close()


async def test_shares_are_counted_in_tokens() -> None:
    queue = Queue(sequences=1)
    await queue.send("third 0", "fourth 0")  # both places
    await queue.send(*names("big", 20), tokens=STEP)
    await queue.send(*names("small", 200), tokens=STEP // 10)
    await queue.step(Stage.DONE, "third 0")
    while len(queue.inside) < 80:
        await queue.step(Stage.DONE, queue.inside[-1])
    tokens = {name: sum(one.startswith(name) for one in queue.inside) for name in ("big", "small")}
    assert abs(tokens["big"] * STEP - tokens["small"] * STEP // 10) <= STEP
    await queue.close()


async def test_nobody_gets_rid_of_what_he_has_had_by_leaving() -> None:
    queue = Queue(sequences=1)
    await queue.send("keeper 0", "flood 0", tokens=STEP)
    await queue.step(Stage.DONE, "flood 0")
    await queue.send("polite 0", "flood 1", "polite 1")
    assert queue.inside[2] == "polite 0"
    await queue.step(Stage.DONE, "polite 0")
    assert queue.inside[3] == "polite 1"
    await queue.close()


async def test_who_leaves_makes_room() -> None:
    queue = Queue(sequences=1)
    await queue.send(*names("a", 4))
    queue.tasks["a 2"].cancel()
    await queue.settle()
    assert queue.turns.waiting == 2
    queue.tasks["a 0"].cancel()
    await queue.settle()
    assert queue.inside == ["a 0", "a 1"]
    await queue.step(Stage.DONE, "a 1")
    assert queue.inside[-1] == "a 3"
    await queue.close()


async def test_several_completions_take_several_places() -> None:
    queue = Queue(sequences=4)
    await queue.send("a 0", "a 1", sequences=3)
    await queue.send("b 0", sequences=16)  # counts as 4
    await queue.send("c 0")
    assert queue.inside == ["a 0", "b 0"]
    await queue.step(Stage.DONE, "b 0")
    assert queue.inside[2:] == ["c 0"]
    await queue.close()


async def test_who_holds_too_much_is_refused_and_others_are_not() -> None:
    queue = Queue(sequences=1, held=8)
    await queue.send(*names("flood", 9))
    assert refusal(queue.tasks["flood 8"]) == "QUEUE_FULL"
    await queue.send("polite 0")
    assert not queue.tasks["polite 0"].done() and queue.turns.waiting == 7
    await queue.close()


async def test_waiting_prompt_tokens_are_limited() -> None:
    queue = Queue(sequences=1, held_tokens=3 * STEP)
    await queue.send(*names("a", 4), tokens=STEP)
    assert refusal(queue.tasks["a 3"]) == "QUEUE_FULL"
    await queue.step(Stage.ANSWERING, "a 0")
    await queue.send("a again", tokens=STEP)
    assert not queue.tasks["a again"].done()
    await queue.close()


async def test_the_end() -> None:
    queue = Queue(sequences=1)
    await queue.send(*names("a", 3))
    queue.turns.close()
    await queue.send("b 0")
    assert [refusal(queue.tasks[name]) for name in ("a 1", "a 2", "b 0")] == ["SHUTTING_DOWN"] * 3
    await queue.close()


@pytest.mark.parametrize("places", [1, 2, 3, 4, 5, 8, 64, 1024])
async def test_a_caller_alone_gets_what_the_options_say(places: int) -> None:
    queue = Queue(sequences=places, held=2 * places + 2)
    await queue.send(*names("a", places + 2), tokens=0)
    assert len(queue.inside) == places < with_spare(places)
    await queue.close()


async def test_at_random_nothing_is_lost() -> None:
    chance = random.Random(0)
    queue = Queue(sequences=3, held=30)
    for number in range(400):
        name = f"{chance.choice('abc')} {number}"
        await queue.send(
            name, tokens=chance.choice([1, 50, 500]), sequences=chance.choice([1, 1, 5]), priority=number % 3
        )
        for one, task in queue.tasks.items():
            if not task.done() and chance.random() < 0.1:
                if chance.random() < 0.5:
                    task.cancel()
                elif one in queue.inside:
                    await queue.step(chance.choice([Stage.ANSWERING, Stage.DONE]), one)
        with suppress(KeyError):
            await queue.step(Stage.READING)
    while waiting := [one for one in queue.inside if not queue.tasks[one].done()]:
        await queue.step(Stage.DONE, *waiting)
    assert all(task.done() for task in queue.tasks.values())
    await queue.close()


def test_half_of_a_step_is_for_others() -> None:
    assert (long_part(512), long_part(33)) == (256, 17)
