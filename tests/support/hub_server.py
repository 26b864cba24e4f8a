"""A hub on 127.0.0.1 for the real huggingface_hub client: what a download and a push ask of it.

HF_ENDPOINT is read when huggingface_hub is imported, so the client runs in a child process.
"""

import base64
import contextlib
import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[2]
API = re.compile(r"/api/(model|dataset)s/([^/]+/[^/]+)(?:/(revision|tree|preupload|commit)/(.+))?")
FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
TOKEN = "hf_of_the_tests"


@dataclasses.dataclass
class Repository:
    """Files by commit, commits by branch, and the faults to show.

    `cut` are files whose body ends early: `sized` with a Content-Length that admits it.
    """

    commits: dict[str, dict[str, bytes]] = dataclasses.field(default_factory=dict)
    branches: dict[str, str] = dataclasses.field(default_factory=dict)
    gated: bool = False
    private: bool = False
    cut: dict[str, str] = dataclasses.field(default_factory=dict)

    def commit(self, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Make these files the content of a branch and return the commit."""
        number = f"{len(self.commits)} {sorted(files)}".encode()
        name = hashlib.sha1(number, usedforsecurity=False).hexdigest()
        self.commits[name] = dict(files)
        self.branches[branch] = name
        return name

    def files_at(self, revision: str) -> dict[str, bytes] | None:
        return self.commits.get(self.branches.get(revision, revision))


class Hub(ThreadingHTTPServer):
    """The server; `asked` counts requests about repositories by method and path."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.asked: Counter[str] = Counter()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, name: str, files: Mapping[str, bytes], kind: str = "model") -> Repository:
        repository = self.repositories.setdefault((kind, name), Repository())
        repository.commit(files)
        return repository

    def add_folder(self, name: str, folder: Path, kind: str = "model") -> Repository:
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        return self.add(name, files, kind)


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


def client_environment(url: str, home: Path, **more: str) -> dict[str, str]:
    """Environment of a process whose hub is `url`, with its cache below `home`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return kept | {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "PYTHONPATH": os.pathsep.join(paths),
        **more,
    }


def in_child(codes: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Run pieces of Python code one after the other in one child process.

    Returns what each prints; a UserError is printed too, so that tests can read its text.
    """
    program = (
        "import contextlib, io, json, sys\n"
        "from segr1_jax.errors import UserError\n"
        "for code in json.load(sys.stdin):\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as output:\n"
        "        try:\n"
        "            exec(code)\n"
        "        except UserError as error:\n"
        "            print('UserError', error)\n"
        "    print(json.dumps(output.getvalue().strip()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=dict(environment),
        input=json.dumps(list(codes)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._route()

    def do_GET(self):
        self._route()

    def do_POST(self):
        self._route()

    def _route(self) -> None:
        path = unquote(urlsplit(self.path).path)
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if path == "/api/whoami-v2":
            known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            return self._json({"name": "me", "type": "user", "orgs": []} if known else {}, known)
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if API.fullmatch(path) or FILE.fullmatch(path):
            self.server.asked[f"{self.command} {path}"] += 1
        if found := API.fullmatch(path):
            return self._about(*found.groups(), body)
        if found := FILE.fullmatch(path):
            return self._file("dataset" if found[1] else "model", found[2], found[3], found[4])
        return self._fault(404, "", f"no {path}")

    def _create(self, wanted: dict) -> None:
        name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        key = (wanted.get("type") or "model", name)
        exists = key in self.server.repositories
        if not exists:
            self.server.repositories[key] = Repository(
                private=wanted.get("visibility") == "private"
            )
            self.server.repositories[key].commit({})
        made = {"url": f"{self.server.url}/{name}", "name": name}
        self._json(made, status=409 if exists else 200)

    def _about(self, kind: str, name: str, what: str | None, rest: str | None, body: bytes) -> None:
        repository = self.server.repositories.get((kind, name))
        if repository is None:
            return self._fault(404, "RepoNotFound", "Repository not found")
        revision = (rest or "main").split("/")[0]
        files = repository.files_at(revision)
        if files is None:
            return self._fault(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if what == "preupload":
            asked = [file["path"] for file in json.loads(body)["files"]]
            modes = [
                {"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in asked
            ]
            return self._json({"files": modes})
        if what == "commit":
            return self._commit(repository, files, name, body)
        if what == "tree":
            return self._json([_entry(path, content) for path, content in files.items()])
        sha = repository.branches.get(revision, revision)
        siblings = [{"rfilename": path} for path in files]
        return self._json({"id": name, "sha": sha, "siblings": siblings, "private": False})

    def _commit(self, repository: Repository, files: dict, name: str, body: bytes) -> None:
        changed = dict(files)
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                changed[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                del changed[line["value"]["path"]]
        sha = repository.commit(changed)
        url = f"{self.server.url}/{name}/commit/{sha}"
        self._json({"success": True, "commitOid": sha, "commitUrl": url})

    def _file(self, kind: str, name: str, revision: str, path: str) -> None:
        repository = self.server.repositories.get((kind, name))
        if repository is None:
            return self._fault(404, "RepoNotFound", "Repository not found")
        if repository.gated:
            return self._fault(403, "GatedRepo", f"Access to {name} is restricted")
        files = repository.files_at(revision)
        if files is None:
            return self._fault(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if path not in files:
            return self._fault(404, "EntryNotFound", f"no {path}")
        content, cut = files[path], repository.cut.get(path)
        etag = hashlib.sha1(content, usedforsecurity=False).hexdigest()
        self.send_response(200)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", repository.branches.get(revision, revision))
        self.send_header("X-Linked-Size", str(len(content)))
        sent = content[: len(content) // 2] if cut and self.command == "GET" else content
        self.send_header("Content-Length", str(len(sent if cut == "sized" else content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(sent)
            self.close_connection = bool(cut)

    def _json(self, value: object, fine: bool = True, status: int | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(status or (200 if fine else 401))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _fault(self, status: int, code: str, message: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _entry(path: str, content: bytes) -> dict:
    oid = hashlib.sha1(content, usedforsecurity=False).hexdigest()
    return {"type": "file", "path": path, "size": len(content), "oid": oid}
