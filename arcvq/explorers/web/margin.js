/** One code and its latents: what margin, scale and top-k do to gradients and loss. */
import { Chart } from "./chart.js";
import { Controls, buttons, copy } from "./controls.js";
import { angleBetween, marginLogit, marginLoss } from "./math.js";
import { Camera, Sphere, ringAround } from "./sphere.js";
import { readTheme } from "./theme.js";

const DEGREES = 180 / Math.PI;
const LONGEST = 0.5; // length of the arrow of the largest gradient that there can be, the scale s
const SMALLEST = 1e-4; // share of it below which an arrow is too short to be seen
const THETA = Array.from({ length: 181 }, (_, degree) => degree / DEGREES);

/**
 * @param el where the explorer goes.
 * @param host as for the playground; data are latents and code, unit vectors, and their dim.
 */
export function mount(el, host) {
  return new Margin(el, host);
}

class Margin {
  constructor(el, host) {
    this.dim = host.data.dim;
    this.latents = host.data.latents;
    this.code = host.data.code;
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
    const isCircle = this.dim === 2;
    const camera = isCircle ? new Camera(0, 0, true) : new Camera();
    const direction = this.drawn(this.code);
    if (!isCircle) camera.face(direction);
    this.sphere = new Sphere(figure, camera, this.theme, 1.35, 1);
    const beside = document.createElement("div");
    this.chart = new Chart(beside, this.theme, 0.75);
    this.summary = document.createElement("p");
    this.summary.className = "arcvq-summary";
    beside.append(this.summary);
    panels.append(figure, beside);
    el.append(panels);
  }

  /** Rows of three to draw: a circle stands upright, before the reader. */
  drawn(rows) {
    if (this.dim === 3) return rows;
    const points = [];
    for (let at = 0; at < rows.length; at += 2) points.push(rows[at], 0, rows[at + 1]);
    return Float64Array.from(points);
  }

  update(values) {
    this.controls.show(values);
    const settings = { margin: values.margin, scale: values.scale, topK: values.top_k };
    const result = marginLoss(this.latents, this.code, this.dim, settings);
    const isPulled = new Uint8Array(this.latents.length / this.dim);
    for (const i of result.nearest[0]) isPulled[i] = 1;
    const angles = Array.from(isPulled, (_, i) => {
      return angleBetween(this.latents, i, this.code, 0, this.dim);
    });
    const pulledAngles = result.nearest[0].map((i) => angles[i]);
    this.drawSphere(values, result, isPulled, angles, Math.max(...pulledAngles));
    this.drawChart(values, pulledAngles);
    this.tell(values, result, Math.max(...pulledAngles));
  }

  drawSphere({ margin, scale }, { gradient, loss }, isPulled, angles, limit) {
    const { vermillion, blue, sky, green, orange, soft } = this.theme;
    const moves = this.drawn(gradient);
    const sizes = lengthsOf(moves);
    this.largest = Math.max(...sizes);
    sizes.forEach((size, i) => {
      // The arrow is against the gradient, and as long as the root of its size.
      const length = LONGEST * Math.sqrt(Math.min(1, size / scale));
      const factor = size > SMALLEST * scale ? -length / size : 0;
      for (let d = 0; d < 3; d++) moves[3 * i + d] *= factor;
    });
    const rows = this.drawn(this.latents);
    const code = this.drawn(this.code);
    const arrows = (pulled, color) => ({
      kind: "arrows",
      rows,
      moves: moves.map((move, at) => (isPulled[Math.floor(at / 3)] === pulled ? move : 0)),
      color,
    });
    const rings = this.dim === 3 ? [[limit, vermillion], [Math.min(limit + margin, Math.PI), orange]] : [];
    this.sphere.show([
      ...rings.map(([angle, color]) => ({ kind: "line", rows: ringAround(code, angle), color })),
      arrows(0, blue),
      arrows(1, vermillion),
      {
        kind: "points",
        rows,
        size: 3.5,
        colors: Array.from(isPulled, (pulled) => (pulled ? vermillion : sky)),
        tell: (i) => {
          const what = isPulled[i] ? "pulled" : "pushed away";
          return `latent ${i}: ${(angles[i] * DEGREES).toFixed(1)}° from the code, ${what}, gradient ${sizes[i].toPrecision(2)}`;
        },
      },
      { kind: "points", rows: code, size: 7, color: green, tell: () => "the code" },
    ]);
    this.title.textContent = `Loss of this code: ${+loss.toPrecision(4)}`;
  }

  drawChart({ margin }, pulledAngles) {
    const degrees = THETA.map((theta) => theta * DEGREES);
    const turn = (Math.PI - margin) * DEGREES;
    this.chart.show({
      title: "logit at scale 1",
      x: { label: "angle θ to the code (degrees)", range: [0, 180] },
      y: { range: [-2.05, 1.05] },
      lines: [
        { name: "others", color: this.theme.soft, dash: [4, 3], x: degrees, y: THETA.map(Math.cos) },
        {
          name: "pulled: cos(θ + m)",
          color: this.theme.vermillion,
          x: degrees,
          y: THETA.map((theta) => marginLogit(theta, margin)),
        },
      ],
      dots: pulledAngles.map((theta) => ({
        x: theta * DEGREES,
        y: marginLogit(theta, margin),
        color: this.theme.vermillion,
      })),
      cursor: turn,
    });
    this.chart.describe(`Logit over the angle; beyond ${turn.toFixed(1)} degrees it falls in a line.`);
  }

  tell({ margin, scale, top_k }, { nearest }, limit) {
    const count = this.latents.length / this.dim;
    const largest = this.largest / scale;
    const arrows =
      largest > SMALLEST
        ? `Arrows are against the gradient; the longest here is ${percent(largest)} of s = ${+scale.toPrecision(3)}, the most that it can be, and lengths grow as its root.`
        : `No latent moves: the largest gradient is ${percent(largest)} of s = ${+scale.toPrecision(3)}, too little for an arrow.`;
    const words =
      `The ${nearest[0].length} nearest of ${count} latents lie within ${(limit * DEGREES).toFixed(1)}° of the code ` +
      `(red ring) and count as ${(margin * DEGREES).toFixed(1)}° farther (orange ring). ${arrows}`;
    this.summary.textContent = words;
    this.sphere.describe(words);
  }

  destroy() {
    this.sphere.destroy();
    this.chart.destroy();
  }
}

function lengthsOf(rows) {
  const lengths = [];
  for (let at = 0; at < rows.length; at += 3) {
    lengths.push(Math.hypot(rows[at], rows[at + 1], rows[at + 2]));
  }
  return lengths;
}

function percent(share) {
  return `${+(100 * share).toPrecision(2)}%`;
}
