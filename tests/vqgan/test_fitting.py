import dataclasses
import importlib
import math
import re
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from arcvq import training
from arcvq.images import ImageData, ImageSplit, load_images
from arcvq.quantizers import EMAQuantizer, EuclideanQuantizer, SphericalQuantizer
from arcvq.runtime.devices import threads_kept
from arcvq.training import Compute, Optimization, Recording, Run, evaluate, fit
from arcvq.vqgan import VQGAN, fitting
from arcvq.vqgan.discriminator import PatchDiscriminator, smallest_side
from arcvq.vqgan.fitting import VQGANLosses, VQGANSession, fit_vqgan
from arcvq.vqvae import VQVAE
from tests.test_training import all_of, assert_unchanged

CPU = Compute("cpu", "float32")
QUIET = Recording(progress=False, log_every=1, validate_every=4)
PIXELS_ONLY = VQGANLosses(features=None, adversarial=0.0)
ADVERSARIAL = VQGANLosses(features=None, start=0.5, channels=8, halvings=2)


@pytest.fixture(scope="module")
def data():
    """32 training and 8 other photographs of 16 x 16 pixels."""
    patches = load_images("photos", device="cpu").train.images[:48, :, ::2, ::2]
    labels = torch.zeros(48, dtype=torch.int64)
    splits = [
        ImageSplit(patches[part], labels[part]) for part in map(slice, (0, 32, 40), (32, 40, 48))
    ]
    return ImageData("patches", *splits, ("photograph",))


def model(quantizer=SphericalQuantizer, seed=0, **changes):
    torch.manual_seed(seed)
    return VQGAN(3, quantizer(16, 4, **changes), channels=8, multipliers=(1, 2), blocks=1)


def trained(data, network=None, losses=ADVERSARIAL, steps=8, recording=QUIET, **changes):
    return fit_vqgan(
        network or model(),
        data,
        steps=steps,
        batch_size=8,
        lr=1e-3,
        losses=losses,
        compute=CPU,
        recording=recording,
        **changes,
    )


def weights(run):
    return {name: weight.clone() for name, weight in run.model.state_dict().items()}


def equal(first, second):
    return all(torch.equal(weight, second[name]) for name, weight in first.items())


@pytest.mark.parametrize("quantizer", [SphericalQuantizer, EuclideanQuantizer, EMAQuantizer])
def test_training_lowers_the_error_with_any_quantizer(data, quantizer):
    network = model(quantizer)
    untrained = evaluate(network, data.train)["l1"]
    recording = Recording(progress=False, log_every=50, validate_every=50)
    trained(data, network, PIXELS_ONLY, steps=50, recording=recording, averaging=0.5)
    assert evaluate(network, data.train)["l1"] < 0.7 * untrained


def test_a_model_in_half_precision_learns_in_float32_and_is_rounded_at_the_end(data, tmp_path):
    network = model().bfloat16()
    recording = Recording(tmp_path, progress=False)
    history = trained(data, network, PIXELS_ONLY, steps=2, recording=recording).history
    assert history.loss.notna().all()
    assert {weight.dtype for weight in network.parameters()} == {torch.bfloat16}
    saved = VQGAN.from_pretrained(tmp_path).state_dict()
    for name, weight in network.state_dict().items():
        assert torch.equal(saved[name], weight.to(saved[name].dtype)), name


def test_model_and_discriminator_are_moved_as_in_the_public_code(data):
    optimization = Optimization(steps=8, batch_size=8, lr=1e-3, seed=0)
    session = VQGANSession(model(), data, optimization, ADVERSARIAL, 0.999, CPU, QUIET)
    for optimizer in (session.optimizer, session.opponent):
        assert isinstance(optimizer, torch.optim.Adam)
        assert optimizer.defaults["betas"] == (0.5, 0.9)
        assert optimizer.defaults["lr"] == 1e-3


def test_the_random_generator_of_the_caller_stays_as_it_was(data):
    network = model()
    losses = dataclasses.replace(ADVERSARIAL, features="efficientnet_lite0")
    before = torch.get_rng_state()
    trained(data, network, losses, steps=2)
    assert torch.get_rng_state().equal(before)


def test_small_batches_are_trained_by_all_threads(data):
    used = set()
    recording = dataclasses.replace(QUIET, on_log=lambda run: used.add(torch.get_num_threads()))
    with threads_kept(2):
        trained(data, losses=PIXELS_ONLY, steps=1, recording=recording)
    assert used == {2}


def test_the_adversarial_loss_joins_at_its_share_of_the_run(data):
    history = trained(data, losses=ADVERSARIAL).history
    columns = ["adversarial", "adversarial_weight", "discriminator"]
    joined = history[columns].notna().all(axis=1)
    # Of 8 steps the first four are without it.
    assert joined.tolist() == [False] * 4 + [True] * 4
    assert "discriminator" not in trained(data, losses=PIXELS_ONLY).history


def test_the_discriminator_changes_what_the_model_learns_only_once_it_joins(data):
    alone = trained(data, losses=PIXELS_ONLY).history
    opposed = trained(data, losses=ADVERSARIAL).history
    assert alone.reconstruction[:5].tolist() == opposed.reconstruction[:5].tolist()
    assert alone.reconstruction[5:].tolist() != opposed.reconstruction[5:].tolist()


def test_the_adversarial_term_pulls_as_hard_at_the_last_layer_as_all_others(data, monkeypatch):
    found = []
    gradient = torch.autograd.grad

    def watched(outputs, inputs, **options):
        gradients = gradient(outputs, inputs, **options)
        found.append(gradients[0].norm())
        return gradients

    monkeypatch.setattr(torch.autograd, "grad", watched)
    history = trained(data, losses=dataclasses.replace(ADVERSARIAL, adversarial=0.5)).history
    pairs = zip(found[::2], found[1::2], history.adversarial_weight.dropna(), strict=True)
    for of_rest, of_adversarial, weight in pairs:
        assert weight == pytest.approx(0.5 * float(of_rest / (of_adversarial + 1e-4)), rel=1e-5)


def test_the_model_that_is_handed_over_has_averaged_weights(data):
    seen = []
    names = ["encoder.conv_in.weight", "quantizer.codebook"]

    network = model()

    def note(run):
        seen.append({name: network.state_dict()[name].double() for name in names})

    recording = dataclasses.replace(QUIET, on_log=note)
    run = trained(data, network, PIXELS_ONLY, recording=recording, averaging=0.6)
    assert run.model is network
    for name in names:
        average = seen[0][name]
        for moment in seen[1:]:
            average = 0.6 * average + 0.4 * moment[name]
        assert torch.allclose(run.model.state_dict()[name].double(), average, atol=1e-6)


def test_without_averaging_it_has_the_last_weights(data):
    network = model()
    codebooks = []

    def note(run):
        codebooks.append(network.quantizer.codebook.detach().clone())

    recording = dataclasses.replace(QUIET, on_log=note)
    trained(data, network, PIXELS_ONLY, recording=recording, averaging=0.0)
    assert torch.equal(network.quantizer.codebook, codebooks[-1])


def test_a_run_that_was_stopped_ends_as_one_that_was_not_bit_for_bit(data, tmp_path):
    losses = dataclasses.replace(ADVERSARIAL, features="efficientnet_lite0")
    whole = trained(data, losses=losses)
    for stop in (2, 6):  # before the discriminator joins, and afterwards
        folder = tmp_path / str(stop)
        recording = dataclasses.replace(
            QUIET, folder=folder, on_log=lambda run, stop=stop: run.rows[-1]["step"] == stop
        )
        trained(data, losses=losses, recording=recording)
        assert not (folder / "run.json").exists()
        recording = dataclasses.replace(QUIET, folder=folder, resume=True)
        resumed = trained(data, model(seed=5), losses=losses, recording=recording)
        assert equal(weights(whole), weights(resumed))
        assert len(resumed.rows) == len(whole.rows)


def test_another_kind_of_training_does_not_take_over_a_checkpoint(data, tmp_path):
    recording = dataclasses.replace(QUIET, folder=tmp_path, on_log=lambda run: True)
    trained(data, recording=recording)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    recording = dataclasses.replace(QUIET, folder=tmp_path, resume=True)
    with pytest.raises(ValueError, match=r"other settings \(.*averaging was .* and is now None"):
        fit(
            model(),
            data,
            steps=8,
            batch_size=8,
            lr=1e-3,
            compute=Compute("cpu"),
            recording=recording,
        )
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_a_run_that_is_refused_leaves_the_model_as_it_was(data, tmp_path, monkeypatch):
    network = model(SphericalQuantizer)
    recording = dataclasses.replace(QUIET, folder=tmp_path)
    trained(data, network, PIXELS_ONLY, steps=2, recording=recording)
    before = all_of(network)
    with pytest.raises(FileExistsError, match="holds a run already"):
        trained(data, network, PIXELS_ONLY, recording=recording)
    assert_unchanged(network, before)

    def without_network(features):
        raise OSError("no weights")

    monkeypatch.setattr(fitting, "PerceptualDistance", without_network)
    with pytest.raises(OSError, match="no weights"):
        trained(data, network, VQGANLosses(adversarial=0.0))
    assert_unchanged(network, before)


@pytest.mark.parametrize("precision", [torch.float64, torch.bfloat16])
def test_a_model_keeps_its_precision(data, precision):
    losses = dataclasses.replace(PIXELS_ONLY, features="efficientnet_lite0")
    run = trained(data, model().to(precision), losses)
    assert next(run.model.parameters()).dtype == precision
    assert math.isfinite(run.rows[-1]["validation_perceptual"])


def test_a_frozen_last_layer_is_refused_where_the_adversarial_loss_is_weighed(data):
    network = model()
    network.decoder.requires_grad_(False)
    with pytest.raises(ValueError, match="the last layer of the decoder is frozen"):
        trained(data, network, ADVERSARIAL)
    trained(data, network, PIXELS_ONLY)


def test_a_model_without_last_layer_is_refused_for_the_adversarial_loss(data, unchecked):
    network = VQVAE(3, SphericalQuantizer(16, 4), hidden=8, residual_hidden=4)
    with pytest.raises(ValueError, match="the decoder of a VQVAE has no last_layer"):
        trained(data, network, ADVERSARIAL)
    trained(data, network, PIXELS_ONLY, steps=1)


def test_an_averaging_of_numpy_or_pytorch_is_kept_with_the_run(data, tmp_path, unchecked):
    for averaging in (np.float32(0.5), torch.tensor(0.5)):
        folder = tmp_path / type(averaging).__name__
        recording = dataclasses.replace(QUIET, folder=folder)
        trained(data, losses=PIXELS_ONLY, steps=1, recording=recording, averaging=averaging)
        assert Run.load(folder).settings["averaging"] == 0.5


def test_a_kept_run_opens_with_its_model(data, tmp_path):
    run = trained(data, recording=dataclasses.replace(QUIET, folder=tmp_path))
    opened = Run.load(tmp_path)
    assert isinstance(opened.model, VQGAN)
    assert equal(weights(run), weights(opened))


def test_a_damaged_run_names_a_function_that_opens_its_model(data, tmp_path):
    recording = dataclasses.replace(QUIET, folder=tmp_path)
    run = trained(data, steps=2, recording=recording, averaging=0.0)
    (tmp_path / "history.csv").write_text("step")
    with pytest.raises(ValueError, match="open the model alone, if that is whole, with") as error:
        Run.load(tmp_path)
    module, kind, function = str(error.value).split()[-1].rsplit(".", 2)
    opener = getattr(getattr(importlib.import_module(module), kind), function)
    assert equal(opener(tmp_path).state_dict(), weights(run))


def test_each_validation_writes_a_grid_of_images_above_reconstructions(data, tmp_path):
    run = trained(data, recording=dataclasses.replace(QUIET, folder=tmp_path, log_every=8))
    files = sorted((tmp_path / "reconstructions").iterdir())
    assert [file.name for file in files] == ["0000004.png", "0000008.png"]
    with Image.open(files[-1]) as grid:
        # 8 images of 16 pixels with 2 pixels around each
        assert grid.size == (8 * 18 + 2, 2 * 18 + 2)
    assert run.history.step.tolist() == [4, 8]


@pytest.mark.parametrize(("averaging", "steps"), [(0.999, 8), (0.9, 6)])
def test_an_average_that_is_too_slow_for_a_short_run_is_told_with_one_that_fits(
    data, averaging, steps
):
    share = averaging ** (steps - 1)
    with pytest.warns(
        UserWarning, match=f"the first of {steps} steps makes up {share:.0%}"
    ) as told:
        trained(data, losses=PIXELS_ONLY, steps=steps, averaging=averaging)
    (fitting,) = re.findall(r"averaging=([\d.]+) lowers", str(told[0].message))
    assert float(fitting) ** (steps - 1) == pytest.approx(0.2, rel=0.02)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained(data, losses=PIXELS_ONLY, steps=steps, averaging=float(fitting))
        trained(data, losses=PIXELS_ONLY, steps=1, averaging=averaging)


def test_a_run_that_replaces_another_leaves_none_of_its_grids(data, tmp_path):
    for steps in (8, 4):
        recording = Recording(tmp_path, overwrite=True, progress=False, validate_every=steps)
        trained(data, losses=PIXELS_ONLY, steps=steps, recording=recording)
    grids = [file.name for file in (tmp_path / "reconstructions").iterdir()]
    assert grids == ["0000004.png"]


def test_perceptual_features_are_measured_and_learned_from(data):
    losses = VQGANLosses(adversarial=0.0)
    recording = Recording(progress=False, log_every=1, validate_every=10)
    history = trained(data, losses=losses, steps=20, recording=recording, averaging=0.5).history
    assert history.perceptual.tail(5).mean() < history.perceptual.head(5).mean()
    assert history.validation_perceptual.notna().sum() == 2


def test_with_adam_beta_1_is_the_public_codes_weight_on_the_codebook_term(data):
    """A fourth of the codebook term moves the codes as the whole of it does."""

    class PublicConvention(EuclideanQuantizer):
        def forward(self, latents, **options):
            quantized = super().forward(latents, **options)
            codes = self.lookup(quantized.indices)
            gap = (codes - latents.detach()).square().mean()
            return quantized._replace(loss=quantized.loss - 0.75 * gap)

    run = trained(data, model(EuclideanQuantizer, beta=1.0), PIXELS_ONLY, averaging=0.0)
    theirs = trained(data, model(PublicConvention, beta=1.0), PIXELS_ONLY, averaging=0.0)
    for name, weight in run.model.named_parameters():
        other = dict(theirs.model.named_parameters())[name]
        assert torch.allclose(weight, other, atol=1e-4), name


# What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"averaging": 1.0}, "averaging is 1.0; it must be from 0 to below 1"),
        ({"averaging": -0.1}, "averaging is -0.1"),
        ({"steps": 0}, "steps is 0"),
    ],
)
def test_numbers_out_of_range_are_refused(data, changes, message):
    with pytest.raises(ValueError, match=message):
        trained(data, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": 1.5}, "start is 1.5; it must be a number from 0 to 1"),
        ({"perceptual": -1.0}, "perceptual is -1.0; it must be a finite number from 0"),
        ({"adversarial": math.inf}, "adversarial is inf"),
        ({"start": math.nan}, "start is nan"),
        ({"perceptual": "1"}, "perceptual is '1'; it must be a finite number from 0"),
        ({"halvings": 0}, "halvings is 0; it must be a whole number from 1"),
        ({"channels": -3}, "channels is -3; it must be a whole number from 1"),
        ({"features": "vgg19"}, "features is 'vgg19'; it must be one of efficientnet_lite0, vgg16"),
    ],
)
def test_losses_out_of_range_are_refused(changes, message, unchecked):
    with pytest.raises(ValueError, match=message):
        VQGANLosses(**changes)


def test_gray_images_are_refused_where_features_need_color(data):
    gray = dataclasses.replace(
        data,
        **{
            part: ImageSplit(getattr(data, part).images[:, :1], getattr(data, part).labels)
            for part in ("train", "validation", "test")
        },
    )
    network = VQGAN(1, SphericalQuantizer(16, 4), channels=8, multipliers=(1, 2), blocks=1)
    with pytest.raises(ValueError, match=r"patches has 1 channels.*features=None"):
        trained(gray, network, VQGANLosses())
    assert trained(gray, network, ADVERSARIAL, steps=2).model is network


def test_images_too_small_for_the_features_are_refused_before_training(data):
    def halved(split):
        return ImageSplit(split.images[..., ::2, ::2].contiguous(), split.labels)

    splits = (halved(split) for split in (data.train, data.validation, data.test))
    small = ImageData("small patches", *splits, data.classes)
    losses = VQGANLosses(features="vgg16", adversarial=0.0)
    with pytest.raises(ValueError, match=r"images have 8 x 8 pixels, but .*'vgg16' needs 16 x 16"):
        trained(small, losses=losses)
    trained(small, losses=dataclasses.replace(losses, features="efficientnet_lite0"), steps=1)


@pytest.mark.parametrize("halvings", [1, 2, 3])
def test_the_smallest_side_is_what_the_discriminator_can_just_judge(halvings):
    side = smallest_side(halvings)
    discriminator = PatchDiscriminator(3, 8, halvings)
    assert discriminator(torch.zeros(2, 3, side, side)).shape == (2, 1, 1, 1)
    with pytest.raises((RuntimeError, ValueError)):
        discriminator(torch.zeros(1, 3, side - 1, side - 1))


def test_images_too_small_for_the_discriminator_are_refused_before_training(data):
    deep = VQGANLosses(features=None, channels=8, halvings=3)
    with pytest.raises(ValueError, match=r"images have 16 x 16 pixels, but .* needs 24 x 24"):
        trained(data, losses=deep)
    unused = dataclasses.replace(deep, adversarial=0.0)
    trained(data, losses=unused, steps=1)


def test_a_discriminator_that_diverges_is_named_with_the_step(data, monkeypatch):
    monkeypatch.setattr(fitting, "hinge_loss", lambda real, fake: real.mean() * math.nan)
    # A row at every step, and one at the last step alone.
    for log_every in (1, 8):
        recording = Recording(progress=False, log_every=log_every, validate_every=8)
        message = "at step 5 the discriminator loss is not finite; until then all was finite"
        with pytest.raises(FloatingPointError, match=message):
            trained(data, losses=ADVERSARIAL, recording=recording)


def break_at(step, monkeypatch):
    """Have a NaN in the discriminator's weights from this step on."""
    learn = fitting.VQGANSession._learn

    def learn_and_break(session, images):
        if session.step + 1 == step:
            with torch.no_grad():
                next(session.discriminator.parameters()).fill_(math.nan)
        learn(session, images)

    monkeypatch.setattr(fitting.VQGANSession, "_learn", learn_and_break)


def test_a_run_that_diverged_goes_back_to_its_last_good_checkpoint(data, tmp_path, monkeypatch):
    recording = Recording(progress=False, log_every=8, validate_every=8)
    whole = trained(data, losses=ADVERSARIAL, recording=recording)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0)
    recording = dataclasses.replace(recording, folder=tmp_path)
    with monkeypatch.context() as patches:
        break_at(6, patches)
        with pytest.raises(
            FloatingPointError, match=r"at step 6 adversarial and .*discriminator are"
        ):
            trained(data, losses=ADVERSARIAL, recording=recording)
    assert torch.load(tmp_path / "checkpoint.pt")["step"] == 5
    resumed = trained(
        data, losses=ADVERSARIAL, recording=dataclasses.replace(recording, resume=True)
    )
    assert equal(weights(whole), weights(resumed))


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_images_of_any_number_of_channels_have_their_grids(channels, data, tmp_path):
    def of_channels(split):
        pixels = split.images[:, :1].repeat(1, channels, 1, 1)
        return ImageSplit(pixels, split.labels)

    parts = (of_channels(getattr(data, part)) for part in ("train", "validation", "test"))
    images = ImageData("bands", *parts, data.classes)
    network = VQGAN(channels, SphericalQuantizer(16, 4), 4, (1, 2), 1, attention=False)
    recording = dataclasses.replace(QUIET, folder=tmp_path)
    trained(images, network, PIXELS_ONLY, recording=recording)
    with Image.open(tmp_path / "reconstructions" / "0000008.png") as grid:
        assert grid.size == (8 * 18 + 2, 2 * 18 + 2)
        assert grid.mode == "RGB"


def test_a_grid_that_cannot_be_written_costs_a_warning_and_nothing_else(data, tmp_path):
    whole = trained(data, losses=PIXELS_ONLY)
    (tmp_path / "reconstructions").write_text("not a folder")
    recording = dataclasses.replace(QUIET, folder=tmp_path)
    with pytest.warns(UserWarning, match="at step 4 no grid of reconstructions was written: "):
        run = trained(data, losses=PIXELS_ONLY, recording=recording)
    assert equal(weights(whole), weights(run))
    assert (tmp_path / "reconstructions").read_text() == "not a folder"


def test_what_draws_grids_is_asked_for_before_the_training(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    recording = dataclasses.replace(QUIET, folder=tmp_path)
    with pytest.raises(ModuleNotFoundError, match="torchvision is not installed"):
        trained(data, losses=PIXELS_ONLY, recording=recording)
    assert not [*tmp_path.iterdir()]
    trained(data, losses=PIXELS_ONLY, steps=1)


def test_a_new_run_clears_old_grids_and_nothing_of_the_readers(data, tmp_path):
    grids = tmp_path / "reconstructions"
    grids.mkdir()
    for name in ("0000003.png", "0000012.png", "best.png", "notes.txt"):
        (grids / name).touch()
    recording = dataclasses.replace(QUIET, folder=tmp_path)
    trained(data, losses=PIXELS_ONLY, steps=1, recording=recording)
    left = {file.name for file in grids.iterdir()}
    assert left == {"0000001.png", "best.png", "notes.txt"}


def test_the_weight_of_the_adversarial_loss_has_a_limit(data, monkeypatch):
    monkeypatch.setattr(fitting, "LARGEST_WEIGHT", 1e-3)
    weights = trained(data, losses=ADVERSARIAL).history.adversarial_weight
    assert weights.max() == pytest.approx(1e-3 * ADVERSARIAL.adversarial)
