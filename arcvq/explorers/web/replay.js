/** Scrub through one or two training runs: the codes step by step, and curves with a cursor. */
import { Chart } from "./chart.js";
import {
  codeTip,
  decadesAround,
  lineEntry,
  normOf,
  rowsOf,
  usageColors,
  usageLegend,
} from "./codes.js";
import { Toolbar } from "./controls.js";
import { Camera, Sphere } from "./sphere.js";
import { plural, short, whole } from "./wording.js";

const CURVES = [
  ["codes_used", "codes used"],
  ["perplexity", "perplexity"],
  ["psnr", "PSNR of training batches (dB)"],
];
const BLACK = "#000000"; // which is light on dark ground
const PAUSE = 160; // milliseconds that a snapshot stays while it plays

/**
 * @param el where the replay goes.
 * @param host as for `widget`; data hold steps (of all snapshots), trust (a sentence on the
 *   drawing), and by the number of each run "name0", "color0", "steps0", "codes0" (snapshots x K x
 *   3, as `rowsOf` takes them), "extent0", "counts0" (snapshots x K, since the last measurement
 *   before each), "tokens0" (how many were counted for each snapshot), "shown0" (which codes are
 *   drawn), "total0" (all codes), "note0", "radii0" (NaN for no ball), "patches0" (K x side x side
 *   x channels), "side0", and steps and values of each curve: "codes_used0", "perplexity0",
 *   "psnr0".
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
    this.ends = decadesAround(
      Math.min(...this.runs.map((run) => run.least)),
      Math.max(...this.runs.map((run) => run.most)),
    );
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
    const [low, high] = this.ends.map(percent);
    const most = `${high} of the tokens since the previous measurement`;
    const legend = usageLegend(`for ${low}`, most, hasBall);
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
    const { codes, shares, tokens, radius } = run.at(this.step);
    const layers = [
      {
        kind: "points",
        rows: rowsOf(codes, run.of("extent")),
        size: run.of("shown").length > 1000 ? 2.4 : 3.4,
        colors: usageColors(shares, this.ends, this.theme),
        hollow: Array.from(shares, (share) => tokens > 0 && share === 0),
        tell: (place) => run.tip(place, this.step),
      },
    ];
    if (radius <= this.extent) layers.push({ kind: "ball", radius, color: this.theme.orange });
    sphere.show(layers);
    const seen = run.last(this.step);
    const parts = [`${run.of("name")}, step ${whole(seen)}`, run.usage(seen)];
    title.textContent = parts.filter(Boolean).join(": ");
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
    const parts = [run.usage(this.step)];
    const perplexity = run.value("perplexity", this.step);
    if (perplexity !== undefined) parts.push(`perplexity ${perplexity.toFixed(1)}`);
    const psnr = run.value("psnr", this.step);
    if (psnr !== undefined) parts.push(`training PSNR ${psnr.toFixed(1)} dB`);
    const { radius } = run.at(this.step);
    if (Number.isFinite(radius)) parts.push(`ball ${short(radius)}`);
    if (radius > this.extent) parts.push("beyond the picture");
    return `${run.of("name")} ${parts.filter(Boolean).join(", ")}`;
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
    const width = this.of("shown").length;
    const share = (count, at) => count / Math.max(1, this.of("tokens")[Math.floor(at / width)]);
    this.shares = Float64Array.from(this.of("counts"), share);
    const used = this.shares.filter((share) => share > 0);
    this.least = used.reduce((least, share) => Math.min(least, share), 1);
    this.most = used.reduce((most, share) => Math.max(most, share), 0) || 1;
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
    const rows = (numbers, width) => {
      const size = width * this.of("shown").length;
      return numbers.subarray(place * size, (place + 1) * size);
    };
    return {
      codes: rows(this.of("codes"), 3),
      counts: rows(this.of("counts"), 1),
      shares: rows(this.shares, 1),
      tokens: this.of("tokens")[place],
      radius: this.of("radii")[place],
    };
  }

  /** How many codes were used, as measured last; the counts of a snapshot may have just begun. */
  usage(step) {
    const used = this.value("codes_used", step);
    if (used !== undefined) return `${whole(used)} of ${whole(this.of("total"))} codes used`;
    return this.at(step).tokens ? "" : "codes not counted yet";
  }

  tip(place, step) {
    const { codes, counts, tokens } = this.at(step);
    const uses = counts[place] ? `chosen ${plural(counts[place], "time")}` : "unused";
    const times = tokens ? `${uses} in ${plural(tokens, "token")}` : "not counted yet";
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

function percent(share) {
  return `${short(100 * share)}%`;
}
