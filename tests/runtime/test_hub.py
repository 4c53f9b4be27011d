import huggingface_hub
import pytest
from huggingface_hub import errors

from arcvq.runtime.hub import download


def fail_with(error, monkeypatch):
    def fail(**_):
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)


def test_the_path_of_the_downloaded_file_is_returned(tmp_path, monkeypatch):
    asked = []

    def stand_in(repo_id, filename, revision):
        asked.append((repo_id, filename, revision))
        return str(tmp_path / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", stand_in)
    assert download("owner/name", "part/file.pt") == tmp_path / "part" / "file.pt"
    assert download("owner/name", "file.pt", "v2") == tmp_path / "file.pt"
    assert asked == [("owner/name", "part/file.pt", None), ("owner/name", "file.pt", "v2")]


def of_response(kind):
    """An error of a kind that is made with the answer of the hub, without that answer."""
    return kind.__new__(kind)


PROBLEMS = [
    (
        errors.LocalEntryNotFoundError("no\nnetwork"),
        "the hub cannot be reached, and its cache lacks the file",
    ),
    (of_response(errors.RemoteEntryNotFoundError), "the repository holds no such file"),
    (of_response(errors.RevisionNotFoundError), "the repository has no such revision"),
    (of_response(errors.RepositoryNotFoundError), "there is no such public repository"),
    (of_response(errors.GatedRepoError), "there is no such public repository"),
    (errors.HFValidationError("bad name"), "a repository is named OWNER/NAME"),
    (OSError("no space\nleft on device"), "no space left on device"),
]


@pytest.mark.parametrize(
    ("error", "reason"), PROBLEMS, ids=[type(error).__name__ for error, _ in PROBLEMS]
)
def test_a_failed_download_is_told_in_one_sentence(error, reason, monkeypatch):
    fail_with(error, monkeypatch)
    with pytest.raises(FileNotFoundError) as caught:
        download("owner/name", "file.pt")
    expected = f"file.pt of owner/name cannot be downloaded from the Hugging Face hub: {reason}"
    assert str(caught.value) == expected
    assert caught.value.__cause__ is error


def test_a_name_that_no_repository_has_is_refused_by_the_hub_itself():
    with pytest.raises(FileNotFoundError, match="a repository is named OWNER/NAME"):
        download("a/b/c", "file.pt")
