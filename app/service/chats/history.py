"""Select what is sent of a chat's earlier turns with its next turn.

Normally all turns are sent unchanged as a conversation, because Gemini accepts a thought signature only on its own
part. There are two exceptions:

- Another model is asked, Gemini rejects the signatures, or stored content is missing. Then only the images are sent,
  as references within the new turn.
- The turns exceed the model's input limits. Then the oldest turns are left out. The newest image is always sent, and
  the first uploads are sent as far as they fit.

docs/chats.md tells callers the same.
"""

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import cast

from app.domain.catalogue import Model
from app.domain.chat import Turn
from app.domain.errors import FieldError, InvalidRequest, InvalidThoughtSignature, ServiceError, StorageDamaged
from app.domain.generation import ChatContext, ContextTurn, GenerationRequest, Part
from app.lib.base64_json import Content

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 95_000_000
"""Limit of one request in bytes of base64. Google accepts 100 MB (file-input guide of October 2026)."""

TOKENS_PER_IMAGE = 1_200
"""Estimate of an image's input tokens. Nano Banana Pro used 516 to 560 when measured; up to 2,500 have been reported
for sets of images."""

_MAX_QUOTED_CHARS = 200

_Group = tuple[Part, ...]
"""An image part, with the text parts before it that describe it."""


@dataclass(frozen=True, slots=True)
class ChatHistory:
    """The turns that a new turn builds on, oldest first. Implements `History` of a generation plan."""

    turns: tuple[Turn, ...]
    missing: frozenset[Content] = frozenset()
    """Content that the storage has lost."""
    signatures_rejected: bool = False
    """Whether Gemini has rejected the thought signatures."""

    @property
    def is_empty(self) -> bool:
        return not self.turns

    def select_context(self, request: GenerationRequest, model: Model) -> tuple[ChatContext, list[str]]:
        """See `select_context` below."""
        return select_context(
            self.turns, request, model, missing=self.missing, signatures_rejected=self.signatures_rejected
        )

    def reduced_after(self, error: ServiceError) -> "ChatHistory | None":
        """Return the history without what caused `error`; `None` if a smaller history cannot help."""
        if isinstance(error, InvalidThoughtSignature) and not self.signatures_rejected:
            log.warning("a chat continues without its thought signatures", extra={"cause": error.cause})
            return replace(self, signatures_rejected=True)
        if isinstance(error, StorageDamaged) and error.missing is not None and error.missing not in self.missing:
            log.error("content of a chat is missing from the storage", extra={"cause": error.cause})
            return replace(self, missing=self.missing | {cast("Content", error.missing)})
        return None


@dataclass(frozen=True, slots=True)
class _ContextSize:
    """An amount of input: the size of some parts, or what is left of the model's limits."""

    images: float = 0
    tokens: float = 0
    bytes: float = 0

    @classmethod
    def of(cls, parts: Iterable[Part]) -> "_ContextSize":
        parts = tuple(parts)
        images = sum(part.data is not None for part in parts)
        # One token per three bytes of UTF-8: high for English, about right for Chinese.
        tokens = images * TOKENS_PER_IMAGE + sum(len(part.text.encode(errors="replace")) // 3 + 1 for part in parts)
        return cls(images, tokens, sum(len(one) * 4 // 3 + 100 for part in parts for one in part.contents))

    @classmethod
    def limits_of(cls, model: Model) -> "_ContextSize":
        unlimited = float("inf")
        return cls(
            images=unlimited if model.max_references is None else model.max_references,
            tokens=unlimited if model.input_tokens is None else model.input_tokens,
            bytes=MAX_REQUEST_BYTES,
        )

    def __sub__(self, other: "_ContextSize") -> "_ContextSize":
        return _ContextSize(self.images - other.images, self.tokens - other.tokens, self.bytes - other.bytes)

    def fits(self, other: "_ContextSize") -> bool:
        """Return whether `other` fits into what is left."""
        return other.images <= self.images and other.tokens <= self.tokens and other.bytes <= self.bytes


def select_context(
    turns: Sequence[Turn],
    request: GenerationRequest,
    model: Model,
    *,
    missing: Collection[Content] = (),
    signatures_rejected: bool = False,
) -> tuple[ChatContext, list[str]]:
    """Select what to send of the earlier turns.

    Args:
        turns: the turns that the new one builds on, oldest first.
        request: the new turn.
        model: the model to ask.
        missing: content that the storage has lost.
        signatures_rejected: whether Gemini has rejected the thought signatures.

    Returns:
        The context, and warnings for the caller about what is left out.

    Raises:
        InvalidRequest: the new turn's uploads leave no space for the newest image of the chat.
        StorageDamaged: no image of the chat is left in the storage.
    """
    if not turns:
        return ChatContext(), []
    new_turn = [Part.from_text(request.prompt), *(Part.from_image(one.image) for one in request.references)]
    left = _ContextSize.limits_of(model) - _ContextSize.of(new_turn)
    since = max((index for index, turn in enumerate(turns) if turn.context_inlined), default=0)
    conversation = turns[since:]
    reason = _inline_reason(conversation, model, missing, signatures_rejected=signatures_rejected)
    if reason is None and not left.fits(_ContextSize.of([*conversation[-1].answer, *_prompt(conversation[-1])])):
        reason = f"because the latest turn and this one together exceed the input limit of {model.id}"
    if reason is None:
        return _as_conversation(conversation, left, model)
    return _as_references(turns, request, left, model, missing, reason)


def _inline_reason(
    conversation: Sequence[Turn], model: Model, missing: Collection[Content], *, signatures_rejected: bool
) -> str | None:
    """Return why the turns cannot be sent as a conversation; `None` if they can."""
    others = sorted({turn.model for turn in conversation} - {model.id})
    if others:
        return f"because {', '.join(others)} made them and {model.id} is asked now"
    if signatures_rejected:
        return "because Gemini does not accept their thought signatures any more"
    if any(one in missing for turn in conversation for part in (*turn.user, *turn.answer) for one in part.contents):
        return "because content of the chat is missing from the storage"
    if any(all(part.data is None for part in turn.answer) for turn in conversation):
        return "because Gemini drew one of them as a thought, which it does not accept as input"
    return None


def _as_conversation(conversation: Sequence[Turn], left: _ContextSize, model: Model) -> tuple[ChatContext, list[str]]:
    """Return the newest turns that fit. First uploads of an omitted turn go into the oldest turn that is sent."""
    newest = conversation[-1]
    left -= _ContextSize.of([*newest.answer, *_prompt(newest)])
    first = next((turn for turn in conversation if _uploads_of(turn)), newest)
    first_uploads, left = _fitting(_uploads_of(first), left)
    user_parts = {newest.number: newest.user}
    if newest is not first:
        uploads, left = _fitting(_uploads_of(newest), left)
        user_parts[newest.number] = (newest.user[0], *uploads)
    for turn in reversed(conversation[:-1]):
        size = _ContextSize.of([*turn.answer, *(_prompt(turn) if turn is first else turn.user)])
        if not left.fits(size):
            break
        left -= size
        user_parts[turn.number] = turn.user
    if len(first_uploads) < sum(map(len, _uploads_of(first))) and first.number in user_parts:
        user_parts[first.number] = (first.user[0], *first_uploads)
    sent = [turn for turn in conversation if turn.number in user_parts]
    context = [ContextTurn(user_parts[turn.number], turn.answer) for turn in sent]
    if first.number not in user_parts and first_uploads:
        prompt, *others = context[0].user
        introduction = Part.from_text("From the beginning of this conversation:")
        context[0] = replace(context[0], user=(prompt, introduction, *first_uploads, *others))
    return ChatContext(tuple(context)), _warnings(conversation, sent, first, first_uploads, model)


def _warnings(
    conversation: Sequence[Turn], sent: Sequence[Turn], first: Turn, first_uploads: Sequence[Part], model: Model
) -> list[str]:
    warnings = []
    if omitted := [turn.number for turn in conversation if turn not in sent]:
        which = f"Turn {omitted[0]} was" if len(omitted) == 1 else f"Turns {omitted[0]} to {omitted[-1]} were"
        warnings.append(f"{which} not sent: the chat exceeds the input limit of {model.id}.")
    uploads = sum(part.data is not None for group in _uploads_of(first) for part in group)
    if (omitted_uploads := uploads - sum(part.data is not None for part in first_uploads)) > 0:
        warnings.append(
            f"{omitted_uploads} of the first uploads were not sent: the chat exceeds the input limit of {model.id}."
        )
    return warnings


def _as_references(
    turns: Sequence[Turn],
    request: GenerationRequest,
    left: _ContextSize,
    model: Model,
    missing: Collection[Content],
    reason: str,
) -> tuple[ChatContext, list[str]]:
    """Return the chat's images as references, in the order in which they were made.

    If not all fit, the newest image is chosen first, then the first uploads, then the other images, newest first.

    Raises:
        InvalidRequest: the newest image does not fit.
        StorageDamaged: all images are missing.
    """
    first = next((turn for turn in turns if turn.references), None)
    uploads = [_upload(first, index) for index in range(len(first.references))] if first else []
    drawn = [_drawn(turn) for turn in turns if turn.image is not None]
    available = [group for group in drawn if group[-1].data not in missing]
    if not available:
        raise StorageDamaged("All images of this chat are missing from the storage.", part="blobs")
    newest = available[-1]
    chosen: list[_Group] = []
    for group in [newest, *(one for one in uploads if one[-1].data not in missing), *reversed(available[:-1])]:
        size = _ContextSize.of(group)
        if left.fits(size):
            left -= size
            chosen.append(group)
        elif group is newest:
            raise InvalidRequest([FieldError(request.references_field, _no_space(model))])
    images = [*uploads, *drawn]
    sent = [group for group in images if group in chosen]
    warnings = [f"Earlier images of this chat were sent as references, {reason}."]
    if omitted := len(images) - len(sent):
        warnings.append(
            f"{omitted} of them were not sent: they are missing from the storage or exceed the input limit of "
            f"{model.id}."
        )
    return ChatContext(parts=tuple(part for group in sent for part in group)), warnings


def _no_space(model: Model) -> str:
    limit = "" if model.max_references is None else f" ({model.max_references} images at most)"
    return f"send fewer or smaller images: the newest image of the chat is sent together with them{limit}"


def _upload(turn: Turn, index: int) -> _Group:
    reference = turn.references[index]
    name = f", {reference.name}" if reference.name else ""
    return Part.from_text(f"Given with turn {turn.number}{name}:"), Part.from_image(reference.image)


def _drawn(turn: Turn) -> _Group:
    assert turn.image
    return Part.from_text(f"Drawn in turn {turn.number} for: {_quoted(turn.prompt)}"), Part.from_image(turn.image)


def _quoted(prompt: str) -> str:
    line = " ".join(prompt.split())
    return line if len(line) <= _MAX_QUOTED_CHARS else f"{line[:_MAX_QUOTED_CHARS]}…"


def _prompt(turn: Turn) -> list[Part]:
    return list(turn.user[:1])


def _uploads_of(turn: Turn) -> list[_Group]:
    """Return the images of the caller's side of a turn."""
    groups: list[_Group] = []
    label: _Group = ()
    for part in turn.user[1:]:
        if part.data is None:
            label = (*label, part)
        else:
            groups.append((*label, part))
            label = ()
    return groups


def _fitting(groups: Sequence[_Group], left: _ContextSize) -> tuple[_Group, _ContextSize]:
    """Return the parts of the groups that fit, and what is left of the limits then."""
    kept: list[Part] = []
    for group in groups:
        size = _ContextSize.of(group)
        if left.fits(size):
            left -= size
            kept += group
    return tuple(kept), left
