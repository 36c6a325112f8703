"""How W&B is used: the mode, the environment of its process, and whether a server answers (P25)."""

import json
import os
import ssl
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.plan.errors import UserError, one_line

if TYPE_CHECKING:
    import wandb

SCRATCH = "harness-wandb-"  # names of temporary folders begin with it
PACKAGE = Path(__file__).resolve().parents[2]
REACH_S = 10.0  # time for a server to answer and accept our key
INIT_S = 90.0  # time to open one run; only the tracking process waits

# Address of W&B's server and our identity. No other WANDB_ variable is passed on: WANDB_NOTES, WANDB_TAGS,
# WANDB_RUN_ID and the like would put unrelated text, or one run's name, on every trial.
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

# Nothing about the machine, the code or the command line is sent (details of each default: docs/tracking.md, Privacy).
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
    """No W&B server accepts our key; the message gives the reason in one line."""


def environment(mode: str, scratch: Path, given: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that uses W&B, to be set before wandb is imported (an offline mode set later still
    sends telemetry). Offline it does not even contain a key. W&B's staging and cache folders are below `scratch`."""
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


def import_wandb(scratch: Path) -> Any:
    """wandb, set up by the home folder and the environment alone: it would also read wandb/settings of the working
    directory, which may be somebody else's and name another server for our key."""
    with chdir(scratch):
        import wandb

        wandb.setup()
    return wandb


def run_settings(**more: Any) -> "wandb.Settings":
    """Settings of every run, without those that the installed wandb does not know (they get renamed)."""
    import wandb

    values = {**PRIVATE, "silent": True, "init_timeout": INIT_S, "x_transaction_log_flush_interval": 1.0, **more}
    return wandb.Settings(**{key: value for key, value in values.items() if key in wandb.Settings.model_fields})


def decide(mode: str, given: Mapping[str, str] = os.environ) -> "Decision":
    """The mode to use for `mode`, decided before anything imports wandb; UserError if online is not possible."""
    if mode not in ("online", "auto"):
        return Decision(mode)
    try:
        return Decision("online", _ask(given))
    except UnreachableError as error:
        if mode == "online":
            raise UserError(
                f"tracking=online: {error} (tracking=offline needs no server; tracking=auto falls back to it)"
            ) from error
        return Decision("offline", None, str(error))


@dataclass(frozen=True)
class Decision:
    """The mode to use, the key's default entity if online, and the reason if it is not the mode asked for."""

    mode: str  # offline | online | disabled
    entity: str | None = None
    why: str | None = None


def _ask(given: Mapping[str, str]) -> str:
    """`reach` in a separate process, so that a stalled server is given up in time whatever wandb does."""
    with tempfile.TemporaryDirectory() as scratch:
        online = environment("online", Path(scratch), given)
        path = os.pathsep.join([str(PACKAGE.parent), *filter(None, [given.get("PYTHONPATH")])])
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-m", "harness.record.tracking.settings"],
                env={**online, "PYTHONPATH": path},
                cwd=scratch,  # see import_wandb
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

    Checks first that the server is up and healthy, because wandb itself would retry for too long.
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
        raise UnreachableError(f"{url} rejects the login: {one_line(error)}") from error
    if not entity:
        raise UnreachableError(f"{url} has no default entity for this key: set tracking.entity")
    return str(entity)


def _must_answer(url: str, timeout_s: float) -> None:
    try:
        # Honours the proxy variables; the path is the health check of W&B's own servers.
        with urllib.request.urlopen(f"{url}/healthz", timeout=timeout_s):
            return
    except urllib.error.HTTPError as error:
        if error.code < 500:
            return  # a server is there; it need not have /healthz
        raise UnreachableError(f"{url} answers with HTTP {error.code}") from error
    except OSError as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLError):
            return  # leave the check of certificates to wandb
        timed_out = isinstance(reason, TimeoutError)
        what = f"did not answer within {timeout_s:g} s" if timed_out else f"cannot be reached ({reason})"
        raise UnreachableError(f"{url} {what}") from error


if __name__ == "__main__":
    try:
        print(json.dumps({"entity": reach(REACH_S - 2)}), flush=True)
    except UnreachableError as error:
        print(json.dumps({"reason": str(error)}), flush=True)
    os._exit(0)  # wandb's shutdown may take long with an unhealthy server
