/** A ball that grows around the codes: which of them it clips, and when it stops binding. */
import { Toolbar } from "./controls.js";
import { boundedExp } from "./math.js";
import { Panels } from "./panels.js";
import { Camera, Sphere } from "./sphere.js";
import { PALETTE } from "./theme.js";
import { inFull, plural, short, whole } from "./wording.js";

const PAPER_STEPS = 29500; // the run that the published growth was tuned to
const TOP = 1e4; // of the radius axis at most: the paper's ball ends at 6,974
const MOST_LINES = 512; // from where the ball holds a code to where it would be
const MANY = 1000; // codes that are drawn smaller
const MOST_PLACES = 512; // of a curve of norms
const ROUNDING = 1e-6; // codes of float32 on the surface of a ball are inside
const MARKS = [
  { name: "inside the ball", color: PALETTE.blue },
  { name: "clipped", color: PALETTE.vermillion },
  { name: "ball of radius M(t)", color: PALETTE.orange, mark: "dashed" },
  { name: "what was cut off", mark: "line" },
];

/**
 * @param el where the explorer goes.
 * @param host as for `widget`; data hold the free codes at some moments of a run:
 *   shares (of the run, rising from 0), norms (moments x K), units (moments x codes drawn x 3), the
 *   directions in which they are drawn, longest (the largest norm at each moment), shown (the
 *   numbers of the codes that are drawn) and note (of the drawing).
 */
export function mount(el, host) {
  return new Radius(el, host);
}

/** The growth per step; scaled, that of the paper's run happens within this one. */
export function rateOf({ growth, run_length: length, scaled }) {
  return scaled ? (growth * PAPER_STEPS) / length : growth;
}

/** The ball as a line of Python, scaled to the run as `RadiusExplorer.code()` writes it. */
export function codeOf(values) {
  const steps = values.run_length;
  const exponent = +(rateOf(values) * steps).toPrecision(6);
  return `arcvq.SAMP.for_run(${steps}, radius=arcvq.Exponential(${exponent} / ${steps}))`;
}

export function isClipped(norm, radius) {
  return norm > radius * (1 + ROUNDING);
}

/**
 * The step from which on no code is longer than the ball: 0 if none ever is, and Infinity if the
 * ball still binds at the end of the run.
 */
export function lastBinding({ shares, longest }, rate, length) {
  let last = 0;
  shares.forEach((share, moment) => {
    const start = share * length;
    const end = moment + 1 < shares.length ? shares[moment + 1] * length : Infinity;
    const letGo = Math.min(end, stepOfRadius(longest[moment], rate));
    if (letGo > start) last = Math.max(last, letGo);
  });
  return last <= length ? last : Infinity;
}

/** The top of the radius axis: the power of ten above the codes and above where the ball ends. */
export function topOf(codes, rate, length) {
  const end = Math.min(boundedExp(rate * length), TOP);
  return 10 ** Math.ceil(Math.log10(Math.max(codes, end)));
}

/** When the ball has grown to a radius. */
function stepOfRadius(radius, rate) {
  return isClipped(radius, 1) ? Math.log(radius) / rate : 0;
}

class Radius {
  constructor(el, host) {
    this.host = host;
    this.theme = host.theme;
    this.toolbar = new Toolbar(el, host, {}, () => codeOf(host.values));
    const makeSphere = (figure) => new SphereWithRays(figure, new Camera(), this.theme, 1);
    this.panels = new Panels(el, this.theme, makeSphere, MARKS);
    this.sphere = this.panels.sphere;
    [this.norms, this.radii] = this.panels.charts;
    this.update(host.values);
  }

  update(given) {
    // The run may have become shorter, and a link may name any step.
    const values = { ...given, step: Math.min(given.step, given.run_length) };
    this.takeData();
    this.toolbar.limit("step", values.run_length);
    this.toolbar.show(values);
    const { step, run_length: length } = values;
    const rate = rateOf(values);
    const radius = boundedExp(rate * step);
    const moment = this.momentAt(step / length);
    const free = this.data.norms.subarray(moment * this.numCodes, (moment + 1) * this.numCodes);
    const stop = lastBinding(this.data, rate, length);
    this.drawSphere(moment, free, radius);
    this.drawNorms(moment, free, radius);
    this.drawRadii(values, radius, stop);
    this.tell(values, free, radius, rate, stop);
  }

  takeData() {
    if (this.data === this.host.data) return;
    this.data = this.host.data;
    this.numCodes = this.data.norms.length / this.data.shares.length;
    this.extent = 1.02 * Math.max(1, ...this.data.longest);
    this.sphere.reach = this.extent;
    this.sorted = new Map();
  }

  /** The last moment that the run has reached. */
  momentAt(share) {
    const { shares } = this.data;
    let moment = 0;
    while (moment + 1 < shares.length && shares[moment + 1] <= share) moment += 1;
    return moment;
  }

  // ---- Drawing ----

  drawSphere(moment, free, radius) {
    const { vermillion, blue, orange, soft } = this.theme;
    const { shown, units } = this.data;
    const rows = new Float64Array(3 * shown.length);
    const places = [];
    const moves = [];
    const colors = [];
    shown.forEach((code, place) => {
      const isHeld = isClipped(free[code], radius);
      colors.push(isHeld ? vermillion : blue);
      const hasLine = isHeld && places.length < 3 * MOST_LINES;
      const at = 3 * (moment * shown.length + place);
      for (let d = 0; d < 3; d++) {
        rows[3 * place + d] = Math.min(free[code], radius) * units[at + d];
        if (hasLine) places.push(rows[3 * place + d]);
        if (hasLine) moves.push((free[code] - radius) * units[at + d]);
      }
    });
    const tell = (place) => tellCode(shown[place], free[shown[place]], radius);
    this.sphere.radius = Math.min(radius, this.extent);
    const layers = [
      { kind: "rays", rows: Float64Array.from(places), moves, color: soft },
      { kind: "points", rows, size: shown.length > MANY ? 1.7 : 3, colors, tell },
    ];
    if (radius <= this.extent) layers.push({ kind: "ball", radius, color: orange });
    this.sphere.show(layers);
  }

  drawNorms(moment, free, radius) {
    const { soft, vermillion } = this.theme;
    const { places, norms } = this.ranked(moment, free);
    this.norms.show({
      title: "norms, the longest first",
      x: { label: "codes", range: [1, Math.max(2, this.numCodes)] },
      y: { range: [0, 1.04 * this.extent] },
      lines: [
        { name: "free", color: soft, dash: [4, 3], x: places, y: norms },
        {
          name: "in the ball",
          color: vermillion,
          x: places,
          y: norms.map((norm) => Math.min(norm, radius)),
        },
      ],
    });
    this.norms.describe("Norms of the codes, free and in the ball.");
  }

  /** The norms from the longest on, of at most some hundred codes at even distances. */
  ranked(moment, free) {
    if (!this.sorted.has(moment)) {
      const all = Float64Array.from(free).sort().reverse();
      const last = all.length - 1;
      const count = Math.min(all.length, MOST_PLACES);
      const rank = (_, i) => Math.round((i * last) / (count - 1 || 1));
      const ranks = Array.from({ length: count }, rank);
      const norms = ranks.map((rank) => all[rank]);
      this.sorted.set(moment, { places: ranks.map((rank) => rank + 1), norms });
    }
    return this.sorted.get(moment);
  }

  drawRadii(values, radius, stop) {
    const { growth, run_length: length, step, scaled } = values;
    const { blue, purple, soft, green, text } = this.theme;
    const steps = Array.from({ length: 101 }, (_, place) => (place * length) / 100);
    const curve = (isScaled) => {
      const rate = rateOf({ growth, run_length: length, scaled: isScaled });
      const width = isScaled === scaled ? 3 : 1.5;
      return { x: steps, y: steps.map((t) => boundedExp(rate * t)), width };
    };
    const { shares, longest } = this.data;
    const starts = Array.from(shares, (share) => share * length);
    const dots = [{ x: step, y: radius, color: text, size: 4 }];
    if (stop > 0 && stop < Infinity) {
      dots.push({ x: stop, y: this.longestAt(stop / length), color: green, size: 6 });
    }
    this.radii.show({
      title: "radius M(t)",
      x: { label: "step", range: [0, length] },
      y: { log: true, range: [0.7, topOf(2 * this.extent, rateOf(values), length)] },
      lines: [
        { name: "per step", color: blue, ...curve(false) },
        { name: "scaled", color: purple, dash: [6, 4], ...curve(true) },
        { name: "longest code", color: soft, dash: [2, 3], ...stairsOf(starts, longest, length) },
      ],
      dots,
      cursor: step,
    });
    this.radii.describe(`Radius of the ball over ${whole(length)} steps.`);
  }

  longestAt(share) {
    return this.data.longest[this.momentAt(Math.max(0, share - 1e-12))];
  }

  tell({ step, run_length: length }, free, radius, rate, stop) {
    const clipped = free.reduce((count, norm) => count + isClipped(norm, radius), 0);
    const all = plural(free.length, "code");
    const are = clipped === 1 ? "is" : "are";
    const title = `Step ${whole(step)}: ${whole(clipped)} of ${all} ${are} clipped`;
    const beyond = radius > this.extent ? ", beyond the picture" : "";
    const longest = short(free.reduce((a, b) => Math.max(a, b)));
    const fixed = rate === 0 ? "is fixed at radius 1 and " : "";
    const summary =
      `M(${whole(step)}) = ${inFull(radius)}${beyond}; the longest of ` +
      `${plural(free.length, "free code")} has norm ${longest}. ` +
      `The ball ${fixed}${ending(stop)} (${whole(length)} steps).` +
      this.data.note;
    this.panels.tell(title, summary);
  }

  destroy() {
    this.panels.destroy();
  }
}

/** A sphere with lines from where the ball holds a code to where it would be. */
class SphereWithRays extends Sphere {
  paintLayer(pen, layer, points, inFront) {
    if (layer.kind === "rays") this.paintRays(pen, layer, points, inFront);
    else super.paintLayer(pen, layer, points, inFront);
  }

  paintRays(pen, { rows, moves, color }, starts, inFront) {
    const ends = this.project(rows.map((value, at) => value + moves[at]));
    pen.strokeStyle = color;
    pen.lineWidth = 1;
    pen.globalAlpha *= 0.5;
    pen.beginPath();
    for (let at = 0; at < starts.length; at += 3) {
      if (starts[at + 2] >= 0 !== inFront) continue;
      pen.moveTo(starts[at], starts[at + 1]);
      pen.lineTo(ends[at], ends[at + 1]);
    }
    pen.stroke();
    pen.globalAlpha *= 2;
  }
}

function ending(stop) {
  if (stop === Infinity) return "still binds at the end of the run";
  return stop > 0 ? `stops binding at step ${whole(Math.ceil(stop))} (green)` : "never binds";
}

function tellCode(code, norm, radius) {
  const held = isClipped(norm, radius) ? `, clipped to ${short(radius)}` : ", inside the ball";
  return `code ${code}: norm ${short(norm)}${held}`;
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
