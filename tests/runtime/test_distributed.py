"""Two real processes (gloo) that train together, against one process that does all."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from unittest import mock

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from arcvq.quantizers import QUANTIZERS
from arcvq.runs import settings
from arcvq.runs.settings import RunSettings
from arcvq.runtime import distributed
from arcvq.samp import SAMP, arc_margin_loss
from arcvq.schedules import Adaptive, Constant
from arcvq.training import Compute, Recording, Run, VQVAESession, fit
from arcvq.vqvae import VQVAE
from tests.strokes import IMAGES

pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo"
)
KINDS = [kind for kind in QUANTIZERS if kind != "continuous"]
CODES = 7  # odd, so that the ranks have unequal shares


def short(folder=None, batch_size=8, **recorded):
    """A run of 6 steps with SAMP."""
    usual = {"log_every": 2, "validate_every": 3, "snapshots": 2, "progress": False}
    return fit(
        model("samp"),
        IMAGES,
        steps=6,
        batch_size=batch_size,
        compute=Compute("cpu", "float32"),
        recording=Recording(folder, **usual | recorded),
    )


def model(kind, num_codes=CODES):
    torch.manual_seed(3)
    quantizer = QUANTIZERS[kind](num_codes, 4)
    if kind == "samp":
        quantizer.samp = SAMP(radius=Adaptive(0.5, 3.0), weight=Constant(1.0))
    return VQVAE(1, quantizer, hidden=8, residual_hidden=4)


def step(kind, num_codes=CODES):
    """Everything that one step of training in float64 leaves behind; the batch is divided among the ranks."""
    whole = model(kind, num_codes).double()
    wrapped = distributed.parallel(whole)
    optimizer = torch.optim.SGD([p for p in whole.parameters() if p.requires_grad], lr=0.1)
    torch.manual_seed(5)  # of the draws of CVQ
    batch = (
        IMAGES.train.batch(torch.arange(8))
        .double()
        .chunk(distributed.world_size())[distributed.rank()]
    )
    output = wrapped(batch)
    loss = (output.reconstruction - batch).square().mean() + output.quantized.loss
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in whole.named_parameters() if p.grad is not None}
    optimizer.step()
    whole.quantizer.after_step()
    found = {"loss": distributed.sum_(loss.detach().clone()) / distributed.world_size()}
    found |= {f"gradient of {name}": value for name, value in gradients.items()}
    after = whole.state_dict() | dict(whole.named_buffers())  # some buffers are not saved
    return found | {f"after the step, {name}": value for name, value in after.items()}


def margin(top_k):
    """The loss and its gradient to all latents, in float64; each rank has 4 of 8."""
    generator = torch.Generator().manual_seed(0)
    latents, codebook = (
        torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in (8, CODES)
    )
    own = latents.chunk(distributed.world_size())[distributed.rank()].clone().requires_grad_()
    loss = distributed.gathered_margin(
        own, codebook, lambda z, e: arc_margin_loss(z, e, top_k=top_k)
    )
    (slope,) = torch.autograd.grad(loss, own)
    return {
        "loss": distributed.sum_(loss.detach().clone()) / distributed.world_size(),
        "gradient": slope,
    }


def uneven():
    try:
        distributed.gather(torch.ones(2 + distributed.rank(), 3))
    except ValueError as error:
        return str(error)


def fitted(folder=None, **changes):
    run = short(folder, **changes)
    weights = {name: value.clone() for name, value in run.model.state_dict().items()}
    return {"history": run.history.to_dict("list"), "weights": weights}


def odd_batch():
    try:
        fitted(batch_size=7)
    except ValueError as error:
        return str(error)


def stopped():
    """The last rank alone wants to stop after the first row."""
    return len(short(on_log=lambda run: distributed.rank() == 1).history)


def interrupted(folder):
    """Ctrl-C reaches the last rank alone, in a step that is not logged; then the run goes on."""

    def advance(trainer, original=VQVAESession.advance):
        original(trainer)
        if trainer.step == 3 and distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with mock.patch.object(VQVAESession, "advance", advance):
        try:
            fitted(folder, validate_every=6)
        except KeyboardInterrupt as stop:
            return {"sentence": str(stop), **fitted(folder, resume=True)}


def writes(folder):
    """How many files this rank puts into place in a whole run."""
    with mock.patch("os.replace", wraps=os.replace) as replace:
        fitted(folder)
    return replace.call_count


def work(rank, port, folder, begun):
    """All that a rank does; its findings go to a file."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    with contextlib.suppress(ZeroDivisionError), distributed.process_group(torch.device("cpu")):
        found = {f"step {kind}": step(kind) for kind in KINDS}
        found |= {f"one code {kind}": step(kind, 1) for kind in ("samp", "cvq")}
        found |= {f"margin {top_k}": margin(top_k) for top_k in (1, 3, 6)}
        found["agreed"] = (
            distributed.from_first(rank),
            distributed.any_rank(rank == 1),
            distributed.any_rank(False),
        )
        found |= {"uneven": uneven(), "odd batch": odd_batch(), "stopped": stopped()}
        found["fit"], found["writes"] = fitted(), writes(folder / "run")
        found["resumed"], found["interrupted"] = (
            fitted(begun, resume=True),
            interrupted(folder / "interrupted"),
        )
        torch.save(found, folder / f"{rank}.pt")
        raise ZeroDivisionError
    assert distributed.world_size() == 1, "the group is left, also after an error"


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two ranks found; they start once."""
    folder, begun = tmp_path_factory.mktemp("ranks"), tmp_path_factory.mktemp("begun")
    short(begun, on_log=lambda run: len(run.history) == 2)  # stops by itself
    context = mp.start_processes(
        work, (free_port(), folder, begun), nprocs=2, join=False, start_method="spawn"
    )
    deadline = time.monotonic() + 120
    try:
        while not context.join(timeout=1):
            assert time.monotonic() < deadline, "the ranks wait for each other"
    finally:
        for process in context.processes:
            process.kill()
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)], folder


def same(one, other, tolerance):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.allclose(
            value.double(), other[name].double(), rtol=tolerance, atol=tolerance
        ), name


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_take_the_step_of_one(ranks, kind):
    """Loss, gradients, codebook, counts, averages and anchors."""
    alone = step(kind)
    for found in ranks[0]:
        same(found[f"step {kind}"], alone, 1e-10)


@pytest.mark.parametrize("kind", ["samp", "cvq"])
def test_one_code_is_work_for_one_rank_only(ranks, kind):
    for found in ranks[0]:
        same(found[f"one code {kind}"], step(kind, 1), 1e-10)


@pytest.mark.parametrize("top_k", [1, 3, 6])  # a rank has four latents
def test_the_margin_loss_is_over_the_latents_of_all_ranks(ranks, top_k):
    alone = margin(top_k)
    for rank, found in enumerate(ranks[0]):
        # Data parallel training takes the mean over two ranks, so that each gives back twice its part.
        same(
            found[f"margin {top_k}"],
            alone | {"gradient": 2 * alone["gradient"].chunk(2)[rank]},
            1e-12,
        )


def test_unequal_shares_are_told(ranks):
    assert [found["uneven"] for found in ranks[0]] == [
        "the ranks have [2, 3] latents; all must have as many"
    ] * 2
    sentence = "batch_size is 7; it must be divisible by 2, the number of processes"
    assert [found["odd batch"] for found in ranks[0]] == [sentence] * 2


def test_a_whole_run_of_two_ranks_is_that_of_one_and_both_end_alike(ranks):
    alone = fitted()
    for found in ranks[0]:
        same(found["fit"]["weights"], alone["weights"], 1e-5)
        for name, values in alone["history"].items():
            assert torch.allclose(
                torch.tensor(found["fit"]["history"][name]),
                torch.tensor(values),
                rtol=1e-5,
                equal_nan=True,
            ), name
    same(ranks[0][0]["fit"]["weights"], ranks[0][1]["fit"]["weights"], 0)


def test_only_rank_0_writes(ranks):
    found, folder = ranks
    assert found[0]["writes"] > 3 and found[1]["writes"] == 0
    same(dict(Run.load(folder / "run").model.state_dict()), found[0]["fit"]["weights"], 1e-6)


def test_two_ranks_go_on_from_the_checkpoint_of_one(ranks):
    for found in ranks[0]:
        same(found["resumed"]["weights"], fitted()["weights"], 1e-5)


def test_a_stop_that_one_rank_wants_stops_all(ranks):
    assert [found["stopped"] for found in ranks[0]] == [1, 1]
    assert [found["agreed"] for found in ranks[0]] == [(0, True, False)] * 2


def test_ctrl_c_at_one_rank_ends_all_at_the_next_logged_step_and_the_run_goes_on(ranks):
    for found in ranks[0]:
        assert found["interrupted"]["sentence"].startswith("stopped at step 4 of 6, saved in")
        same(found["interrupted"]["weights"], found["fit"]["weights"], 1e-6)


def test_alone_nothing_communicates():
    tensor = torch.arange(3.0)
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    assert distributed.sum_(tensor) is tensor and distributed.gather(tensor[:, None]).shape == (
        3,
        1,
    )
    assert (
        distributed.any_rank(True)
        and not distributed.any_rank(False)
        and distributed.from_first("x") == "x"
    )
    layer = torch.nn.Linear(1, 1)
    assert distributed.parallel(layer) is layer


def test_torchrun_trains_prints_once_and_leaves_a_run_to_open(tmp_path, monkeypatch):
    small = {
        "steps": 4,
        "num_codes": 16,
        "dim": 4,
        "hidden": 8,
        "residual_hidden": 4,
        "batch_size": 8,
        "train_images": 64,
        "precision": "float32",
    }
    options = [f"--{name.replace('_', '-')}={value}" for name, value in small.items()]
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "arcvq",
        "train",
        "--device=cpu",
        *options,
    ]
    environment = os.environ | {"ARCVQ_DATA": str(tmp_path), "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        try:
            output, errors = process.communicate(timeout=120)
        finally:
            process.terminate()  # torchrun ends its workers with it
    assert process.returncode == 0, errors
    assert (
        output.count("psnr ") == 1
        and output.count("s of training") == 1
        and "Warning" not in errors
    )
    monkeypatch.setattr(settings, "fit", None)
    run = settings.train(RunSettings.for_profile("quick", **small), root=tmp_path, device="cpu")
    assert run.settings["steps"] == run.history["step"].iloc[-1] == 4
