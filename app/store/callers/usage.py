"""Read and add usage."""

from collections.abc import Mapping
from datetime import UTC, date, datetime

from sqlalchemy import case, func, literal, select
from sqlalchemy.engine import Connection

from app.domain.limits import Budget, Limits, Period, Standing
from app.domain.spending import BudgetState, EndUserRow, UsageRow
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

    async def record(self, entries: Mapping[tuple[str, str, str | None], Amounts]) -> None:
        def transaction(connection: Connection) -> None:
            today = self._today(connection).isoformat()
            self._booking.book(
                connection,
                [Entry(owner, today, model, user, *amounts) for (owner, model, user), amounts in entries.items()],
            )

        await self._database.write(transaction, durable=False)

    async def rows(self, owner: str, first: date, last: date) -> list[UsageRow]:
        days = usage.c.date.between(first.isoformat(), last.isoformat())
        columns = usage.c.date, usage.c.model, usage.c.images, usage.c.tokens, usage.c.micro_usd
        query = select(*columns).where(usage.c.owner == owner, days).order_by(usage.c.date, usage.c.model)

        def transaction(connection: Connection) -> list[UsageRow]:
            return [UsageRow(date.fromisoformat(day), *rest) for day, *rest in connection.execute(query)]

        return await self._database.read(transaction)

    async def end_users(self, owner: str, first: date, last: date) -> list[EndUserRow]:
        columns = end_user_usage.c
        days = columns.date.between(first.isoformat(), last.isoformat())
        sums = func.sum(columns.images), func.sum(columns.tokens), func.sum(columns.micro_usd)
        query = select(columns.end_user, *sums).where(columns.owner == owner, days)
        by_user = query.group_by(columns.end_user).order_by(columns.end_user)

        def transaction(connection: Connection) -> list[EndUserRow]:
            return [EndUserRow(user, *map(int, amounts)) for user, *amounts in connection.execute(by_user)]

        return await self._database.read(transaction)

    async def standing(self, owner: str, limits: Limits) -> Standing:
        tat = select(callers.c.tat).where(literal(OWNER_PREFIX) + callers.c.name == owner)

        def transaction(connection: Connection) -> Standing:
            now = connection.execute(self._now).scalar_one()
            return self._reserved.standing(connection, owner, limits, connection.execute(tat).scalar(), now)

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
