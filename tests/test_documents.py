"""What the documents point to exists, and the first page stays short."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST_WORDS = 1500
DOCUMENTS = [
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
]
LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")
FILE = re.compile(
    r"`((?:segr1_jax|configs(?!/sam2)|launch|tests)/[\w./-]+\.(?:py|yaml|sh|md|json))`"
)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_files_exist(document):
    text = document.read_text()
    links = {link for link in LINK.findall(text) if "://" not in link}
    missing = [link for link in links if not (document.parent / link).exists()]
    missing += [name for name in FILE.findall(text) if not (ROOT / name).exists()]
    assert not missing


def test_the_first_page_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= MOST_WORDS
