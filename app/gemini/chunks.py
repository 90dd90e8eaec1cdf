"""What has arrived of an answer, while it arrives. What follows a complete image does not cost it any more."""

from collections.abc import Callable

from app.domain.errors import UpstreamInvalidResponse
from app.gemini import response_schema, responses
from app.gemini.errors import error_in_response
from app.gemini.transport.exchange import ImageExchange, ResponseTooLarge

MAX_DOCUMENT_ITEMS = 100_000
"""The most quotation marks and commas in one document. It takes up to 30 ms to read with so many."""


class ResponseChunks:
    """The documents of an answer: the one of a plain answer, or the chunks of a stream."""

    def __init__(
        self, exchange: ImageExchange, see: Callable[[response_schema.GenerateContentResponse], None] | None = None
    ) -> None:
        """
        Args:
            exchange: that of the call.
            see: is told of each chunk of a stream. Without it the answer is a plain one.
        """
        self._exchange = exchange
        self._see = see
        self._chunks: list[response_schema.GenerateContentResponse] = []
        self._unreadable: str | None = None
        self.warning: str | None = None
        """What the caller should know if the answer was not in order, and its image is."""

    def take(self) -> None:
        """Read the documents that have arrived since the last time.

        Raises:
            ServiceError: Gemini says that it has failed.
            ResponseTooLarge: there is more in a document than any answer has.
        """
        for document in self._exchange.documents():
            if document.count('"') + document.count(",") > MAX_DOCUMENT_ITEMS:
                raise ResponseTooLarge(f"more than {MAX_DOCUMENT_ITEMS:,} items in a document")
            try:
                chunk = responses.parse(document)
            except UpstreamInvalidResponse as unreadable:
                self._unreadable = self._unreadable or unreadable.cause or "unreadable"
                continue
            error, chunk.error = chunk.error, None
            if error is None or chunk.candidates or chunk.prompt_feedback:
                self._chunks.append(chunk)
                if self._see is not None:
                    self._see(chunk)
            if error is not None:
                self._fail(error)

    def break_off(self) -> bool:
        """The answer has broken off. Whether what has arrived of it is enough."""
        self._exchange.end()
        self.take()
        if not responses.has_image(self._joined()):
            return False
        self.warning = self.warning or "The connection to Gemini broke after the image had arrived."
        return True

    def answer(self) -> response_schema.GenerateContentResponse:
        """The whole answer, which has ended.

        Raises:
            UpstreamInvalidResponse: it has no end, or something of it that mattered cannot be read.
        """
        self.take()
        answer = self._joined()
        if self._unreadable is not None:
            if not responses.has_image(answer) and not responses.is_refusal(answer):
                raise UpstreamInvalidResponse("Gemini sent something that is not an answer.", cause=self._unreadable)
            self.warning = self.warning or "Something that Gemini sent beside the image could not be read."
        if not responses.is_complete(answer) and (self._see is not None or not self._chunks):
            raise UpstreamInvalidResponse("Gemini's answer ended before its end.", cause="no finish reason")
        return answer

    def _fail(self, error: object) -> None:
        answer = self._joined()
        if responses.is_refusal(answer) or (responses.has_image(answer) and responses.has_finish_reason(answer)):
            self.warning = self.warning or "Gemini reported an error after the image had arrived."
            return
        if self._see is None:
            raise UpstreamInvalidResponse("Gemini sent an error as if it were an answer.", cause="error in a 200")
        raise error_in_response(error, has_started=bool(self._chunks), holds_images=self._exchange.holds_images)

    def _joined(self) -> response_schema.GenerateContentResponse:
        return self._chunks[0] if len(self._chunks) == 1 else response_schema.merge_chunks(self._chunks)
