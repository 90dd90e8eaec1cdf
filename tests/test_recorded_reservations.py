"""Recorded generations reserve and settle together with their rows."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from app.domain.api_key import NewSecret
from app.domain.caller import Caller
from app.domain.errors import (
    BudgetExhausted,
    ContentBlocked,
    GenerationNotFound,
    LimitReached,
    Overloaded,
    RateLimited,
    TooManyAtOnce,
    UpstreamBusy,
    UpstreamTimeout,
)
from app.domain.generation import Usage
from app.domain.limits import Budget, Limits, Period, Rate
from app.domain.recorded import NewGeneration, Outcome, Submission
from app.domain.spending import Charge, ImageCost
from app.store.callers import CallerStore
from app.store.generations import GenerationStore
from tests.callers import standing_of, usage_of
from tests.recorded import ANNA, answer, new, open_generations
from tests.storages import Overrides
from tests.stored_chats import execute, open_storage

UNIT = 130_000
PAID = 100_000
"""What an answer of the tests has cost."""
LIMITS = Limits(concurrent=10, budget=Budget(10 * UNIT, Period.DAY))


@asynccontextmanager
async def open_both(
    storage: Overrides, limits: Limits = LIMITS, **overrides: Any
) -> AsyncGenerator[tuple[GenerationStore, CallerStore]]:
    """Open the stores of generations and of callers, with one caller."""
    async with open_storage(storage, **overrides) as opened:
        callers = await opened.callers()
        await callers.add(ANNA.name, limits, NewSecret("0" * 64, "gim_0"))
        yield await opened.generations(), callers


def charged(prompt: str = "A cat", *, count: int = 1, **fields: Any) -> NewGeneration:
    return new(prompt, count=count, charge=Charge(count, UNIT, "a-model"), **fields)


async def end_leases(storage: Overrides) -> None:
    await execute(storage, "UPDATE generations SET lease_until = 0 WHERE lease_until IS NOT NULL")


async def sums(callers: CallerStore) -> tuple[int, int, int]:
    """Return Anna's running images, and what she has reserved and spent."""
    standing = await standing_of(callers, ANNA.owner, LIMITS)
    return standing.running, standing.reserved, standing.spent


async def usage(callers: CallerStore) -> list[tuple[str, int, int, int]]:
    found = await usage_of(callers, ANNA.owner)
    return [(row.model, row.images, row.tokens, row.micro_usd) for row in found.rows]


async def test_a_new_generation_reserves_and_its_repetitions_do_not(storage: Overrides) -> None:
    limits = replace(LIMITS, rate=Rate(2, "day"))
    async with open_both(storage, limits) as (store, callers):
        first = await store.submit(charged(count=2, idempotency_key="k", asked=True))
        joined = await store.submit(charged(count=2, idempotency_key="k", asked=True))
        counted = await store.submit(charged(retry_count=0, asked=True))
        taken_over = await store.submit(charged(retry_count=1, asked=True))
        found = await sums(callers)
        with pytest.raises(RateLimited):
            await store.submit(charged())
        repeated = await store.submit(charged(count=2, idempotency_key="k", asked=True))

    assert first.allowance is not None
    assert (first.allowance.requests_left, first.allowance.places_left) == (1, 8)
    assert first.allowance.micro_usd_left == 8 * UNIT
    assert counted.allowance is not None
    assert [one.allowance for one in (joined, taken_over, repeated)] == [None] * 3
    assert [one.is_new for one in (joined, taken_over, repeated)] == [False] * 3
    assert found == (3, 3 * UNIT, 0)


async def test_a_refused_generation_is_not_recorded(storage: Overrides) -> None:
    async with open_both(storage, max_queued_async=1) as (store, callers):
        refused = charged(count=11, idempotency_key="k", is_async=True)
        with pytest.raises(TooManyAtOnce):
            await store.submit(refused)
        with pytest.raises(GenerationNotFound):
            await store.get(refused.id, None)
        accepted = await store.submit(charged(count=9, idempotency_key="k", is_async=True))
        with pytest.raises(Overloaded):
            await store.submit(charged(is_async=True))
        found = await sums(callers)

    assert accepted.is_new
    assert found == (9, 9 * UNIT, 0)


async def test_simultaneous_generations_stay_within_the_budget(storage: Overrides) -> None:
    """Two replicas; each key is sent twice."""
    limits = Limits(budget=Budget(int(8.2 * UNIT), Period.DAY))
    async with open_both(storage, limits) as (store, callers), open_generations(storage) as other_replica:

        async def submit(number: int) -> Submission | LimitReached:
            try:
                return await (store, other_replica)[number % 2].submit(charged(idempotency_key=f"k{number // 2}"))
            except LimitReached as error:
                return error

        found = await asyncio.gather(*map(submit, range(60)))
        running = await sums(callers)

    served = [one for one in found if isinstance(one, Submission)]
    assert sum(one.is_new for one in served) == 8
    assert len(served) == 16
    assert all(isinstance(one, BudgetExhausted) for one in found if not isinstance(one, Submission))
    assert running == (8, 8 * UNIT, 0)


async def test_a_generation_is_settled_with_its_costs_once(storage: Overrides) -> None:
    caller = Caller("anna", keyed=True, end_user="u1")
    async with open_both(storage) as (store, callers):
        one = charged(count=2, caller=caller, asked=True, idempotency_key="k")
        await store.submit(one)
        made = await store.keep_answer(one.id, 0, answer(), None)
        costs = [ImageCost("a-model", 1, 3, 123_456, unknown_calls=1), ImageCost("a-model", 0, 5, 7)]
        for _ in range(2):
            outcomes: list[Outcome] = [made, ContentBlocked("no")]
            await store.settle(one.id, "here", outcomes, attempts=3, is_converted=True, costs=costs)
        found = await usage(callers)
        users = [(row.end_user, row.micro_usd) for row in (await usage_of(callers, ANNA.owner)).end_users]
        after = await sums(callers)

    assert found == [("a-model", 1, 8, 123_463 + UNIT)]
    assert users == [("u1", 123_463 + UNIT)]
    assert after == (0, 0, 123_463 + UNIT)


async def test_without_costs_the_outcomes_tell_them(storage: Overrides) -> None:
    async with open_both(storage) as (store, callers):
        free = charged()
        await store.submit(free)
        await store.settle(free.id, "here", [UpstreamBusy("busy")], attempts=2, is_converted=False)
        nothing = (await sums(callers), await usage(callers))
        one = charged(count=3, asked=True, idempotency_key="k")
        await store.submit(one)
        outcomes: list[Outcome] = [
            await store.keep_answer(one.id, 0, answer(), None),
            ContentBlocked("no", model="another", usage=Usage(1, 2, total_tokens=3, estimated_cost_usd=0.000_002)),
            UpstreamTimeout("late", waited_for="answer", may_have_cost=True),
        ]
        await store.settle(one.id, "here", outcomes, attempts=3, is_converted=False)
        found = await usage(callers)
        after = await sums(callers)

    assert nothing == ((0, 0, 0), [])
    assert found == [("a-model", 1, 3, PAID + UNIT), ("another", 0, 3, 2)]
    assert after == (0, 0, PAID + UNIT + 2)


async def test_a_cancelled_generation_gives_back_what_it_has_reserved(storage: Overrides) -> None:
    async with open_both(storage) as (store, callers):
        one = charged(count=2, is_async=True)
        await store.submit(one)
        before = await sums(callers)
        await store.delete(one.id, ANNA.owner)
        after = await sums(callers)
        found = await usage(callers)

    assert (before, after, found) == ((2, 2 * UNIT, 0), (0, 0, 0), [])


async def test_what_was_not_asked_is_given_back_unless_it_waits_again(storage: Overrides) -> None:
    async with open_both(storage) as (store, callers):
        await store.submit(charged(is_async=True))
        await store.submit(charged(count=2))
        await store.claim(["there"])
        await end_leases(storage)
        reaped = await store.reap()
        others = await callers.reap()
        after = await sums(callers)

    assert (reaped.requeued, reaped.removed, others) == (1, 1, 0)
    assert after == (1, UNIT, 0)


async def test_a_dead_process_has_spent_what_its_answers_say_or_all_that_it_reserved(storage: Overrides) -> None:
    """One of three answers was stored. Two images had reserved for a second call."""
    async with open_both(storage) as (store, callers):
        one = charged(count=3, asked=True, idempotency_key="k")
        await store.submit(one)
        await store.keep_answer(one.id, 1, answer(), None)
        extended = [await callers.extend(f"{one.id}.{place}") for place in (0, 1)]
        before = await sums(callers)
        await end_leases(storage)
        reaped = await store.reap()
        found = await usage(callers)
        after = await sums(callers)

    assert extended == [True, True]
    assert before == (3, 5 * UNIT, 0)
    assert reaped.recovered == 1
    assert found == [("a-model", 1, 3, PAID + 4 * UNIT)]
    assert after == (0, 0, PAID + 4 * UNIT)


async def test_a_stored_answer_without_a_known_cost_is_booked_as_reserved(storage: Overrides) -> None:
    async with open_both(storage) as (store, callers):
        one = charged(asked=True, idempotency_key="k")
        await store.submit(one)
        await store.keep_answer(one.id, 0, replace(answer(), usage=Usage(total_tokens=9)), None)
        assert await store.recover(one.id)
        found = await usage(callers)

    assert found == [("a-model", 1, 9, UNIT)]


async def test_a_late_answer_is_not_booked_again(storage: Overrides) -> None:
    async with open_both(storage) as (store, callers):
        one = charged(asked=True, idempotency_key="k")
        await store.submit(one)
        await end_leases(storage)
        assert (await store.reap()).interrupted == 1
        kept = await store.keep_answer(one.id, 0, answer(), None)
        costs = [ImageCost("a-model", 1, 3, PAID)]
        await store.settle(one.id, "here", [kept], attempts=1, is_converted=True, costs=costs)
        extended = await callers.extend(f"{one.id}.0")
        found = await usage(callers)

    assert not extended
    assert found == [("a-model", 0, 0, UNIT)]
