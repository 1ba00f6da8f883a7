"""A running ringback and a fake provider, for the checks in this folder."""

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "ci-0123456789abcdef"

URL = "https://cdn.example.com/outputs/"
EVIL = (
    "\r\nBcc: x@y.example\r\n\r\n.\r\n<script>alert(1)</script>\" onload=\"x <!channel> @channel <@U123> "
    "<https://evil.example|ok> *b* `c` [a](javascript:x) {{ 7 * 7 }} \u202egpj.exe \x1b[31m & &amp; | =_"
)
# Texts of a job, metadata of its watch (at most 4 KiB), and the URL of its output.
TEXTS = {
    "ordinary": ("The model failed.\nTry another prompt.", {"orderId": 42, "customer": "Ada"}, URL + "0.mp4"),
    "huge": ("W\U0001f600&<>" * 20_000, {"note": "&" * 3_900}, URL + "x" * 1_900),
    "hostile": (EVIL * 20, {EVIL[:60] + str(n): EVIL[:60] for n in range(20)}, URL + EVIL),
    "empty": ("", {}, None),
}
ENDINGS = ["completed", "failed", "cancelled", "expired", "processing", "not-found"]
CASES = [(ending, text) for ending in ENDINGS for text in TEXTS]


def job(ending, text):
    return f"job_{ending}_{text}"


def job_state(name):
    """Returns the provider's answer about a job; None if it does not know the job."""
    _, ending, text = name.split("_")
    message, _, output = TEXTS[text]
    if ending == "not-found":
        return None
    status = "processing" if ending in ("expired", "processing") else ending
    state = {
        "jobId": name, "status": status, "progress": 40, "output": None, "outputs": None, "error": None,
        "createdAt": "2026-02-18T15:00:00Z", "completedAt": None,
    }
    if ending == "completed":
        thumbnail = URL + "thumb.jpg"
        outputs = [{"url": output, "type": "video", "thumbnail": thumbnail, "posterImage": thumbnail}] * 12
        state |= {"output": output, "outputs": outputs if output else None, "completedAt": "2026-02-18T15:02:30Z"}
    if ending == "failed":
        state["error"] = {"code": text.upper(), "message": message}
    return state


def serve(handle):
    """An HTTP server on loopback; `handle(path, headers, body)` gives status and body."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self):
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            status, answer = handle(self.path, self.headers, body)
            self.send_response(status)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = respond

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def provider():
    def handle(path, _headers, _body):
        state = job_state(path.rsplit("/", 1)[1])
        if state is None:
            error = {"code": "JOB_NOT_FOUND", "message": "Job not found", "details": {}}
            return 404, json.dumps({"success": False, "error": error}).encode()
        return 200, json.dumps(state).encode()

    return serve(handle)


class Ringback:
    """Runs the real binary until the end of a `with`."""

    def __init__(self, binary, settings):
        self.folder = tempfile.TemporaryDirectory()
        self.settings = {
            "PATH": os.environ["PATH"],
            "RINGBACK_LISTEN": "127.0.0.1:0",
            "RINGBACK_DATABASE_URL": f"sqlite://{self.folder.name}/ringback.db",
            "RINGBACK_API_KEY": KEY,
            "RINGBACK_EGRESS__ALLOW": "127.0.0.1/32",
            "RINGBACK_PROVIDERS__MUVI__BASE_URL": provider(),
            "RINGBACK_PROVIDERS__MUVI__FIRST": "1s",
            "RINGBACK_PROVIDERS__MUVI__RATE": "off",
            "MUVI_API_KEY": "any",
        } | settings
        self.binary = binary

    def __enter__(self):
        self.log = open(f"{self.folder.name}/log", "w+b")
        command = [self.binary, "serve"]
        self.process = subprocess.Popen(
            command, env=self.settings, cwd=self.folder.name, stdout=self.log, stderr=self.log
        )
        self.url = wait(30, "ringback to listen", self.listens)
        return self

    def listens(self):
        found = re.search(r"listens on (http://127\.0\.0\.1:\d+)", self.said())
        return found and found[1]

    def said(self):
        with open(self.log.name, encoding="utf-8", errors="replace") as log:
            return log.read()

    def call(self, path, body=None):
        headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}: {error.code} {error.read()!r}") from error

    def watch(self, ending, text, **where):
        """Registers a watch on the job of a case."""
        body = {"jobId": job(ending, text), "metadata": TEXTS[text][1], "pollInterval": "5s"} | where
        if ending == "expired":
            body["expiresIn"] = "2s"
        if ending == "processing":
            body["events"] = ["job.processing"]
        return self.call("/v1/watches", body)["id"]

    def __exit__(self, failed, *_):
        self.process.terminate()
        status = self.process.wait(30)
        if failed or status != 0:
            sys.stderr.write(self.said()[-8_000:])
        self.log.close()
        self.folder.cleanup()
        assert failed or status == 0, f"ringback's exit code after SIGTERM is {status}"


def wait(seconds, what, check):
    """Waits until `check` returns a true value, and returns it."""
    end = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < end, f"waited {seconds} s in vain for {what}"
        time.sleep(0.1)
    return found
