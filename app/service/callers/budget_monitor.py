"""Reads the budgets of all callers at regular times, for metrics."""

from app.domain.limits import MICRO_USD
from app.domain.spending import BudgetState
from app.service.periodic import PeriodicTask
from app.service.scraped_metrics import ScrapedMetric
from app.store import Storage

_INTERVAL_SECONDS = 15.0


class BudgetMonitor(PeriodicTask):
    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._states: list[BudgetState] = []
        super().__init__(self._read, _INTERVAL_SECONDS, "budgets could not be read")

    def metrics(self) -> list[ScrapedMetric]:
        """Return the metrics as they were last read. Callers without a budget have no series."""
        return [
            ScrapedMetric(
                "caller_budget_dollars",
                "Budget of a caller for its current day or month, in US dollars.",
                lambda: {one.name: one.budget.micro_usd / MICRO_USD for one in self._states},
                label="caller",
            ),
            ScrapedMetric(
                "caller_budget_used_dollars",
                "What a caller has spent and reserved of its budget, in US dollars, over all replicas.",
                lambda: {one.name: (one.spent + one.reserved) / MICRO_USD for one in self._states},
                label="caller",
            ),
        ]

    async def _read(self) -> None:
        try:
            if await self._storage.in_use():
                self._states = await (await self._storage.callers()).budgets()
        except BaseException:
            self._states = []  # old values would look like the present ones
            raise
