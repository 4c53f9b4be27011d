/** A ball that grows around the codes: which of them it clips, and when it stops binding. */
import { Chart } from "./chart.js";
import { Controls, buttons, copy } from "./controls.js";
import { boundedExp } from "./math.js";
import { Camera, Sphere } from "./sphere.js";
import { readTheme } from "./theme.js";

const PAPER_STEPS = 29500; // the run that the published growth was tuned to
const TOP = 1e4; // of the radius axis: the paper's ball ends at 6,974

/**
 * @param el where the explorer goes.
 * @param host as for the playground; data hold the free codes at some moments of a run:
 *   shares (of the run, rising from 0), norms (moments x K), units (moments x K x 3), the directions
 *   in which they are drawn, longest (the largest norm at each moment), shown (the numbers of the
 *   codes that are drawn) and note (of the drawing).
 */
export function mount(el, host) {
  return new Radius(el, host);
}

class Radius {
  constructor(el, host) {
    this.data = host.data;
    this.numCodes = host.data.norms.length / host.data.shares.length;
    this.extent = 1.02 * Math.max(1, ...host.data.longest);
    this.theme = readTheme(el);
    el.classList.add("arcvq-explorer");
    this.controls = new Controls(el, host.specs, (name, value) => host.set(name, value));
    buttons(el, {
      reset: () => host.reset(),
      "copy as code": (button) => copy(host.code(), button),
    });
    this.layOut(el);
    this.update(host.values);
  }

  layOut(el) {
    const panels = document.createElement("div");
    panels.className = "arcvq-panels arcvq-sphere-and-chart";
    const figure = document.createElement("figure");
    this.title = document.createElement("figcaption");
    figure.append(this.title);
    this.sphere = new Sphere(figure, new Camera(), this.theme, this.extent);
    this.summary = document.createElement("p");
    this.summary.className = "arcvq-summary";
    const charts = document.createElement("div");
    this.norms = new Chart(charts, this.theme, 0.42);
    this.radii = new Chart(charts, this.theme, 0.5);
    panels.append(figure, charts);
    el.append(panels, this.summary);
  }

  update(values) {
    this.controls.limit("step", values.run_length);
    this.controls.show(values);
    const { step, run_length: length } = values;
    const rate = rateOf(values);
    const radius = boundedExp(rate * step);
    const moment = this.momentAt(step / length);
    const free = this.data.norms.subarray(moment * this.numCodes, (moment + 1) * this.numCodes);
    this.drawSphere(moment, free, radius);
    this.drawNorms(free, radius);
    const stop = this.lastBinding(rate, length);
    this.drawRadii(values, radius, stop);
    this.tell(values, free, radius, stop);
  }

  /** The last moment that the run has reached. */
  momentAt(share) {
    const { shares } = this.data;
    let moment = 0;
    while (moment + 1 < shares.length && shares[moment + 1] <= share) moment += 1;
    return moment;
  }

  /** The step from which on no code is longer than the ball; Infinity if it still binds at the end. */
  lastBinding(rate, length) {
    const { shares, longest } = this.data;
    let last = 0;
    shares.forEach((share, moment) => {
      const start = share * length;
      const end = moment + 1 < shares.length ? shares[moment + 1] * length : Infinity;
      const letGo = Math.min(end, Math.log(Math.max(longest[moment], 1)) / rate);
      if (letGo > start) last = Math.max(last, letGo);
    });
    return last <= length ? last : Infinity;
  }

  // ---- Drawing ----

  drawSphere(moment, free, radius) {
    const { shown, units } = this.data;
    const rows = new Float64Array(3 * shown.length);
    const colors = [];
    shown.forEach((code, place) => {
      const length = Math.min(free[code], radius);
      colors.push(free[code] > radius ? this.theme.vermillion : this.theme.blue);
      const at = 3 * (moment * shown.length + place);
      for (let d = 0; d < 3; d++) rows[3 * place + d] = length * units[at + d];
    });
    const tell = (place) => {
      const norm = free[shown[place]];
      const clipped = norm > radius ? `, clipped to ${+radius.toPrecision(3)}` : "";
      return `code ${shown[place]}: norm ${+norm.toPrecision(3)}${clipped}`;
    };
    const layers = [{ kind: "points", rows, size: 3, colors, tell }];
    if (radius <= this.extent) layers.push({ kind: "ball", radius, color: this.theme.orange });
    this.sphere.show(layers);
  }

  drawNorms(free, radius) {
    const sorted = Float64Array.from(free).sort().reverse();
    const places = Array.from(sorted, (_, place) => place + 1);
    this.norms.show({
      title: "norms, the longest first",
      x: { label: "codes", range: [1, Math.max(2, this.numCodes)] },
      y: { range: [0, 1.04 * this.extent] },
      lines: [
        { name: "free", color: this.theme.soft, dash: [4, 3], x: places, y: sorted },
        {
          name: "in the ball",
          color: this.theme.vermillion,
          x: places,
          y: sorted.map((norm) => Math.min(norm, radius)),
        },
      ],
    });
    this.norms.describe("Norms of the codes, free and in the ball.");
  }

  drawRadii({ growth, run_length: length, step }, radius, stop) {
    const { blue, purple, soft, green, text } = this.theme;
    const steps = Array.from({ length: 101 }, (_, place) => (place * length) / 100);
    const curve = (scaled) => {
      const rate = rateOf({ growth, run_length: length, scaled });
      return steps.map((t) => boundedExp(rate * t));
    };
    const { shares, longest } = this.data;
    const stairs = stairsOf([...shares].map((share) => share * length), [...longest], length);
    const dots = [{ x: step, y: radius, color: text, size: 4 }];
    if (stop > 0 && stop < Infinity) {
      dots.push({ x: stop, y: this.longestAt(stop / length), color: green, size: 6 });
    }
    this.radii.show({
      title: "radius M(t)",
      x: { label: "step", range: [0, length] },
      y: { log: true, range: [0.7, Math.max(TOP, 2 * this.extent)] },
      lines: [
        { name: "per step", color: blue, x: steps, y: curve(false) },
        { name: "scaled", color: purple, dash: [6, 4], x: steps, y: curve(true) },
        { name: "longest code", color: soft, dash: [2, 3], ...stairs },
      ],
      dots,
      cursor: step,
    });
    this.radii.describe(`Radius of the ball over ${length} steps.`);
  }

  longestAt(share) {
    return this.data.longest[this.momentAt(Math.max(0, share - 1e-12))];
  }

  tell({ step, run_length: length }, free, radius, stop) {
    const clipped = free.reduce((count, norm) => count + (norm > radius), 0);
    const share = `${((100 * clipped) / free.length).toFixed(1)}%`;
    this.title.textContent = `Step ${number(step)}: ${share} of the codes are clipped`;
    const beyond = radius > this.extent ? ", beyond the picture" : "";
    const ends =
      stop === Infinity
        ? "still binds at the end of the run"
        : stop > 0
          ? `stops binding at step ${number(Math.ceil(stop))} (green)`
          : "never binds";
    const longest = +Math.max(...free).toPrecision(3);
    const words =
      `M(${number(step)}) = ${number(+radius.toPrecision(4))}${beyond}; the longest of ` +
      `${number(free.length)} free codes has norm ${longest}. The ball ${ends} ` +
      `(${number(length)} steps).${this.data.note}`;
    this.summary.textContent = words;
    this.sphere.describe(`${this.title.textContent}. ${words}`);
  }

  destroy() {
    for (const picture of [this.sphere, this.norms, this.radii]) picture.destroy();
  }
}

/** The growth per step; scaled, that of the paper's run happens within this one. */
function rateOf({ growth, run_length: length, scaled }) {
  return scaled ? (growth * PAPER_STEPS) / length : growth;
}

/** A line that stays at each value until the next. */
function stairsOf(starts, values, end) {
  const x = [];
  const y = [];
  starts.forEach((start, place) => {
    x.push(start, place + 1 < starts.length ? starts[place + 1] : end);
    y.push(values[place], values[place]);
  });
  return { x, y };
}

function number(value) {
  return value.toLocaleString("en-US", { maximumSignificantDigits: 6 });
}
