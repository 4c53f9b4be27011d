"""Two real processes (gloo) that train together, against one process that does all."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from unittest import mock

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from arcvq.baselines.vector_quantize_pytorch import BASELINES
from arcvq.composites import GroupedQuantizer, ResidualQuantizer
from arcvq.quantizers import (
    QUANTIZERS,
    ContinuousQuantizer,
    EMAQuantizer,
    SphericalQuantizer,
)
from arcvq.runs import settings
from arcvq.runs.settings import RunSettings
from arcvq.runtime import distributed
from arcvq.runtime.store import find_result
from arcvq.samp import SAMP, arc_margin_loss
from arcvq.schedules import Adaptive, Constant
from arcvq.training import Compute, Recording, Run, VQVAESession, fit
from arcvq.vqgan import VQGAN, VQGANLosses, fit_vqgan
from arcvq.vqvae import VQVAE
from tests.kinds import KINDS
from tests.strokes import IMAGES

pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo"
)
EVERY_KIND = KINDS | {"continuous": ContinuousQuantizer}
CODES = 7  # odd, so that the ranks have unequal shares


def model(kind, num_codes=CODES):
    torch.manual_seed(3)
    quantizer = QUANTIZERS[kind](num_codes, 4)
    if kind == "samp":
        quantizer.samp = SAMP(radius=Adaptive(0.5, 3.0), weight=Constant(1.0))
    return VQVAE(1, quantizer, hidden=8, residual_hidden=4)


def own_share(tensor):
    return tensor.chunk(distributed.world_size())[distributed.rank()]


def mean_over_ranks(loss):
    return distributed.sum_(loss.detach().clone()) / distributed.world_size()


def step(kind, num_codes=CODES):
    """Everything that one training step in float64 leaves behind; the ranks divide the batch."""
    whole = model(kind, num_codes).double()
    wrapped = distributed.parallel(whole)
    learned = [parameter for parameter in whole.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learned, lr=0.1)
    torch.manual_seed(5)  # of the draws of CVQ
    batch = own_share(IMAGES.train.batch(torch.arange(8)).double())
    output = wrapped(batch)
    loss = (output.reconstruction - batch).square().mean() + output.quantized.loss
    loss.backward()

    found = {"loss": mean_over_ranks(loss)}
    for name, parameter in whole.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        found[f"gradient of {name}"] = gradient.clone()
    optimizer.step()
    whole.quantizer.after_step()
    after = whole.state_dict() | dict(whole.named_buffers())  # some buffers are not saved
    return found | {f"after the step, {name}": value for name, value in after.items()}


LOOPS = KINDS | {
    "revived": partial(EMAQuantizer, revive_after=1),
    "revived samp": partial(SphericalQuantizer, revive_after=2),
    "samp of some codes": partial(SphericalQuantizer, samp=SAMP(codes_per_step=3)),
    "frozen": KINDS["ema"],
}


def loop(kind, masked):
    """What steps of two micro-batches each leave behind, in float64, and their margin losses.

    The ranks divide each micro-batch; with masks they have different numbers of latents.
    """
    torch.manual_seed(3)
    quantizer = LOOPS[kind](CODES, 3).double()
    if kind == "frozen":
        quantizer.freeze()
    margins = []
    generator = torch.Generator().manual_seed(4)
    torch.manual_seed(5)  # of the anchors
    for _ in range(3):
        for kept in (0.2, 0.8):
            latents = torch.randn(20, 3, generator=generator, dtype=torch.float64)
            mask = torch.rand(20, generator=generator) < kept
            mask[[2, 13, 14, 15]] = True  # one for the first rank, three for the second
            quantized = quantizer(own_share(latents), own_share(mask) if masked else None)
            if "margin" in quantized.losses:
                margins.append(mean_over_ranks(quantized.losses["margin"]))
        quantizer.after_step()
    state = quantizer.state_dict() | dict(quantizer.named_buffers())
    return dict(state) | {f"margin {place}": value for place, value in enumerate(margins)}


def plain_ddp(kind):
    """Four steps of Adam in PyTorch's own wrapper with its defaults, accumulated with `no_sync`."""
    torch.manual_seed(3)
    whole = VQVAE(1, EVERY_KIND[kind](CODES, 4), hidden=8, residual_hidden=4).double()
    alone = distributed.world_size() == 1
    wrapped = whole if alone else DistributedDataParallel(whole)
    optimizer = torch.optim.Adam(whole.parameters(), lr=0.01)
    torch.manual_seed(5)
    for step in range(4):
        optimizer.zero_grad()
        first, last = IMAGES.train.batch(torch.arange(16) + step).double().chunk(2)
        for images in (first, last):
            waits = contextlib.nullcontext() if alone or images is last else wrapped.no_sync()
            with waits:
                own = own_share(images)
                output = wrapped(own)
                loss = (output.reconstruction - own).square().mean() + output.quantized.loss
                (loss / 2).backward()
        optimizer.step()
        whole.quantizer.after_step()
    return dict(whole.state_dict())


def sharded(kind):
    """Four steps of Adam with FSDP2, the quantizer a part of its own."""
    torch.manual_seed(3)
    model = VQVAE(1, EVERY_KIND[kind](CODES, 4), hidden=8, residual_hidden=4).double()
    if distributed.world_size() > 1:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (2,))
        fully_shard(model.quantizer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    torch.manual_seed(5)
    for step in range(4):
        own = own_share(IMAGES.train.batch(torch.arange(8) + step).double())
        output = model(own)
        loss = (output.reconstruction - own).square().mean() + output.quantized.loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.quantizer.after_step()
    state = model.state_dict()
    return {name: distributed.whole(value).clone() for name, value in state.items()}


def margin(top_k):
    """The loss and its gradient to all latents, in float64; each rank has 4 of 8."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    codebook = torch.randn(CODES, 3, generator=generator, dtype=torch.float64)
    own = own_share(latents).clone().requires_grad_()
    loss = distributed.gathered_margin(
        own, codebook, lambda latents, codes: arc_margin_loss(latents, codes, top_k=top_k)
    )
    (slope,) = torch.autograd.grad(loss, own)
    return {"loss": mean_over_ranks(loss), "gradient": slope}


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


def findings(run):
    weights = {name: value.clone() for name, value in run.model.state_dict().items()}
    return {"history": run.history.to_dict("list"), "weights": weights}


def fitted(folder=None, **recorded):
    return findings(short(folder, **recorded))


def fitted_vqgan(folder=None):
    """A run of 6 steps, the last 3 with a discriminator."""
    torch.manual_seed(3)
    run = fit_vqgan(
        VQGAN(1, SphericalQuantizer(CODES, 4), channels=8, multipliers=(1, 2), blocks=1),
        IMAGES,
        steps=6,
        batch_size=8,
        losses=VQGANLosses(features=None, channels=8, halvings=1),
        compute=Compute("cpu", "float32"),
        recording=Recording(folder, log_every=1, validate_every=3, progress=False),
    )
    found = findings(run)
    # A bias of the keys changes no attention: its gradient is rounding, of which Adam makes steps.
    for name in [*found["weights"]]:
        if name.endswith(".k.bias"):
            del found["weights"][name]
    return found


def refusal(action):
    with pytest.raises(ValueError) as caught:
        action()
    return str(caught.value)


def uneven():
    return refusal(lambda: distributed.gather(torch.ones(2 + distributed.rank(), 3)))


def odd_batch():
    return refusal(lambda: short(batch_size=7))


def stopped():
    """The last rank alone wants to stop after the first row."""
    return len(short(on_log=lambda run: distributed.rank() == 1).history)


def interrupted(folder):
    """Ctrl-C reaches the last rank alone, in a step that is not logged; then the run goes on."""
    original = VQVAESession.advance

    def advance(session):
        original(session)
        if session.step == 3 and distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGINT)

    patch = mock.patch.object(VQVAESession, "advance", advance)
    with patch, pytest.raises(KeyboardInterrupt) as stop:
        short(folder, validate_every=6)
    return {"sentence": str(stop.value), **fitted(folder, resume=True)}


def writes(folder):
    """How many files this rank puts into place in a whole run."""
    with mock.patch("os.replace", wraps=os.replace) as replace:
        short(folder)
    return replace.call_count


def kept(folder):
    """Whether the first rank, which asks alone, finds a prior."""
    if distributed.rank() > 0:
        return None
    prior = folder / "priors" / "digits-0123"
    prior.mkdir(parents=True)
    (prior / "run.json").touch()
    return find_result(folder, "priors", prior.name)[1]


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
    cpu = torch.device("cpu")
    with contextlib.suppress(ZeroDivisionError), distributed.process_group(cpu):
        found = {f"step {kind}": step(kind) for kind in QUANTIZERS}
        found |= {f"one code {kind}": step(kind, 1) for kind in ("samp", "cvq")}
        found |= {f"loop {kind}": loop(kind, masked=False) for kind in LOOPS}
        found |= {f"masked {kind}": loop(kind, masked=True) for kind in LOOPS}
        found |= {f"ddp {kind}": plain_ddp(kind) for kind in EVERY_KIND}
        found |= {f"fsdp {kind}": sharded(kind) for kind in EVERY_KIND}
        found |= {f"margin {top_k}": margin(top_k) for top_k in (1, 3, 6)}
        found["first"] = distributed.from_first(rank)
        found["any"] = distributed.any_rank(rank == 1)
        found["none"] = distributed.any_rank(False)
        found["uneven"] = uneven()
        found["odd batch"] = odd_batch()
        found["stopped"] = stopped()
        found["fit"] = fitted()
        found["vqgan"] = fitted_vqgan(folder / "vqgan")
        found["writes"] = writes(folder / "run")
        found["kept"] = kept(folder)
        found["resumed"] = fitted(begun, resume=True)
        found["interrupted"] = interrupted(folder / "interrupted")
        torch.save(found, folder / f"{rank}.pt")
        raise ZeroDivisionError
    assert distributed.world_size() == 1, "the group is left, also after an error"


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the ranks leave their findings and runs."""
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def ranks(folder, tmp_path_factory):
    """What each of two ranks found; they start once."""
    begun = tmp_path_factory.mktemp("begun")
    short(begun, on_log=lambda run: len(run.history) == 2)  # stops by itself
    arguments = (free_port(), folder, begun)
    context = mp.start_processes(work, arguments, nprocs=2, join=False, start_method="spawn")
    deadline = time.monotonic() + 240
    try:
        while not context.join(timeout=1):
            assert time.monotonic() < deadline, "the ranks wait for each other"
    finally:
        for process in context.processes:
            process.kill()
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def assert_same(one, other, tolerance):
    assert one.keys() == other.keys()
    for name, value in one.items():
        close = torch.allclose(value.double(), other[name].double(), tolerance, tolerance)
        assert close, name


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_two_ranks_take_the_step_of_one(ranks, kind):
    """Loss, gradients, codebook, counts, averages and anchors."""
    alone = step(kind)
    for found in ranks:
        assert_same(found[f"step {kind}"], alone, 1e-10)


@pytest.mark.parametrize("kind", LOOPS)
@pytest.mark.parametrize("masked", [False, True])
def test_two_ranks_accumulate_what_one_does(ranks, kind, masked):
    """Also with masks that leave the ranks different numbers of latents."""
    alone = loop(kind, masked)
    for found in ranks:
        assert_same(found[f"{'masked' if masked else 'loop'} {kind}"], alone, 1e-10)
    assert alone["step"] == 3
    if kind == "frozen":
        assert alone["counts"].sum() > 0


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_every_kind_trains_in_plain_distributed_data_parallel(ranks, kind):
    alone = plain_ddp(kind)
    for found in ranks:
        assert_same(found[f"ddp {kind}"], alone, 1e-8)


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_every_kind_trains_divided_by_fsdp(ranks, kind):
    alone = sharded(kind)
    for found in ranks:
        assert_same(found[f"fsdp {kind}"], alone, 1e-8)


@pytest.mark.parametrize("kind", ["samp", "cvq"])
def test_one_code_is_work_for_one_rank_only(ranks, kind):
    for found in ranks:
        assert_same(found[f"one code {kind}"], step(kind, 1), 1e-10)


@pytest.mark.parametrize("top_k", [1, 3, 6])  # a rank has four latents
def test_the_margin_loss_is_over_the_latents_of_all_ranks(ranks, top_k):
    alone = margin(top_k)
    for found, gradient in zip(ranks, alone["gradient"].chunk(2), strict=True):
        # Training takes the mean over two ranks, so that each gives back twice its part.
        assert_same(found[f"margin {top_k}"], alone | {"gradient": 2 * gradient}, 1e-12)


def test_unequal_shares_are_told(ranks):
    for found in ranks:
        assert found["uneven"] == "the ranks have [2, 3] latents; all must have as many"
        divisible = "batch_size is 7; it must be divisible by 2, the number of processes"
        assert found["odd batch"] == divisible


@pytest.mark.parametrize(("name", "alone"), [("fit", fitted), ("vqgan", fitted_vqgan)])
def test_a_whole_run_of_two_ranks_is_that_of_one_and_both_end_alike(ranks, name, alone):
    expected = alone()
    for found in ranks:
        assert_same(found[name]["weights"], expected["weights"], 1e-5)
        for column, values in expected["history"].items():
            same = torch.tensor(found[name]["history"][column])
            close = torch.allclose(same, torch.tensor(values), rtol=1e-5, equal_nan=True)
            assert close, column
    assert_same(ranks[0][name]["weights"], ranks[1][name]["weights"], 0)


def test_only_rank_0_writes(ranks, folder):
    assert ranks[0]["writes"] > 3
    assert ranks[1]["writes"] == 0
    written = Run.load(folder / "run").model.state_dict()
    assert_same(dict(written), ranks[0]["fit"]["weights"], 1e-6)


def test_one_rank_may_look_for_a_kept_result_alone(ranks):
    assert ranks[0]["kept"] is True


def test_two_ranks_go_on_from_the_checkpoint_of_one(ranks):
    for found in ranks:
        assert_same(found["resumed"]["weights"], fitted()["weights"], 1e-5)


def test_the_ranks_decide_alike(ranks):
    for found in ranks:
        assert found["first"] == 0
        assert found["any"]
        assert not found["none"]
        assert found["stopped"] == 1, "a stop that one rank wants stops all"


def test_ctrl_c_at_one_rank_ends_all_at_the_next_logged_step_and_the_run_goes_on(ranks):
    for found in ranks:
        assert found["interrupted"]["sentence"].startswith("stopped at step 4 of 6, saved in")
        assert_same(found["interrupted"]["weights"], found["fit"]["weights"], 1e-6)


def test_alone_nothing_communicates():
    tensor = torch.arange(3.0)
    assert distributed.rank() == 0
    assert distributed.world_size() == 1
    assert distributed.sum_(tensor) is tensor
    assert distributed.mean_(tensor).tolist() == [0, 1, 2]
    assert distributed.own_share(tensor).tolist() == [0, 1, 2]
    assert distributed.gather(tensor[:, None]).shape == (3, 1)
    assert distributed.any_rank(True)
    assert not distributed.any_rank(False)
    assert distributed.from_first("x") == "x"
    layer = torch.nn.Linear(1, 1)
    assert distributed.parallel(layer) is layer


def of_parts(make, kinds, dim, **options):
    """A composite of parts of these kinds."""
    parts = [EVERY_KIND[kind](CODES, dim) for kind in kinds]
    return make(parts, **options)


ONE_RANK = {kind: partial(make, CODES, 4) for kind, make in EVERY_KIND.items()} | {
    "residual": partial(of_parts, ResidualQuantizer, ["ema", "ema"], 4),
    "dropout": partial(of_parts, ResidualQuantizer, ["samp", "ema", "ema"], 4, dropout=True),
    "grouped": partial(of_parts, GroupedQuantizer, ["ema", "samp"], 2),
}


@pytest.fixture
def one_rank():
    """A group of one process, as torchrun makes it on a machine with one GPU."""
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


def three_steps(make, wrap, training=True):
    """What three steps of a linear encoder leave behind, on a wrapped model or a plain one."""
    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), make())
    model[1].train(training)
    wrapped = wrap(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(3):
        quantized = wrapped(torch.randn(20, 4))
        optimizer.zero_grad()
        (quantized.codes.square().sum() + quantized.loss).backward()
        optimizer.step()
        model[1].after_step()
    return dict(model.state_dict())


@pytest.mark.parametrize("kind", ONE_RANK)
@pytest.mark.parametrize("training", [True, False])
def test_every_kind_works_in_distributed_data_parallel_of_one_process(one_rank, kind, training):
    """Also where only the encoder trains, before a quantizer in evaluation."""
    make = ONE_RANK[kind]
    plain = three_steps(make, lambda model: model, training)
    assert_same(three_steps(make, DistributedDataParallel, training), plain, 0)


@pytest.mark.parametrize("kind", BASELINES)
@pytest.mark.parametrize("training", [True, False])
def test_every_baseline_works_in_distributed_data_parallel_of_one_process(one_rank, kind, training):
    pytest.importorskip("vector_quantize_pytorch")
    make = partial(BASELINES[kind], 8, 4)
    plain = three_steps(make, lambda model: model, training)
    assert_same(three_steps(make, DistributedDataParallel, training), plain, 1e-6)


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
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, "--nproc-per-node=2", "-m", "arcvq", "train", "--device=cpu", *options]
    environment = os.environ | {"ARCVQ_DATA": str(tmp_path), "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        try:
            output, errors = process.communicate(timeout=120)
        finally:
            process.terminate()  # torchrun ends its workers with it
    assert process.returncode == 0, errors
    assert output.count("psnr ") == 1
    assert output.count("s of training") == 1
    assert "Warning" not in errors
    monkeypatch.setattr(settings, "fit", None)
    told = RunSettings.for_profile("quick", **small)
    run = settings.train(told, root=tmp_path, device="cpu")
    assert run.settings["steps"] == run.history["step"].iloc[-1] == 4
