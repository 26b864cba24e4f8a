"""Faults of the Hugging Face Hub as errors that name the repository, the cause and the remedy."""

import contextlib
import errno
from collections.abc import Iterator

from huggingface_hub import constants, errors

from segr1_jax.common.hub_ids import HubId, RepoType
from segr1_jax.errors import UserError

LOGIN = "log in with `hf auth login`, or set HF_TOKEN"


@contextlib.contextmanager
def naming_hub_faults(field: str, name: HubId, repo_type: RepoType) -> Iterator[None]:
    """Raise UserError if the block hits a fault of the Hub, of the network or of the disk.

    `field` is the key of the configuration, or the option, that names the repository.
    """
    try:
        yield
    # The errors of the Hub are of several families, and those of its transport are of httpx.
    except Exception as error:
        told = _told(field, name, repo_type, error)
        if told is None:
            raise
        raise told from error


def _told(field: str, name: HubId, repo_type: RepoType, error: Exception) -> UserError | None:
    where, page = f"{field} = {name}", _page(name, repo_type)
    status = getattr(getattr(error, "response", None), "status_code", None)

    def fault(expected: str, got: str, remedy: str) -> UserError:
        return UserError(where, expected=expected, got=got, remedy=remedy)

    match error:
        case errors.GatedRepoError():
            got = "a gated one, which this token may not read"
            remedy = f"accept its conditions at {page}; then {LOGIN}"
            return fault("a repository to read", got, remedy)
        case errors.RepositoryNotFoundError():
            got = f"no {repo_type} at {page} that this token may read, and no such folder here"
            return fault("a repository or a folder", got, f"correct the name; if private, {LOGIN}")
        case errors.RevisionNotFoundError():
            expected = "a branch, tag or commit of the repository"
            return fault(expected, f"{name.revision!r}", f"choose a revision of {page}")
        case _ if status in (401, 403):
            expected = f"a token with access to {page}"
            return fault(expected, f"the answer {status}", f"{LOGIN} with this access")
        case errors.LocalTokenNotFoundError():
            return fault("a token of the Hub", "none", LOGIN)
        case errors.HFValidationError():
            return fault("ORG/NAME", str(error), "correct the name")
        case OSError(errno=errno.ENOSPC | errno.EDQUOT | errno.EFBIG):
            expected = f"space for it in {error.filename or constants.HF_HOME}"
            remedy = "free some space, or set HF_HOME to another disk"
            return fault(expected, error.strerror, remedy)
        case _ if _is_truncated(error):
            got = f"a truncated one ({_cause(error)})"
            return fault("whole files", got, "run the same command again; it resumes the download")
        case errors.OfflineModeIsEnabled():
            return fault("access to the Hub", "HF_HUB_OFFLINE is set", "unset it")
        case _ if _is_unreachable(error, status):
            hub = f"{constants.ENDPOINT} to answer"
            expected = f"{hub}, the whole repository in the cache, or a folder"
            return fault(expected, f"none of them ({_cause(error)})", _way_out())
    return None


def _is_truncated(error: Exception) -> bool:
    # The client checks sizes; its transport reports a body that ends before its Content-Length.
    wrong_size = isinstance(error, OSError) and "Consistency check failed" in str(error)
    return wrong_size or type(error).__name__ == "RemoteProtocolError"


def _is_unreachable(error: Exception, status: int | None) -> bool:
    missing = (
        errors.LocalEntryNotFoundError,
        errors.RevisionResolutionError,
        errors.CachedRepoTreeNotFoundError,
    )
    # httpx is not a requirement of ours; the Hub's client has used two generations of it.
    transport = type(error).__module__.split(".")[0] in ("httpx", "httpx2", "httpcore")
    failed = isinstance(error, errors.HfHubHTTPError) and status is not None and status >= 429
    return isinstance(error, missing) or transport or failed


def _cause(error: Exception) -> str:
    """Return the fault below the errors that the Hub's client wraps around it."""
    while error.__cause__ is not None:
        error = error.__cause__
    first_line = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {' '.join(first_line.split())}"[:200]


def _way_out() -> str:
    if constants.HF_HUB_OFFLINE:
        return f"unset HF_HUB_OFFLINE, or fill the cache {constants.HF_HUB_CACHE} first"
    return (
        "check the network; without one, download the repository elsewhere with `hf download`, "
        f"copy it into {constants.HF_HUB_CACHE} and set HF_HUB_OFFLINE=1"
    )


def _page(name: HubId, repo_type: RepoType) -> str:
    return f"{constants.ENDPOINT}/{'datasets/' * (repo_type == 'dataset')}{name.repo}"
