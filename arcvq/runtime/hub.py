"""Files on the Hugging Face hub."""

from pathlib import Path

import huggingface_hub
from huggingface_hub import errors

# What an error of the hub says to a reader; the first kind that fits counts.
REASONS: list[tuple[type[Exception], str]] = [
    (errors.LocalEntryNotFoundError, "the hub cannot be reached, and its cache lacks the file"),
    (errors.EntryNotFoundError, "the repository holds no such file"),
    (errors.RevisionNotFoundError, "the repository has no such revision"),
    (errors.RepositoryNotFoundError, "there is no such public repository"),
    (errors.HFValidationError, "a repository is named OWNER/NAME"),
]


def download(repository: str, filename: str, revision: str | None = None) -> Path:
    """Download a file, unless the cache of the hub has it already.

    Args:
        repository: OWNER/NAME.
        filename: The path of the file in the repository.
        revision: A branch, tag or commit; None for the newest version.

    Raises:
        FileNotFoundError: If there is no such file, or it cannot be downloaded; says why.
    """
    try:
        path = huggingface_hub.hf_hub_download(
            repo_id=repository, filename=filename, revision=revision
        )
    except Exception as error:  # of many types
        known = (reason for kind, reason in REASONS if isinstance(error, kind))
        reason = next(known, " ".join(str(error).split()))
        raise FileNotFoundError(
            f"{filename} of {repository} cannot be downloaded from the Hugging Face hub: {reason}"
        ) from error
    return Path(path)
