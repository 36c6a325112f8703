"""A W&B server on a loopback port, standard library only: what the harness may ask, and an error for anything else.

It keeps runs, projects, reports and charts as the real SDK and wandb-core send them, and can fall ill on request. What
it does not show: that the hosted service accepts the same requests or that its front end draws a report.
"""

import base64
import gzip
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = "someone"
KEY = "0123456789abcdef0123456789abcdef01234567"
STALL_S = 120.0


@dataclass
class Run:
    """One run as the server holds it."""

    name: str
    project: str
    display_name: str = ""
    group: str = ""
    job_type: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    lines: dict[int, str] = field(default_factory=dict)  # of the history, by offset
    summary: dict[str, Any] = field(default_factory=dict)
    state: str = "running"
    exit_code: int | None = None
    upserts: int = 0

    @property
    def history(self) -> list[dict[str, Any]]:
        """Rows in the order of their offsets, which have no gap."""
        assert sorted(self.lines) == list(range(len(self.lines))), f"{self.name}: offsets {sorted(self.lines)}"
        return [json.loads(self.lines[offset]) for offset in sorted(self.lines)]

    def values(self) -> dict[str, Any]:
        """The configuration without W&B's own wrapping."""
        return {key: item["value"] for key, item in self.config.items() if key != "_wandb"}


class WandbServer:
    """`with WandbServer() as server:` serves at `server.url`; leaving the block fails on anything unexpected.

    `fault`: None | "401" | "500" | "stall" (accepts, never answers), for every request from now on.
    """

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.projects: set[str] = set()
        self.views: dict[str, dict[str, Any]] = {}
        self.charts: dict[str, dict[str, Any]] = {}
        self.alerts: list[dict[str, str]] = []
        self.artifacts: dict[str, dict[str, Any]] = {}
        self.uploads: dict[str, bytes] = {}
        self.operations: list[str] = []
        self.sent: list[tuple[str, bytes]] = []  # path, headers but the key's own, and body of every request
        self.unexpected: list[str] = []
        self.fault: str | None = None
        self.delay_s = 0.0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._http = _Http(("127.0.0.1", 0), _Handler)
        self._http.owner = self
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> "WandbServer":
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()
        if raised[0] is None:
            assert not self.unexpected, self.unexpected

    def close(self) -> None:
        """Stop answering; the port refuses connections from now on."""
        self._stop.set()
        self._http.shutdown()
        self._http.server_close()

    def environment(self, **more: str) -> dict[str, str]:
        """What points the SDK at this server."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, **more}

    def of(self, job_type: str) -> list[Run]:
        return [run for run in self.runs.values() if run.job_type == job_type]

    def state(self) -> str:
        """Everything a person could see, as one text."""
        return json.dumps([{name: vars(run) for name, run in sorted(self.runs.items())}, self.views], sort_keys=True)

    # -- requests ----------------------------------------------------------------------------------------------------

    def post(self, path: str, body: bytes) -> Any:
        """The JSON answer to a POST, or None for what this server does not know."""
        if path == "/graphql":
            request = json.loads(body)
            found = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
            name = found.group(1) if found else "?"
            self.operations.append(name)
            answer = getattr(self, f"op_{name}", None)
            try:
                return None if answer is None else {"data": answer(request.get("variables") or {})}
            except (KeyError, TypeError) as error:
                self.unexpected.append(f"{name}: {error!r}")
                return None
        if stream := re.fullmatch(r"/files/([^/]+)/([^/]+)/([^/]+)/file_stream", path):
            self.operations.append("file_stream")
            return self._file_stream(self.runs[stream.group(3)], json.loads(body))
        if path == "/sdk/otel/v1/metrics":
            self.operations.append("telemetry")
            return {}
        return None

    def put(self, path: str, body: bytes) -> bool:
        self.operations.append("upload")
        self.uploads[path] = body
        return path.startswith("/storage/")

    def get(self, path: str) -> bytes | None:
        return self.uploads.get(path)

    def _file_stream(self, run: Run, body: dict[str, Any]) -> dict[str, Any]:
        for name, chunk in body.get("files", {}).items():
            if name == "wandb-history.jsonl":
                for number, line in enumerate(chunk["content"], chunk["offset"]):
                    known = run.lines.setdefault(number, line)
                    if known != line:
                        self.unexpected.append(f"history line {number} of {run.name} was sent twice and differs")
            elif name == "wandb-summary.json":
                run.summary.update(json.loads(chunk["content"][-1]))
        if body.get("complete"):
            run.exit_code = body.get("exitcode", 0)
            run.state = "finished" if run.exit_code == 0 else "failed"
        return {"exitcode": None, "limits": {}}

    # -- operations ------------------------------------------------------------------------------------------------

    def op_Viewer(self, v: dict[str, Any]) -> Any:
        teams = {"edges": [{"node": {"name": ENTITY}}]}
        viewer = {"id": "VXNlcjox", "entity": ENTITY, "username": ENTITY, "name": ENTITY, "email": "", "flags": "{}"}
        return {"viewer": {**viewer, "teams": teams, "apiKeys": {"edges": []}, "admin": False, "deletedAt": None}}

    def op_ServerFeaturesQuery(self, v: dict[str, Any]) -> Any:
        return {"serverInfo": {"features": []}}

    def op_ServerInfo(self, v: dict[str, Any]) -> Any:
        return {"serverInfo": {"cliVersionInfo": "{}", "latestLocalVersionInfo": None}}

    def op_OrgFeatureFlags(self, v: dict[str, Any]) -> Any:
        return {"organization": {"featureFlags": []}}

    def op_GetDefaultEntity(self, v: dict[str, Any]) -> Any:
        return {"viewer": {"id": "VXNlcjox", "entity": ENTITY}}

    def op_RunResumeStatus(self, v: dict[str, Any]) -> Any:
        run = self.runs.get(v["name"])
        return {
            "model": None
            if run is None
            else {"name": run.project, "entity": {"name": ENTITY}, "bucket": self._bucket(run)}
        }

    def _bucket(self, run: Run) -> dict[str, Any]:
        lines = [run.lines[offset] for offset in sorted(run.lines)]
        return {
            "name": run.name,
            "summaryMetrics": json.dumps(run.summary),
            "displayName": run.display_name,
            "logLineCount": 0,
            "historyLineCount": len(lines),
            "eventsLineCount": 0,
            "historyTail": json.dumps(lines[-1:]),
            "eventsTail": "[]",
            "config": json.dumps(run.config),
            "tags": run.tags,
            "notes": None,
            "wandbConfig": json.dumps({"t": 1}),
        }

    def op_UpsertBucket(self, v: dict[str, Any]) -> Any:
        with self._lock:
            self.projects.add(v["project"])
            inserted = v["name"] not in self.runs
            run = self.runs.setdefault(v["name"], Run(v["name"], v["project"]))
            run.upserts += 1
            run.state = "running"
            for key, given in (("display_name", "displayName"), ("group", "groupName"), ("job_type", "jobType")):
                setattr(run, key, v.get(given) or getattr(run, key))
            run.tags = v.get("tags") or run.tags
            run.config = json.loads(v["config"]) if v.get("config") else run.config
        project = {"id": "UHJvamVjdDox", "name": run.project, "entity": {"id": "RW50aXR5OjE=", "name": ENTITY}}
        bucket = {"id": f"run-{run.name}", "name": run.name, "displayName": run.display_name, "description": None}
        bucket |= {"config": json.dumps(run.config), "sweepName": None, "historyLineCount": len(run.lines)}
        return {"upsertBucket": {"bucket": {**bucket, "project": project}, "inserted": inserted}}

    def op_CreateRunFiles(self, v: dict[str, Any]) -> Any:
        files = [{"name": name, "uploadUrl": f"{self.url}/storage/{v['run']}/{name}"} for name in v["files"]]
        return {"createRunFiles": {"runID": v["run"], "uploadHeaders": [], "files": files}}

    def op_Runs(self, v: dict[str, Any]) -> Any:
        if v["project"] not in self.projects:
            return {"project": None}
        wanted = json.loads(v["filters"] or "{}")
        found = [run for run in self.runs.values() if run.project == v["project"] and _matches(run, wanted)]
        start = int(v.get("cursor") or 0)
        page = found[start : start + v["perPage"]]
        edges = [{"node": self._node(run), "cursor": str(start + n + 1)} for n, run in enumerate(page)]
        info = {"endCursor": str(start + len(page)), "hasNextPage": start + len(page) < len(found)}
        runs = {"edges": edges, "pageInfo": info}
        return {"project": {"internalId": "1", "runCount": len(found), "readOnly": False, "runs": runs}}

    def op_Run(self, v: dict[str, Any]) -> Any:
        run = self.runs.get(v["name"])
        return {"project": {"run": None if run is None else self._node(run)}}

    def _node(self, run: Run) -> dict[str, Any]:
        steps = [row["_step"] for row in run.history]
        keys: dict[str, Any] = {"sets": [], "keys": {}, "lastStep": max(steps, default=-1)}
        for row in run.history:
            for key, value in row.items():
                kind = "number" if isinstance(value, int | float) else "string"
                keys["keys"][key] = {"typeCounts": [{"type": kind, "count": 1}], "monotonic": False}
        owner = {"name": ENTITY, "username": ENTITY}
        return {
            "id": f"run-{run.name}",
            "projectId": "1",
            "name": run.name,
            "displayName": run.display_name,
            "state": run.state,
            "group": run.group,
            "jobType": run.job_type,
            "tags": run.tags,
            "config": json.dumps(run.config),
            "summaryMetrics": json.dumps(run.summary),
            "historyLineCount": len(run.lines),
            "historyKeys": keys,
            "user": owner,
            "createdAt": "2026-01-01T00:00:00",
            "heartbeatAt": "2026-01-01T00:00:00",
            **dict.fromkeys(("sweepName", "commit", "description", "notes", "systemMetrics")),
            "readOnly": False,
        }

    def op_RunHistoryKeys(self, v: dict[str, Any]) -> Any:
        return {"project": {"run": {"historyKeys": self._node(self.runs[v["name"]])["historyKeys"]}}}

    def op_RunParquetHistory(self, v: dict[str, Any]) -> Any:
        return {"project": {"run": {"parquetHistory": {"parquetUrls": [], "liveData": []}}}}

    def op_HistoryPage(self, v: dict[str, Any]) -> Any:
        rows = [row for row in self.runs[v["run"]].history if v["minStep"] <= row["_step"] < v["maxStep"]]
        return {"project": {"run": {"history": [json.dumps(row) for row in rows[: v["pageSize"]]]}}}

    def op_GetProjects(self, v: dict[str, Any]) -> Any:
        nodes = [{"node": self._project(name), "cursor": name} for name in sorted(self.projects)]
        return {"models": {"edges": nodes, "pageInfo": {"endCursor": None, "hasNextPage": False}}}

    def _project(self, name: str) -> dict[str, Any]:
        project = {"id": "UHJvamVjdDox", "name": name, "entityName": ENTITY, "createdAt": "2026-01-01T00:00:00"}
        return {**project, "isBenchmark": False, "user": None}

    def op_CreateProject(self, v: dict[str, Any]) -> Any:
        name = (v.get("name") or v.get("input", {}).get("name")) or v["model"]
        self.projects.add(name)
        return {"upsertModel": {"project": self._project(name), "model": self._project(name), "inserted": True}}

    def op_ProjectInternalId(self, v: dict[str, Any]) -> Any:
        known = v["projectName"] in self.projects
        return {"project": {"id": "UHJvamVjdDox", "internalId": "1"} if known else None}

    def op_upsertView(self, v: dict[str, Any]) -> Any:
        known = v.get("id")
        identity = known or base64.b64encode(f"View:{len(self.views) + 1}".encode()).decode()
        if known and known not in self.views:
            self.unexpected.append(f"upsertView of an unknown id {known}")
        self.views[identity] = {**v, "id": identity}
        project = {"id": "UHJvamVjdDox", "name": v["projectName"], "entityName": v["entityName"]}
        named = {key: v.get(key) for key in ("type", "name", "displayName", "description", "spec")}
        view = {"id": identity, **named, "project": project, "updatedAt": "2026-01-01T00:00:00"}
        return {"upsertView": {"view": view, "inserted": not known}}

    def op_CreateCustomChart(self, v: dict[str, Any]) -> Any:
        self.charts[f"{v['entity']}/{v['chartName']}"] = v
        return {"createCustomChart": {"chart": {"id": f"{v['entity']}/{v['chartName']}"}}}

    def op_NotifyScriptableRunAlert(self, v: dict[str, Any]) -> Any:
        assert len(v["title"]) < 64  # the service's own limit
        self.alerts.append({key: v[key] for key in ("runName", "title", "text", "severity")})
        return {"notifyScriptableRunAlert": {"success": True}}

    # An analysis table travels as an artifact.
    def op_ArtifactType(self, v: dict[str, Any]) -> Any:
        return {"project": {"artifact": None}}  # no earlier version of the table

    def op_CreateArtifact(self, v: dict[str, Any]) -> Any:
        given = v["input"]
        identity = base64.b64encode(f"Artifact:{len(self.artifacts) + 1}".encode()).decode()
        self.artifacts[identity] = given
        sequence = {"id": "c2VxOjE=", "latestArtifact": {"id": identity, "versionIndex": 0}}
        artifact = {"id": identity, "digest": given.get("digest"), "state": "PENDING", "aliases": []}
        return {"createArtifact": {"artifact": {**artifact, "artifactSequence": sequence}}}

    def op_CreateArtifactManifest(self, v: dict[str, Any]) -> Any:
        identity = base64.b64encode(f"Manifest:{len(self.uploads) + 1}".encode()).decode()
        file = {
            "id": identity,
            "name": v["name"],
            "displayName": v["name"],
            "uploadUrl": f"{self.url}/storage/manifest-{v['artifactID']}",
            "uploadHeaders": [],
        }
        return {"createArtifactManifest": {"artifactManifest": {"id": identity, "file": file}}}

    def op_UpdateArtifactManifest(self, v: dict[str, Any]) -> Any:
        url = f"{self.url}/storage/manifest-{v['artifactManifestID']}"
        file = {"id": v["artifactManifestID"], "name": "manifest", "displayName": "manifest", "uploadUrl": url}
        manifest = {"id": v["artifactManifestID"], "file": {**file, "uploadHeaders": []}}
        return {"updateArtifactManifest": {"artifactManifest": manifest}}

    def op_CreateArtifactFiles(self, v: dict[str, Any]) -> Any:
        edges = []
        for number, file in enumerate(v["input"]["artifactFiles"]):
            node = {
                "id": f"file{number}",
                "name": file["name"],
                "displayName": file["name"],
                "uploadUrl": f"{self.url}/storage/{file['artifactID']}/{file['name']}",
                "uploadHeaders": [],
                "storagePath": file["name"],
                "uploadMultipartUrls": None,
                "artifact": {"id": file["artifactID"]},
            }
            edges.append({"node": node})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def op_CommitArtifact(self, v: dict[str, Any]) -> Any:
        return {"commitArtifact": {"artifact": {"digest": self.artifacts[v["artifactID"]].get("digest")}}}


def _matches(run: Run, wanted: dict[str, Any]) -> bool:
    known: dict[str, Callable[[Run], Any]] = {"group": lambda r: r.group, "jobType": lambda r: r.job_type}
    return all(known[key](run) == value for key, value in wanted.items())


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    owner: WandbServer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def owner(self) -> WandbServer:
        assert isinstance(self.server, _Http)
        return self.server.owner

    def _body(self) -> bytes:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        headers = "".join(f"{k}: {v}\n" for k, v in self.headers.items() if k not in ("Authorization", "Host"))
        self.owner.sent.append((self.path, headers.encode() + body))
        return body

    def _ill(self) -> bool:
        """Whether the server's present illness has answered (or not answered) this request."""
        owner = self.owner
        if owner.fault == "stall":
            owner._stop.wait(STALL_S)
            self.close_connection = True
            return True
        if owner.fault in ("401", "500"):
            self._answer(int(owner.fault), b'{"errors": [{"message": "ill on request"}]}')
            return True
        if owner.delay_s:
            time.sleep(owner.delay_s)
        return False

    def _answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        body = self._body()
        if self._ill():
            return
        owner = self.owner
        answer = owner.post(self.path, body)
        if answer is None:
            owner.unexpected.append(f"POST {self.path}: {body[:300]!r}")
            self._answer(404, b"{}")
            return
        self._answer(200, json.dumps(answer).encode())

    def do_PUT(self) -> None:
        body = self._body()
        if self._ill():
            return
        self._answer(200 if self.owner.put(self.path, body) else 404, b"")

    def do_GET(self) -> None:
        self._body()
        if self._ill():
            return
        found = b"ok" if self.path == "/healthz" else self.owner.get(self.path)
        if found is None:
            self.owner.unexpected.append(f"GET {self.path}")
        self._answer(404 if found is None else 200, found or b"")

    def log_message(self, format: str, *args: Any) -> None:
        """Silence: tests read `operations`."""
