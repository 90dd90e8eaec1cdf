"""The images of a recorded generation as one caller gets them, and the memory that they take meanwhile."""

from app.api.http.state import RequestState
from app.domain.generation import Generation, GenerationRequest, Image
from app.domain.progress import GenerationProgress
from app.domain.recorded import Outcome
from app.lib.byte_budget import Reservation
from app.service.generation.output import OutputConversion, deliver
from app.service.recorded.work import Answer


class Delivery:
    """Converts images for one request."""

    def __init__(self, state: RequestState) -> None:
        self._state = state
        self._memory: list[Reservation] = []
        self._draft_memory = state["converter"].reserve()

    async def outcome(self, answer: Answer, place: int, request: GenerationRequest, *, is_replay: bool) -> Outcome:
        """Return an outcome as this caller gets it: an image in an accepted format, or an error of its own.

        Args:
            answer: of the generation.
            place: index of the outcome.
            request: with the media types that this caller accepts.
            is_replay: whether an earlier request led to the answer.

        Raises:
            ServiceError: as `deliver`.
        """
        outcome = answer.outcomes[place]
        if isinstance(outcome, Generation):
            return await deliver(
                outcome,
                request,
                self._state["converter"],
                self._reserve(),
                self._state["settings"].deadline_seconds,
                is_converted=answer.is_converted,
            )
        error = outcome.copied()
        error.is_replay = is_replay
        return error

    async def draft(self, image: Image, request: GenerationRequest) -> Image:
        """Return a draft in the format that the caller asks for. Raises as `outcome`."""
        progress = GenerationProgress(self._state["settings"].deadline_seconds, self._reserve())
        return await OutputConversion(self._state["converter"], request, progress).image(image, self._draft_memory)

    def _reserve(self) -> Reservation:
        self._memory.append(Reservation(self._state["response_memory"]))
        return self._memory[-1]

    def close(self) -> None:
        """Release the memory: the response has been sent."""
        for memory in (*self._memory, self._draft_memory):
            memory.resize(0)
