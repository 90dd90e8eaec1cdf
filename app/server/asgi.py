"""The service under a server of one's own: `uvicorn app.server.asgi:create_app --factory`.

`python -m app` has limits on connections, headers and slow callers that uvicorn alone lacks.
"""

from fastapi import FastAPI

from app import main
from app.server.start_checks import check_environment


def create_app() -> FastAPI:
    """Build the service for the settings of the environment.

    Raises:
        UnsafeConfiguration: something is wrong with the environment; the message names each variable.
    """
    return main.create_app(check_environment().require_startable())
