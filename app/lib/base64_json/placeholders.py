"""Short strings that stand for content in a JSON text."""

import secrets


class Placeholders:
    """Creates placeholders for one message. The random part differs for each message, so that no prompt can guess it.

    A placeholder is 36 hexadecimal digits. That is valid base64 in both alphabets and decodes to 27 bytes. So code that
    expects the base64 of an image accepts it.
    """

    LENGTH = 36

    def __init__(self) -> None:
        self.prefix = secrets.token_hex(16)
        """The first 32 digits of each placeholder."""
        self._count = 0

    def next(self) -> str:
        self._count += 1
        return f"{self.prefix}{self._count:04x}"
