"""The dashboard on a running `fit`: start, stop, wait, steering, and what the browser gets of it."""

import math
import threading
import time

import numpy as np
import pytest
import torch
import traitlets

import arcvq
from arcvq.explorers import LiveTraining
from arcvq.explorers import live as module
from arcvq.explorers.live_view import LiveView
from arcvq.images import ImageData
from arcvq.schedules import Adaptive, Constant
from tests.explorers.test_replay import rows_of, value
from tests.test_training import stripes

STEPS = 40
CODES = 16


@pytest.fixture(scope="module")
def images():
    return ImageData("stripes", stripes(64, 0), stripes(16, 1), stripes(16, 2), ("across", "down"))


def model(quantizer=None):
    torch.manual_seed(3)
    return arcvq.VQVAE(
        1, quantizer or arcvq.SphericalQuantizer(CODES, 4), hidden=8, residual_hidden=4
    )


@pytest.fixture
def make(images):
    """Dashboards that are closed at the end of the test."""
    made = []

    def build(network=None, steps=STEPS, **settings):
        fixed = {"batch_size": 8, "precision": "float32", "device": "cpu"}
        made.append(LiveTraining(network or model(), images, steps=steps, **fixed | settings))
        return made[-1]

    yield build
    for one in made:
        one.close()


@pytest.fixture
def gate(monkeypatch):
    """Training that waits before each step until it is let through: `gate(3)` lets three pass."""
    passes = threading.Semaphore(0)
    taken = threading.Semaphore(0)
    advance = arcvq.training.VQVAESession.advance
    listeners = module.LiveTraining._logged

    def slowly(trainer):
        assert passes.acquire(timeout=30)
        advance(trainer)

    def logged(live, run):
        answer = listeners(live, run)
        taken.release()
        return answer

    def let(steps):
        passes.release(steps)
        for _ in range(steps):
            assert taken.acquire(timeout=30)

    monkeypatch.setattr(arcvq.training.VQVAESession, "advance", slowly)
    monkeypatch.setattr(module.LiveTraining, "_logged", logged)
    let.open = lambda: passes.release(1000)
    yield let
    let.open()


def curve(live, column):
    """Steps and values of a line, as the browser gets them."""
    return value(live, column).reshape(2, -1).T


def drawn_norms(live):
    """The norms of the codes that are drawn, the longest first."""
    packed = value(live, "codes").reshape(-1, 3)
    norms = np.linalg.norm(rows_of(packed, value(live, "extent")), axis=1)
    return np.sort(norms)[::-1]


def press(live, button):
    """What a button of the browser sends."""
    live._handle_custom_msg(button, [])


def slide(live, **settings):
    """What a slider of the browser sends."""
    live.set_state(settings)


def test_untouched_it_is_fit_and_the_model_given_stays_untrained(make, images):
    network = model()
    live = make(network, lr=0.01, seed=4)
    assert live.run is None
    assert not live.running
    live.start()
    run = live.wait()
    alone = arcvq.fit(
        model(),
        images,
        steps=STEPS,
        batch_size=8,
        lr=0.01,
        seed=4,
        compute=arcvq.Compute("cpu", "float32"),
        recording=arcvq.Recording(progress=False),
    )
    for name, tensor in alone.model.state_dict().items():
        assert torch.equal(tensor, run.model.state_dict()[name]), name
    assert run is live.run
    assert not live.running
    assert run.settings == alone.settings
    assert run.history["step"].tolist() == list(range(1, STEPS + 1))
    assert torch.equal(network.quantizer.codebook, model().quantizer.codebook)
    assert network.quantizer.samp is None


def test_the_figure_ends_with_every_row_and_the_codes_as_they_are(make):
    live = make()
    live.start()
    history = live.wait().history
    samp = live.run.model.quantizer.samp
    for column in (
        "reconstruction",
        "margin",
        "psnr",
        "codes_used",
        "perplexity",
        "radius",
        "weight",
    ):
        np.testing.assert_allclose(curve(live, column), history[["step", column]], rtol=1e-6)
    np.testing.assert_allclose(
        curve(live, "validation_psnr"), history[["step", "validation_psnr"]].dropna(), rtol=1e-6
    )
    norms = np.sort(live.run.model.quantizer.codebook.detach().norm(dim=1).numpy())[::-1]
    np.testing.assert_allclose(drawn_norms(live), norms, rtol=2e-4)
    ahead = curve(live, "radius_ahead")[-1]
    assert ahead == pytest.approx([STEPS, samp.radius.value(STEPS)], rel=1e-5)
    title = f"Step {STEPS} of {STEPS}: training PSNR {history['psnr'].iloc[-1]:.1f} dB"
    assert live.data["title"].startswith(title)
    assert "Finished." in live.status
    assert not live.data["isTraining"]
    used = np.unique(live.run.model.encode(live._view.images))
    assert np.flatnonzero(value(live, "counts")).tolist() == used.tolist()


@pytest.mark.parametrize("count", [1, 599, 600, 601, 1000, 1799, 5000])
def test_a_long_curve_has_a_bounded_number_of_points_and_always_its_newest(images, count):
    view = LiveView(images.validation.images, count, None)
    rows = []
    for step in range(1, count + 1):
        rows.append({"step": step, "psnr": 20.0 + step, "codes_used": 3})
    steps, values = view.look(model(), rows, 0.0)["psnr"]
    assert steps[0] == 1
    assert (steps[-1], values[-1]) == (count, 20 + count)
    assert min(count, 300) <= len(steps) <= 600


def test_it_draws_while_it_trains_in_single_messages(make, gate, monkeypatch):
    monkeypatch.setattr(module, "PAUSE", 0.0)
    live = make()
    sent = []
    live.observe(sent.append, "data")
    live.start()
    gate(3)
    assert live.running
    assert len(live.run.history) == 3
    assert curve(live, "psnr")[:, 0].tolist() == [1, 2, 3]
    assert live.data["title"].startswith("Step 3 of 40")
    assert live.data["isTraining"]
    assert len(sent) == 4, "one for the start and one for each row"
    assert curve(live, "radius_ahead")[0, 0] == 3


def test_rows_that_come_fast_are_drawn_together_and_the_last_one_always(make, monkeypatch):
    monkeypatch.setattr(module, "PAUSE", 1000.0)
    live = make()
    sent = []
    live.observe(sent.append, "data")
    live.start()
    live.wait()
    assert len(sent) == 2, "one for the start and one for the end"
    assert len(curve(live, "psnr")) == STEPS


@pytest.mark.parametrize("through", ["trait", "slider"])
def test_the_weight_acts_from_the_next_step(make, gate, through):
    live = make()
    live.start()
    gate(5)
    before = live.model.quantizer.samp
    if through == "slider":
        slide(live, weight=4.0)
    else:
        live.weight = 4.0
    gate.open()
    history = live.wait().history
    samp = live.run.model.quantizer.samp
    assert samp is not before
    assert samp.radius == before.radius
    assert samp.margin == before.margin
    decay = np.exp(-14.75 / STEPS * (history["step"] - 1))
    factor = np.where(history["step"] <= 5, 1.0, 4.0)
    np.testing.assert_allclose(history["weight"], factor * decay, rtol=1e-5)
    assert samp.weight.value(7) == pytest.approx(4 * math.exp(-14.75 * 7 / STEPS))


def test_the_radius_goes_on_from_where_it_is_when_its_growth_changes(make, gate):
    live = make()
    live.start()
    gate(10)
    first = live.growth
    assert first == 8.85 / STEPS
    live.growth = 0.0
    gate(5)
    slide(live, growth=0.5)
    gate.open()
    history = live.wait().history
    exponent = np.cumsum([first] * 10 + [0.0] * 5 + [0.5] * (STEPS - 15))
    np.testing.assert_allclose(np.log(history["radius"]), exponent, rtol=1e-5)
    assert (
        live.run.model.quantizer.codebook.norm(dim=1) <= math.exp(exponent[-1]) * (1 + 1e-5)
    ).all()


def test_the_codes_are_held_by_the_steered_ball(make, gate):
    live = make(growth=0.0, lr=0.05)
    live.start()
    gate.open()
    norms = live.wait().model.quantizer.codebook.detach().norm(dim=1)
    assert norms.max() == pytest.approx(1.0, abs=1e-5)
    assert value(live, "ball").tolist() == [1.0]
    assert "the ball of radius 1.00 holds" in live.data["summary"]


@pytest.mark.parametrize(
    "samp", [None, arcvq.SAMP(radius=Adaptive(0.5, 3.0)), arcvq.SAMP(radius=Constant(0.5))]
)
def test_the_ball_is_the_one_that_holds_the_codes(make, samp):
    quantizer = arcvq.SphericalQuantizer(CODES, 4, samp)
    quantizer.set_codebook(9 * torch.eye(CODES, 4) + 1)
    for network in (model(quantizer), model(arcvq.SphericalQuantizer(CODES, 4, samp))):
        live = make(network, steps=7)
        live.start()
        trained = live.wait().model.quantizer
        assert value(live, "ball").tolist() == [pytest.approx(float(trained.radius))]
        assert float(trained.radius) == live.run.history["radius"].iloc[-1]


def test_a_slider_at_rest_holds_from_the_first_step_and_the_browser_can_tell_what_lies_ahead(make):
    live = make(weight=2.0)
    steps, ahead = curve(live, "weight_ahead").T
    np.testing.assert_allclose(ahead, np.exp(-14.75 / STEPS * steps), rtol=1e-5)
    live.growth = 0.1
    steps, ahead = curve(live, "radius_ahead").T
    np.testing.assert_allclose(ahead, np.exp(live.data["growth_then"] * steps), rtol=1e-5)
    live.start()
    history = live.wait().history
    np.testing.assert_allclose(history["radius"], np.exp(0.1 * history["step"]), rtol=1e-5)
    assert history["weight"].iloc[0] == 2


def test_stop_ends_it_and_keeps_the_run(make, gate):
    live = make()
    live.start()
    gate(6)
    threading.Timer(0.1, gate.open).start()  # the step that `stop` waits for
    live.stop()
    assert not live.running
    run = live.wait()
    last = run.history["step"].iloc[-1]
    assert run is live.run
    assert 6 <= last < STEPS
    assert len(curve(live, "psnr")) == len(run.history)
    assert f"Stopped at step {last} of {STEPS}." in live.status
    assert not run.model.training
    live.stop()  # at rest nothing happens
    assert live.run is run


def test_it_can_be_started_again_from_the_same_start(make):
    live = make()
    live.start()
    first = live.wait()
    live.start()
    second = live.wait()
    assert first.model is not second.model
    assert torch.equal(first.model.quantizer.codebook, second.model.quantizer.codebook)


def test_a_second_start_is_one_clear_sentence(make, gate):
    live = make()
    live.start()
    with pytest.raises(
        RuntimeError, match=r"training already; stop\(\) it before you start\(\) it again$"
    ):
        live.start()
    press(live, "start")  # a second quick click does no harm
    gate.open()
    live.wait()


def test_buttons_start_stop_and_reset(make, gate):
    live = make()
    before = live.data
    assert not before["isTraining"]
    press(live, "start")
    gate(4)
    assert live.running
    assert live.data["isTraining"]
    live.weight = 3.0
    live.growth = 0.01
    gate.open()
    press(live, "stop")
    assert not live.running
    assert not live.data["isTraining"]
    press(live, "reset")
    assert live.run is None
    assert (live.weight, live.growth) == (1.0, 8.85 / STEPS)
    assert live.model.quantizer.samp == arcvq.SAMP.for_run(STEPS)
    assert live.status == ""
    assert live.data == before


def test_a_model_of_another_run_begins_with_the_settings_of_this_one(make):
    """As in `fit`, unless somebody gave them."""
    trained = model()
    trained.quantizer.begin_run(8)
    live = make(trained)
    assert live.model.quantizer.samp == arcvq.SAMP.for_run(STEPS)
    assert live.growth == 8.85 / STEPS
    assert trained.quantizer.samp == arcvq.SAMP.for_run(8)

    given = arcvq.SAMP.for_run(8)
    live = make(model(arcvq.SphericalQuantizer(CODES, 4, given)))
    assert live.model.quantizer.samp == given


def test_reset_while_it_trains_ends_the_training(make, gate):
    live = make()
    live.start()
    gate(2)
    gate.open()
    live.reset()
    assert not live.running
    assert live.run is None
    assert int(live.model.quantizer.step) == 0


def test_an_error_of_the_training_is_shown_and_raised(make, monkeypatch):
    def broken(trainer):
        raise FloatingPointError("the <b>loss</b> is nan")

    live = make()
    monkeypatch.setattr(arcvq.training.VQVAESession, "advance", broken)
    live.start()
    with pytest.raises(FloatingPointError, match="is nan"):
        live.wait()
    assert live.status == "Training ended: the <b>loss</b> is nan"
    assert not live.running
    assert not live.data["isTraining"]
    monkeypatch.undo()
    live.start()
    assert len(live.wait().history) == STEPS


def test_settings_that_fit_refuses_are_shown(make):
    live = make(batch_size=65)
    live.start()
    with pytest.raises(ValueError, match="batch_size is 65; it must be at most 64"):
        live.wait()
    assert "batch_size is 65" in live.status
    assert live.run is None


def test_waiting_has_its_own_errors(make, gate):
    live = make()
    with pytest.raises(RuntimeError, match=r"no training to wait for; start\(\) it first"):
        live.wait()
    live.start()
    with pytest.raises(TimeoutError, match=r"has not ended within 0\.05 s"):
        live.wait(0.05)
    gate.open()
    assert len(live.wait(30).history) == STEPS


def test_closing_stops_the_thread(make, gate):
    live = make()
    live.start()
    gate(1)
    gate.open()
    live.close()
    assert not live.running
    assert len(live.run.history) < STEPS


def soon(gate):
    """Let the training go on once the caller waits for its end."""
    threading.Timer(0.3, gate.open).start()


def training_threads():
    return [thread for thread in threading.enumerate() if thread.name == "arcvq-live"]


def test_a_newer_run_stops_the_older_one(make, gate):
    older = make()
    newer = make()
    older.start()
    gate(2)
    soon(gate)
    newer.start()
    assert not older.running
    assert training_threads() == [newer._thread]
    assert 2 <= len(older.run.history) < STEPS
    assert older.status.endswith("Another run has started.")
    assert newer.wait(30).history["step"].iloc[-1] == STEPS
    older.start()  # the older can be started again, and then it is the newer
    assert older.wait(30).history["step"].iloc[-1] == STEPS


def test_who_waits_for_a_run_that_a_newer_one_stops_gets_what_there_is(make, gate):
    older = make()
    newer = make()
    older.start()
    gate(1)
    waited = []
    waiting = threading.Thread(target=lambda: waited.append(older.wait(30)))
    waiting.start()
    soon(gate)
    newer.start()
    waiting.join(30)
    assert waited == [older.run]
    assert len(older.run.history) < STEPS
    newer.close()
    newer.close()
    assert training_threads() == []


@pytest.mark.parametrize(
    "quantizer", [arcvq.EuclideanQuantizer, arcvq.EMAQuantizer, arcvq.ContinuousQuantizer]
)
def test_a_quantizer_without_samp_trains_and_its_sliders_are_off(make, quantizer):
    live = make(model(quantizer(CODES, 4)))
    assert live.specs == []
    lacking = "no margin loss to weigh and no ball that grows exponentially"
    says = f"This {quantizer.__name__} has {lacking}."
    assert says in live.status
    for name in ("weight", "growth"):
        with pytest.raises(ValueError, match=f"{name} is 0.5, but this quantizer has no"):
            setattr(live, name, 0.5)
    live.start()
    assert len(live.wait().history) == STEPS
    assert says in live.status
    another = make(model(quantizer(CODES, 4)))
    another.start()
    another.wait()
    assert live.status.count(says) == 1
    assert value(live, "ball").tolist() == [math.inf]
    assert not len(curve(live, "radius"))
    live.reset()


@pytest.mark.parametrize(
    ("samp", "off"),
    [
        (arcvq.SAMP(weight=None), ["weight"]),
        (arcvq.SAMP(radius=None), ["growth"]),
        (arcvq.SAMP(radius=arcvq.WarmUp(1.0, 5.0, 20)), ["growth"]),
        (arcvq.SAMP(weight=arcvq.Adaptive(0.1, 1.0)), []),
        (arcvq.SAMP(radius=arcvq.Exponential(3.0)), ["growth"]),
        (arcvq.SAMP(radius=arcvq.Exponential(-0.01)), ["growth"]),
    ],
)
def test_what_a_samp_lacks_cannot_be_steered_and_the_rest_can(make, samp, off):
    live = make(model(arcvq.SphericalQuantizer(CODES, 4, samp)))
    shown = [spec["name"] for spec in live.specs]
    assert [name for name in ("weight", "growth") if name not in shown] == off
    assert [name for name in ("weight", "growth") if name not in live.code()] == off
    if "weight" not in off:
        live.weight = 3.0
        assert live.model.quantizer.samp.weight == samp.weight.times(3.0)
    live.start()
    live.wait()
    assert live.run.model.quantizer.samp.radius == samp.radius


def test_a_model_with_several_codebooks_is_refused(make):
    quantizer = arcvq.ResidualQuantizer([arcvq.CosineQuantizer(CODES, 4) for _ in range(2)])
    with pytest.raises(ValueError, match="the quantizer is a ResidualQuantizer; an explorer takes"):
        make(model(quantizer))


def test_a_value_out_of_range_is_named(make):
    live = make()
    with pytest.raises(traitlets.TraitError, match="weight"):
        live.weight = 11.0
    with pytest.raises(
        ValueError, match=r"growth is 2\.1; in a run of 40 steps it must be at most 2"
    ):
        live.growth = 2.1
    with pytest.raises(ValueError, match="'out' is no setting of LiveTraining"):
        make(out="somewhere")
    with pytest.raises(ValueError, match="steps is 0"):
        make(steps=0)


def test_every_growth_on_the_slider_can_be_set(make):
    for steps in (7, 160, 2999, 29_500):
        live = make(steps=steps)
        most = live.specs[1]["max"]
        slide(live, growth=most)
        assert live.growth == most == 80 / steps


def test_a_long_run_has_a_row_every_25_steps_so_that_it_stops_soon(make, monkeypatch):
    told = []
    monkeypatch.setattr(
        module,
        "fit",
        lambda *args, **settings: told.append(settings["recording"].log_every) or 1 / 0,
    )
    for steps in (1, 149, 160, 29_500):
        live = make(steps=steps)
        live.start()
        with pytest.raises(ZeroDivisionError):
            live.wait()
    assert told == [1, 2, 3, 25]


def test_a_message_of_the_browser_waits_while_the_training_draws(make):
    live = make()
    done = threading.Event()
    answer = threading.Thread(target=lambda: (slide(live, weight=2.0), done.set()))
    with live._lock:
        answer.start()
        assert not done.wait(0.2)
    assert done.wait(10)
    answer.join()


def test_sliders_moved_while_it_trains_never_tear_it(make):
    live = make(steps=30)
    live.start()
    values = []
    generator = np.random.default_rng(0)
    while live.running:
        live.weight, live.growth = (float(number) for number in generator.random(2).round(3))
        values.append((live.weight, live.growth))
        time.sleep(0.002)
    history = live.wait().history
    assert len(values) > 5
    assert len(history) == 30
    # No jump, whatever the sliders did.
    growths = np.diff(np.log(history["radius"]))
    assert (growths > -1e-4).all()
    assert (growths < 1.01).all()


def test_the_code_makes_the_same_dashboard(make, images):
    live = make(weight=2.5)
    again = eval(live.code(), {"LiveTraining": LiveTraining, "model": model(), "images": images})
    assert again.settings() == live.settings()
    assert again.options == live.options
    assert again.steps == live.steps


def test_headless_it_is_a_picture_of_the_run_that_needs_no_kernel(make, monkeypatch):
    live = make()
    live.start()
    live.wait()
    monkeypatch.setenv("ARCVQ_HEADLESS", "1")
    shown = live._repr_mimebundle_()
    assert "Step 40 of 40" in shown["text/html"]
    assert shown["text/plain"] == live.code()


def test_the_sphere_does_not_turn_by_itself_while_the_codes_move(images):
    network = model(arcvq.SphericalQuantizer(64, 8))
    view = LiveView(images.validation.images, STEPS, None)
    before = rows_of(view.look(network, [], 0.0)["codes"], 1.0)
    with torch.no_grad():
        network.quantizer.codebook += 0.01 * torch.randn(64, 8)
    after = rows_of(view.look(network, [], 0.0)["codes"], 1.0)
    cosines = (before * after).sum(axis=1)
    cosines /= np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    assert np.median(cosines) > 0.9, "principal axes alone change places and signs"


@pytest.mark.parametrize("size", [8, 256])
def test_images_are_shown_above_their_reconstructions_and_large_ones_smaller(size):
    pixels = torch.randint(0, 256, (3, 1, size, size), dtype=torch.uint8)
    network = model()
    seen = LiveView(pixels, 1, None).look(network, [], 0.0)
    stride = max(1, size // 64)
    side = size // stride
    assert seen["tiles"].shape == (2 * (side + 2), 3 * (side + 2), 3)
    assert (seen["tiles_height"], seen["tiles_width"]) == seen["tiles"].shape[:2]
    first = pixels[0, 0, ::stride, ::stride]
    np.testing.assert_array_equal(seen["tiles"][1 : side + 1, 1 : side + 1, 0], first)
    decoded = network.reconstruct(pixels.float() / 127.5 - 1)[0, 0, ::stride, ::stride]
    below = seen["tiles"][side + 3 : -1, 1 : side + 1, 0]
    np.testing.assert_allclose(below, (decoded + 1) * 127.5, atol=0.51)


def test_a_long_run_and_a_large_codebook_stay_a_small_message(images):
    network = model(arcvq.SphericalQuantizer(5000, 4))
    rows = [{"step": step, "psnr": 10.0, "codes_used": 9} for step in range(1, 20_000)]
    seen = LiveView(images.validation.images, 20_000, None).look(network, rows, 0.0)
    assert seen["psnr"].shape[1] <= 600
    assert len(seen["shown"]) == 4096
    assert "4,096 of 5,000 codes are drawn" in seen["note"]
    size = sum(part.nbytes for part in seen.values() if isinstance(part, np.ndarray))
    assert size < 100_000


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_it_trains_on_the_gpu(make):
    live = make(device="cuda")
    live.start()
    assert live.wait().model.quantizer.codebook.device.type == "cuda"
    assert len(curve(live, "psnr")) == STEPS
