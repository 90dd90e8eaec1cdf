"""What `python -m app doctor` finds."""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILURE = "FAILURE"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    verdict: Verdict
    subject: str
    message: str

    def __str__(self) -> str:
        return f"{self.verdict:<8} {self.subject:<12} {self.message}"


def ok(subject: str, message: str) -> Finding:
    return Finding(Verdict.OK, subject, message)


def warning(subject: str, message: str) -> Finding:
    return Finding(Verdict.WARNING, subject, message)


def failure(subject: str, message: str) -> Finding:
    return Finding(Verdict.FAILURE, subject, message)


def skipped(subject: str, message: str) -> Finding:
    return Finding(Verdict.SKIPPED, subject, message)
