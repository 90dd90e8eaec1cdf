"""Chats: a turn at a time, each kept as a whole before its caller hears of it."""

import asyncio
import logging
import random
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import Self

from app.domain.chat import Chat, ChatDefaults, Turn
from app.domain.errors import FieldError, InvalidRequest, StorageError, TurnNotFound
from app.domain.generation import Caller, Generation, GenerationRequest, Image
from app.service.chats.leases import LeaseKeeper
from app.service.chats.turn import PendingTurn, Work
from app.service.generation.service import ImageService
from app.store import Storage

log = logging.getLogger(__name__)

_LAST_WORK_SECONDS = 30.0
"""How long turns without a caller may still take when the service stops; drawing is over by then."""


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """What a caller asks of a chat."""

    request: GenerationRequest
    given: frozenset[str]
    """Which fields of it they have named; for the others the chat may have defaults."""
    expected_last_turns: Collection[int] | None = None
    """The latest turn has to be among these; `None` is any."""
    replace_turn: int | None = None
    """The turn that this one stands in for."""


class ChatService:
    """Every method is about the caller's own chats; others are as good as not there.

    All of them raise `StorageUnavailable` or `StorageFull` if the storage fails, and `ChatNotFound`.
    """

    def __init__(self, images: ImageService, storage: Storage, leases: LeaseKeeper, sweep_seconds: float) -> None:
        """
        Args:
            images: what draws.
            storage: what keeps.
            leases: this process's.
            sweep_seconds: between two looks at what has expired.
        """
        self._images = images
        self._storage = storage
        self._leases = leases
        self._sweep_seconds = sweep_seconds
        self._unattended: set[asyncio.Task[Generation]] = set()
        self._sweeping: asyncio.Task[None] | None = None

    async def create(self, caller: Caller, defaults: ChatDefaults, first: GenerationRequest | None = None) -> Chat:
        """Begin a chat.

        Args:
            caller: for whom.
            defaults: what applies to all turns.
            first: what its first turn will ask, if that follows at once.

        Raises:
            ChatLimitReached: the caller keeps as much as they may.
        """
        store = await self._storage.chats()
        await store.blobs.require_writable()
        return await store.add(caller.owner, defaults, _least_bytes(first) if first else 0)

    async def outline(self, chat_id: str, caller: Caller) -> tuple[Chat, list[tuple[int, int]]]:
        """The chat without its turns, and of each turn its number and how many characters its document has."""
        return await (await self._storage.chats()).outline(chat_id, caller.owner)

    async def turns(self, chat_id: str, caller: Caller, first: int, last: int) -> list[Turn]:
        """The turns from number `first` to number `last`."""
        return await (await self._storage.chats()).turns.get_range(chat_id, caller.owner, first, last)

    async def page(self, caller: Caller, limit: int, after: tuple[float, str] | None) -> list[Chat]:
        """Chats without their turns, the last changed first, from behind `after` (when that was changed, its id)."""
        store = await self._storage.chats()
        return await store.page(caller.owner, limit, after)

    async def fork(self, chat_id: str, caller: Caller, from_turn: int | None) -> Chat:
        """A new chat that begins as this one did, up to a turn or to its end; returned without its turns.

        Raises:
            InvalidRequest: it has no such turn.
            ChatLimitReached: the caller keeps as much as they may.
        """
        return await (await self._storage.chats()).fork(chat_id, caller.owner, from_turn)

    async def remove(self, chat_id: str, caller: Caller) -> None:
        """Forget it.

        Raises:
            TurnInProgress: not now.
        """
        await (await self._storage.chats()).remove(chat_id, caller.owner)

    async def image(self, chat_id: str, caller: Caller, number: int) -> Image:
        """What a turn has drawn.

        Raises:
            TurnNotFound: there is no such turn, or it has no image.
        """
        turn = await (await self._storage.chats()).turns.get(chat_id, caller.owner, number)
        if turn is None or turn.image is None:
            raise TurnNotFound("There is no such turn." if turn is None else "This turn has no image.")
        return turn.image

    async def reference(self, chat_id: str, caller: Caller, number: int, place: int) -> Image:
        """What was uploaded with a turn, counted from 1.

        Raises:
            TurnNotFound: there is no such turn, or not so many uploads.
        """
        turn = await (await self._storage.chats()).turns.get(chat_id, caller.owner, number)
        if turn is None or not 1 <= place <= len(turn.references):
            raise TurnNotFound("There is no such turn." if turn is None else "This turn has no such upload.")
        return turn.references[place - 1].image

    async def begin(self, chat_id: str, caller: Caller, asked: TurnRequest) -> "PendingTurn":
        """Get everything ready for a turn, and keep others from adding one meanwhile. The turn has to be closed.

        Raises:
            TurnInProgress: somebody else is doing so.
            StaleTurn: the chat is not where the caller thinks.
            ChatLimitReached: the caller keeps as much as they may.
            InvalidRequest, NotAcceptable, Overloaded: as `ImageService.plan`.
        """
        store = await self._storage.chats()
        await store.blobs.require_writable()
        holder = self._leases.name()
        try:
            chat = await store.turns.lease(
                chat_id, caller.owner, holder, asked.expected_last_turns, _least_bytes(asked.request)
            )
        except (StorageError, asyncio.CancelledError):
            self._leases.release_later(holder)  # nobody knows what became of it
            raise
        self._leases.hold(holder)
        try:
            chain = _chain_for(chat, asked.replace_turn)
            plan = self._images.plan(_with_defaults(asked, chat.defaults), caller, chain)
        except BaseException:
            await self._leases.release(holder)
            raise
        work = Work(self._images, store, self._leases, self._unattended)
        return PendingTurn(work, chat, holder, plan, caller, asked.replace_turn)

    async def sweep(self) -> None:
        """Remove what has expired, and bytes that nobody refers to."""
        swept = await (await self._storage.chats()).cleanup()
        log.info("swept", extra={"chats": swept.chats, "blobs": swept.blobs, "unfinished": swept.unfinished})

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._sweep_seconds * random.uniform(0.8, 1.2))  # noqa: S311  # replicas start together
            try:
                if await self._storage.in_use():
                    await self.sweep()
            except Exception as error:  # whatever it is, the next time it may work
                log.warning("could not sweep", extra={"cause": getattr(error, "cause", repr(type(error)))})

    async def __aenter__(self) -> Self:
        self._sweeping = asyncio.create_task(self._sweep())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._sweeping is not None
        self._sweeping.cancel()
        with suppress(asyncio.CancelledError):
            await self._sweeping
        if self._unattended:
            await asyncio.wait(self._unattended, timeout=_LAST_WORK_SECONDS)


def _chain_for(chat: Chat, replaced: int | None) -> tuple[Turn, ...]:
    """The turns that the new one builds upon.

    Raises:
        InvalidRequest: what is to be replaced is not at the end of the chat.
    """
    if replaced is None:
        return chat.history
    turn = next((one for one in chat.turns if one.number == replaced), None)
    later = [one.number for one in chat.history if one.number > replaced]
    if turn is None or turn.replaced_by is not None:
        raise InvalidRequest([FieldError("replaceTurn", f"there is no turn {replaced} that could be replaced")])
    if later:
        raise InvalidRequest(
            [FieldError("replaceTurn", f"turn {later[0]} builds upon turn {replaced}; fork the chat instead")]
        )
    return tuple(one for one in chat.history if one.number != replaced)


def _least_bytes(request: GenerationRequest) -> int:
    """What a turn keeps at least; nobody knows how large its image will be."""
    return len(request.prompt) + sum(len(reference.image.content) for reference in request.references)


def _with_defaults(asked: TurnRequest, defaults: ChatDefaults) -> GenerationRequest:
    missing = {one.name: getattr(defaults, one.name) for one in fields(defaults) if one.name not in asked.given}
    return replace(asked.request, **missing)
