"""`segr1 demo`: a local page to upload an image, ask, and see reasoning, prompts and mask.

It needs the extra `demo`.
"""

import os
import signal
import tempfile
from pathlib import Path

from segr1_jax.common.optional_packages import optional_package
from segr1_jax.config.schema import RunConfig
from segr1_jax.infer.demo_answers import MOST_BYTES, Demo
from segr1_jax.infer.demo_page import build_page
from segr1_jax.infer.responder import responding

HOST = "127.0.0.1"


def run_demo(config: RunConfig, source: Path, port: int) -> None:
    """Serve the page on this machine until SIGTERM or Ctrl-C, then delete uploads and results."""
    with tempfile.TemporaryDirectory(prefix="segr1-demo-") as folder:
        # Gradio reads it at import; uploads would stay in its own folder after the end.
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder) / "uploads")
        gradio = optional_package("gradio", "demo")
        # Gradio closes the server at a KeyboardInterrupt; SIGTERM would end the process at once.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with responding(config, source) as responder:
            page = build_page(Demo(responder, Path(folder)))
            theme = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
            try:
                page.launch(
                    server_name=HOST,
                    server_port=port,
                    share=False,
                    max_file_size=MOST_BYTES,
                    allowed_paths=[folder],
                    theme=theme,
                    footer_links=[],
                )
            except KeyboardInterrupt:
                # Gradio's own handler is not there yet right after the server has started.
                page.close()
