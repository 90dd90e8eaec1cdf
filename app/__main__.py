"""The service, under uvicorn: `python -m app`, or `gemini-images` where it is installed."""

import argparse
import os
import sys

from app.server.exit import exit_process
from app.server.start_checks import check_environment
from app.settings import Settings

MAX_OPEN_FILES = 65_536

STARTUP_FAILURE = 3
"""uvicorn's exit code for it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "command",
        nargs="?",
        choices=["serve", "doctor", "migrate"],
        default="serve",
        help="serve (the default); doctor: check the settings and what they name; migrate: update the database",
    )
    parser.add_argument(
        "--demo-without-key",
        action="store_true",
        help="run on the built-in emulator if there are no Gemini credentials",
    )
    given = parser.parse_args()
    os.umask(0o077)  # whatever any library writes, only this user may read
    if given.command == "doctor":
        from app.server import doctor  # each loads what it needs, which takes a second

        return doctor.main()
    if given.command == "migrate":
        from app.server import migrate

        return migrate.main()
    _serve(demo_without_key=given.demo_without_key)


def _serve(*, demo_without_key: bool) -> None:
    examined = check_environment(demo_without_key=demo_without_key, listening=True)
    settings = examined.require_startable(examined.settings.host)
    why = "for want of GEMINI_API_KEY" if examined.demo_for_want_of_key else "as DEMO says"
    for warning in examined.warnings:
        print(f"Warning: {warning}", file=sys.stderr)
    _allow_many_connections()
    print(_runs_on(settings, why), file=sys.stderr, flush=True)
    from app.main import create_app  # takes a second; whoever has mistyped a setting need not wait for it
    from app.server.lifecycle import create_server

    server = create_server(create_app(settings), settings)
    server.run()
    exit_process(0 if server.started else STARTUP_FAILURE)


def _allow_many_connections() -> None:
    """Each generation in flight holds two connections; shells often allow 1,024 files where the system allows more."""
    try:
        import resource
    except ImportError:  # not on Unix
        return
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if most == resource.RLIM_INFINITY else min(most, MAX_OPEN_FILES)
    if allowed != resource.RLIM_INFINITY and allowed < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _runs_on(settings: Settings, why: str) -> str:
    where = f"http://{settings.host}:{settings.port}, documented at /docs"
    if settings.demo:
        return f"Running on the built-in emulator, {why}: {where}"
    vertex = settings.google_genai_use_vertexai
    elsewhere = settings.google_vertex_base_url if vertex else settings.google_gemini_base_url
    return f"Running on {'Vertex AI' if vertex else 'Gemini'}{f' at {elsewhere}' if elsewhere else ''}: {where}"


if __name__ == "__main__":
    main()
