"""Where a study is shown in addition to its own folder; nothing here changes a trial."""

import re
from dataclasses import dataclass

from harness.plan.errors import UserError

MODES = ("offline", "online", "auto", "disabled")
NAME = re.compile(r"[\w.-]{1,128}")  # what W&B takes for projects and entities, and what an address can hold


@dataclass(frozen=True)
class Tracking:
    """The tracking part of a configuration, checked."""

    mode: str  # of W&B: offline | online | auto | disabled
    project: str = "harness"
    entity: str | None = None  # user or team; None: the key's own
    tensorboard: bool = False  # true: also write TensorBoard event files, to the study's tensorboard/
    finish_s: float = 10.0  # seconds that W&B may take after the last trial; the rest is uploaded later

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(f"tracking.mode must be one of {', '.join(MODES)}, not {self.mode!r}")
        for key, name in (("project", self.project), ("entity", self.entity)):
            if name is not None and not NAME.fullmatch(name):
                raise UserError(f"tracking.{key} must be 1 to 128 letters, digits, '-', '_' and '.', not {name!r}")
        if not 0 < self.finish_s <= 3600:
            raise UserError(f"tracking.finish_s must be in (0, 3600] seconds, not {self.finish_s:g}")
