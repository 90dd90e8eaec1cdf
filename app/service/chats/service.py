"""Chats and their turns. A chat has one turn at a time, and a turn is stored before its caller gets the response."""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, fields, replace

from app.domain.caller import Caller
from app.domain.chat import Chat, ChatDefaults, Turn
from app.domain.errors import FieldError, InvalidRequest, StorageError, TurnNotFound
from app.domain.generation import Generation, GenerationRequest, Image
from app.service.chats.history import ChatHistory
from app.service.chats.turn import PendingTurn
from app.service.generation.plan import GenerationPlan
from app.service.generation.service import ImageService
from app.service.leases import LeaseKeeper
from app.store import Storage

_SHUTDOWN_SECONDS = 30.0
"""How long a stopping service waits for detached turns. Their images are complete by then; they are being saved."""


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """What a caller sends for a turn."""

    request: GenerationRequest
    given: frozenset[str]
    """Names of the fields that the caller sent. The chat's defaults apply to the others."""
    expected_last_turns: Collection[int] | None = None
    """The chat's latest turn must be one of these; `None` allows any."""
    replace_turn: int | None = None
    """Number of the turn that this one replaces."""


class ChatService:
    """Each method sees the caller's own chats only. A chat of another caller is `ChatNotFound`.

    All methods raise `ChatNotFound`, and `StorageUnavailable` or `StorageFull` if the storage fails.
    """

    def __init__(self, images: ImageService, storage: Storage, leases: LeaseKeeper) -> None:
        """
        Args:
            images: generates the images of turns.
            storage: where chats are stored.
            leases: of this process.
        """
        self._images = images
        self._storage = storage
        self._leases = leases
        self._detached: set[asyncio.Task[Generation]] = set()

    async def create(
        self,
        caller: Caller,
        defaults: ChatDefaults,
        first: GenerationRequest | None = None,
        chat_id: str | None = None,
    ) -> Chat:
        """Create a chat.

        Args:
            caller: its owner.
            defaults: fields that apply to all turns.
            first: request of the first turn, if that follows at once.
            chat_id: id of the chat. If the caller has it already, nothing is created.

        Raises:
            ChatLimitReached: the caller stores as many chats, or bytes, as allowed.
        """
        store = await self._storage.chats()
        await store.blobs.require_writable()
        return await store.add(caller.owner, defaults, _least_bytes(first) if first else 0, chat_id)

    async def outline(self, chat_id: str, caller: Caller) -> tuple[Chat, list[tuple[int, int]]]:
        """Return the chat without its turns, and for each turn its number and the length of its JSON in characters."""
        return await (await self._storage.chats()).outline(chat_id, caller.owner)

    async def turns(self, chat_id: str, caller: Caller, first: int, last: int) -> list[Turn]:
        """Return the turns from number `first` to number `last`."""
        return await (await self._storage.chats()).turns.get_range(chat_id, caller.owner, first, last)

    async def page(self, caller: Caller, limit: int, after: tuple[float, str] | None) -> list[Chat]:
        """Return chats without their turns, the last changed first.

        Args:
            caller: their owner.
            limit: number of chats at most.
            after: change time and id of the last chat of the page before.
        """
        store = await self._storage.chats()
        return await store.page(caller.owner, limit, after)

    async def fork(self, chat_id: str, caller: Caller, from_turn: int | None) -> Chat:
        """Return a new chat, without its turns, that copies the turns up to `from_turn`, or all of them.

        Raises:
            InvalidRequest: the chat has no such turn.
            ChatLimitReached: the caller stores as many chats, or bytes, as allowed.
        """
        return await (await self._storage.chats()).fork(chat_id, caller.owner, from_turn)

    async def remove(self, chat_id: str, caller: Caller) -> None:
        """Delete the chat.

        Raises:
            TurnInProgress: a turn is being made.
        """
        await (await self._storage.chats()).remove(chat_id, caller.owner)

    async def image(self, chat_id: str, caller: Caller, number: int) -> Image:
        """Return the image of a turn.

        Raises:
            TurnNotFound: there is no such turn, or it has no image.
        """
        turn = await (await self._storage.chats()).turns.get(chat_id, caller.owner, number)
        if turn is None or turn.image is None:
            raise TurnNotFound("There is no such turn." if turn is None else "This turn has no image.")
        return turn.image

    async def reference(self, chat_id: str, caller: Caller, number: int, position: int) -> Image:
        """Return an upload of a turn; the first one has position 1.

        Raises:
            TurnNotFound: there is no such turn, or it has fewer uploads.
        """
        turn = await (await self._storage.chats()).turns.get(chat_id, caller.owner, number)
        if turn is None or not 1 <= position <= len(turn.references):
            raise TurnNotFound("There is no such turn." if turn is None else "This turn has no such upload.")
        return turn.references[position - 1].image

    async def preview(self, chat_id: str, caller: Caller, turn: TurnRequest) -> GenerationPlan:
        """Return what a turn would generate if it began now. It takes no lease.

        Raises:
            InvalidRequest, NotAcceptable, NotAllowed: as `ImageService.plan`.
        """
        store = await self._storage.chats()
        chat, _ = await store.outline(chat_id, caller.owner)
        turns = await store.turns.get_range(chat_id, caller.owner, 1, chat.last_turn)
        history = ChatHistory(_turns_before(replace(chat, turns=tuple(turns)), turn.replace_turn))
        return self._images.plan(_with_defaults(turn, chat.defaults), caller.limits, history)

    async def begin(self, chat_id: str, caller: Caller, turn: TurnRequest) -> PendingTurn:
        """Take the chat's lease and plan the turn. The caller of this method must close the turn.

        Raises:
            TurnInProgress: another request holds the lease.
            StaleTurn: the chat's latest turn is not one of those expected.
            ChatLimitReached: the caller stores as many bytes as allowed.
            InvalidRequest, NotAcceptable: as `ImageService.plan`.
        """
        store = await self._storage.chats()
        await store.blobs.require_writable()
        holder, size = self._leases.name(), _least_bytes(turn.request)
        try:
            chat = await store.turns.lease(chat_id, caller.owner, holder, turn.expected_last_turns, size)
        except (StorageError, asyncio.CancelledError):
            self._leases.release_later(holder)  # the statement may have succeeded
            raise
        self._leases.hold(holder)
        try:
            history = ChatHistory(_turns_before(chat, turn.replace_turn))
            plan = self._images.plan(_with_defaults(turn, chat.defaults), caller.limits, history)
        except BaseException:
            await self._leases.release(holder)
            raise
        return PendingTurn(
            chat,
            plan,
            holder,
            turn.replace_turn,
            images=self._images,
            store=store,
            leases=self._leases,
            on_detach=self._keep_detached,
        )

    def _keep_detached(self, work: asyncio.Task[Generation]) -> None:
        self._detached.add(work)
        work.add_done_callback(self._detached.discard)

    async def aclose(self) -> None:
        """Wait until detached turns are stored."""
        if self._detached:
            await asyncio.wait(self._detached, timeout=_SHUTDOWN_SECONDS)


def _turns_before(chat: Chat, replaced: int | None) -> tuple[Turn, ...]:
    """Return the turns that the new one builds on.

    Raises:
        InvalidRequest: the turn to replace is not the last one of the history.
    """
    if replaced is None:
        return chat.history
    turn = next((one for one in chat.turns if one.number == replaced), None)
    later = [one.number for one in chat.history if one.number > replaced]
    if turn is None or turn.replaced_by is not None:
        raise InvalidRequest([FieldError("replaceTurn", f"there is no turn {replaced} that could be replaced")])
    if later:
        raise InvalidRequest(
            [FieldError("replaceTurn", f"turn {later[0]} builds on turn {replaced}; fork the chat instead")]
        )
    return tuple(one for one in chat.history if one.number != replaced)


def _least_bytes(request: GenerationRequest) -> int:
    """Return the bytes that the turn will store, without its image, whose size is not known yet."""
    return len(request.prompt) + sum(len(reference.image.content) for reference in request.references)


def _with_defaults(turn: TurnRequest, defaults: ChatDefaults) -> GenerationRequest:
    missing = {one.name: getattr(defaults, one.name) for one in fields(defaults) if one.name not in turn.given}
    return replace(turn.request, **missing)
