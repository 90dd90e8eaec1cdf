"""A stand-in for the Gemini API: it speaks the wire of `generateContent` for image models and draws real pictures.

It promises the traffic, not the taste. It imports nothing else of this service and runs alone too:
`python -m app.emulator --port 9000`. Where Google's behaviour is not known for sure it accepts both ways.
"""

from app.emulator.faults import Fault
from app.emulator.server import Call, Emulator
from app.emulator.serving import served

__all__ = ["Call", "Emulator", "Fault", "served"]
