import pytest

from arcvq.runtime.store import digest_in, digest_of, find_result, kept_path


def test_a_digest_changes_with_any_fact_and_not_with_their_order():
    assert digest_of({"lr": 0.1, "steps": 5}) == digest_of({"steps": 5, "lr": 0.1})
    assert digest_of({"lr": 0.1}) != digest_of({"lr": 0.2})
    assert len(digest_of([1, "two", None])) == 12


def test_a_result_gets_a_path_that_names_it(tmp_path):
    assert kept_path(tmp_path, "runs", "digits-samp-0123") == tmp_path / "runs" / "digits-samp-0123"
    assert digest_in("digits-samp-0123") == "0123"


def test_a_result_that_is_there_is_found_whatever_its_name(tmp_path):
    earlier = tmp_path / "runs" / "an old: name-0123"
    earlier.mkdir(parents=True)
    assert kept_path(tmp_path, "runs", "digits-samp-0123") == earlier
    assert kept_path(tmp_path, "runs", "digits-samp-4567").name == "digits-samp-4567"
    assert kept_path(tmp_path, "priors", "digits-pixelcnn-0123").name == "digits-pixelcnn-0123"


def test_a_result_may_be_a_file(tmp_path):
    file = tmp_path / "projections" / "umap-89ab.npy"
    file.parent.mkdir()
    file.write_bytes(b"")
    assert kept_path(tmp_path, "projections", "other-89ab.npy") == file


def test_finished_results_are_found_in_the_shared_folder_and_new_ones_go_to_ones_own(
    tmp_path, monkeypatch
):
    own = tmp_path / "own"
    shared = tmp_path / "shared"
    monkeypatch.setenv("ARCVQ_SHARED", str(shared))
    finished = shared / "runs" / "digits-samp-0123"
    stopped = shared / "runs" / "digits-samp-4567"
    for folder in (finished, stopped):
        folder.mkdir(parents=True)
        (folder / "checkpoint.pt").touch()
    (finished / "run.json").touch()
    assert kept_path(own, "runs", "digits-samp-0123") == finished
    assert kept_path(own, "runs", "digits-samp-4567") == own / "runs" / "digits-samp-4567"
    mine = own / "runs" / "mine-0123"
    mine.mkdir(parents=True)
    assert kept_path(own, "runs", "digits-samp-0123") == finished, "an empty folder is no result"
    (mine / "checkpoint.pt").touch()
    assert kept_path(own, "runs", "digits-samp-0123") == mine
    other = own / "runs" / "other-0123"
    other.mkdir(parents=True)
    (other / "run.json").touch()
    assert kept_path(own, "runs", "digits-samp-0123") == other


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A finished result in the shared folder, and one in the own folder beside one that stopped."""
    monkeypatch.setenv("ARCVQ_SHARED", str(tmp_path / "shared"))
    for place, file in (
        ("shared/priors/digits-0123", "run.json"),
        ("own/priors/digits-4567", "run.json"),
        ("own/priors/digits-89ab", "checkpoint.pt"),
        ("own/classifiers/digits-cdef", "classifier.json"),
    ):
        folder = tmp_path / place
        folder.mkdir(parents=True)
        (folder / file).touch()
    return tmp_path


def test_a_finished_result_is_found_to_be_opened_and_a_stopped_one_to_go_on(finished):
    def found(kind, name):
        folder, is_there = find_result(finished / "own", kind, name)
        return folder.relative_to(finished).as_posix(), is_there

    assert found("priors", "digits-0123") == ("shared/priors/digits-0123", True)
    assert found("priors", "digits-4567") == ("own/priors/digits-4567", True)
    assert found("priors", "digits-89ab") == ("own/priors/digits-89ab", False)
    assert found("priors", "digits-0000") == ("own/priors/digits-0000", False)
    assert found("classifiers", "digits-cdef") == ("own/classifiers/digits-cdef", True)


def test_what_is_to_be_made_again_is_not_looked_for_in_the_shared_folder(finished):
    own = finished / "own"
    place = own / "priors" / "digits-0123"
    assert find_result(own, "priors", "digits-0123", shared=False) == (place, False)
