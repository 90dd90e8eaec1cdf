"""Callers in the database: their keys and limits, what their requests have reserved, and what they have used.

`CallerStore` has the verbs. Each is one database transaction. `Reservations` has the same for transactions of others:
a recorded generation reserves and settles together with its own row.
"""

from app.store.callers.reservations import Reservations
from app.store.callers.store import CallerStore

__all__ = ["CallerStore", "Reservations"]
