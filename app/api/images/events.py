"""The native events of a generation: `started`, then its progress, then `image` and `done`, or `problem`."""

import json
from collections.abc import Callable
from typing import Any

from app.api.http.event_stream import HEARTBEAT
from app.api.http.problems import Report
from app.api.http.streaming import Segment
from app.api.images.rendering import linked_document, render_image_json, render_json
from app.domain.generation import Generation
from app.domain.progress import Draft, ProgressEvent, Retrying, Started, Thought
from app.lib import logs


class GenerationEvents:
    """Encodes the events of one generation."""

    def __init__(self, model: str | None, *, with_url: bool, url_of: Callable[[Generation], str] | None = None) -> None:
        """
        Args:
            model: the id of the model that is asked first; `None` if it is not known yet.
            with_url: send images as data URLs too.
            url_of: returns the link that is sent in place of the image; `None` to send the image.
        """
        self._model = model
        self._with_url = with_url
        self._url_of = url_of

    def opening(self) -> list[Segment]:
        return _started(Started(self._model, 1)) if self._model else [HEARTBEAT]

    def takes_draft(self, place: int) -> bool:
        return True

    def progress(self, event: ProgressEvent, place: int) -> list[Segment]:
        match event:
            case Started() if (event.model, event.attempt) != (self._model, 1):
                return _started(event)
            case Retrying():
                data = {"attempt": event.attempt, "waitSeconds": event.wait_seconds, "reason": event.reason}
                return _event("retrying", data)
            case Thought(text=text):
                return _event("thought", {"text": text})
            case Draft(image=image):
                return encode_event("draft", render_image_json(image, with_url=self._with_url))
        return []

    def succeeded(self, generation: Generation) -> list[Segment]:
        if self._url_of is not None:
            document: list[Segment] = [json.dumps(linked_document(generation, self._url_of(generation))).encode()]
        else:
            document = render_json(generation, with_url=self._with_url)
        return [*encode_event("image", document), *_event("done", {})]

    def failed(self, reported: Report) -> list[Segment]:
        return _event("problem", reported.document)

    def closing(self) -> list[Segment]:
        return []


def encode_event(name: str, document: list[Segment]) -> list[Segment]:
    return [f"event: {name}\ndata: ".encode(), *document, b"\n\n"]


def _started(event: Started) -> list[Segment]:
    return _event("started", {"requestId": logs.request_id.get(), "model": event.model, "attempt": event.attempt})


def _event(name: str, data: dict[str, Any]) -> list[Segment]:
    return encode_event(name, [json.dumps(data, separators=(",", ":")).encode()])
