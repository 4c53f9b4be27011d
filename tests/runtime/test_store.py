from arcvq.runtime.store import digest_in, digest_of, kept_path


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
    assert kept_path(own, "runs", "digits-samp-0123") == mine
