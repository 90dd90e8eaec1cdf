"""The routes `/emulator/faults` and `/emulator/calls`: script faults and read calls over HTTP."""

import inspect
import re
from collections import deque
from dataclasses import asdict, fields

from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.emulator.call import Call
from app.emulator.faults import Fault

_FAULT = TypeAdapter(Fault)
_FORBIDDEN = {"error": "Web pages of other sites may not script this emulator. Call it by localhost or its address."}
_LOCAL_HOSTS = re.compile(r"(?:(?:[\w-]+\.)*localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d{0,5})?", re.IGNORECASE)


async def respond(request: Request, faults: deque[Fault], calls: deque[Call]) -> Response:
    if not _is_allowed(request):
        return JSONResponse(_FORBIDDEN, 403)
    match request.method, request.url.path:
        case "POST", "/emulator/faults":
            return await _add_fault(request, faults)
        case "GET", "/emulator/faults":
            return JSONResponse([asdict(fault) for fault in faults])
        case "GET", "/emulator/calls":
            return JSONResponse(
                [{"model": one.model, "method": one.method, "path": one.path, "body": one.body} for one in calls]
            )
        case "DELETE", "/emulator/faults":
            faults.clear()
            return Response(status_code=204)
        case "DELETE", "/emulator/calls":
            calls.clear()
            return Response(status_code=204)
    return JSONResponse({"error": "The paths are /emulator/faults and /emulator/calls."}, 404)


async def _add_fault(request: Request, faults: deque[Fault]) -> Response:
    try:
        fault = _FAULT.validate_json(await request.body())
    except ValidationError as error:
        known = {one.name: inspect.formatannotation(one.type) for one in fields(Fault)}
        wrong = error.errors(include_url=False, include_input=False, include_context=False)
        return JSONResponse({"error": "The fault is not valid.", "wrong": wrong, "fields": known}, 422)
    faults.append(fault)
    return JSONResponse(asdict(fault), 201)


def _is_allowed(request: Request) -> bool:
    """Return whether the request certainly comes from no web page of another site.

    Such a page can make a browser send a form to this machine: then `Origin` names the page. Or it can resolve its own
    host name to this machine: then `Host` has that name.
    """
    host, origin = request.headers.get("host", ""), request.headers.get("origin")
    address = (request.scope.get("server") or ("",))[0]
    if (address == "::1" or address.startswith("127.")) and host and not _LOCAL_HOSTS.fullmatch(host):
        return False
    if origin is None:
        return request.headers.get("sec-fetch-site", "none") in ("none", "same-origin")
    authority = origin.partition("://")[2]
    return authority == host or _LOCAL_HOSTS.fullmatch(authority) is not None
