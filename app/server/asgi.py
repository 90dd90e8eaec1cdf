"""The application for another ASGI server: `uvicorn app.server.asgi:create_app --factory`.

`python -m app` also limits connections, request heads and slow callers. uvicorn alone has no such limits.
"""

from fastapi import FastAPI

from app import main
from app.server.start_checks import check_environment


def create_app() -> FastAPI:
    """Build the application for the settings of the environment.

    Raises:
        UnsafeConfiguration: the environment has errors. The message names each variable.
    """
    return main.create_app(check_environment().require_startable())
