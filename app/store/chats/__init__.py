"""Stored chats. `ChatStore` has the verbs for chats; its `turns` is a `TurnStore` with the verbs for their turns.

Each verb is one database transaction. The bytes of a turn are durable before the row that names them. A crash in
between leaves unreferenced blobs; `ChatStore.cleanup` finds them by their rows in the table `blobs`.
"""

from app.store.chats.chat_rows import StorageLimits
from app.store.chats.store import ChatStore

__all__ = ["ChatStore", "StorageLimits"]
