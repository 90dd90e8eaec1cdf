"""Problem documents as the bytes of an HTTP response, for requests that do not reach the application."""

import json
from http import HTTPStatus

from app.api.http.middleware import new_request_id
from app.api.http.problems import MEDIA_TYPE, report
from app.domain.errors import ServiceError


def problem_bytes(error: ServiceError) -> bytes:
    """Return a complete response that closes its connection.

    The response is not logged, because thousands of connections may end with one.
    """
    problem = report(error, new_request_id(), log_sensitive=False)
    body = json.dumps(problem.document)
    headers = {
        "Content-Type": MEDIA_TYPE,
        "Content-Length": str(len(body)),
        "Connection": "close",
        "X-Request-Id": problem.document["requestId"],
        **problem.headers,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}\r\n{head}\r\n{body}".encode()
