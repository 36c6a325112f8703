"""On which terms W&B is used: the mode, what its process may know, and whether a server answers (P25)."""

import json
import os
import ssl
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.plan.errors import UserError, one_line

if TYPE_CHECKING:
    import wandb

PACKAGE = Path(__file__).resolve().parents[2]
REACH_S = 10.0  # how long a server may take to say that it is there and takes our key
INIT_S = 90.0  # how long opening one run may take; only the tracking process waits

# Where W&B's server is and who we are. Nothing else of W&B's environment is passed on: WANDB_NOTES, WANDB_TAGS,
# WANDB_RUN_ID and the like would put a stranger's words, or one run's name, on every trial.
KEPT = (
    "WANDB_API_KEY",
    "WANDB_BASE_URL",
    "WANDB_APP_URL",
    "WANDB_ENTITY",
    "WANDB_CONFIG_DIR",
    "WANDB_CREDENTIALS_FILE",
    "WANDB_IDENTITY_TOKEN_FILE",
    "WANDB_INSECURE_DISABLE_SSL",
)

# Nothing of the machine, the code or the command line leaves (facts of each default: docs/tracking.md, Privacy).
PRIVATE: dict[str, Any] = {
    "console": "off",
    "disable_git": True,
    "disable_code": True,
    "save_code": False,
    "host": "redacted",
    "program": "harness",
    "program_abspath": "harness",
    "program_relpath": "harness",
    "x_disable_stats": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
    "disable_job_creation": True,
}


class UnreachableError(RuntimeError):
    """No W&B server that takes our key; the text says why in one line."""


def environment(mode: str, scratch: Path, given: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that uses W&B: to be set before wandb is imported (an offline mode given later
    still sends telemetry). Offline it does not even hold a key. What W&B stages and caches goes below `scratch`."""
    kept = {key: value for key, value in given.items() if not key.startswith("WANDB_") or key in KEPT}
    if mode != "online":
        kept.pop("WANDB_API_KEY", None)
    ours = {
        "WANDB_MODE": mode,
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_SILENT": "true",
        "WANDB_DISABLE_GIT": "true",
        "WANDB_DISABLE_CODE": "true",
        "WANDB_DATA_DIR": str(scratch / "data"),
        "WANDB_CACHE_DIR": str(scratch / "cache"),
        "WANDB_ARTIFACT_DIR": str(scratch / "artifacts"),
    }
    return {**kept, **ours}


def run_settings(**more: Any) -> "wandb.Settings":
    """Settings of every run; a name that the installed wandb does not know (they get renamed) is left out."""
    import wandb

    wanted = {**PRIVATE, "silent": True, "init_timeout": INIT_S, "x_transaction_log_flush_interval": 1.0, **more}
    return wandb.Settings(**{key: value for key, value in wanted.items() if key in wandb.Settings.model_fields})


def decide(mode: str, given: Mapping[str, str] = os.environ) -> "Decision":
    """What `mode` comes to here and now, before anything imports wandb; UserError where online cannot be had."""
    if mode not in ("online", "auto"):
        return Decision(mode)
    try:
        return Decision("online", _ask(given))
    except UnreachableError as error:
        if mode == "online":
            raise UserError(f"tracking=online: {error} (tracking=offline needs no server, auto falls back)") from error
        return Decision("offline", None, str(error))


@dataclass(frozen=True)
class Decision:
    """The mode to use, the key's default entity where there is a server, and why it is not the one asked for."""

    mode: str  # offline | online | disabled
    entity: str | None = None
    why: str | None = None


def _ask(given: Mapping[str, str]) -> str:
    """`reach` in a process of its own, so that a server that stalls is given up in time whatever wandb does."""
    with tempfile.TemporaryDirectory() as scratch:
        online = environment("online", Path(scratch), given)
        path = os.pathsep.join([str(PACKAGE.parent), *filter(None, [given.get("PYTHONPATH")])])
        try:
            done = subprocess.run(
                [sys.executable, "-m", "harness.record.tracking.settings"],
                env={**online, "PYTHONPATH": path},
                capture_output=True,
                text=True,
                timeout=REACH_S,
            )
        except subprocess.TimeoutExpired as error:
            url = given.get("WANDB_BASE_URL", "the W&B server")
            raise UnreachableError(f"{url} did not answer within {REACH_S:g} s") from error
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, json.JSONDecodeError) as error:
        raise UnreachableError(f"wandb cannot be used: {one_line(RuntimeError(done.stderr[-200:]))}") from error
    if "reason" in answer:
        raise UnreachableError(answer["reason"])
    return str(answer["entity"])


def reach(timeout_s: float) -> str:
    """The default entity of our key on the server that the environment names; UnreachableError in one line.

    A dead or ill server is told apart first: wandb itself would try again for longer than anyone wants to wait.
    """
    import wandb
    from wandb.errors import Error, UsageError

    url = str(wandb.setup().settings.base_url)
    _must_answer(url, timeout_s)
    try:
        entity = wandb.Api(timeout=max(1, int(timeout_s))).default_entity
    except UsageError as error:
        raise UnreachableError("there is no W&B key: set WANDB_API_KEY or run `wandb login`") from error
    except (Error, ValueError) as error:
        raise UnreachableError(f"{url} does not let us in: {one_line(error)}") from error
    if not entity:
        raise UnreachableError(f"{url} names no entity for this key: set tracking.entity")
    return str(entity)


def _must_answer(url: str, timeout_s: float) -> None:
    try:
        # Honours the proxy variables; the path is the health check of W&B's own servers.
        with urllib.request.urlopen(f"{url}/healthz", timeout=timeout_s):
            return
    except urllib.error.HTTPError as error:
        if error.code < 500:
            return  # somebody is there; what they think of /healthz is their own affair
        raise UnreachableError(f"{url} answers with HTTP {error.code}") from error
    except OSError as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLError):
            return  # certificates are wandb's to judge
        late = isinstance(reason, TimeoutError)
        what = f"did not answer within {timeout_s:g} s" if late else f"cannot be reached ({reason})"
        raise UnreachableError(f"{url} {what}") from error


if __name__ == "__main__":
    try:
        print(json.dumps({"entity": reach(REACH_S - 2)}), flush=True)
    except UnreachableError as refused:
        print(json.dumps({"reason": str(refused)}), flush=True)
    os._exit(0)  # wandb's own farewell to an ill server may take long
