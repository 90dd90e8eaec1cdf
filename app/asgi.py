"""The service as an object, for servers that cannot call a factory: `fastapi run` takes it from pyproject.toml.

Importing this reads the environment. Everything else calls `create_app`.
"""

from app.main import create_app

app = create_app()
