"""Turns of stored chats: take the lease that allows adding one, save it, read it back."""

import asyncio
import json
from collections.abc import Collection
from dataclasses import replace
from math import ceil
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.engine import Connection

from app.domain.chat import Chat, Turn
from app.domain.errors import LeaseLost, StaleTurn, TurnInProgress
from app.domain.recorded import TurnToSave
from app.lib.base64_json import Content
from app.store import serialization
from app.store.blobs import BlobIndex, BlobStore
from app.store.chats.chat_rows import ChatRows
from app.store.chats.serialization import dump_turn
from app.store.chats.turn_rows import DOCUMENT, insert_turn, select_turns
from app.store.database import Database
from app.store.errors import as_storage_errors
from app.store.tables import chats, turns

SAVE_BLOBS_SECONDS = 300
"""Time limit for storing the blobs of one turn. It must stay well below the index's `GRACE_SECONDS`."""

_TITLE_CHARS = 80


class TurnStore:
    """Verbs for the turns of chats. They see only the chats of the given owner."""

    def __init__(
        self, database: Database, blobs: BlobStore, index: BlobIndex, rows: ChatRows, lease_seconds: float
    ) -> None:
        """
        Args:
            database: the database of chats and turns.
            blobs: the store of their bytes.
            index: the table of stored blobs.
            rows: statements on chats.
            lease_seconds: duration of a lease that is not renewed.
        """
        self._database = database
        self._blobs = blobs
        self._index = index
        self._rows = rows
        self._lease_seconds = lease_seconds

    async def get(self, chat_id: str, owner: str, number: int) -> Turn | None:
        """Return one turn; `None` if the chat has no turn with this number.

        Raises:
            ChatNotFound: the owner has no chat with this id.
        """
        found = await self.get_range(chat_id, owner, number, number)
        return found[0] if found else None

    async def get_range(self, chat_id: str, owner: str, first: int, last: int) -> list[Turn]:
        """Return the turns from number `first` to number `last`.

        Raises:
            ChatNotFound: the owner has no chat with this id.
        """

        def transaction(connection: Connection) -> list[Turn]:
            self._rows.find(connection, chat_id, owner)
            return [*select_turns(connection, self._blobs, chat_id, turns.c.number.between(first, last))]

        return await self._database.read(transaction)

    async def lease(
        self,
        chat_id: str,
        owner: str,
        holder: str,
        expected_last_turns: Collection[int] | None = None,
        expected_bytes: int = 0,
    ) -> Chat:
        """Take the chat's lease, so that only `holder` may add a turn. `save` and
        `Leases.release` end it, or it expires.

        Args:
            chat_id: id of the chat.
            owner: owner of the chat.
            holder: unique name of this lease's holder.
            expected_last_turns: numbers that the latest turn may have; `None` allows any. Turns without an image at
                the end of the chat do not count, so the last turn with an image is accepted, and any after it.
            expected_bytes: known bytes of the turn that will be saved.

        Returns:
            The chat with all its turns.

        Raises:
            ChatNotFound: the owner has no chat with this id.
            TurnInProgress: another holder has the lease.
            StaleTurn: the latest turn is not an expected one.
            ChatLimitReached: with this turn the owner would exceed a limit.
        """

        def transaction(connection: Connection) -> Chat:
            chat, seconds_left = self._rows.lock(connection, chat_id, owner, full_instruction=True)
            require_unleased(seconds_left)
            chat = replace(chat, turns=select_turns(connection, self._blobs, chat_id))
            if expected_last_turns is not None and not any(
                chat.last_image_turn <= number <= chat.last_turn for number in expected_last_turns
            ):
                raise StaleTurn(f"The latest turn of this chat is {chat.last_turn}.", last_turn=chat.last_turn)
            self._rows.require_within_limits(connection, owner, more_chats=0, more_bytes=expected_bytes)
            connection.execute(
                update(chats)
                .where(chats.c.id == chat_id)
                .values(lease_holder=holder, lease_until=self._database.now + self._lease_seconds)
            )
            return chat

        return await self._database.write(transaction)

    async def save(self, chat: Chat, holder: str, turn: Turn, replaces: int | None) -> None:
        """Save a turn, and release the lease. Saving the same generation twice changes nothing.

        Args:
            chat: the chat as `lease` returned it.
            holder: the lease's holder.
            turn: the chat's next turn.
            replaces: number of the turn that it replaces.

        Raises:
            LeaseLost: the lease ended, and another holder took it or the chat was removed. Nothing is saved.
        """
        with as_storage_errors("blobs"):
            async with asyncio.timeout(SAVE_BLOBS_SECONDS):
                stored = await self._index.store(_contents(turn))
        document = serialization.to_json(dump_turn(turn, lambda content: (stored[id(content)].name, len(content))))
        blob_sizes = {blob.digest: len(blob) for blob in stored.values()}
        size = len(document) + sum(blob_sizes.values())

        def transaction(connection: Connection) -> None:
            saved_at = self._update_chat(connection, chat, holder, turn, size)
            if saved_at is None:
                _require_saved(connection, chat.id, turn)
                return
            insert_turn(connection, self._database, chat.id, turn, saved_at, document, blob_sizes)
            if replaces is not None:
                connection.execute(
                    update(turns)
                    .where(turns.c.chat_id == chat.id, turns.c.number == replaces)
                    .values(replaced_by=turn.number)
                )

        await self._database.write(transaction)

    async def recover(self, turn: TurnToSave) -> None:
        """Save a turn whose process died. Its holder's lease has ended, and nobody has taken another one since.

        Raises:
            ChatNotFound: the chat was deleted.
            LeaseLost: as `save`.
        """
        chat = await self._database.read(
            lambda connection: self._rows.find(connection, turn.chat_id, turn.owner, full_instruction=True)
        )
        await self.save(chat, turn.lease_holder, turn.turn, turn.replaces)

    def _update_chat(
        self, connection: Connection, chat: Chat, holder: str, turn: Turn, turn_bytes: int
    ) -> float | None:
        """Add the turn to the chat's row, and end the lease.

        Returns:
            The chat's new `updated_at`, or `None` if the lease is lost.
        """
        titled: dict[str, Any] = {}
        if chat.title is None:
            titled = self._rows.document_columns(connection, replace(chat, title=_title(turn.prompt)))
        updated = connection.execute(
            update(chats)
            .where(chats.c.id == chat.id, chats.c.lease_holder == holder)
            .values(
                last_turn=turn.number,
                updated_at=self._database.now,
                cost_usd=chats.c.cost_usd + ((turn.usage and turn.usage.estimated_cost_usd) or 0.0),
                bytes=chats.c.bytes + turn_bytes,
                lease_holder=None,
                lease_until=None,
                **titled,
            )
            .returning(chats.c.updated_at)
        )
        return updated.scalar_one_or_none()


def require_unleased(seconds_left: float) -> None:
    """
    Raises:
        TurnInProgress: the chat's lease is valid for so many seconds.
    """
    if seconds_left:
        raise TurnInProgress("Another turn of this chat is in progress.", retry_after=max(1, ceil(seconds_left)))


def _require_saved(connection: Connection, chat_id: str, turn: Turn) -> None:
    """Check whether an earlier call has saved the turn. If the connection breaks during a commit, only the next
    transaction shows whether the commit succeeded.

    Raises:
        LeaseLost: the turn was not saved.
    """
    rows = connection.execute(select(DOCUMENT).where(turns.c.chat_id == chat_id, turns.c.number == turn.number))
    document = rows.scalar_one_or_none()
    if document is not None and turn.generation_id == json.loads(document)["generation_id"] is not None:
        return
    raise LeaseLost(
        "This turn took too long and was not saved. Another turn was added meanwhile, or the chat was deleted."
    )


def _title(prompt: str) -> str:
    line = " ".join(prompt[: 4 * _TITLE_CHARS].split())
    return line if len(line) <= _TITLE_CHARS else f"{line[: _TITLE_CHARS - 1]}…"


def _contents(turn: Turn) -> list[Content]:
    parts = [content for part in (*turn.user, *turn.answer) for content in part.contents]
    images = [reference.image.content for reference in turn.references]
    return [*parts, *images, *([turn.image.content] if turn.image else [])]
