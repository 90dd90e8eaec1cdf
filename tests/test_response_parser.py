"""The response parser with random bytes from fixed seeds. `make fuzz` searches further, if atheris has a wheel."""

import random

import pytest

from app.gemini.transport.http.parser import MAX_HEAD_BYTES
from tests import response_oracle

SEEDS = range(10)
ROUNDS = 200
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_well_formed_response_is_understood_for_any_cut(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(ROUNDS // 4):
        text, expected = response_oracle.well_formed(chance)
        place = chance.randint(0, len(text))

        assert response_oracle.check([text[:place], text[place:]]) == expected


@pytest.mark.parametrize("seed", SEEDS)
def test_bytes_behind_a_response_change_nothing_but_end_the_connection(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(ROUNDS // 4):
        text, expected = response_oracle.well_formed(chance)
        surplus = chance.choice([response_oracle.well_formed(chance)[0], chance.randbytes(20), INTERIM, b"\0"])
        if not expected.allows_reuse:
            continue  # the end of the connection ends this response

        found = response_oracle.check([text + surplus])

        assert found is not None
        assert (found.status, found.headers, found.body) == (expected.status, expected.headers, expected.body)
        assert not found.allows_reuse


@pytest.mark.parametrize("seed", SEEDS)
def test_a_damaged_response_is_an_error_or_what_h11_understands(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(ROUNDS // 2):
        text = response_oracle.damaged(response_oracle.well_formed(chance)[0], chance)
        place = chance.randint(0, len(text))

        response_oracle.check([text[:place], text[place:]])


@pytest.mark.parametrize("seed", SEEDS)
def test_random_pieces_of_http_are_an_error_or_parsed_as_by_h11(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(ROUNDS):
        response_oracle.check(response_oracle.pieces_from(chance.randbytes(chance.randint(4, 24))))


@pytest.mark.parametrize("size", [1, 1000, 2 * MAX_HEAD_BYTES])
def test_headers_have_a_limit_for_any_cut(size: int) -> None:
    text = b"HTTP/1.1 200 OK\r\nX: " + b"a" * 2 * MAX_HEAD_BYTES + b"\r\n\r\n"

    assert response_oracle.parse([text[start : start + size] for start in range(0, len(text), size)]) is None


def test_a_connection_of_http_1_0_is_not_used_again() -> None:
    head = b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n"

    found = response_oracle.check([head + b"ok"])

    assert found is not None
    assert found.body == b"ok"
    assert not found.allows_reuse
