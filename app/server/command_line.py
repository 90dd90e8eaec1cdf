"""The arguments of `python -m app`, which is also `gemini-images`."""

import argparse
import sys
from pathlib import Path
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """Says in one sentence what is wrong with the arguments."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{message[:1].upper()}{message[1:]}. {self.prog} --help lists what there is.\n")


def parse_arguments(description: str | None) -> argparse.Namespace:
    """Return the arguments of this process, or print what is wrong with them and exit with code 2.

    `command` is `None` if none is named. `keys` also has a `verb`, and its options.
    """
    name = Path(sys.argv[0]).name
    parser = Parser(prog="python -m app" if name == "__main__.py" else name, description=description)
    demo_option: dict[str, Any] = {
        "action": "store_true",
        "help": "run on the built-in emulator if there are no Gemini credentials",
    }
    parser.add_argument("--demo-without-key", **demo_option)
    commands = parser.add_subparsers(dest="command", metavar="command")
    serve = commands.add_parser("serve", help="run the service (the default)")
    serve.add_argument("--demo-without-key", default=argparse.SUPPRESS, **demo_option)
    commands.add_parser("doctor", help="check settings, credentials and storage without paid calls")
    commands.add_parser("migrate", help="update the tables of the database")
    about = "give out, change and end keys of callers, and show what they have used"
    _add_verbs(commands.add_parser("keys", help=about, description=_sentence(about)))
    return parser.parse_args()


def _add_verbs(keys: argparse.ArgumentParser) -> None:
    verbs = keys.add_subparsers(dest="verb", metavar="verb", required=True)

    def add(verb: str, about: str, *, name: bool = True) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = verbs.add_parser(verb, help=about, description=_sentence(about))
        if name:
            parser.add_argument("name", metavar="NAME", help="name of the caller")
        parser.add_argument("--json", action="store_true", help="print JSON")
        return parser

    _add_limits(add("add", "make a key; the last line printed is its secret, which is never shown again"))
    add("list", "list all keys", name=False)
    add("show", "show a key")
    _add_limits(add("set", "change limits of a key; what is not named stays, and the value none removes a limit"))
    rotate = add("rotate", "give a key another secret, which is the last line printed")
    rotate.add_argument("--overlap", metavar="24h", help="how long the earlier secrets stay valid (default: 24h)")
    add("revoke", "end a key with all its secrets")
    usage = add("usage", "show what callers have used", name=False)
    usage.add_argument("name", metavar="NAME", nargs="?", help="name of the caller; without it all are shown")
    usage.add_argument("--from", dest="first", metavar="DAY", help="first day (UTC), such as 2026-11-01")
    usage.add_argument("--to", dest="last", metavar="DAY", help="last day, which is included (default: this month)")


def _add_limits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rate", metavar="60/min", help="requests per s, min, hour or day")
    parser.add_argument("--concurrent", metavar="4", help="generations at once")
    parser.add_argument("--budget", metavar="20/month", help="US dollars per day or month of UTC")
    parser.add_argument("--max-size", metavar="2K", help="largest image size: 512, 1K, 2K or 4K")
    parser.add_argument("--models", metavar="a,b", help="the only models that may be asked")
    parser.add_argument("--expires", metavar="90d", help="time after which the key ends")
    parser.add_argument(
        "--track-users",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="keep usage by the end users that the header X-End-User names",
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
