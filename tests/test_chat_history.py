"""Which turns and images of a chat are sent again: a pure function with many cases."""

from collections.abc import Callable
from typing import Any

import pytest

from app.domain.catalogue import Catalogue, Model
from app.domain.chat import Turn, TurnState
from app.domain.errors import InvalidRequest
from app.domain.generation import ChatContext, GenerationRequest, Image, Part, Reference
from app.lib.base64_json import BufferContent, Content
from app.service.chats.history import select_context

CATALOGUE = Catalogue("gemini-3-pro-image")
PRO = CATALOGUE.resolve("gemini-3-pro-image").model
OLD = CATALOGUE.resolve("gemini-2.5-flash-image").model
UNLISTED = CATALOGUE.resolve("gemini-9-image").model


class Megabytes(BufferContent):
    """Content of a given size. Reading it is not needed."""

    def __init__(self, count: float) -> None:
        super().__init__(b"")
        self._size = int(count * 1e6)

    def __len__(self) -> int:
        return self._size


def image(content: bytes | Megabytes = b"image") -> Image:
    return Image(content if isinstance(content, Megabytes) else BufferContent(content), "image/png", 1, 1)


def turn(
    number: int,
    *,
    uploads: int = 0,
    drawn: bytes | Megabytes = b"drawn",
    model: Model = PRO,
    prompt: str = "prompt",
    context_inlined: bool = False,
    as_thought: bool = False,
) -> Turn:
    references = tuple(Reference(image(f"upload {number}.{place}".encode())) for place in range(uploads))
    final = image(drawn)
    return Turn(
        number=number,
        state=TurnState.SUCCEEDED,
        prompt=f"{prompt} {number}",
        model=model.id,
        user=(Part.from_text(f"{prompt} {number}"), *(Part.from_image(one.image) for one in references)),
        answer=(Part.from_text("Here."), *(() if as_thought else (Part.from_image(final),))),
        references=references,
        image=final,
        context_inlined=context_inlined or number == 1,
    )


def asked(*, uploads: int = 0, prompt: str = "new") -> GenerationRequest:
    return GenerationRequest(prompt, references=tuple(Reference(image()) for _ in range(uploads)))


def prompts_in(chat_context: ChatContext) -> list[str]:
    return [past.user[0].text for past in chat_context.turns]


def pictures(parts: tuple[Part, ...]) -> int:
    return sum(part.data is not None for part in parts)


def test_the_first_turn_has_no_context() -> None:
    assert select_context((), asked(), PRO) == (ChatContext(), [])


def test_all_turns_are_sent_as_long_as_they_fit() -> None:
    chain = [turn(1, uploads=3), turn(2), turn(3, uploads=1)]

    chat_context, warnings = select_context(chain, asked(), PRO)

    assert [(past.user, past.answer) for past in chat_context.turns] == [(one.user, one.answer) for one in chain]
    assert warnings == []


def test_the_first_uploads_are_sent_even_if_their_turn_does_not_fit() -> None:
    chain = [turn(1, uploads=3), *(turn(number) for number in range(2, 13))]

    chat_context, warnings = select_context(chain, asked(uploads=2), PRO)

    assert prompts_in(chat_context) == [f"prompt {number}" for number in range(4, 13)]
    first, *rest = chat_context.turns
    assert [part.text for part in first.user[:2]] == ["prompt 4", "From the beginning of this conversation:"]
    assert pictures(first.user) == 3
    assert sum(map(pictures, [past.user + past.answer for past in rest])) == 8
    assert warnings == ["Turns 1 to 3 were not sent: the chat exceeds the input limit of gemini-3-pro-image."]


def test_the_first_uploads_may_belong_to_a_later_turn() -> None:
    chain = [turn(1), turn(2, uploads=2), *(turn(number) for number in range(3, 16))]

    chat_context, _ = select_context(chain, asked(), PRO)

    assert pictures(chat_context.turns[0].user) == 2
    assert sum(pictures(past.user + past.answer) for past in chat_context.turns) == 14


def test_turns_before_one_that_does_not_fit_are_left_out() -> None:
    """
    A conversation with a gap in the middle would be misleading.
    """
    chain = [turn(1), turn(2, uploads=1), turn(3, uploads=12), turn(4)]

    chat_context, warnings = select_context(chain, asked(), PRO)

    assert prompts_in(chat_context) == ["prompt 4"]
    assert "Turns 1 to 3" in warnings[0]


def test_the_newest_image_has_priority_over_the_first_uploads() -> None:
    chat_context, warnings = select_context([turn(1, uploads=14)], asked(), PRO)

    (past,) = chat_context.turns
    assert (pictures(past.user), pictures(past.answer)) == (13, 1)
    assert warnings == ["1 of the first uploads were not sent: the chat exceeds the input limit of gemini-3-pro-image."]


@pytest.mark.parametrize(("model", "uploads"), [(PRO, 14), (OLD, 3)])
def test_new_uploads_must_leave_one_input_image_for_the_newest_image(model: Model, uploads: int) -> None:
    chain = [turn(1, model=model)]

    select_context(chain, asked(uploads=uploads - 1), model)
    with pytest.raises(InvalidRequest, match="newest image of the chat"):
        select_context(chain, asked(uploads=uploads), model)


def test_long_prompts_count_against_the_token_limit() -> None:
    """
    The limit is 65,536 tokens: four prompts of 50,000 letters do not fit together.
    """
    chain = [turn(number, prompt="x" * 50_000) for number in range(1, 6)]

    chat_context, warnings = select_context(chain, asked(), PRO)

    assert len(chat_context.turns) == 3
    assert "Turns 1 to 2" in warnings[0]


def test_large_images_count_against_the_size_limit() -> None:
    """
    95 MB of base64 are 71 MB of files.
    """
    chain = [turn(number, drawn=Megabytes(15)) for number in range(1, 8)]

    chat_context, warnings = select_context(chain, asked(), PRO)

    assert len(chat_context.turns) == 4
    assert "Turns 1 to 3" in warnings[0]


def test_an_unlisted_model_has_no_limits_of_ours() -> None:
    chain = [turn(number, model=UNLISTED) for number in range(1, 101)]

    chat_context, warnings = select_context(chain, asked(uploads=50), UNLISTED)

    assert (len(chat_context.turns), warnings) == (100, [])


def test_a_conversation_starts_at_the_last_inlined_turn() -> None:
    chain = [turn(1, model=OLD), turn(2, context_inlined=True), turn(3)]

    chat_context, warnings = select_context(chain, asked(), PRO)

    assert (prompts_in(chat_context), warnings) == (["prompt 2", "prompt 3"], [])


@pytest.mark.parametrize(
    ("chain", "options", "why"),
    [
        (lambda: [turn(1, model=OLD), turn(2, model=OLD)], {}, "because gemini-2.5-flash-image made them"),
        (lambda: [turn(1), turn(2, model=OLD, context_inlined=True)], {}, "because gemini-2.5-flash-image made them"),
        (
            lambda: [turn(1), turn(2)],
            {"signatures_rejected": True},
            "because Gemini does not accept their thought signatures",
        ),
        (lambda: [turn(1), turn(2, as_thought=True)], {}, "as a thought"),
    ],
)
def test_images_are_sent_as_references_if_a_conversation_is_impossible(
    chain: Callable[[], list[Turn]], options: dict[str, Any], why: str
) -> None:
    chat_context, warnings = select_context(chain(), asked(), PRO, **options)

    assert chat_context.turns == ()
    assert [part.text for part in chat_context.parts if part.data is None] == [
        "Drawn in turn 1 for: prompt 1",
        "Drawn in turn 2 for: prompt 2",
    ]
    assert why in warnings[0]


def test_references_are_sent_in_the_order_of_their_turns() -> None:
    chain = [turn(1, uploads=2), *(turn(number, drawn=str(number).encode()) for number in range(2, 15))]

    chat_context, _ = select_context(chain, asked(uploads=1), PRO, signatures_rejected=True)

    held = [part.data.head(10).decode() for part in chat_context.parts if part.data is not None]
    assert held == ["upload 1.0", "upload 1.1", *(str(number) for number in range(4, 15))]


def test_a_missing_image_is_left_out_with_a_warning() -> None:
    chain = [turn(1), turn(2)]
    lost: set[Content] = {chain[1].image.content} if chain[1].image else set()

    chat_context, warnings = select_context(chain, asked(), PRO, missing=lost)

    assert [part.text for part in chat_context.parts if part.data is None] == ["Drawn in turn 1 for: prompt 1"]
    assert "missing from the storage" in warnings[0]


def test_long_prompts_are_quoted_shortened() -> None:
    chain = [turn(1, prompt="word " * 100, model=OLD)]

    chat_context, _ = select_context(chain, asked(), PRO)

    assert len(chat_context.parts[0].text) < 250
