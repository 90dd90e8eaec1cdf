"""Limits of one response from Gemini."""

MAX_JSON_BYTES = 2 * 1024 * 1024
"""Maximum bytes of JSON beside images and thought signatures. 32,768 tokens, the most that these models write, are
200 kB of text; sources are some tens of kB; each chunk of a stream repeats 0.5 kB."""

MAX_JSON_ITEMS = 400_000
"""Maximum number of brackets, commas and quotation marks. Each takes some tenths of a microsecond to parse. A line end
takes several times as long, and counts as eight items."""

MAX_DOCUMENTS = 5000
"""Maximum number of chunks in a stream. Some dozens are usual."""

MAX_EXTRACTED_STRINGS = 1000
"""Maximum number of images and thought signatures. The highest number of images ever recorded is ten."""

MAX_ERROR_BYTES = 128 * 1024
"""Maximum bytes of an error's body. Google's errors have up to some kB. A longer body is dropped, and the status
remains."""
