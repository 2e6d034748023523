"""A model hub in this process, with as much of the protocol as huggingface_hub needs for a repository."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

TOKEN = "hf_of_a_user"
COMMIT = "0" * 39


class Hub(ThreadingHTTPServer):
    """Holds repositories; only `org` may be written to, by one token."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.commits: list[list[str]] = []  # of each, what it did: "file README.md", "lfsFile …", "deletedFile …"
        self.stored: dict[str, bytes] = {}  # large files, by sha256

    def environment(self, home: Path) -> dict[str, str]:
        """Variables by which huggingface_hub knows it, and nothing of this machine's user."""
        return {
            "HF_ENDPOINT": self.endpoint, "HF_TOKEN": TOKEN, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1",
        }  # fmt: skip


@contextmanager
def running() -> Iterator[Hub]:
    """A hub that answers until the block ends."""
    with Hub() as hub:
        Thread(target=hub.serve_forever).start()
        yield hub
        hub.shutdown()


class Answer(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        body = self._body()
        path = urlsplit(self.path).path
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self._json({"error": "Invalid username or password."}, 401)
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif path.endswith("/preupload/main"):
            self._json({"files": [self._mode(one["path"]) for one in json.loads(body)["files"]]})
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._json({"objects": [self._upload(one) for one in json.loads(body)["objects"]]})
        else:
            self._commit(path.removeprefix("/api/models/").removesuffix("/commit/main"), body)

    def do_PUT(self) -> None:
        content = self._body()
        digest = hashlib.sha256(content).hexdigest()
        assert self.path == f"/large/{digest}"
        self.server.stored[digest] = content
        self._json({})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        organization, name, *what = path.removeprefix("/api/models").removeprefix("/").split("/", 4)
        repo = f"{organization}/{name}"
        if repo not in self.server.repos:
            self._json({"error": "Repository not found"}, 404)
        elif not path.startswith("/api/"):
            self._send(self.server.repos[repo][what[-1]])
        elif what[0] == "tree":
            self._json(_tree(self.server.repos[repo]))
        else:
            self._json(_info(repo, self.server.repos[repo]))

    def _create(self, asked: dict[str, Any]) -> None:
        repo = f"{asked['organization']}/{asked['name']}"
        url = {"url": f"{self.server.endpoint}/{repo}"}
        if asked["organization"] != "org":
            words = f'You don\'t have the rights to create a model under the namespace "{asked["organization"]}"'
            self._json({"error": words}, 403)
        elif repo in self.server.repos:
            self._json({"error": "You already created this model repo", **url}, 409)
        else:
            self.server.repos[repo] = {".gitattributes": b"*.onnx filter=lfs diff=lfs merge=lfs -text\n"}
            self.server.private |= {repo} if asked["private"] else set()
            self._json(url)

    def _mode(self, path: str) -> dict[str, Any]:
        return {"path": path, "uploadMode": "lfs" if path.endswith(".onnx") else "regular", "shouldIgnore": False}

    def _upload(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {**asked, "actions": {"upload": {"href": f"{self.server.endpoint}/large/{asked['oid']}"}}}

    def _commit(self, repo: str, body: bytes) -> None:
        held = self.server.repos[repo]
        done = []
        for line in body.splitlines()[1:]:
            operation = json.loads(line)
            what, value = operation["key"], operation["value"]
            done.append(f"{what} {value['path']}")
            if what == "deletedFile":
                del held[value["path"]]
            else:
                content = self.server.stored[value["oid"]] if what == "lfsFile" else base64.b64decode(value["content"])
                held[value["path"]] = content
        self.server.commits.append(done)
        oid = f"{COMMIT}{len(self.server.commits)}"
        self._json({"commitUrl": f"{self.server.endpoint}/{repo}/commit/{oid}", "commitOid": oid})

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def _json(self, value: object, status: int = 200) -> None:
        self._send(json.dumps(value).encode(), status)

    def _send(self, content: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", f"{COMMIT}1")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _tree(held: dict[str, bytes]) -> list[dict[str, Any]]:
    return [{"type": "file", "path": path, "size": len(content), "oid": ""} for path, content in held.items()]


def _info(repo: str, held: dict[str, bytes]) -> dict[str, Any]:
    return {"id": repo, "sha": f"{COMMIT}1", "siblings": [{"rfilename": path} for path in held]}
