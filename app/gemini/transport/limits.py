"""How much a response of Gemini's may hold."""

MAX_JSON_BYTES = 2 * 1024 * 1024
"""The most that an answer may hold beside its images and thought signatures. 32,768 tokens, the most that these models
write, are 200 kB of text; sources are some tens of kB; the chunks of a stream repeat half a kilobyte each."""


MAX_JSON_ITEMS = 400_000
"""The most brackets, commas and quotation marks in it, each of which costs some tenths of a microsecond to read. A line
end costs several times as much, and is counted as `_ITEMS` says."""


MAX_DOCUMENTS = 5000
"""The most chunks of a stream. Some dozens are usual."""


MAX_EXTRACTED_STRINGS = 1000
"""The most images and signatures in an answer. Ten images are the most that has been seen."""


MAX_ERROR_BYTES = 128 * 1024
"""The longest body of an error that is read. Google's have up to some kB; of a longer one the status has to do."""
