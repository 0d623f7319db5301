"""A hub on this machine: as much of its protocol as an upload of small files and a download need."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT = "0123456789012345678901234567890123456789"


class Hub(ThreadingHTTPServer):
    """Repositories by name, each a dictionary of files; ``log`` lists the requests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.log: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        self.server.log.append(self.path)

    def answer(self, body: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            self.create(json.loads(body))
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            plain = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
            self.answer({"files": plain})
        elif "/commit/" in self.path:
            self.commit([json.loads(line) for line in body.splitlines()])
        else:
            self.answer({}, 404)

    def create(self, wanted: dict[str, object]) -> None:
        name = f"{wanted.get('organization') or 'someone'}/{wanted['name']}"
        self.server.repositories[name], self.server.private[name] = {}, wanted.get("visibility") == "private"
        self.answer({"url": f"http://127.0.0.1:{self.server.server_port}/{name}", "name": name, "id": name})

    def commit(self, lines: list[dict[str, dict[str, str]]]) -> None:
        name = "/".join(self.path.split("/")[3:5])
        for line in lines:
            if line["key"] == "file":
                value = line["value"]
                self.server.repositories[name][value["path"]] = base64.b64decode(value["content"])
        address = f"http://127.0.0.1:{self.server.server_port}/{name}/commit/{COMMIT}"
        self.answer({"commitUrl": address, "commitOid": COMMIT, "success": True})

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self.describe("/".join(parts[2:4]), "tree" in parts)
        else:
            self.file("/".join(parts[:2]), "/".join(parts[4:]))

    do_HEAD = do_GET  # noqa: N815

    def describe(self, name: str, tree: bool) -> None:
        if name not in self.server.repositories:
            self.answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            return
        files = self.server.repositories[name]
        if tree:
            self.answer(
                [{"type": "file", "path": path, "size": len(files[path]), "oid": sha(files[path])} for path in files]
            )
            return
        self.answer({"id": name, "modelId": name, "sha": COMMIT, "siblings": [{"rfilename": path} for path in files]})

    def file(self, name: str, path: str) -> None:
        content = self.server.repositories.get(name, {}).get(path)
        if content is None:
            self.answer({}, 404, {"X-Error-Code": "EntryNotFound"})
        else:
            self.answer(content, 200, {"ETag": f'"{sha(content)}"', "X-Repo-Commit": COMMIT})


def sha(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


@contextmanager
def serving() -> Iterator[Hub]:
    with Hub() as hub:
        thread = Thread(target=hub.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
