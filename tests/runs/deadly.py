"""Settings whose training kills its own process, as the system does where memory runs out."""

import dataclasses
import os
import secrets
import signal
from pathlib import Path

from arcvq.runs.settings import RunSettings


@dataclasses.dataclass(frozen=True)
class Deadly(RunSettings):
    """Kills the first processes that train it.

    `scars` is a folder with a file for each, which says how their waiting threads were told to wait.
    """

    kills: int = 1
    scars: Path = Path()

    def config(self):
        config = super().config()
        return {name: config[name] for name in config.keys() - {"kills", "scars"}}

    def model(self, data):
        self.scars.mkdir(exist_ok=True)
        if len(list(self.scars.iterdir())) < self.kills:
            policy = os.environ.get("OMP_WAIT_POLICY", "not set")
            (self.scars / secrets.token_hex(4)).write_text(policy)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().model(data)
