"""The service under a server of one's own: `uvicorn app.server.asgi:create_app --factory`.

`python -m app` has limits on connections, headers and slow callers that uvicorn alone lacks.
"""

from fastapi import FastAPI

from app import main
from app.server.start_checks import examine_environment


def create_app() -> FastAPI:
    """Build the service for the settings of the environment.

    Raises:
        UnsafeSettings: something is wrong with the environment; the message names each variable.
    """
    return main.create_app(examine_environment().require_startable())
