"""Quantizers train in the loops of Lightning and Accelerate as in a loop written by hand."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader

import arcvq

QUANTIZERS = {
    "plain": lambda: arcvq.EuclideanQuantizer(16, 4),
    "ema": lambda: arcvq.EMAQuantizer(16, 4, decay=0.8),
    "cosine": lambda: arcvq.CosineQuantizer(16, 4),
    "samp": lambda: arcvq.SphericalQuantizer(16, 4, samp=arcvq.SAMP.for_run(steps=6)),
    "cvq": lambda: arcvq.OnlineClusteredQuantizer(16, 4, decay=0.8, anchor="closest"),
}
BATCHES = 5  # two do not divide them, so the last step has one batch alone
every_quantizer = pytest.mark.parametrize("kind", QUANTIZERS)
with_and_without_accumulation = pytest.mark.parametrize("accumulated", [1, 2])


class Autoencoder(nn.Module):
    """Latents, codes and back; forward returns the training loss."""

    def __init__(self, kind):
        super().__init__()
        self.encoder = nn.Conv2d(1, 4, kernel_size=2, stride=2)
        self.quantizer = QUANTIZERS[kind]()
        self.decoder = nn.ConvTranspose2d(4, 1, kernel_size=2, stride=2)

    def forward(self, images):
        quantized = self.quantizer(self.encoder(images))
        return mse_loss(self.decoder(quantized.codes), images) + quantized.loss


def optimizer_of(model):
    return torch.optim.Adam(model.parameters(), lr=0.02)


def batches():
    return torch.randn(BATCHES, 8, 1, 8, 8).unbind()


def train_by_hand(model, batches, accumulated):
    optimizer = optimizer_of(model)
    for number, images in enumerate(batches, start=1):
        (model(images) / accumulated).backward()
        if number % accumulated == 0 or number == len(batches):
            optimizer.step()
            optimizer.zero_grad()
            model.quantizer.after_step()


def train_by_accelerate(model, batches, accumulated):
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=accumulated)
    loader = DataLoader(batches, batch_size=None)
    optimizer = optimizer_of(model)
    wrapped, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    for images in loader:
        with accelerator.accumulate(wrapped):
            accelerator.backward(wrapped(images))
            optimizer.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            model.quantizer.after_step()


def lightning_module(model):
    """The model as a LightningModule, which Lightning is imported for."""
    lightning = pytest.importorskip("lightning")

    class Training(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = model

        def training_step(self, images, batch_idx):
            return self.model(images)

        def validation_step(self, images, batch_idx):
            self.model(images)

        def optimizer_step(self, *args, **kwargs):
            super().optimizer_step(*args, **kwargs)
            self.model.quantizer.after_step()

        def configure_optimizers(self):
            return optimizer_of(self)

    return Training()


def trainer_of(**options):
    lightning = pytest.importorskip("lightning")
    return lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def train_by_lightning(model, batches, accumulated):
    trainer = trainer_of(max_epochs=1, accumulate_grad_batches=accumulated)
    loader = DataLoader(batches, batch_size=None)
    trainer.fit(lightning_module(model), loader, val_dataloaders=loader)


def assert_equal_state(model, expected):
    state = model.state_dict()
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(
            state[name], tensor, msg=lambda text, name=name: f"{name}: {text}"
        )


@with_and_without_accumulation
@every_quantizer
@pytest.mark.parametrize("train", [train_by_lightning, train_by_accelerate])
def test_a_quantizer_trains_in_both_loops_as_in_one_written_by_hand(train, kind, accumulated):
    by_hand = Autoencoder(kind)
    model = copy.deepcopy(by_hand)
    images = batches()
    train_by_hand(by_hand, images, accumulated)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="after_step")
        train(model, images, accumulated)
    assert int(model.quantizer.step) == -(-BATCHES // accumulated)
    assert_equal_state(model, by_hand)


@pytest.mark.parametrize("kind", ["ema", "samp", "cvq"])
def test_a_checkpoint_of_lightning_goes_on_exactly_where_the_run_was(kind, tmp_path):
    by_hand = Autoencoder(kind)
    first = copy.deepcopy(by_hand)
    second = Autoencoder(kind)
    images = batches()
    loader = DataLoader(images, batch_size=None)
    train_by_hand(by_hand, [*images, *images], accumulated=1)

    trainer = trainer_of(max_epochs=1)
    trainer.fit(lightning_module(first), loader)
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    trainer_of(max_epochs=2).fit(lightning_module(second), loader, ckpt_path=tmp_path / "run.ckpt")

    assert int(second.quantizer.step) == 2 * BATCHES
    assert_equal_state(second, by_hand)


@every_quantizer
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_lightning_trains_in_half_precision_with_averages_in_float32(precision, kind):
    model = Autoencoder(kind)
    before = model.quantizer.codebook.detach().clone()
    trainer = trainer_of(max_epochs=1, precision=precision)
    trainer.fit(lightning_module(model), DataLoader(batches(), batch_size=None))

    quantizer = model.quantizer
    expected = torch.bfloat16 if precision == "bf16-true" else torch.float32
    assert quantizer.codebook.dtype == expected
    assert quantizer.codebook.isfinite().all()
    assert not torch.equal(quantizer.codebook.float(), before.to(expected).float())
    averages = [buffer for buffer in quantizer.buffers() if buffer.is_floating_point()]
    assert all(buffer.dtype == torch.float32 for buffer in averages)
    assert int(quantizer.step) == BATCHES
    assert int(quantizer.counts.sum()) == BATCHES * 8 * 4 * 4
