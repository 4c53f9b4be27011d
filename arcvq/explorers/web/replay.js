/** Scrub through one or two training runs: the codes step by step, and curves with a cursor. */
import { Chart } from "./chart.js";
import { Controls, buttons, copy } from "./controls.js";
import { Camera, Sphere } from "./sphere.js";
import { readTheme } from "./theme.js";

const CURVES = [
  ["codes_used", "codes used"],
  ["perplexity", "perplexity (codes)"],
  ["psnr", "PSNR (dB)"],
];

/**
 * @param el where the replay goes.
 * @param host as for the playground; data hold steps (of all snapshots), trust (a sentence on the
 *   drawing), and by the number of each run "name0", "steps0", "codes0" (snapshots x K x 3),
 *   "counts0" (snapshots x K), "radii0" (NaN for no ball), and of its history "step0",
 *   "codes_used0", "perplexity0" and "psnr0".
 */
export function mount(el, host) {
  return new Replay(el, host);
}

class Replay {
  constructor(el, host) {
    this.host = host;
    this.steps = host.data.steps;
    this.runs = [0, 1].filter((run) => `name${run}` in host.data).map((run) => new Reel(host.data, run));
    this.extent = 1.02 * Math.max(1e-9, ...this.runs.map((run) => run.longest()));
    this.theme = readTheme(el);
    this.isPlaying = false;
    el.classList.add("arcvq-explorer");
    this.controls = new Controls(el, host.specs, (name, value) => host.set(name, this.nearest(value)));
    this.buttons = buttons(el, {
      play: () => (this.isPlaying ? this.pause() : this.play()),
      reset: () => host.reset(),
      "copy as code": (button) => copy(host.code(), button),
    });
    this.layOut(el);
    this.update(host.values);
  }

  layOut(el) {
    const panels = document.createElement("div");
    panels.className = "arcvq-panels arcvq-two-spheres";
    const camera = new Camera();
    this.spheres = this.runs.map(() => {
      const figure = document.createElement("figure");
      const title = figure.appendChild(document.createElement("figcaption"));
      const sphere = new Sphere(figure, camera, this.theme, this.extent);
      panels.append(figure);
      return { title, sphere };
    });
    const charts = document.createElement("div");
    this.charts = CURVES.map(() => new Chart(charts, this.theme, 0.5));
    panels.append(charts);
    this.summary = document.createElement("p");
    this.summary.className = "arcvq-summary";
    el.append(panels, this.summary);
  }

  nearest(step) {
    return this.steps.reduce((best, other) => {
      return Math.abs(other - step) < Math.abs(best - step) ? other : best;
    });
  }

  update({ step }) {
    this.step = step;
    this.controls.show({ step });
    this.runs.forEach((run, place) => this.drawRun(run, this.spheres[place]));
    CURVES.forEach((curve, place) => this.drawCurve(this.charts[place], ...curve));
    const parts = this.runs.map((run) => run.sentence(step));
    this.summary.textContent = `At step ${step}: ${parts.join("; ")}. ${this.host.data.trust}`;
  }

  drawRun(run, { title, sphere }) {
    const { codes, counts, radius } = run.at(this.step);
    const most = run.most;
    const layers = [
      {
        kind: "points",
        rows: codes,
        size: 3.2,
        colors: Array.from(counts, (count) => this.colorOf(count, most)),
        hollow: Array.from(counts, (count) => count === 0),
        tell: (j) => `code ${j}: chosen ${counts[j]} times`,
      },
    ];
    if (radius <= this.extent) layers.push({ kind: "ball", radius, color: this.theme.orange });
    sphere.show(layers);
    title.textContent = `${run.name}, step ${run.last(this.step)}`;
    sphere.describe(run.sentence(this.step));
  }

  /** From pale to strong blue by the logarithm of the usage. */
  colorOf(count, most) {
    if (count === 0) return this.theme.soft;
    const share = Math.log1p(count) / Math.log1p(most);
    return `color-mix(in srgb, ${this.theme.vermillion} ${Math.round(100 * share)}%, ${this.theme.sky})`;
  }

  drawCurve(chart, column, title) {
    const colors = [this.theme.plain, this.theme.vermillion];
    const lines = this.runs.map((run, place) => ({
      name: run.name,
      color: colors[place],
      dash: place ? [] : [5, 3],
      x: run.column("step"),
      y: run.column(column),
    }));
    const hasLegend = column === CURVES[0][0];
    chart.show({ title, x: { label: "step" }, y: {}, lines, cursor: this.step, hasLegend });
    chart.describe(`${title} over the steps of training.`);
  }

  play() {
    this.isPlaying = true;
    this.buttons.querySelector(".arcvq-play").textContent = "pause";
    let place = this.steps.indexOf(this.step);
    if (place === this.steps.length - 1) place = -1;
    const next = () => {
      if (!this.isPlaying) return;
      place += 1;
      this.host.set("step", this.steps[place]);
      if (place === this.steps.length - 1) this.pause();
      else this.timer = setTimeout(next, 150);
    };
    next();
  }

  pause() {
    this.isPlaying = false;
    clearTimeout(this.timer);
    this.buttons.querySelector(".arcvq-play").textContent = "play";
  }

  destroy() {
    this.pause();
    for (const { sphere } of this.spheres) sphere.destroy();
    for (const chart of this.charts) chart.destroy();
  }
}

/** One run, as `mount` says. */
class Reel {
  constructor(data, number) {
    this.data = data;
    this.number = number;
    this.name = this.column("name");
    this.steps = this.column("steps");
    this.numCodes = this.column("counts").length / this.steps.length;
    this.most = this.column("counts").reduce((most, count) => Math.max(most, count), 1);
  }

  column(name) {
    return this.data[`${name}${this.number}`];
  }

  longest() {
    const codes = this.column("codes");
    let longest = 0;
    for (let at = 0; at < codes.length; at += 3) {
      longest = Math.max(longest, Math.hypot(codes[at], codes[at + 1], codes[at + 2]));
    }
    return longest;
  }

  /** Which snapshot is the last one up to a step; the first where there is none. */
  place(step) {
    let found = 0;
    this.steps.forEach((seen, place) => {
      if (seen <= step) found = place;
    });
    return found;
  }

  last(step) {
    return this.steps[this.place(step)];
  }

  at(step) {
    const place = this.place(step);
    const rows = (name, width) => {
      const size = width * this.numCodes;
      return this.column(name).subarray(place * size, (place + 1) * size);
    };
    return { codes: rows("codes", 3), counts: rows("counts", 1), radius: this.column("radii")[place] };
  }

  sentence(step) {
    const { counts, radius } = this.at(step);
    const used = counts.reduce((sum, count) => sum + (count > 0), 0);
    let words = `${this.name} ${used} of ${this.numCodes} codes used`;
    const psnr = this.lastOf("psnr", step);
    if (Number.isFinite(psnr)) words += `, PSNR ${psnr.toFixed(1)} dB`;
    if (Number.isFinite(radius)) words += `, ball ${+radius.toPrecision(3)}`;
    return words;
  }

  /** The last value of the history up to a step. */
  lastOf(name, step) {
    let value = NaN;
    this.column("step").forEach((seen, row) => {
      if (seen <= step && Number.isFinite(this.column(name)[row])) value = this.column(name)[row];
    });
    return value;
  }
}
