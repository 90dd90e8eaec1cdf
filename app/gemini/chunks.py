"""Read the JSON documents of a response while they arrive.

A failure after the complete image does not lose the image: the response is returned with a warning.
"""

from collections.abc import Callable

from app.domain.errors import UpstreamInvalidResponse
from app.domain.generation import GenerationRequest
from app.domain.progress import Draft, ProgressEvent, Thought
from app.gemini.errors import error_in_response
from app.gemini.refusals import is_refusal
from app.gemini.response_schema import GenerateContentResponse, Part, merge_chunks, parse
from app.gemini.responses import read_images
from app.gemini.text import without_base64
from app.gemini.transport.exchange import ImageExchange, ResponseTooLarge

MAX_DOCUMENT_ITEMS = 100_000
"""Quotation marks and commas that one document may have. Parsing that many takes up to 30 ms."""


class StreamObserver:
    """Reports thoughts and drafts while a stream arrives, if the request asks for them."""

    def __init__(
        self, exchange: ImageExchange, request: GenerationRequest, notify: Callable[[ProgressEvent], None]
    ) -> None:
        self._exchange = exchange
        self._request = request
        self._notify = notify
        self._latest_image: Part | None = None

    def observe(self, chunk: GenerateContentResponse) -> None:
        for part in (part for candidate in chunk.candidates or [] for part in candidate.parts):
            if part.thought and part.text and self._request.include_thoughts:
                self._notify(Thought(without_base64(part.text) or ""))
            elif part.is_image and self._request.include_drafts:
                self._observe_image(part)

    def _observe_image(self, part: Part) -> None:
        """Report a draft. An image is a draft if it is a thought, or if another image follows it."""
        draft = part if part.thought else self._latest_image
        if not part.thought:
            self._latest_image = part
        for image in read_images([draft] if draft else [], self._exchange):
            self._notify(Draft(image))


class ResponseChunks:
    """The JSON documents of one response: the only one of a plain response, or the chunks of a stream."""

    def __init__(self, exchange: ImageExchange, observer: StreamObserver | None = None) -> None:
        """
        Args:
            exchange: the exchange of this call.
            observer: gets each chunk of a stream; `None` for a plain response.
        """
        self._exchange = exchange
        self._observer = observer
        self._chunks: list[GenerateContentResponse] = []
        self._parse_error: str | None = None
        self.warning: str | None = None
        """A warning for the caller if the response was defective but its image is complete."""

    def read_arrived(self) -> None:
        """Parse the documents that have arrived since the last call.

        Raises:
            ServiceError: Gemini sent an error.
            ResponseTooLarge: a document has more than `MAX_DOCUMENT_ITEMS` items.
        """
        for document in self._exchange.documents():
            if document.count('"') + document.count(",") > MAX_DOCUMENT_ITEMS:
                raise ResponseTooLarge(f"more than {MAX_DOCUMENT_ITEMS:,} items in a document")
            try:
                chunk = parse(document)
            except UpstreamInvalidResponse as error:
                self._parse_error = self._parse_error or error.cause or "unreadable"
            else:
                self._add(chunk)

    def _add(self, chunk: GenerateContentResponse) -> None:
        error, chunk.error = chunk.error, None
        if error is None or chunk.candidates or chunk.prompt_feedback:
            self._chunks.append(chunk)
            if self._observer is not None:
                self._observer.observe(chunk)
        if error is not None:
            self._handle_error(error)

    def _handle_error(self, error: object) -> None:
        response = self._merged()
        if is_refusal(response) or (response.has_image and response.has_finish_reason):
            self.warning = self.warning or "Gemini reported an error after it had sent the image."
            return
        if self._observer is None:
            raise UpstreamInvalidResponse("Gemini sent an error with status 200.", cause="error in a 200")
        raise error_in_response(error, has_started=bool(self._chunks), holds_images=self._exchange.holds_images)

    def has_image_after_failure(self) -> bool:
        """Read what arrived before the call failed, and return whether it holds the image."""
        self._exchange.end()
        self.read_arrived()
        if not self._merged().has_image:
            return False
        self.warning = self.warning or "The connection to Gemini broke after the image had arrived."
        return True

    def response(self) -> GenerateContentResponse:
        """Return the complete response. Call it after the response has ended.

        Raises:
            UpstreamInvalidResponse: the response is cut off, or what is needed of it cannot be parsed.
        """
        self.read_arrived()
        response = self._merged()
        if self._parse_error is not None:
            if not response.has_image and not is_refusal(response):
                raise UpstreamInvalidResponse("Gemini sent an invalid response.", cause=self._parse_error)
            self.warning = self.warning or "A part of Gemini's response beside the image could not be read."
        is_complete = response.has_finish_reason or response.has_image or is_refusal(response)
        if not is_complete and (self._observer is not None or not self._chunks):
            raise UpstreamInvalidResponse("Gemini's response ended too early.", cause="no finish reason")
        return response

    def _merged(self) -> GenerateContentResponse:
        return self._chunks[0] if len(self._chunks) == 1 else merge_chunks(self._chunks)
