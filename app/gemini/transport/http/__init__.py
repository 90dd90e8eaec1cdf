"""An HTTP/1.1 client for a few long requests with large bodies.

It connects directly or through an HTTP proxy, keeps idle connections, and limits how long each step may take. It copies
a body once, reads a socket only when the caller reads, and shares the event loop through a `FairScheduler`. It tells
errors before a request is sent from later ones, and never hands a surplus response to another request. It does not
retry, follow redirects, decompress, keep cookies, or speak HTTP/2 or SOCKS. It knows nothing of images or of Gemini.
"""

from app.gemini.transport.http.pool import ConnectionPool
from app.gemini.transport.http.response import RawResponse

__all__ = ["ConnectionPool", "RawResponse"]
