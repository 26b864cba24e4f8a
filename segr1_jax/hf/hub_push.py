"""Upload a folder to a repository on the Hugging Face Hub."""

from pathlib import Path

from huggingface_hub import HfApi

from segr1_jax.common.hub_ids import HubId, hub_id
from segr1_jax.errors import UserError
from segr1_jax.hf.hub_faults import naming_hub_faults
from segr1_jax.prompt.texts import TEXTS_FILE

OPTION = "--push"
# Files of an earlier export that this one may not have, such as shards of another number.
REPLACED = ("*.safetensors", "*.safetensors.index.json", "*.py", TEXTS_FILE)


def check_push(target: str) -> HubId:
    """Return the repository that --push names, after checking the token.

    Call this before doing the work whose result is to be pushed. Nothing is created here.

    Raises:
        UserError: `target` is not ORG/NAME, there is no valid token, or no network.
    """
    name = hub_id(target)
    if name is None or name.revision is not None:
        raise UserError(
            OPTION,
            expected="ORG/NAME of a repository on the Hub",
            got=repr(target),
            remedy="name one without a revision, which is not a folder here",
        )
    with naming_hub_faults(OPTION, name, "model"):
        HfApi().whoami()
    return name


def push_folder(folder: Path, name: HubId, message: str, *, private: bool = False) -> str:
    """Commit the files of `folder` to a repository and return the URL of the commit.

    A missing repository is created; `private` has no effect on an existing one. The commit is
    atomic: a failed upload leaves the repository as it was and can be retried.

    Raises:
        UserError: no permission, no network, or the Hub refuses the files.
    """
    api = HfApi()
    with naming_hub_faults(OPTION, name, "model"):
        api.create_repo(name.repo, private=private or None, exist_ok=True)
        done = api.upload_folder(
            repo_id=name.repo,
            folder_path=folder,
            commit_message=message,
            delete_patterns=list(REPLACED),
        )
    return done.commit_url
