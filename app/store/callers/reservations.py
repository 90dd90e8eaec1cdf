"""Reservations: what requests in progress may cost. One row for each image, with the id `{base_id}.{place}`.

The base id of a recorded generation is its id. Its reservations are deleted with it. Others have a lease.

The row of the caller is locked while its limits are compared with the sums of its rows, so that concurrent requests are
decided one after the other. Settling takes no such lock: it moves an amount from one table to another at once.
"""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import String, bindparam, case, delete, func, insert, select, update
from sqlalchemy.engine import Connection

from app.domain.caller import Caller
from app.domain.errors import LeaseLost
from app.domain.limit_check import check_limits
from app.domain.limits import UNLIMITED, Allowance, Budget, Limits, Standing
from app.domain.spending import Charge, ImageCost
from app.store.callers.booking import Booking, Entry
from app.store.callers.rows import LIMIT_COLUMNS, OWNER_PREFIX, limits_of
from app.store.database import Database
from app.store.tables import callers, reservations, usage

_BATCH = 100

_NO_DAYS = "", ""
"""Earlier than any date: without a budget no amounts are added up."""


class Reservations:
    """Statements on reservations. Each method runs inside the transaction of the given connection."""

    def __init__(self, database: Database, lease_seconds: float) -> None:
        """
        Args:
            database: of the rows.
            lease_seconds: duration of a lease that is not renewed.
        """
        self._database = database
        self._lease_seconds = lease_seconds
        self._booking = Booking(database)
        now = database.now
        this = reservations.c.id == bindparam("this")
        owner = bindparam("of", type_=String)
        days = bindparam("first", type_=String), bindparam("last", type_=String)
        spent = select(func.sum(usage.c.micro_usd)).where(usage.c.owner == owner, usage.c.date.between(*days))
        amount = reservations.c.unit_micro_usd * reservations.c.units
        # Built once: SQLAlchemy takes longer to build a statement than the database to run it.
        self._lock = (
            select(*LIMIT_COLUMNS, callers.c.tat, now.label("now"))
            .where(callers.c.name == bindparam("this"))
            .with_for_update()
        )
        self._sums = select(
            now.label("now"),
            func.count().label("running"),
            func.sum(case((reservations.c.date.between(*days), amount), else_=0)).label("reserved"),
            spent.scalar_subquery().label("spent"),
        ).where(reservations.c.owner == owner)
        self._set_tat = update(callers).where(callers.c.name == bindparam("this")).values(tat=bindparam("new_tat"))
        self._insert = insert(reservations)
        self._ask = update(reservations).where(this).values(asked=True).returning(reservations.c.id)
        self._get = select(reservations).where(this)
        self._extend = update(reservations).where(this).values(units=reservations.c.units + 1)
        self._delete = delete(reservations).where(this).returning(*reservations.c)
        self._delete_of_generation = (
            delete(reservations).where(reservations.c.generation_id == bindparam("this")).returning(*reservations.c)
        )
        dead = reservations.c.lease_until < now
        self._any_dead = select(reservations.c.id).where(dead).limit(1)
        self._dead = select(reservations.c.id).where(dead).limit(_BATCH).with_for_update(skip_locked=True)
        self._delete_dead = (
            delete(reservations)
            .where(reservations.c.id.in_(bindparam("ids", expanding=True)))
            .returning(*reservations.c)
        )

    def reserve(
        self,
        connection: Connection,
        caller: Caller,
        charge: Charge,
        base_id: str,
        *,
        holder: str | None = None,
        generation_id: str | None = None,
        asked: bool = False,
    ) -> Allowance:
        """Decide on a request by the limits that the database has of its caller, and reserve what it may cost.

        Args:
            connection: of the transaction.
            caller: who sends the request.
            charge: what it takes of the limits.
            base_id: start of the ids of the rows.
            holder: of their lease, without a recorded generation.
            generation_id: of the recorded generation, whose row exists.
            asked: whether Gemini is asked next.

        Returns:
            What is left.

        Raises:
            RateLimited, TooManyAtOnce, BudgetExhausted: the request is over a limit. The transaction must end with it.
        """
        row = connection.execute(self._lock, {"this": caller.name}).one_or_none() if caller.keyed else None
        limits, tat, guess = (UNLIMITED, None, 0.0) if row is None else (limits_of(row), row.tat, row.now)
        standing = self.standing(connection, caller.owner, limits, tat, guess)
        allowance = check_limits(limits, standing, charge.count, charge.count * charge.unit)
        if limits.rate is not None:
            connection.execute(self._set_tat, {"this": caller.name, "new_tat": allowance.tat})
        values = {
            "owner": caller.owner,
            "generation_id": generation_id,
            "date": _date(standing.now).isoformat(),
            "model": charge.model,
            "end_user": caller.end_user,
            "unit_micro_usd": charge.unit,
            "units": 1,
            "asked": asked,
            "lease_holder": holder,
            "lease_until": None if holder is None else standing.now + self._lease_seconds,
        }
        connection.execute(self._insert, [{"id": f"{base_id}.{place}", **values} for place in range(charge.count)])
        return allowance

    def standing(self, connection: Connection, owner: str, limits: Limits, tat: float | None, guess: float) -> Standing:
        """Return the sums of the owner's reservations and usage. Concurrent transactions change them together.

        Args:
            connection: of the transaction.
            owner: of the rows.
            limits: whose budget's period counts.
            tat: what the result has.
            guess: about the time by the database's clock. If the period has changed, the sums are read again.
        """
        while True:
            days = _days(limits.budget, _date(guess))
            row = connection.execute(self._sums, {"of": owner, "first": days[0], "last": days[1]}).one()
            if _days(limits.budget, _date(row.now)) == days:
                return Standing(row.now, tat, row.running, int(row.spent or 0), int(row.reserved or 0))
            guess = row.now

    def mark_asked(self, connection: Connection, id_: str) -> None:
        """See `CallerStore.mark_asked`."""
        if connection.execute(self._ask, {"this": id_}).first() is None:
            raise LeaseLost("The reservation of this image is gone.")

    def extend(self, connection: Connection, id_: str) -> bool:
        """See `CallerStore.extend`."""
        row = connection.execute(self._get, {"this": id_}).one_or_none()
        if row is None:
            return False
        if row.owner.startswith(OWNER_PREFIX):
            caller = connection.execute(self._lock, {"this": row.owner.removeprefix(OWNER_PREFIX)}).one_or_none()
            budget = None if caller is None else limits_of(caller).budget
            first, last = _days(budget, date.fromisoformat(row.date))
            sums = connection.execute(self._sums, {"of": row.owner, "first": first, "last": last}).one()
            used = int(sums.spent or 0) + int(sums.reserved or 0)
            if budget is not None and used + row.unit_micro_usd > budget.micro_usd:
                return False
        extended: int = connection.execute(self._extend, {"this": id_}).rowcount
        return extended > 0

    def settle(self, connection: Connection, id_: str, cost: ImageCost) -> None:
        """See `CallerStore.settle`."""
        row = connection.execute(self._delete, {"this": id_}).one_or_none()
        if row is not None:
            self._booking.book(connection, _entries(row, cost))

    def settle_generation(
        self, connection: Connection, generation_id: str, cost: Callable[[int, int], ImageCost]
    ) -> None:
        """Delete the reservations of a recorded generation, and book the costs. Nothing is booked twice.

        Args:
            connection: of the transaction.
            generation_id: of the recorded generation.
            cost: returns the cost of an image. Its arguments are the place of the image, and for how many calls to
                Gemini it has reserved.
        """
        rows = connection.execute(self._delete_of_generation, {"this": generation_id}).all()
        entries = [one for row in rows for one in _entries(row, cost(_place(row.id), row.units))]
        self._booking.book(connection, entries)

    def release(self, connection: Connection, base_id: str, count: int) -> None:
        """See `CallerStore.release`."""
        for place in range(count):
            connection.execute(self._delete, {"this": f"{base_id}.{place}"})

    def release_generation(self, connection: Connection, generation_id: str) -> None:
        """Give back what a recorded generation has reserved."""
        connection.execute(self._delete_of_generation, {"this": generation_id})

    def are_any_dead(self, connection: Connection) -> bool:
        """Return whether any lease has ended."""
        return connection.execute(self._any_dead).first() is not None

    def reap(self, connection: Connection) -> int:
        """Settle reservations whose lease has ended, at most one batch. Return their number."""
        ids = connection.execute(self._dead).scalars().all()
        if not ids:
            return 0
        rows = connection.execute(self._delete_dead, {"ids": ids}).all()
        unknown = (_entries(row, ImageCost(row.model, unknown_calls=row.units)) for row in rows if row.asked)
        self._booking.book(connection, [entry for entries in unknown for entry in entries])
        return len(rows)


def _entries(row: Any, cost: ImageCost) -> list[Entry]:
    """Return what is booked for a reservation with this cost."""
    unknown = Entry(row.owner, row.date, row.model, row.end_user, micro_usd=cost.unknown_calls * row.unit_micro_usd)
    known = Entry(row.owner, row.date, cost.model, row.end_user, cost.images, cost.tokens, cost.micro_usd)
    return [known, unknown]


def _place(id_: str) -> int:
    return int(id_.rpartition(".")[2])


def _date(now: float) -> date:
    return datetime.fromtimestamp(now, UTC).date()


def _days(budget: Budget | None, day: date) -> tuple[str, str]:
    """Return the first and the last day of the budget's period that has the day."""
    if budget is None:
        return _NO_DAYS
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    last = budget.per.end(noon) - timedelta(days=1)
    return budget.per.first_day(noon).isoformat(), last.date().isoformat()
