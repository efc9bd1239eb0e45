"""The lines that a run writes, and which of them say that something is wrong."""

import json
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

FILE = "first_contact.jsonl"


class Record(NamedTuple):
    """One stage's part of a run; the same file for all, to which each process appends whole lines."""

    directory: Path
    run: float  # the time at which the run began, by which its lines are known
    stage: str
    part: str = ""

    def say(self, **fields: Any) -> None:
        """One line, on the disk when this returns."""
        about = {"run": self.run, "t": round(time.time() - self.run, 2), "stage": self.stage}
        if self.part:
            about["part"] = self.part
        line = json.dumps(about | fields, default=str)
        print(line, flush=True)
        with (self.directory / FILE).open("a") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())

    def lines(self) -> list[dict[str, Any]]:
        """Those of this stage's part, so far."""
        return [line for line in lines(self.directory, self.run) if self._is_of(line)]

    def _is_of(self, line: dict[str, Any]) -> bool:
        return line["stage"] == self.stage and line.get("part", "") == self.part

    @property
    def running(self) -> Path:
        """The file that names the step which is being done."""
        return self._beside("running")

    @property
    def log(self) -> Path:
        """The file of what the process prints."""
        return self._beside("log")

    def _beside(self, suffix: str) -> Path:
        name = "-".join(word.replace(" ", "_") for word in (self.stage, self.part) if word)
        return self.directory / f"{name}.{suffix}"


def lines(directory: Path, run: float) -> list[dict[str, Any]]:
    """All lines of a run."""
    path = directory / FILE
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line for line in found if line["run"] == run]


def is_right(line: dict[str, Any]) -> bool:
    return line.get("ok") is True


def is_wrong(line: dict[str, Any]) -> bool:
    """A wrong result, or none where one should be."""
    return line.get("ok") is False or "failed" in line
