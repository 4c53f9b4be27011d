/** Codes learn live on the sphere, under SAMP and as plain VQ beside it. */
import { Chart } from "./chart.js";
import { Controls, buttons, copy } from "./controls.js";
import { Simulation } from "./simulation.js";
import { Camera, Sphere } from "./sphere.js";
import { readTheme } from "./theme.js";

const NAMES = { samp: "SAMP", plain: "plain VQ" };
const CURVES = [
  ["used", "codes used"],
  ["perplexity", "perplexity (codes)"],
  ["minAngle", "smallest angle (degrees)"],
];
const REACH = 2.2; // of the picture; the data have norm 2

/**
 * @param el where the playground goes.
 * @param host values (the settings by name), specs (of their controls), data (the draws of the
 *   `Simulation`), and the functions set(name, value), code() and reset().
 */
export function mount(el, host) {
  return new Playground(el, host);
}

class Playground {
  constructor(el, host) {
    this.host = host;
    this.simulation = new Simulation(host.data, settingsOf(host.values));
    this.isPlaying = false;
    this.theme = readTheme(el);
    el.classList.add("arcvq-explorer");
    this.controls = new Controls(el, host.specs, (name, value) => host.set(name, value));
    this.controls.show(host.values);
    this.buttons = buttons(el, {
      play: () => (this.isPlaying ? this.pause() : this.play()),
      step: () => this.step(),
      "start again": () => this.restart(),
      reset: () => host.reset(),
      "copy as code": (button) => copy(host.code(), button),
    });
    this.summary = document.createElement("p");
    this.summary.className = "arcvq-summary";
    this.layOut(el);
    el.append(this.summary);
    this.draw();
  }

  layOut(el) {
    const panels = document.createElement("div");
    panels.className = "arcvq-panels arcvq-two-spheres";
    this.camera = new Camera();
    this.camera.face(this.simulation.data);
    this.spheres = {};
    this.titles = {};
    for (const name of Object.keys(NAMES)) {
      const figure = document.createElement("figure");
      this.titles[name] = document.createElement("figcaption");
      figure.append(this.titles[name]);
      this.spheres[name] = new Sphere(figure, this.camera, this.theme, REACH);
      panels.append(figure);
    }
    const charts = document.createElement("div");
    this.charts = CURVES.map(() => new Chart(charts, this.theme, 0.5));
    panels.append(charts);
    el.append(panels);
  }

  /** Take over settings that were changed here or by the kernel. */
  update(values) {
    this.controls.show(values);
    this.simulation.change(settingsOf(values));
    this.draw();
  }

  play() {
    this.isPlaying = true;
    this.buttons.querySelector(".arcvq-play").textContent = "pause";
    const next = () => {
      if (!this.isPlaying) return;
      this.step();
      requestAnimationFrame(next);
    };
    requestAnimationFrame(next);
  }

  pause() {
    this.isPlaying = false;
    this.buttons.querySelector(".arcvq-play").textContent = "play";
  }

  step() {
    this.simulation.step();
    this.draw();
  }

  restart() {
    this.simulation.reset();
    this.draw();
  }

  // ---- Drawing ----

  draw() {
    for (const name of Object.keys(NAMES)) this.drawSphere(name);
    CURVES.forEach((curve, place) => this.drawCurve(this.charts[place], ...curve));
    this.summary.textContent = this.sentence();
  }

  drawSphere(name) {
    const learner = this.simulation[name];
    const unused = Array.from(learner.counts, (count) => count === 0);
    const color = name === "samp" ? this.theme.vermillion : this.theme.plain;
    const layers = [
      { kind: "points", rows: learner.latents, size: 2.2, color: this.theme.sky },
      {
        kind: "points",
        rows: learner.codes,
        size: 4.5,
        colors: unused.map((isUnused) => (isUnused ? this.theme.soft : color)),
        hollow: unused,
        tell: (j) => `code ${j}: ${learner.counts[j]} latents`,
        drag: (j, position) => this.hold(name, j, position),
        release: () => this.simulation.release(),
      },
    ];
    const { radius } = this.simulation;
    const hasBall = name === "samp" && radius <= REACH;
    if (hasBall) layers.push({ kind: "ball", radius, color: this.theme.orange });
    this.spheres[name].show(layers);

    const { used } = learner.last;
    let title = `${NAMES[name]}: ${used} of ${learner.numCodes} codes used`;
    if (hasBall) title += `, ball of radius ${radius.toFixed(2)} (dashed)`;
    this.titles[name].textContent = title;
    this.spheres[name].describe(title);
  }

  hold(name, code, position) {
    this.simulation.hold(name, code, position);
    if (!this.isPlaying) this.draw();
  }

  drawCurve(chart, key, title) {
    const lines = Object.keys(NAMES).map((name) => {
      const { history } = this.simulation[name];
      return {
        name: NAMES[name],
        color: name === "samp" ? this.theme.vermillion : this.theme.plain,
        dash: name === "samp" ? [] : [5, 3],
        x: history.map((row) => row.step),
        y: history.map((row) => row[key]),
      };
    });
    const hasLegend = key === "used"; // the lines have the same names in every chart
    chart.show({ title, x: { label: "step" }, y: {}, lines, hasLegend });
    chart.describe(`${title}: ${lines.map((line) => `${line.name} ${last(line.y)}`).join(", ")}`);
  }

  sentence() {
    const { steps, radius, samp, plain } = this.simulation;
    const parts = Object.entries({ samp, plain }).map(([name, { last: row, numCodes }]) => {
      const angle = `smallest angle ${+row.minAngle.toPrecision(2)} degrees`;
      const usage = `${row.used} of ${numCodes} codes, perplexity ${row.perplexity.toFixed(1)}`;
      return `${NAMES[name]} uses ${usage}, ${angle}`;
    });
    return `Step ${steps}: ${parts.join("; ")}; the ball's radius is ${+radius.toPrecision(3)}.`;
  }

  destroy() {
    this.pause();
    for (const picture of [...Object.values(this.spheres), ...this.charts]) picture.destroy();
  }
}

function last(values) {
  const value = values[values.length - 1];
  return Number.isFinite(value) ? +value.toPrecision(3) : "unknown";
}

/** The settings as the simulation names them. */
function settingsOf(values) {
  return {
    clusters: values.clusters,
    concentration: values.concentration,
    margin: values.margin,
    scale: values.scale,
    topK: values.top_k,
    growth: values.growth,
    weight: values.weight,
    learningRate: values.learning_rate,
  };
}
