"""What is left of a caller's limits, as response headers."""

from math import ceil

from app.domain.limits import Allowance, format_usd


def limit_headers(allowance: Allowance) -> dict[str, str]:
    """Return what is left of a caller's limits as headers.

    Source of `RateLimit` and `RateLimit-Policy`: draft-ietf-httpapi-ratelimit-headers-10. It has no unit for dollars,
    so the budget has a header of its own.
    """
    limits = allowance.limits
    policies, left = [], []
    if limits.rate is not None:
        policies.append(f'"requests";q={limits.rate.requests};w={limits.rate.seconds}')
        left.append(f'"requests";r={allowance.requests_left};t={ceil(allowance.request_after or 0)}')
    if limits.concurrent is not None:
        policies.append(f'"concurrent";q={limits.concurrent};qu="concurrent-requests"')
        left.append(f'"concurrent";r={allowance.places_left}')
    headers = {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(left)} if policies else {}
    if allowance.micro_usd_left is not None:
        headers["X-Budget-Remaining-Usd"] = format_usd(allowance.micro_usd_left)
    return headers
