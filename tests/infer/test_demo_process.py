"""The demo as a process of its own: what it leaves behind."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from PIL import Image
from tiny_run import CONFIG

from segr1_jax.hf.tiny_policy import make_tiny_policy

pytestmark = pytest.mark.slow
START_S = 180
BOUNDARY = "segr1"


def upload(url: str, file: Path) -> str:
    """Send a file as Gradio's page does; its answer names where the file lies."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="{file.name}"'
    body = f"{head}\r\n\r\n".encode() + file.read_bytes() + f"\r\n--{BOUNDARY}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    request = urllib.request.Request(f"{url}/gradio_api/upload", data=body, headers=kind)
    with urllib.request.urlopen(request) as answer:
        return answer.read().decode()


def wait_until_served(url: str) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            urllib.request.urlopen(url).close()
            return
        except urllib.error.URLError:
            assert time.monotonic() < deadline, "the demo does not answer"
            time.sleep(0.5)


@pytest.mark.usefixtures("heed_interrupts")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_no_upload_is_left_after_a_signal(tmp_path, free_port, number):
    pytest.importorskip("gradio", reason="the demo needs the extra `demo`")
    make_tiny_policy(tmp_path / "tiny", seed=0)
    Image.new("RGB", (50, 40)).save(tmp_path / "up.png")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-m", "segr1_jax.cli", "demo", str(CONFIG), "eval_batch=2"]
    command += ["--source", str(tmp_path / "tiny"), "--port", str(free_port)]
    environment = os.environ | {"TMPDIR": str(temporary), "XLA_FLAGS": ""}
    demo = subprocess.Popen(command, env=environment)
    try:
        url = f"http://127.0.0.1:{free_port}"
        wait_until_served(url)
        assert "up.png" in upload(url, tmp_path / "up.png")
        assert list(temporary.rglob("up.png")), "the upload lies elsewhere"
        demo.send_signal(number)
        assert demo.wait(60) == 0
    finally:
        demo.kill()
    assert not list(temporary.rglob("up.png"))
    assert not list(temporary.glob("segr1-demo-*"))
