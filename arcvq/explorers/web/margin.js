/** One code and its latents: what margin, scale and top-k do to gradients and loss. */
import { Toolbar } from "./controls.js";
import { DEGREES, angleBetween, directions, marginLogit, marginLoss, norms } from "./math.js";
import { Panels } from "./panels.js";
import { Camera, Sphere, ringAround, traceArrow } from "./sphere.js";
import { PALETTE } from "./theme.js";
import { degrees, plural, short } from "./wording.js";

const WHOLE_DEGREES = Array.from({ length: 181 }, (_, degree) => degree);

// One scale for all settings. Gradients range from 100, the largest scale, down to nearly nothing:
// lengths grow as the cube root, so that eight times the gradient is an arrow of twice the length.
const ARROW_OF_ONE = 0.25; // length of the arrow of a gradient of 1, where the sphere has radius 1
const WEAKEST = 1e-4; // below this gradient an arrow would be shorter than two pixels
const STRONGEST = 100;
const DOT = 3.5; // pixels
const LEGEND = [0.01, 0.1, 1];
const MOST_ARROWS = 256; // of the pulled latents, and of the others
const MARKS = [
  { name: "code (drag it)", color: PALETTE.green },
  { name: "pulled", color: PALETTE.vermillion },
  { name: "pushed", color: PALETTE.sky },
  { name: "θ of the farthest pulled", color: PALETTE.vermillion, mark: "line" },
  { name: "θ + m", color: PALETTE.orange, mark: "line" },
];
// With spaces at which no line breaks.
const PULL = "s (p / P − p) sin(θ + m)".replaceAll(" ", "\u00a0");
const PULL_PAST_PI = "s (p / P − p) sin θ".replaceAll(" ", "\u00a0");
const PUSH = "s p sin θ".replaceAll(" ", "\u00a0");

/**
 * @param el where the explorer goes.
 * @param host as for `widget`; data are the latents and the code, unit vectors, their dim, drawn
 *   (the latents that are drawn in any case) and note (of the drawing).
 */
export function mount(el, host) {
  return new Margin(el, host);
}

/**
 * The margin loss of one code and what it does to each latent.
 *
 * @returns loss; gradient to the latents; and for each latent its angle to the code, its share in
 *   the softmax, whether it is pulled, and the size of its gradient, pull or push. `pulled` lists
 *   the pulled ones, the nearest first; `ofPulled` is their share, and the loss is -log of it.
 */
export function measure(latents, code, dim, { margin, scale, topK }) {
  const found = marginLoss(latents, code, dim, { margin, scale, topK });
  const { gradient } = found;
  const [pulled] = found.nearest;
  const count = latents.length / dim;
  const isAll = pulled.length === count; // then the loss is 0 exactly, and rounding is left out
  const loss = isAll ? 0 : found.loss;
  if (isAll) gradient.fill(0);
  const angles = new Float64Array(count);
  const isPulled = new Uint8Array(count);
  for (let i = 0; i < count; i++) angles[i] = angleBetween(latents, i, code, 0, dim);
  for (const i of pulled) isPulled[i] = 1;
  const logits = angles.map((angle, i) => scale * marginLogit(angle, isPulled[i] ? margin : 0));
  const logTotal = logSumExp(logits);
  const shares = logits.map((logit) => Math.exp(logit - logTotal));
  const ofPulled = pulled.reduce((sum, i) => sum + shares[i], 0);
  const sizes = norms(gradient, dim);
  return { loss, gradient, angles, shares, isPulled, sizes, pulled, ofPulled, logTotal };
}

/** From there on the logit falls as the cosine does. */
function isPastPi(theta, margin) {
  return theta > Math.PI - margin;
}

/** How hard a latent at an angle is pulled, where the others stay: s (p / P - p) sin(theta + m). */
export function pullAt(theta, { logTotal, ofPulled }, { margin, scale }) {
  const share = Math.exp(scale * marginLogit(theta, margin) - logTotal);
  const slope = Math.sin(isPastPi(theta, margin) ? theta : theta + margin);
  return scale * (share / ofPulled - share) * slope;
}

/** How hard a latent at an angle is pushed away, where the others stay: s p sin(theta). */
export function pushAt(theta, { logTotal }, { scale }) {
  return scale * Math.exp(scale * Math.cos(theta) - logTotal) * Math.sin(theta);
}

/**
 * Latents and code where the reader has moved them.
 *
 * @param data as for `mount`.
 * @param moved the new places, as "code:0.6,0,0.8 12:0,0,1"; what makes no sense is left out.
 */
export function placed({ latents, code, dim }, moved) {
  const places = { latents: Float64Array.from(latents), code: Float64Array.from(code) };
  for (const [name, numbers] of placesOf(moved)) {
    const isOnSphere = numbers.length === dim && numbers.some((number) => number);
    if (!isOnSphere || numbers.some(Number.isNaN)) continue;
    const place = directions(Float64Array.from(numbers), dim);
    if (name === "code") places.code = place;
    else if (+name < latents.length / dim) places.latents.set(place, +name * dim);
  }
  return places;
}

/** The same words with one more place. */
export function withPlace(moved, name, place) {
  const places = placesOf(moved).set(String(name), Array.from(place, (x) => +x.toFixed(4)));
  return Array.from(places, ([key, numbers]) => `${key}:${numbers.join(",")}`).join(" ");
}

function placesOf(moved) {
  const pairs = moved.split(" ").map((pair) => pair.split(":"));
  const known = pairs.filter(([name, numbers]) => /^(code|\d+)$/.test(name) && numbers);
  return new Map(known.map(([name, numbers]) => [name, numbers.split(",").map(Number)]));
}

class Margin {
  constructor(el, host) {
    this.host = host;
    this.theme = host.theme;
    this.dim = host.data.dim;
    this.drawn = Array.from(host.data.drawn);
    this.isDrawn = new Set(this.drawn);
    this.toolbar = new Toolbar(el, host);
    const makeSphere = (figure) => new SphereWithScale(figure, this.camera(), this.theme, 1.22, 1);
    this.panels = new Panels(el, this.theme, makeSphere, MARKS);
    this.sphere = this.panels.sphere;
    [this.logits, this.forces] = this.panels.charts;
    this.update(host.values);
  }

  /** In front of a circle, or of a sphere that is turned to the code. */
  camera() {
    if (this.dim === 2) return new Camera(0, 0, true);
    const camera = new Camera();
    camera.face(placed(this.host.data, this.host.values.moved).code);
    return camera;
  }

  /** Rows of three to draw: a circle stands upright, before the reader. */
  inSpace(rows) {
    return this.dim === 3 ? rows : standing(rows);
  }

  update(values) {
    this.values = values;
    this.toolbar.show(values);
    Object.assign(this, placed(this.host.data, values.moved));
    const settings = { margin: values.margin, scale: values.scale, topK: values.top_k };
    const found = measure(this.latents, this.code, this.dim, settings);
    this.drawSphere(found, settings);
    this.drawLogits(found, settings);
    this.drawForces(found, settings);
    this.tell(found, settings);
  }

  // ---- Drawing ----

  /** The color of a push, which must be seen on the ground. */
  ofPush() {
    return this.theme.isDark ? this.theme.sky : this.theme.blue;
  }

  drawSphere(found, { margin }) {
    const { vermillion, sky, green } = this.theme;
    const drawn = [...this.drawn, ...found.pulled.filter((i) => !this.isDrawn.has(i))];
    const rows = this.inSpace(chosenRows(this.latents, drawn, this.dim));
    const points = {
      kind: "points",
      rows,
      size: DOT,
      colors: drawn.map((i) => (found.isPulled[i] ? vermillion : sky)),
      tell: (place) => tellLatent(drawn[place], found),
      drag: (place, position) => this.move(drawn[place], position),
    };
    const ofCode = {
      kind: "points",
      rows: this.inSpace(this.code),
      size: 7,
      color: green,
      tell: () => "the code",
      drag: (_, position) => this.move("code", position),
    };
    const others = drawn.filter((i) => !found.isPulled[i]);
    this.sphere.show([
      ...this.caps(found.angles[found.pulled.at(-1)], margin),
      this.arrows(others, found, this.ofPush()),
      this.arrows(found.pulled, found, vermillion),
      points,
      ofCode,
    ]);
  }

  /** Where the farthest pulled latent lies, and where it counts as lying. */
  caps(limit, margin) {
    const { vermillion, orange } = this.theme;
    const wider = Math.min(limit + margin, Math.PI);
    const cap = (angle, color, reach) => {
      const isCircle = this.dim === 2;
      const rows = isCircle ? arcAround(this.code, angle, reach) : ringAround(this.code, angle);
      return { kind: "line", rows, color, width: isCircle ? 3 : 1.5 };
    };
    return [cap(wider, orange, 1.14), cap(limit, vermillion, 1.08)];
  }

  /** Arrows against the gradient, the strongest ones. */
  arrows(group, { gradient, sizes }, color) {
    const strongest = strongestOf(group, sizes);
    const moves = chosenRows(gradient, strongest, this.dim);
    strongest.forEach((i, place) => {
      const factor = -arrowLength(sizes[i]) / sizes[i];
      for (let d = 0; d < this.dim; d++) moves[place * this.dim + d] *= factor;
    });
    const rows = this.inSpace(chosenRows(this.latents, strongest, this.dim));
    return { kind: "arrows", rows, moves: this.inSpace(moves), color, gap: DOT };
  }

  drawLogits({ angles, pulled }, { margin }) {
    const { vermillion } = this.theme;
    const turn = (Math.PI - margin) * DEGREES;
    const ofPulled = (theta) => marginLogit(theta, margin);
    this.logits.show({
      title: "logit at scale 1",
      x: { label: "angle θ to the code (degrees)", range: [0, 180] },
      y: { range: [-2.05, 1.05] },
      lines: [
        { name: "pushed: cos θ", color: this.ofPush(), dash: [4, 3], ...curve(Math.cos) },
        { name: "pulled: cos(θ + m)", color: vermillion, ...curve(ofPulled) },
      ],
      dots: dotsAt(pulled, angles, ofPulled, vermillion),
      cursor: turn,
    });
    this.logits.describe(
      `Logit over the angle. From ${turn.toFixed(1)} degrees on, where θ + m passes 180 degrees, ` +
        "it falls on as the cosine does.",
    );
  }

  drawForces(found, settings) {
    const { vermillion } = this.theme;
    const color = this.ofPush();
    const { angles, pulled, isPulled } = found;
    const pull = (theta) => pullAt(theta, found, settings);
    const push = (theta) => pushAt(theta, found, settings);
    const others = this.drawn.filter((i) => !isPulled[i]).slice(0, MOST_ARROWS);
    this.forces.show({
      title: "size of the gradient",
      x: { label: "angle θ to the code (degrees)", range: [0, 180] },
      y: { log: true, range: [WEAKEST, STRONGEST] },
      lines: [
        { name: "push", color, dash: [4, 3], ...curve(push) },
        { name: "pull", color: vermillion, ...curve(pull) },
      ],
      dots: [
        ...dotsAt(others, angles, push, color, 2.5),
        ...dotsAt(pulled, angles, pull, vermillion),
      ],
    });
    this.forces.describe("Pull and push over the angle, on a logarithmic axis.");
  }

  tell(found, { margin, scale, topK }) {
    const { loss, angles, shares, sizes, pulled, isPulled, ofPulled } = found;
    const [nearest] = pulled;
    const pushed = [...sizes.keys()].filter((i) => !isPulled[i]);
    const [norm] = norms(sizes, sizes.length);
    const words = [
      `The loss is −log P, with P = ${short(ofPulled)} the share of the pulled latents in the ` +
        `softmax. The ${pulled.length} nearest of ${plural(sizes.length, "latent")} are pulled: ` +
        `they lie within ${degrees(angles[pulled.at(-1)])} of the code and count as ` +
        `${degrees(margin)} farther.`,
      pullOn(angles[nearest], sizes[nearest], shares[nearest], margin),
      strongestPush(pushed, sizes),
      tooWeak(pulled, pushed, sizes),
      tooMany(pulled, pushed),
      this.host.data.note,
    ];
    const title = `Loss ${short(loss)}, gradient norm ${short(norm)}`;
    this.panels.tell(title, words.filter(Boolean).join(" "));
  }

  // ---- Moving by hand ----

  move(name, [x, y, z]) {
    const place = this.dim === 3 ? [x, y, z] : [x, z];
    this.host.set("moved", withPlace(this.values.moved, name, place));
  }

  destroy() {
    this.panels.destroy();
  }
}

/** A sphere with arrows of known length in a corner. */
class SphereWithScale extends Sphere {
  paintLayers(pen, width, height) {
    super.paintLayers(pen, width, height);
    pen.globalAlpha = 1;
    pen.strokeStyle = this.theme.text;
    pen.fillStyle = this.theme.soft;
    pen.font = `11px ${this.theme.font}`;
    pen.textAlign = "left";
    pen.lineWidth = 1.6;
    LEGEND.forEach((size, place) => {
      const length = arrowLength(size) * this.zoom;
      const y = height - 36 + 14 * place;
      pen.beginPath();
      traceArrow(pen, 6, y, 6 + length, y);
      pen.stroke();
      pen.fillText(String(size), 14 + arrowLength(1) * this.zoom, y + 4);
    });
    pen.fillText("gradient", 6, height - 52);
  }
}

/** The length of the arrow of a gradient, the same for all settings. */
export function arrowLength(size) {
  return ARROW_OF_ONE * Math.cbrt(size);
}

/** The pull on a latent as a formula with its numbers. */
function pullOn(angle, size, share, margin) {
  const start = "Pull on the nearest: ";
  if (angle === 0) return `${start}${short(size)}. It lies on the code, from where no way is nearer.`;
  const isPast = isPastPi(angle, margin);
  const formula = isPast ? PULL_PAST_PI : PULL;
  const sum = `θ + m = ${degrees(angle)} + ${degrees(margin)}`;
  const exception = isPast ? ", past 180°" : "";
  return `${start}${formula} = ${short(size)}, with p = ${short(share)} and ${sum}${exception}.`;
}

function strongestPush(pushed, sizes) {
  if (!pushed.length) return "No other latent is left to be pushed, so the loss is 0.";
  const strongest = pushed.reduce((most, i) => Math.max(most, sizes[i]), 0);
  return `Strongest push: ${PUSH} = ${short(strongest)}.`;
}

/** Which arrows are missing because the gradient is next to nothing. */
function tooWeak(pulled, pushed, sizes) {
  const isWeak = (i) => sizes[i] < WEAKEST;
  const [pulls, pushes] = [pulled, pushed].map((group) => group.filter(isWeak).length);
  if (!pulls && !pushes) return "";
  if (pulls + pushes === sizes.length) return `No gradient reaches ${WEAKEST}: no arrow is drawn.`;
  const missing = [pulls && plural(pulls, "pull"), pushes && plural(pushes, "push", "es")];
  return `Below ${WEAKEST} and without an arrow: ${missing.filter(Boolean).join(" and ")}.`;
}

/** Those with an arrow: no more than `MOST_ARROWS`, and none below `WEAKEST`. */
function strongestOf(group, sizes) {
  const seen = group.filter((i) => sizes[i] >= WEAKEST);
  if (seen.length <= MOST_ARROWS) return seen;
  const ranked = Float64Array.from(seen, (i) => sizes[i]).sort();
  const least = ranked[ranked.length - MOST_ARROWS];
  return seen.filter((i) => sizes[i] >= least).slice(0, MOST_ARROWS);
}

/** Which arrows are missing because there are so many. */
function tooMany(pulled, pushed) {
  const isThinned = pulled.length > MOST_ARROWS || pushed.length > MOST_ARROWS;
  return isThinned ? `At most ${MOST_ARROWS} arrows of a color are drawn, the strongest.` : "";
}

function tellLatent(i, { angles, shares, sizes, isPulled }) {
  const force = `${isPulled[i] ? "pulled" : "pushed"} by ${short(sizes[i])}`;
  return `latent ${i}: ${degrees(angles[i])} from the code, share ${short(shares[i])}, ${force}`;
}

function curve(value) {
  return { x: WHOLE_DEGREES, y: WHOLE_DEGREES.map((degree) => value(degree / DEGREES)) };
}

function dotsAt(group, angles, value, color, size = 4) {
  return group.map((i) => ({ x: angles[i] * DEGREES, y: value(angles[i]), color, size }));
}

function chosenRows(rows, places, dim) {
  const chosen = new Float64Array(places.length * dim);
  for (let to = 0; to < places.length; to++) {
    for (let d = 0; d < dim; d++) chosen[to * dim + d] = rows[places[to] * dim + d];
  }
  return chosen;
}

/** Points of the plane, upright before the reader. */
function standing(rows) {
  const points = [];
  for (let at = 0; at < rows.length; at += 2) points.push(rows[at], 0, rows[at + 1]);
  return Float64Array.from(points);
}

/** The part of a circle on both sides of a direction, up to an angle, at a distance. */
function arcAround([x, y], angle, reach) {
  const middle = Math.atan2(y, x);
  const corners = [];
  for (let corner = -36; corner <= 36; corner++) {
    const turn = middle + (angle * corner) / 36;
    corners.push(reach * Math.cos(turn), 0, reach * Math.sin(turn));
  }
  return Float64Array.from(corners);
}

function logSumExp(values) {
  let highest = -Infinity;
  for (const value of values) highest = Math.max(highest, value);
  let sum = 0;
  for (const value of values) sum += Math.exp(value - highest);
  return highest + Math.log(sum);
}
