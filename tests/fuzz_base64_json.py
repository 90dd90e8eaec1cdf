"""A target for atheris, run by `make fuzz`: the base64 extractor against `json.loads`.

The first bytes of the input say where the chunks end; the others are the text.
"""

import sys

import atheris

with atheris.instrument_imports(include=["app.lib.base64_json"]):
    from app.lib.base64_json import Base64Extractor  # noqa: F401 - imported here so that it is instrumented
    from tests import oracle

WORDS = (
    b'"data":"',
    b'"thoughtSignature": "',
    b'QUJD/+8="',
    b"\\u003d",
    b"\\/",
    b"\\",
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"\n",
)


def one(given: bytes) -> None:
    source = atheris.FuzzedDataProvider(given)
    lengths = [source.ConsumeIntInRange(1, 40) for _ in range(source.ConsumeIntInRange(0, 6))]
    text = bytearray()
    while source.remaining_bytes():
        if source.ConsumeBool():
            text += WORDS[source.ConsumeIntInRange(0, len(WORDS) - 1)]
        else:
            text += source.ConsumeBytes(source.ConsumeIntInRange(1, 8))
    chunks = []
    for length in lengths:
        chunks.append(bytes(text[:length]))
        del text[:length]
    oracle.check([*chunks, bytes(text)])


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
