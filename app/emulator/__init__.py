"""A stand-in for the Gemini API: it answers `generateContent` requests of image models with generated images.

It imitates Google's HTTP traffic, not the quality of the images. It imports nothing else of this service, and also
runs alone: `python -m app.emulator --port 9000`. Where Google's behaviour is not known, it accepts all variants.
"""

from app.emulator.application import Emulator
from app.emulator.call import Call
from app.emulator.faults import Fault
from app.emulator.server import served

__all__ = ["Call", "Emulator", "Fault", "served"]
