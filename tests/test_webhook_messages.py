"""What a webhook says, and its signature."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from app.domain.recorded import GenerationStatus, RecordedGeneration
from app.service.webhooks.message import MAX_BODY_BYTES, WebhookSigner, body_of

SECRETS = [f"whsec_{letter * 32}" for letter in "ABC"]


def generation(status: GenerationStatus = GenerationStatus.SUCCEEDED) -> RecordedGeneration:
    return RecordedGeneration("1", "anna", status, True, created_at=1e9, finished_at=1_700_000_000.25)


def data_of(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document as a webhook has it."""
    body = body_of(generation(), document)
    assert len(body.encode()) <= MAX_BODY_BYTES
    data: dict[str, Any] = json.loads(body)["data"]
    return data


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled", "interrupted"])
def test_a_message_says_how_and_when_the_generation_ended(status: str) -> None:
    body = json.loads(body_of(generation(GenerationStatus(status)), {"id": "1"}))

    assert body == {"type": f"generation.{status}", "timestamp": "2023-11-14T22:13:20.250000Z", "data": {"id": "1"}}


def test_a_signature_is_valid_for_the_library_of_standard_webhooks() -> None:
    body = body_of(generation(), {"prompt": "Ein Kätzchen \N{CAT}"})
    headers = WebhookSigner(SECRETS[:1]).headers("msg_1", body, datetime.now(UTC))

    assert Webhook(SECRETS[0]).verify(body, headers) == json.loads(body)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRETS[0]).verify(body + " ", headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRETS[1]).verify(body, headers)


def test_while_a_secret_is_replaced_both_are_valid() -> None:
    headers = WebhookSigner(SECRETS[:2]).headers("msg_1", "{}", datetime.now(UTC))

    for secret in SECRETS[:2]:
        assert Webhook(secret).verify("{}", headers) == {}
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRETS[2]).verify("{}", headers)


def test_the_largest_texts_are_left_out_of_a_large_message() -> None:
    document = {
        "id": "1",
        "status": "succeeded",
        "result": {
            "image": {"url": "https://images.example/1/image", "width": 1024},
            "text": "ü" * 15_000,
            "thoughts": "t" * 4_000,
            "prompt": "p" * 3_000,
        },
        "links": {"self": "https://images.example/1"},
    }

    data = data_of(document)

    assert data["truncated"] is True
    assert set(data["result"]) == {"image", "thoughts", "prompt"}
    assert (data["id"], data["links"], data["result"]["image"]) == (
        document["id"],
        document["links"],
        document["result"]["image"],  # type: ignore[index]
    )
    assert "truncated" not in data_of({"id": "1"})


def test_long_lists_are_left_out_if_texts_are_not_enough() -> None:
    sources = [{"title": "A source", "url": f"https://example/{number}"} for number in range(2_000)]

    data = data_of({"id": "1", "result": {"text": "t" * 1_000, "grounding": {"sources": sources, "queries": ["a"]}}})

    assert data == {"id": "1", "result": {"grounding": {"queries": ["a"]}}, "truncated": True}


def test_whatever_the_document_holds_the_message_is_small() -> None:
    many = {f"field {number}": "x" * 200 for number in range(500)}

    assert data_of({"id": "1", "result": many}) == {"id": "1", "truncated": True}
    assert len(data_of({"id": "1", **many})) > 10


def test_half_of_a_surrogate_pair_is_escaped() -> None:
    body = body_of(generation(), {"prompt": "\ud83d"})

    assert "\\ud83d" in body
    assert Webhook(SECRETS[0]).verify(body, WebhookSigner(SECRETS).headers("msg_1", body, datetime.now(UTC)))
