"""Run the service under uvicorn: `python -m app`, or `gemini-images` if it is installed."""

import gc
import os
import sys

from app.server.command_line import parse_arguments
from app.server.exit import exit_process
from app.server.start_checks import check_environment
from app.settings import Settings

MAX_OPEN_FILES = 65_536

STARTUP_FAILURE = 3
"""uvicorn's exit code if the application does not start."""


def main() -> None:
    arguments = parse_arguments(__doc__)
    os.umask(0o077)  # only this user may read the files that libraries write
    # Commands are imported when they run: some load the storage libraries, which takes a second.
    match arguments.command:
        case "doctor":
            from app.server import doctor

            doctor.main()
        case "migrate":
            from app.server import migrate

            migrate.main()
        case "keys":
            from app.server import keys_command

            keys_command.main(arguments)
        case _:
            _serve(demo_without_key=arguments.demo_without_key)


def _serve(*, demo_without_key: bool) -> None:
    environment = check_environment(demo_without_key=demo_without_key, listening=True)
    settings = environment.require_startable(environment.settings.host)
    why = "because GEMINI_API_KEY is not set" if environment.is_demo_without_key else "because DEMO is set"
    for warning in environment.warnings:
        print(f"Warning: {warning}", file=sys.stderr)
    _allow_many_connections()
    print(_describe(settings, why), file=sys.stderr, flush=True)
    from app.main import create_app  # takes a second to load; errors in settings are reported before
    from app.server.lifecycle import create_server

    server = create_server(create_app(settings), settings)
    gc.freeze()  # a full collection then skips what the modules loaded, and blocks the event loop for less time
    server.run()
    exit_process(0 if server.started else STARTUP_FAILURE)


def _allow_many_connections() -> None:
    """Raise the limit on open files: a generation needs two connections, and shells often allow only 1,024 files."""
    try:
        import resource
    except ImportError:  # not on Unix
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def _describe(settings: Settings, why: str) -> str:
    address = f"http://{settings.host}:{settings.port}" if settings.port else f"a free port of {settings.host}"
    pages = {"the playground at /": settings.playground_access, "the API reference at /docs": settings.docs_access}
    shown = " and ".join(page for page, access in pages.items() if access != "off")
    url = f"{address}{f', with {shown}' if shown else ''}"
    if settings.demo:
        return f"Running on the built-in emulator, {why}: {url}"
    vertex = settings.google_genai_use_vertexai
    base_url = settings.google_vertex_base_url if vertex else settings.google_gemini_base_url
    return f"Running on {'Vertex AI' if vertex else 'Gemini'}{f' at {base_url}' if base_url else ''}: {url}"


if __name__ == "__main__":
    main()
