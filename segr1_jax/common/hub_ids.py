"""Names of repositories on the Hugging Face Hub, and of their files in its cache.

Nothing here contacts the Hub: hf/hub.py does.
"""

import dataclasses
import os
import re
from pathlib import Path
from typing import Literal

from huggingface_hub import constants

RepoType = Literal["model", "dataset"]
_NAME = r"[A-Za-z0-9_][\w.-]*"
_ID = re.compile(rf"(?P<repo>{_NAME}/{_NAME})(@(?P<revision>[\w./+-]+))?", re.ASCII)
# models--ORG--NAME/snapshots/COMMIT; "--" may be part of NAME, but not of ORG.
_SNAPSHOT = re.compile(r"(model|dataset)s--(.+?)--(.+)")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclasses.dataclass(frozen=True)
class HubId:
    """Repository on the Hub at a revision: a branch, a tag or a commit; None is the main branch."""

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"

    @property
    def is_pinned(self) -> bool:
        """True if the revision is a commit hash, which never moves."""
        return is_commit(self.revision)


def is_commit(value: object) -> bool:
    """Return whether a value is the full hash of a commit."""
    return isinstance(value, str) and _COMMIT.fullmatch(value) is not None


def hub_id(text: str) -> HubId | None:
    """Return the repository that `ORG/NAME` or `ORG/NAME@REVISION` names.

    None for an existing path, which takes precedence, and for any other text.

    Example:
        >>> hub_id("facebook/sam2.1-hiera-large@main")
        HubId(repo='facebook/sam2.1-hiera-large', revision='main')
    """
    found = _ID.fullmatch(text)
    return HubId(**found.groupdict()) if found and not os.path.exists(text) else None


def cached_id(path: str | Path) -> HubId | None:
    """Return the repository and commit of a file or folder in the cache of the Hub, else None."""
    place, cache = Path(os.path.abspath(path)), Path(constants.HF_HUB_CACHE).absolute()
    # The client resolves links above its cache. A file of a snapshot is a link, so it is not
    # resolved here.
    root = next((each for each in (cache, cache.resolve()) if place.is_relative_to(each)), None)
    if root is None:
        return None
    folder, *below = place.relative_to(root).parts or ("",)
    found = _SNAPSHOT.fullmatch(folder)
    if found is None or len(below) < 2 or below[0] != "snapshots":
        return None
    return HubId(f"{found[2]}/{found[3]}", below[1])
