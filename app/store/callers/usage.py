"""Read and add usage."""

from collections.abc import Mapping
from datetime import UTC, date, datetime

from sqlalchemy import String, bindparam, case, func, literal, select
from sqlalchemy.engine import Connection

from app.domain.limits import Budget, Limits, Period
from app.domain.spending import BudgetState, CallerUsage, EndUserRow, UsageRow
from app.store.callers.booking import Booking, Entry
from app.store.callers.reservations import Reservations
from app.store.callers.rows import OWNER_PREFIX
from app.store.database import Database
from app.store.tables import callers, end_user_usage, reservations, usage

Amounts = tuple[int, int, int]
"""Images, tokens and micro-dollars."""


class UsageRows:
    """See `CallerStore`, which has the same verbs."""

    def __init__(self, database: Database, reserved: Reservations) -> None:
        self._database = database
        self._reserved = reserved
        self._booking = Booking(database)
        self._now = select(database.now)
        of = bindparam("of", type_=String)
        days = bindparam("first", type_=String), bindparam("last", type_=String)
        by_model, by_user = usage.c, end_user_usage.c
        self._by_model = (
            select(by_model.date, by_model.model, by_model.images, by_model.tokens, by_model.micro_usd)
            .where(by_model.owner == of, by_model.date.between(*days))
            .order_by(by_model.date, by_model.model)
        )
        sums = func.sum(by_user.images), func.sum(by_user.tokens), func.sum(by_user.micro_usd)
        self._by_end_user = (
            select(by_user.end_user, *sums)
            .where(by_user.owner == of, by_user.date.between(*days))
            .group_by(by_user.end_user)
            .order_by(by_user.end_user)
        )
        self._tat = select(callers.c.tat).where(literal(OWNER_PREFIX) + callers.c.name == of)
        amount = reservations.c.unit_micro_usd * reservations.c.units
        self._all_reserved = select(func.sum(amount)).where(reservations.c.owner == of)

    async def record(self, entries: Mapping[tuple[str, date, str, str | None], Amounts]) -> None:
        booked = [
            Entry(owner, day.isoformat(), model, user, *amounts)
            for (owner, day, model, user), amounts in entries.items()
        ]
        await self._database.write(lambda connection: self._booking.book(connection, booked), durable=False)

    async def read(self, owner: str, limits: Limits, first: date, last: date) -> CallerUsage:
        period = {"of": owner, "first": first.isoformat(), "last": last.isoformat()}

        def transaction(connection: Connection) -> CallerUsage:
            rows = connection.execute(self._by_model, period)
            users = connection.execute(self._by_end_user, period)
            now = connection.execute(self._now).scalar_one()
            tat = connection.execute(self._tat, {"of": owner}).scalar()
            return CallerUsage(
                first,
                last,
                tuple(UsageRow(date.fromisoformat(day), *rest) for day, *rest in rows),
                tuple(EndUserRow(user, *map(int, amounts)) for user, *amounts in users),
                int(connection.execute(self._all_reserved, {"of": owner}).scalar() or 0),
                limits,
                self._reserved.standing(connection, owner, limits, tat, now),
            )

        return await self._database.read(transaction)

    async def budgets(self) -> list[BudgetState]:
        def transaction(connection: Connection) -> list[BudgetState]:
            today = self._today(connection)
            first = case(
                (callers.c.budget_per == Period.DAY, today.isoformat()), else_=today.replace(day=1).isoformat()
            )
            owner = literal(OWNER_PREFIX) + callers.c.name
            spent = select(func.sum(usage.c.micro_usd)).where(usage.c.owner == owner, usage.c.date >= first)
            reserved = select(func.sum(reservations.c.unit_micro_usd * reservations.c.units)).where(
                reservations.c.owner == owner, reservations.c.date >= first
            )
            query = (
                select(
                    callers.c.name,
                    callers.c.budget_micro_usd,
                    callers.c.budget_per,
                    spent.scalar_subquery(),
                    reserved.scalar_subquery(),
                )
                .where(callers.c.budget_micro_usd.is_not(None))
                .order_by(callers.c.name)
            )
            return [
                BudgetState(name, Budget(most, Period(per)), int(spent or 0), int(reserved or 0))
                for name, most, per, spent, reserved in connection.execute(query)
            ]

        return await self._database.read(transaction)

    def _today(self, connection: Connection) -> date:
        return datetime.fromtimestamp(connection.execute(self._now).scalar_one(), UTC).date()
