/** Scrub through one or two training runs: the codes step by step, and curves with a cursor. */
import { Chart } from "./chart.js";
import { codeTip, lineEntry, normOf, rowsOf, usageColors, usageLegend } from "./codes.js";
import { Toolbar } from "./controls.js";
import { Camera, Sphere } from "./sphere.js";
import { plural, short, whole } from "./wording.js";

const CURVES = [
  ["codes_used", "codes used"],
  ["perplexity", "perplexity"],
  ["psnr", "PSNR (dB)"],
];
const BLACK = "#000000"; // which is light on dark ground
const PAUSE = 160; // milliseconds that a snapshot stays while it plays

/**
 * @param el where the replay goes.
 * @param host as for `widget`; data hold steps (of all snapshots), trust (a sentence on the
 *   drawing), and by the number of each run "name0", "color0", "steps0", "codes0" (snapshots x K x
 *   3, as `rowsOf` takes them), "extent0", "counts0" (snapshots x K), "shown0" (which codes are
 *   drawn), "used0" and "total0" (of all codes), "note0", "radii0" (NaN for no ball), "patches0"
 *   (K x side x side x channels), "side0", and steps and values of each curve: "codes_used0",
 *   "perplexity0", "psnr0".
 */
export function mount(el, host) {
  return new Replay(el, host);
}

class Replay {
  constructor(el, host) {
    this.host = host;
    this.steps = host.data.steps;
    const numbers = [0, 1].filter((number) => `name${number}` in host.data);
    this.runs = numbers.map((number) => new Reel(host.data, number));
    this.most = Math.max(...this.runs.map((run) => run.most));
    this.extent = 1.02 * Math.max(1e-9, ...this.runs.map((run) => run.of("extent")));
    this.theme = host.theme;
    this.isPlaying = false;
    this.toolbar = new Toolbar(el, host, {
      play: () => (this.isPlaying ? this.pause() : this.play()),
      back: () => this.move(-1),
      forward: () => this.move(1),
    });
    this.layOut(el);
    this.update(host.values);
  }

  layOut(el) {
    const panels = document.createElement("div");
    panels.className = `arcvq-replay arcvq-runs-${this.runs.length}`;
    const camera = new Camera();
    this.spheres = this.runs.map(() => {
      const figure = panels.appendChild(document.createElement("figure"));
      const title = figure.appendChild(document.createElement("figcaption"));
      return { title, sphere: new Sphere(figure, camera, this.theme, this.extent) };
    });
    const charts = document.createElement("div");
    charts.className = "arcvq-charts";
    const aspect = this.runs.length === 1 ? 0.26 : 0.46;
    this.charts = CURVES.map(() => {
      return new Chart(charts.appendChild(document.createElement("div")), this.theme, aspect);
    });
    const hasBall = this.runs.some((run) => run.of("radii").some(Number.isFinite));
    const legend = usageLegend(this.most, "times since the previous measurement", hasBall);
    if (this.runs.length === 2) {
      legend.append(...this.runs.map((run, place) => {
        const color = run.of("color") === BLACK ? "currentColor" : run.of("color");
        return lineEntry(run.of("name"), color, place === 0);
      }));
    }
    panels.append(charts, legend);
    this.summary = document.createElement("p");
    this.summary.className = "arcvq-summary";
    el.append(panels, this.summary);
  }

  update({ step }) {
    this.step = step;
    this.toolbar.show({ step });
    this.runs.forEach((run, place) => this.drawRun(run, this.spheres[place]));
    CURVES.forEach((curve, place) => this.drawCurve(this.charts[place], ...curve));
    const parts = this.runs.map((run) => this.sentence(run));
    const notes = this.runs.map((run) => run.of("note")).join("");
    this.summary.textContent =
      `At step ${whole(step)}: ${parts.join("; ")}. ${this.host.data.trust}${notes}`;
  }

  // ---- Drawing ----

  drawRun(run, { title, sphere }) {
    const { codes, counts, radius } = run.at(this.step);
    const layers = [
      {
        kind: "points",
        rows: rowsOf(codes, run.of("extent")),
        size: run.of("shown").length > 1000 ? 2.4 : 3.4,
        colors: usageColors(counts, this.most, this.theme),
        hollow: Array.from(counts, (count) => count === 0),
        tell: (place) => run.tip(place, this.step),
      },
    ];
    if (radius <= this.extent) layers.push({ kind: "ball", radius, color: this.theme.orange });
    sphere.show(layers);
    const seen = whole(run.last(this.step));
    title.textContent = `${run.of("name")}, step ${seen}: ${run.usage(this.step)}`;
    sphere.describe(`${title.textContent}.`);
  }

  drawCurve(chart, column, title) {
    const lines = this.runs.map((run, place) => ({
      name: run.of("name"),
      color: this.colorOf(run),
      dash: place === this.runs.length - 1 ? [] : [5, 3],
      ...run.curve(column),
    }));
    const look = { title, x: { label: "step" }, y: {}, hasLegend: false };
    chart.show({ ...look, lines, cursor: this.step });
    const ends = this.runs.map((run) => `${run.of("name")} ${short(run.value(column, this.step))}`);
    chart.describe(`${title} at step ${whole(this.step)}: ${ends.join(", ")}.`);
  }

  colorOf(run) {
    const color = run.of("color");
    return color === BLACK ? this.theme.plain : color;
  }

  sentence(run) {
    let words = `${run.of("name")} ${run.usage(this.step)}`;
    const perplexity = run.value("perplexity", this.step);
    if (perplexity !== undefined) words += `, perplexity ${perplexity.toFixed(1)}`;
    const psnr = run.value("psnr", this.step);
    if (psnr !== undefined) words += `, PSNR ${psnr.toFixed(1)} dB`;
    const { radius } = run.at(this.step);
    if (Number.isFinite(radius)) words += `, ball ${short(radius)}`;
    return radius > this.extent ? `${words}, beyond the picture` : words;
  }

  // ---- Playing ----

  /** Go some snapshots on or back. */
  move(count) {
    const place = this.steps.indexOf(this.step) + count;
    if (place in this.steps) this.host.set("step", this.steps[place]);
  }

  get isAtEnd() {
    return this.step === this.steps.at(-1);
  }

  play() {
    this.setPlaying(true);
    if (this.isAtEnd) this.host.set("step", this.steps[0]);
    this.timer = setInterval(() => {
      this.move(1);
      if (this.isAtEnd) this.pause();
    }, PAUSE);
  }

  pause() {
    clearInterval(this.timer);
    this.setPlaying(false);
  }

  setPlaying(isPlaying) {
    this.isPlaying = isPlaying;
    this.toolbar.button("play").textContent = isPlaying ? "pause" : "play";
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
    this.most = this.of("counts").reduce((most, count) => Math.max(most, count), 1);
  }

  of(name) {
    return this.data[`${name}${this.number}`];
  }

  /** Which snapshot is the last one up to a step; the first where there is none. */
  place(step) {
    return Math.max(0, this.of("steps").findLastIndex((seen) => seen <= step));
  }

  last(step) {
    return this.of("steps")[this.place(step)];
  }

  at(step) {
    const place = this.place(step);
    const rows = (name, width) => {
      const size = width * this.of("shown").length;
      return this.of(name).subarray(place * size, (place + 1) * size);
    };
    return { codes: rows("codes", 3), counts: rows("counts", 1), radius: this.of("radii")[place] };
  }

  usage(step) {
    const used = this.of("used")[this.place(step)];
    return `${whole(used)} of ${whole(this.of("total"))} codes used`;
  }

  tip(place, step) {
    const { codes, counts } = this.at(step);
    const times = counts[place] ? `chosen ${plural(counts[place], "time")}` : "unused";
    const norm = short(normOf(codes, place, this.of("extent")));
    const side = this.of("side");
    const size = this.of("patches").length / this.of("shown").length;
    const pixels = this.of("patches").subarray(place * size, (place + 1) * size);
    return codeTip([`code ${this.of("shown")[place]}`, `norm ${norm}`, times], { pixels, side });
  }

  curve(column) {
    const points = this.of(column);
    const half = points.length / 2;
    return { x: points.subarray(0, half), y: points.subarray(half) };
  }

  /** The last value of a curve up to a step. */
  value(column, step) {
    const { x, y } = this.curve(column);
    return y[x.findLastIndex((seen) => seen <= step)];
  }
}
