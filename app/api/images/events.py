"""The native events of a generation: `started`, then its progress, then `image` and `done`, or `problem`."""

import json
from typing import Any

from app.api.http.problems import Report
from app.api.http.streaming import Segment
from app.api.images.rendering import render_image_json, render_json
from app.domain.generation import Generation
from app.domain.progress import Draft, ProgressEvent, Retrying, Started, Thought
from app.lib import logs


class GenerationEvents:
    """Encodes the events of one generation."""

    def __init__(self, model: str, *, with_url: bool) -> None:
        """
        Args:
            model: the id of the model that is asked first.
            with_url: send images as data URLs too.
        """
        self._model = model
        self._with_url = with_url

    def opening(self) -> list[Segment]:
        return _started(Started(self._model, 1))

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
