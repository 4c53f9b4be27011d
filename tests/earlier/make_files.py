"""The script that wrote files.tar.xz, kept to show what is in it.

It ran with the code of commit 73344da, the last one before the package was divided into parts, so it no longer runs
with the code beside it. Afterwards the checkpoints of finished runs and priors and the model cards were deleted,
since nothing reads them, and the folder was packed.
"""

import contextlib
import dataclasses
import json
import sys
from pathlib import Path

import torch
from arcvq.classifier import train_classifier
from arcvq.experiments.paper import table
from arcvq.experiments.rows import reconstruction
from arcvq.priors.runs import PriorSettings, train_prior

import arcvq
from arcvq import projections
from arcvq.experiments import Experiment, Variant, run_experiment
from arcvq.priors import fitting

torch.set_num_threads(1)
out = Path(sys.argv[1])
images = arcvq.load_images("plain_digits", device="cpu")
small = dict(
    num_codes=8, dim=4, hidden=8, residual_hidden=4, steps=6, batch_size=16, precision="float32"
)
settings = arcvq.RunSettings(dataset="plain_digits", samp=arcvq.SAMP.for_run(6), **small)
run = arcvq.train(settings, images, root=out, progress=False, device="cpu")
plain = arcvq.train(
    dataclasses.replace(settings, quantizer="ema", samp=None),
    images,
    root=out,
    progress=False,
    device="cpu",
)
# a run that was stopped after 3 steps
kwargs = dict(
    steps=settings.steps,
    batch_size=16,
    lr=settings.lr,
    seed=0,
    precision="float32",
    device="cpu",
    progress=False,
)
arcvq.fit(
    settings.model(images),
    images,
    **kwargs,
    log_every=3,
    out=out / "stopped",
    on_log=lambda r: True,
)
assert not (out / "stopped" / "run.json").exists()
prior = PriorSettings(width=8, layers=2, steps=6, batch_size=16, precision="float32")
train_prior(prior, run.model, images, root=out, progress=False, device="cpu")
tied = PriorSettings(
    kind="transformer",
    tied=True,
    conditional=True,
    width=16,
    layers=1,
    steps=4,
    batch_size=16,
    precision="float32",
)
train_prior(tied, run.model, images, root=out, progress=False, device="cpu")
# a prior whose fit was stopped


class Stop(Exception):
    pass


original = fitting._Trainer.advance


def advance(self):
    if self.step == 3:
        raise Stop
    original(self)


fitting._Trainer.advance = advance
with contextlib.suppress(Stop):
    arcvq.fit_prior(
        prior.prior(run.model, images),
        run.model,
        images,
        steps=6,
        batch_size=16,
        lr=prior.lr,
        seed=0,
        precision="float32",
        device="cpu",
        out=out / "stopped_prior",
        validate_every=3,
        progress=False,
    )
fitting._Trainer.advance = original
train_classifier(images, root=out, device="cpu", progress=False)
codes = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
projections.umap_angles(codes, cache=out / "projections", progress=False)
tiny = Experiment(
    "tiny",
    "Does it open?",
    lambda base: [
        Variant("SAMP", base),
        Variant("plain VQ", dataclasses.replace(base, quantizer="plain", samp=None)),
    ],
    reconstruction,
    table,
)
run_experiment(tiny, settings, images, seeds=2, root=out, device="cpu", workers=1, progress=False)
measured = {
    "psnr": arcvq.evaluate(run.model, images.test)["psnr"],
    "digest": settings.digest(images, torch.float32),
    "indices": run.model.encode(images.test.batch(torch.arange(4))).flatten().tolist(),
}
(out / "expected.json").write_text(json.dumps(measured, indent=1))
