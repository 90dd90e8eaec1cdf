"""Short names for what has its place in a JSON text and is not in it."""

import secrets


class Placeholders:
    """A series of names that nobody can guess: the random part is drawn anew for each message.

    They are 36 hexadecimal digits, which is valid base64 in both alphabets and decodes to 27 bytes, so that they pass
    through code that insists on base64 where an image should be.
    """

    LENGTH = 36

    def __init__(self) -> None:
        self.prefix = secrets.token_hex(16)
        """How all of them begin."""
        self._count = 0

    def next(self) -> str:
        self._count += 1
        return f"{self.prefix}{self._count:04x}"
