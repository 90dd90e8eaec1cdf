"""The store of callers: keys, reservations within limits, and usage, with two replicas on one database."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.domain.api_key import CallerRecord, NewSecret
from app.domain.caller import Caller
from app.domain.errors import (
    BudgetExhausted,
    KeyExists,
    KeyNotFound,
    LeaseLost,
    LimitReached,
    RateLimited,
    TooManyAtOnce,
)
from app.domain.limits import UNLIMITED, Allowance, Budget, Limits, Period, Rate
from app.domain.spending import BudgetState, Charge, EndUserRow, ImageCost
from app.store.callers import CallerStore
from tests.callers import standing_of, usage_of
from tests.conftest import Serve
from tests.recorded import ANNA, BOB
from tests.storages import Overrides
from tests.stored_chats import execute, fetched, open_storage

UNIT = 130_000
TODAY = datetime.now(UTC).date()
CHARGE = Charge(1, UNIT, "a-model")
NOTHING = ImageCost("a-model")
LIMITS = Limits(Rate(60, "min"), 4, Budget(20_000_000, Period.DAY), "2K", ("a-model", "flash"))


@asynccontextmanager
async def open_callers(storage: Overrides, replicas: int = 1) -> AsyncGenerator[list[CallerStore]]:
    """Open the store of callers without a service, once for each replica."""
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(open_storage(storage)) for _ in range(replicas)]
        yield [await one.callers() for one in opened]


async def add(store: CallerStore, limits: Limits = UNLIMITED, name: str = "anna", **fields: Any) -> CallerRecord:
    return await store.add(name, limits, secret(name), **fields)


def secret(text: str, expires_in: float | None = None) -> NewSecret:
    return NewSecret(text.encode().hex().ljust(64, "0"), f"gim_{text}"[:12], expires_in)


async def end_leases(storage: Overrides) -> None:
    await execute(storage, "UPDATE reservations SET lease_until = 0 WHERE lease_until IS NOT NULL")


async def outcomes(stores: list[CallerStore], count: int, charge: Charge = CHARGE) -> list[Allowance | LimitReached]:
    """Send many requests of Anna at once, to all replicas in turn."""

    async def one(number: int) -> Allowance | LimitReached:
        try:
            return await stores[number % len(stores)].reserve(ANNA, charge, f"r{number}", "here", asked=True)
        except LimitReached as error:
            return error

    return await asyncio.gather(*map(one, range(count)))


def count(found: list[Any], kind: type[Any]) -> int:
    return sum(isinstance(one, kind) for one in found)


async def spent_and_reserved(store: CallerStore, limits: Limits, owner: str = ANNA.owner) -> tuple[int, int]:
    standing = await standing_of(store, owner, limits)
    return standing.spent, standing.reserved


async def days(store: CallerStore, owner: str = ANNA.owner) -> list[tuple[Any, ...]]:
    """Return the rows of usage, with how many days ago they are."""
    today = datetime.now(UTC).date()
    found = await usage_of(store, owner, from_days_ago=400, to_days_ago=-1)
    return [((today - row.date).days, row.model, row.images, row.tokens, row.micro_usd) for row in found.rows]


async def test_a_key_is_read_as_it_was_written(storage: Overrides) -> None:
    async with open_callers(storage) as [store]:
        added = await add(store, LIMITS, track_users=True)
        plain = await add(store, name="bob")
        found = await store.get("anna")
        known = await store.find([secret("anna").digest, secret("nobody").digest])
        named = await store.limits_of(["bob", "nobody"])
        everyone = await store.all()

    assert (added.limits, added.track_users, added.is_valid) == (LIMITS, True, True)
    assert [one.hint for one in added.secrets] == ["gim_anna"]
    assert (plain.limits, plain.track_users) == (UNLIMITED, False)
    assert found == added
    assert everyone == [added, plain]
    assert [(one.name, one.limits, one.track_users) for one in known.values()] == [("anna", LIMITS, True)]
    assert [(name, one.limits) for name, one in named.items()] == [("bob", UNLIMITED)]


async def test_a_name_has_one_key_until_that_is_revoked(storage: Overrides) -> None:
    async with open_callers(storage) as [store]:
        await add(store, Limits(Rate(1, "day")))
        await store.reserve(ANNA, CHARGE, "r", "here", asked=True)
        with pytest.raises(KeyExists, match="anna"):
            await add(store)
        revoked = await store.revoke("anna")
        lost = await store.find([secret("anna").digest])
        again = await store.add("anna", Limits(Rate(2, "day")), secret("second"))
        known = await store.find([secret("anna").digest, secret("second").digest])
        left = await store.reserve(ANNA, CHARGE, "r2", "here", asked=True)

    assert (revoked.is_valid, lost) == (False, {})
    assert [one.is_valid for one in again.secrets] == [True, False]
    assert again.limits == Limits(Rate(2, "day"))
    assert [*known] == [secret("second").digest]
    assert left.requests_left == 1


async def test_a_name_whose_secrets_have_expired_is_free(storage: Overrides) -> None:
    async with open_callers(storage) as [store]:
        await store.add("anna", UNLIMITED, secret("anna", expires_in=0))
        known = await store.find([secret("anna").digest])
        again = await store.add("anna", UNLIMITED, secret("second", expires_in=60))

    assert known == {}
    assert [one.is_valid for one in again.secrets] == [True, False]


async def test_of_simultaneous_additions_of_one_name_one_succeeds(storage: Overrides) -> None:
    async with open_callers(storage, 2) as stores:
        found = await asyncio.gather(
            *(stores[number % 2].add("anna", UNLIMITED, secret(f"s{number}")) for number in range(10)),
            return_exceptions=True,
        )

    assert (count(found, CallerRecord), count(found, KeyExists)) == (1, 9)


async def test_verbs_for_an_unknown_name_fail(storage: Overrides) -> None:
    async with open_callers(storage) as [store]:
        for verb in (
            store.get("anna"),
            store.change("anna", {"concurrent": 1}),
            store.rotate("anna", secret("s"), 1),
            store.revoke("anna"),
        ):
            with pytest.raises(KeyNotFound, match="anna"):
                await verb


async def test_a_change_keeps_what_it_does_not_name(storage: Overrides) -> None:
    async with open_callers(storage) as [store]:
        await add(store, LIMITS, track_users=True)
        nothing = await store.change("anna", {})
        changed = await store.change("anna", {"concurrent": 9, "models": ()}, 60)
        bare = await store.change(
            "anna", {"rate": None, "budget": None, "max_size": None, "concurrent": None, "track_users": False}, None
        )
        budget = await store.change("anna", {"budget": Budget(300_000, Period.MONTH), "rate": Rate(6, "hour")})

    assert (nothing.limits, nothing.track_users) == (LIMITS, True)
    assert changed.limits == Limits(LIMITS.rate, 9, LIMITS.budget, "2K", ())
    assert changed.secrets[0].expires_at is not None
    assert (bare.limits, bare.track_users, bare.secrets[0].expires_at) == (UNLIMITED, False, None)
    assert budget.limits == Limits(Rate(6, "hour"), budget=Budget(300_000, Period.MONTH))


async def test_another_rate_does_not_wait_for_the_requests_of_the_earlier_one(storage: Overrides) -> None:
    async with open_callers(storage) as [store]:
        await add(store, Limits(Rate(1, "day")))
        await store.reserve(ANNA, CHARGE, "a", "here", asked=True)
        await store.change("anna", {"rate": Rate(1, "day")})
        with pytest.raises(RateLimited):
            await store.reserve(ANNA, CHARGE, "b", "here", asked=True)
        await store.change("anna", {"rate": Rate(2, "day")})
        left = await store.reserve(ANNA, CHARGE, "b", "here", asked=True)

    assert left.requests_left == 1


async def test_a_rotated_secret_is_valid_until_the_overlap_ends(storage: Overrides) -> None:
    async with open_callers(storage) as [store]:
        await store.add("anna", UNLIMITED, secret("first", expires_in=30))
        rotated = await store.rotate("anna", secret("second"), 60)
        both = await store.find([secret("first").digest, secret("second").digest])
        ended = await store.rotate("anna", secret("third"), 0)
        last = await store.find([secret(one).digest for one in ("first", "second", "third")])

    newest, oldest = rotated.secrets
    assert newest.expires_at is None
    assert oldest.expires_at is not None
    assert oldest.expires_at < newest.created_at + 31  # the overlap does not make it longer
    assert len(both) == 2
    assert [one.is_valid for one in ended.secrets] == [True, False, False]
    assert [*last] == [secret("third").digest]


async def test_simultaneous_requests_stay_within_the_budget(storage: Overrides) -> None:
    """Sixty requests on two replicas against a budget of 8.2 reservations. Images cost less than was reserved."""
    budget = Budget(int(8.2 * UNIT), Period.DAY)
    limits = Limits(budget=budget)
    most = 0
    is_over = asyncio.Event()
    async with open_callers(storage, 2) as stores:
        await add(stores[0], limits)

        async def watch() -> None:
            nonlocal most
            while not is_over.is_set():
                most = max(most, sum(await spent_and_reserved(stores[1], limits)))

        watching = asyncio.create_task(watch())
        found = await outcomes(stores, 60)
        first = await spent_and_reserved(stores[0], limits)
        served = [number for number, one in enumerate(found) if isinstance(one, Allowance)]
        await asyncio.gather(
            *(stores[one % 2].settle(f"r{one}.0", ImageCost("a-model", 1, 10, UNIT // 2)) for one in served)
        )
        second = await outcomes(stores, 60)
        most = max(most, sum(await spent_and_reserved(stores[0], limits)))
        is_over.set()
        await watching

    assert (count(found, Allowance), count(found, BudgetExhausted)) == (8, 52)
    assert first == (0, 8 * UNIT)
    assert (count(second, Allowance), count(second, BudgetExhausted)) == (4, 56)
    assert most == 8 * UNIT <= budget.micro_usd


async def test_simultaneous_requests_stay_within_the_rate(storage: Overrides) -> None:
    async with open_callers(storage, 2) as stores:
        await add(stores[0], Limits(Rate(100, "hour")))
        found = await outcomes(stores, 150)

    assert (count(found, Allowance), count(found, RateLimited)) == (100, 50)
    assert sorted(one.requests_left or 0 for one in found if isinstance(one, Allowance)) == [*range(100)]


async def test_simultaneous_requests_stay_within_the_places(storage: Overrides) -> None:
    async with open_callers(storage, 2) as stores:
        await add(stores[0], Limits(concurrent=7))
        found = await outcomes(stores, 40, Charge(2, UNIT, "a-model"))
        served = [number for number, one in enumerate(found) if isinstance(one, Allowance)]
        await stores[1].settle(f"r{served[0]}.0", NOTHING)
        with pytest.raises(TooManyAtOnce):
            await stores[0].reserve(ANNA, Charge(3, UNIT, "a-model"), "more", "here", asked=True)
        left = await stores[0].reserve(ANNA, Charge(2, UNIT, "a-model"), "more", "here", asked=True)

    assert (count(found, Allowance), count(found, TooManyAtOnce)) == (3, 37)
    assert left.places_left == 0


async def test_a_refused_request_takes_nothing(storage: Overrides) -> None:
    limits = Limits(Rate(2, "day"), 3, Budget(2 * UNIT, Period.MONTH))
    async with open_callers(storage) as [store]:
        await add(store, limits)
        for _ in range(3):
            with pytest.raises(TooManyAtOnce) as too_many:
                await store.reserve(ANNA, Charge(4, 1, "a-model"), "r", "here", asked=True)
            with pytest.raises(BudgetExhausted):
                await store.reserve(ANNA, Charge(3, UNIT, "a-model"), "r", "here", asked=True)
        before = await standing_of(store, ANNA.owner, limits)
        left = await store.reserve(ANNA, Charge(2, UNIT, "a-model"), "r", "here", asked=True)
        after = await standing_of(store, ANNA.owner, limits)

    assert too_many.value.allowance.requests_left == 2
    assert (before.tat, before.running, before.reserved) == (None, 0, 0)
    assert (left.requests_left, left.places_left, left.micro_usd_left) == (1, 1, 0)
    assert (after.running, after.spent, after.reserved) == (2, 0, 2 * UNIT)
    assert after.tat == left.tat


async def test_the_limits_are_those_of_the_database(storage: Overrides) -> None:
    """A replica may not yet know of a change. Who has no limits there reserves all the same."""
    stale = Caller("anna", keyed=True, limits=Limits(concurrent=1))
    async with open_callers(storage) as [store]:
        nobody = await store.reserve(Caller("anonymous", limits=stale.limits), CHARGE, "a", "here", asked=True)
        unknown = await store.reserve(stale, Charge(2, UNIT, "a-model"), "b", "here", asked=True)
        await add(store, Limits(concurrent=3))
        known = await store.reserve(stale, CHARGE, "c", "here", asked=True)
        standing = await standing_of(store, "anonymous", UNLIMITED)

    assert nobody == unknown == Allowance(UNLIMITED)
    assert known.places_left == 0
    assert standing.running == 1


async def test_an_image_is_settled_once(storage: Overrides) -> None:
    limits = Limits(budget=Budget(10 * UNIT, Period.DAY))
    caller = Caller("anna", keyed=True, end_user="u1")
    async with open_callers(storage) as [store]:
        await add(store, limits)
        await store.reserve(caller, Charge(3, UNIT, "a-model"), "r", "here", asked=True)
        for _ in range(2):
            await store.settle("r.0", ImageCost("a-model", 1, 1120, 134_567))
            await store.settle("r.1", ImageCost("another", 0, 20, 40, unknown_calls=2))
        before = await spent_and_reserved(store, limits)
        await store.settle("r.2", NOTHING)
        found = await days(store)
        after = await spent_and_reserved(store, limits)
        users = (await usage_of(store, caller.owner)).end_users

    assert found == [(0, "a-model", 1, 1120, 134_567 + 2 * UNIT), (0, "another", 0, 20, 40)]
    assert before == (134_607 + 2 * UNIT, UNIT)
    assert after == (134_607 + 2 * UNIT, 0)
    assert users == (EndUserRow("u1", 1, 1140, 134_607 + 2 * UNIT),)


async def test_what_was_reserved_is_given_back(storage: Overrides) -> None:
    async with open_callers(storage) as [store]:
        await add(store, Limits(concurrent=2))
        await store.reserve(ANNA, Charge(2, UNIT, "a-model"), "r", "here", asked=False)
        await store.release("r", 2)
        left = await store.reserve(ANNA, CHARGE, "r", "here", asked=False)
        await store.mark_asked("r.0")
        with pytest.raises(LeaseLost):
            await store.mark_asked("r.1")
        found = await days(store)

    assert (left.places_left, found) == (1, [])


async def test_costs_belong_to_the_period_of_the_reservation(storage: Overrides) -> None:
    """The reservation was made on another day, whose budget it uses."""
    limits = Limits(concurrent=3, budget=Budget(2 * UNIT + 10, Period.DAY))
    async with open_callers(storage) as [store]:
        await add(store, limits)
        for id_ in ("a", "b"):
            await store.reserve(ANNA, CHARGE, id_, "here", asked=True)
        yesterday = datetime.now(UTC).date() - timedelta(days=1)
        await execute(storage, f"UPDATE reservations SET date = '{yesterday}'")
        left = await store.reserve(ANNA, CHARGE, "c", "here", asked=True)
        extended = [await store.extend("a.0"), await store.extend("c.0"), await store.extend("c.0")]
        await store.settle("a.0", ImageCost("a-model", 1, 10, 5))
        again = await store.extend("b.0")
        await store.settle("c.0", ImageCost("a-model", 1, 10, 7))
        found = await days(store)

    assert (left.places_left, left.micro_usd_left) == (0, UNIT + 10)
    assert extended == [False, True, False]
    assert again
    assert found == [(1, "a-model", 1, 10, 5), (0, "a-model", 1, 10, 7)]


async def test_a_second_call_needs_budget_for_it(storage: Overrides) -> None:
    limits = Limits(budget=Budget(12 * UNIT, Period.MONTH))
    async with open_callers(storage, 2) as stores:
        await add(stores[0], limits)
        await outcomes(stores, 8)
        extended = await asyncio.gather(*(stores[one % 2].extend(f"r{one}.0") for one in range(8)))
        reserved = await spent_and_reserved(stores[0], limits)
        await stores[0].change("anna", {"budget": None})
        unlimited = await stores[0].extend("r0.0")
        missing = await stores[0].extend("other.0")

    assert (sum(extended), reserved) == (4, (0, 12 * UNIT))
    assert (unlimited, missing) == (True, False)


async def test_reservations_of_a_dead_process_are_booked_if_gemini_was_asked(storage: Overrides) -> None:
    limits = Limits(budget=Budget(100 * UNIT, Period.DAY))
    async with open_callers(storage, 2) as stores, open_storage(storage) as opened:
        await add(stores[0], limits)
        await stores[0].reserve(ANNA, Charge(2, UNIT, "a-model"), "asked", "dead", asked=False)
        await stores[0].mark_asked("asked.0")
        await stores[0].extend("asked.0")
        await stores[0].reserve(ANNA, CHARGE, "alive", "alive", asked=True)
        untouched = await stores[0].reap()
        await end_leases(storage)
        await (await opened.leases()).renew(["alive"])
        reaped = await asyncio.gather(*(one.reap() for one in stores))
        await stores[0].settle("asked.0", ImageCost("a-model", 1, 10, 10))
        found = await days(stores[0])
        left = await spent_and_reserved(stores[0], limits)

    assert (untouched, sum(reaped)) == (0, 2)
    assert found == [(0, "a-model", 0, 0, 2 * UNIT)]
    assert left == (2 * UNIT, UNIT)


async def test_a_running_service_settles_reservations_of_dead_processes(serve: Serve, storage: Overrides) -> None:
    async with open_callers(storage) as [store]:
        await store.reserve(ANNA, CHARGE, "r", "dead", asked=True)
        await end_leases(storage)
        async with serve(**storage, chat_lease_seconds=1), asyncio.timeout(20):
            while not (found := await days(store)):  # noqa: ASYNC110 - the database has no event to wait for
                await asyncio.sleep(0.05)

    assert found == [(0, "a-model", 0, 0, UNIT)]


async def test_many_reservations_of_dead_processes_are_reaped(storage: Overrides) -> None:
    async with open_callers(storage, 2) as stores:
        for number in range(3):
            await stores[0].reserve(ANNA, Charge(100, UNIT, "a-model"), f"r{number}", "dead", asked=True)
        await end_leases(storage)
        reaped = await asyncio.gather(*(one.reap() for one in stores * 2))
        found = await days(stores[0])
        rows = await fetched(storage, "SELECT id FROM reservations")

    assert sum(reaped) == 300
    assert found == [(0, "a-model", 0, 0, 300 * UNIT)]
    assert rows == []


async def test_simultaneous_bookings_add_up(storage: Overrides) -> None:
    entries = {
        (owner, TODAY, model, user): (1, 10, 100)
        for owner in (ANNA.owner, BOB.owner)
        for model in ("a", "b")
        for user in ("u1", None)
    }
    orders: list[Callable[[Any], Any]] = [list, lambda items: [*reversed([*items])]]
    async with open_callers(storage, 2) as stores:
        await asyncio.gather(
            *(stores[one % 2].record(dict(orders[one // 2 % 2](entries.items()))) for one in range(40))
        )
        found = [await days(stores[0], owner) for owner in (ANNA.owner, BOB.owner, "key:nobody")]
        users = (await usage_of(stores[0], ANNA.owner)).end_users
        earlier = (await usage_of(stores[0], ANNA.owner, from_days_ago=9_000, to_days_ago=1)).rows

    assert found == [[(0, "a", 80, 800, 8_000), (0, "b", 80, 800, 8_000)]] * 2 + [[]]
    assert users == (EndUserRow("u1", 80, 800, 8_000),)
    assert earlier == ()


async def test_budgets_are_listed_with_what_is_used_of_them(storage: Overrides) -> None:
    day, month = Budget(10 * UNIT, Period.DAY), Budget(20 * UNIT, Period.MONTH)
    async with open_callers(storage) as [store]:
        await add(store, Limits(budget=day))
        await add(store, Limits(budget=month), "bob")
        await add(store, name="carl")
        await store.reserve(ANNA, CHARGE, "a", "here", asked=True)
        await store.reserve(BOB, Charge(2, UNIT, "a-model"), "b", "here", asked=True)
        await store.record(
            {(ANNA.owner, TODAY, "a-model", None): (1, 10, 70), (BOB.owner, TODAY, "a-model", None): (1, 10, 80)}
        )
        now = await store.budgets()
        await execute(storage, "UPDATE usage SET date = '2020-01-31'")
        await execute(storage, "UPDATE reservations SET date = '2020-01-31'")
        later = await store.budgets()

    assert now == [BudgetState("anna", day, 70, UNIT), BudgetState("bob", month, 80, 2 * UNIT)]
    assert later == [BudgetState("anna", day, 0, 0), BudgetState("bob", month, 0, 0)]
