"""What of a chat goes to Gemini with its next turn.

As a rule everything, word for word: thought signatures only count on the very parts they came on. Two things stand in
the way. Signatures are of no use to another model, or when something of the chat is lost; then its images go along
within the turn, as a caller's references do. And a model takes in only so much: then the oldest turns stay at home,
while the first uploads and the newest image always go. docs/chats.md tells callers the same.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from app.domain.catalogue import Model
from app.domain.chat import Turn
from app.domain.errors import FieldError, InvalidRequest, StorageDamaged
from app.domain.generation import ChatContext, ContextTurn, GenerationRequest, Part
from app.lib.base64_json import Content

MAX_REQUEST_BYTES = 95_000_000
"""Google takes 100 MB in one request (file-input guide of October 2026), base64 and all."""

TOKENS_PER_IMAGE = 1_200
"""On the safe side: 516 to 560 have been measured with Nano Banana Pro, up to 2,500 are claimed for sets of them."""

_QUOTED_CHARS = 200


@dataclass(frozen=True, slots=True)
class _ContextSize:
    """What parts take of what a model takes in."""

    images: float = 0
    tokens: float = 0
    bytes: float = 0

    @classmethod
    def of(cls, parts: Iterable[Part]) -> "_ContextSize":
        parts = tuple(parts)
        images = sum(part.data is not None for part in parts)
        # A token for three bytes of UTF-8 is much for English, and about right for Chinese.
        tokens = images * TOKENS_PER_IMAGE + sum(len(part.text.encode(errors="replace")) // 3 + 1 for part in parts)
        return cls(images, tokens, sum(len(one) * 4 // 3 + 100 for part in parts for one in part.contents))

    def __sub__(self, other: "_ContextSize") -> "_ContextSize":
        return _ContextSize(self.images - other.images, self.tokens - other.tokens, self.bytes - other.bytes)

    def holds(self, other: "_ContextSize") -> bool:
        return other.images <= self.images and other.tokens <= self.tokens and other.bytes <= self.bytes


def select_context(
    chain: Sequence[Turn],
    request: GenerationRequest,
    model: Model,
    *,
    lost: Collection[Content] = (),
    distrusted: bool = False,
) -> tuple[ChatContext, list[str]]:
    """Choose what goes along.

    Args:
        chain: the turns that the next one builds upon, oldest first.
        request: the next one.
        model: who is asked.
        lost: content that the storage has lost.
        distrusted: whether Gemini has turned down the signatures.

    Returns:
        The choice, and what the caller should know about it.

    Raises:
        InvalidRequest: the uploads leave no place for the image that they are to change.
        StorageDamaged: no image of the chat is left.
    """
    if not chain:
        return ChatContext(), []
    own = _ContextSize.of([Part.from_text(request.prompt), *(Part.from_image(one.image) for one in request.references)])
    room = _room(model) - own
    since = max((place for place, turn in enumerate(chain) if turn.context_inlined), default=0)
    conversation = chain[since:]
    why = _inline_reason(conversation, model, lost, distrusted=distrusted)
    if why is None and not room.holds(_ContextSize.of([*conversation[-1].answer, *_words(conversation[-1])])):
        why = f"because the latest turn is more than {model.id} takes in beside this one"
    return _as_conversation(conversation, room, model) if why is None else _as_references(chain, room, model, lost, why)


def _room(model: Model) -> _ContextSize:
    unlimited = float("inf")
    return _ContextSize(
        images=unlimited if model.max_references is None else model.max_references,
        tokens=unlimited if model.input_tokens is None else model.input_tokens,
        bytes=MAX_REQUEST_BYTES,
    )


def _inline_reason(
    conversation: Sequence[Turn], model: Model, lost: Collection[Content], *, distrusted: bool
) -> str | None:
    """Why the turns cannot go word for word, or `None`."""
    others = sorted({turn.model for turn in conversation} - {model.id})
    if others:
        return f"because {', '.join(others)} made them and {model.id} is asked now"
    if distrusted:
        return "because Gemini does not accept their thought signatures any more"
    if any(one in lost for turn in conversation for part in (*turn.user, *turn.answer) for one in part.contents):
        return "because something of the chat is missing from the storage"
    if any(all(part.data is None for part in turn.answer) for turn in conversation):
        return "because Gemini drew one of them as a thought, which it does not take back"
    return None


def _as_conversation(conversation: Sequence[Turn], room: _ContextSize, model: Model) -> tuple[ChatContext, list[str]]:
    """The turns as a conversation, from the oldest one that has a place."""
    newest = conversation[-1]
    room -= _ContextSize.of([*newest.answer, *_words(newest)])
    first = next((turn for turn in conversation if _illustrations(turn)), newest)
    kept_of_first, room = _fitting(_illustrations(first), room)
    kept = {newest.number: newest.user}
    if newest is not first:
        own, room = _fitting(_illustrations(newest), room)
        kept[newest.number] = (newest.user[0], *own)
    for turn in reversed(conversation[:-1]):
        needed = _ContextSize.of([*turn.answer, *(_words(turn) if turn is first else turn.user)])
        if not room.holds(needed):
            break
        room -= needed
        kept[turn.number] = turn.user
    if len(kept_of_first) < len([part for pair in _illustrations(first) for part in pair]) and first.number in kept:
        kept[first.number] = (first.user[0], *kept_of_first)
    turns = [turn for turn in conversation if turn.number in kept]
    told = [ContextTurn(kept[turn.number], turn.answer) for turn in turns]
    if first.number not in kept and kept_of_first:
        prompt, *rest = told[0].user
        introduction = Part.from_text("From the beginning of this conversation:")
        told[0] = replace(told[0], user=(prompt, introduction, *kept_of_first, *rest))
    return ChatContext(tuple(told)), _warnings(conversation, turns, first, kept_of_first, model)


def _warnings(
    conversation: Sequence[Turn], turns: Sequence[Turn], first: Turn, kept_of_first: Sequence[Part], model: Model
) -> list[str]:
    warnings = []
    if len(turns) < len(conversation):
        gone = [turn.number for turn in conversation if turn not in turns]
        named = f"Turn {gone[0]} is" if len(gone) == 1 else f"Turns {gone[0]} to {gone[-1]} are"
        warnings.append(f"{named} more than {model.id} takes in at once, and did not go along.")
    before = sum(part.data is not None for pair in _illustrations(first) for part in pair)
    if (missing := before - sum(part.data is not None for part in kept_of_first)) > 0:
        warnings.append(f"{missing} of the first uploads did not go along: {model.id} takes in only so much at once.")
    return warnings


def _as_references(
    chain: Sequence[Turn], room: _ContextSize, model: Model, lost: Collection[Content], why: str
) -> tuple[ChatContext, list[str]]:
    """The images alone: the newest, the first uploads, then the others from new to old, as long as there is room; told
    in the order in which they came about.

    Raises:
        InvalidRequest: there is no room for the newest one.
        StorageDamaged: all of them are lost.
    """
    first = next((turn for turn in chain if turn.references), None)
    uploads = [_upload(first, place) for place in range(len(first.references))] if first else []
    drawn = [_drawn(turn) for turn in chain if turn.image is not None]
    there = [pair for pair in drawn if pair[-1].data not in lost]
    if not there:
        raise StorageDamaged("The images of this chat are missing from the storage.", part="blobs")
    newest = there[-1]
    chosen: list[tuple[Part, ...]] = []
    for pair in [newest, *(one for one in uploads if one[-1].data not in lost), *reversed(there[:-1])]:
        size = _ContextSize.of(pair)
        if room.holds(size):
            room -= size
            chosen.append(pair)
        elif pair is newest:
            raise InvalidRequest([FieldError("referenceImages", _no_place(model))])
    everything = [*uploads, *drawn]
    told = [pair for pair in everything if pair in chosen]
    warnings = [f"Earlier images of this chat went along as references, {why}."]
    if missing := len(everything) - len(told):
        warnings.append(f"{missing} of them did not: they are lost, or more than {model.id} takes in at once.")
    return ChatContext(parts=tuple(part for pair in told for part in pair)), warnings


def _no_place(model: Model) -> str:
    images = "" if model.max_references is None else f" ({model.max_references} images at most)"
    return f"there have to be fewer or smaller ones: the newest image of the chat goes along with them{images}"


def _upload(turn: Turn, place: int) -> tuple[Part, ...]:
    reference = turn.references[place]
    name = f", {reference.name}" if reference.name else ""
    return Part.from_text(f"Given with turn {turn.number}{name}:"), Part.from_image(reference.image)


def _drawn(turn: Turn) -> tuple[Part, ...]:
    assert turn.image
    return Part.from_text(f"Drawn in turn {turn.number} for: {_quoted(turn.prompt)}"), Part.from_image(turn.image)


def _quoted(prompt: str) -> str:
    line = " ".join(prompt.split())
    return line if len(line) <= _QUOTED_CHARS else f"{line[:_QUOTED_CHARS]}…"


def _words(turn: Turn) -> list[Part]:
    """The prompt; what labels an image comes and goes with it."""
    return list(turn.user[:1])


def _illustrations(turn: Turn) -> list[tuple[Part, ...]]:
    """The images of the caller's side, each with the words before it."""
    pairs: list[tuple[Part, ...]] = []
    label: tuple[Part, ...] = ()
    for part in turn.user[1:]:
        if part.data is None:
            label = (*label, part)
        else:
            pairs.append((*label, part))
            label = ()
    return pairs


def _fitting(pairs: Sequence[tuple[Part, ...]], room: _ContextSize) -> tuple[tuple[Part, ...], _ContextSize]:
    kept: list[Part] = []
    for pair in pairs:
        size = _ContextSize.of(pair)
        if room.holds(size):
            room -= size
            kept += pair
    return tuple(kept), room
