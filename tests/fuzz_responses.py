"""A target for atheris, run by `make fuzz`: the response parser of the HTTP client against h11."""

import sys

import atheris

with atheris.instrument_imports(include=["app.gemini.transport.http.parser"]):
    from tests import response_oracle


def run_one(given: bytes) -> None:
    response_oracle.check(response_oracle.pieces_from(given))


if __name__ == "__main__":
    atheris.Setup(sys.argv, run_one)
    atheris.Fuzz()
