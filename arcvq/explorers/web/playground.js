/** Codes learn live on the sphere, under SAMP and as plain VQ beside it. */
import { Chart } from "./chart.js";
import { Toolbar } from "./controls.js";
import { key } from "./key.js";
import { Player, prefersStillness } from "./player.js";
import { Simulation, WINDOW } from "./simulation.js";
import { Camera, Sphere } from "./sphere.js";
import { plural, short, whole } from "./wording.js";

const NAMES = { samp: "SAMP", plain: "plain VQ" };
const CURVES = [
  ["used", "codes used"],
  ["perplexity", "perplexity"],
  ["minAngle", "smallest angle (°)"],
];
const DATA_NORM = 2;
const REACH = 1.1 * DATA_NORM; // of the picture
const MOST = { latents: 2000, codes: 1000 }; // that are drawn
const TIPS = {
  play: "Learn step after step, until you pause or look elsewhere",
  step: "Learn for one step",
  "from step 0": "Begin again, with the settings as they are now",
  reset: "Begin again, with the settings of the start",
};

/**
 * @param el where the playground goes.
 * @param host as web/widget.js has it. Its data are the draws of the `Simulation`, and what Python
 *   and the playground tell each other: state (of the simulation; the start where it is missing),
 *   playing, and version, a number that grows whenever one sets the state of the other.
 */
export function mount(el, host) {
  return new Playground(el, host);
}

class Playground {
  constructor(el, host) {
    this.host = host;
    this.theme = host.theme;
    this.simulation = new Simulation(host.data, settingsOf(host.values));
    if (host.data.state) this.simulation.state = host.data.state;
    this.version = host.data.version;
    const withReset = Object.create(host, { reset: { value: () => this.reset() } });
    const actions = {
      play: () => (this.player.isPlaying ? this.pause() : this.play()),
      step: () => this.step(),
      "from step 0": () => this.restart(),
    };
    this.toolbar = new Toolbar(el, withReset, actions);
    for (const [name, tip] of Object.entries(TIPS)) this.toolbar.button(name).title = tip;
    this.layOut(el);
    this.player = new Player(this.panels, () => this.learn());
    this.draw();
    this.setPlaying(host.data.playing && !prefersStillness());
  }

  layOut(el) {
    this.panels = document.createElement("div");
    this.panels.className = "arcvq-panels arcvq-two-spheres";
    this.camera = new Camera();
    this.camera.face(this.simulation.data);
    this.spheres = {};
    this.titles = {};
    for (const name of Object.keys(NAMES)) {
      const figure = document.createElement("figure");
      const caption = figure.appendChild(document.createElement("figcaption"));
      const swatch = caption.appendChild(document.createElement("i"));
      swatch.className = `arcvq-mark arcvq-mark-${name === "samp" ? "line" : "dashed"}`;
      this.titles[name] = caption.appendChild(document.createElement("span"));
      this.spheres[name] = new Sphere(figure, this.camera, this.theme, REACH);
      const { sky, vermillion, orange } = this.theme;
      const marks = [
        { name: "latents", color: sky },
        { name: "codes in use", color: name === "samp" ? vermillion : "currentColor" },
        { name: "not in use", mark: "ring" },
      ];
      if (name === "samp") marks.push({ name: "the ball", color: orange, mark: "dashed" });
      key(figure, marks);
      this.panels.append(figure);
    }
    const charts = document.createElement("div");
    this.charts = CURVES.map(() => new Chart(charts, this.theme, 0.5, 112));
    this.panels.append(charts);
    this.summary = document.createElement("p");
    this.summary.className = "arcvq-summary";
    el.append(this.panels, this.summary);
  }

  /** Take over settings, and a state of Python or of another view. */
  update(values) {
    this.toolbar.show(values);
    this.simulation.change(settingsOf(values));
    const { state, version, playing } = this.host.data;
    const isNew = version !== this.version;
    if (isNew) {
      this.version = version;
      this.simulation.state = state;
    }
    const { isPlaying } = this.player;
    if (playing ? !isPlaying && !prefersStillness() : isPlaying) {
      this.setPlaying(playing);
      if (!isNew) this.keep(); // else the others stand there already
    }
    this.draw();
  }

  // ---- Learning ----

  setPlaying(isPlaying) {
    if (isPlaying) this.player.play();
    else this.player.pause();
    this.toolbar.button("play").textContent = isPlaying ? "pause" : "play";
  }

  play() {
    this.setPlaying(true);
    this.keep();
  }

  pause() {
    this.setPlaying(false);
    this.keep();
  }

  step() {
    this.learn();
    this.pause();
  }

  learn() {
    this.simulation.step();
    this.draw();
  }

  restart() {
    this.simulation.reset();
    this.draw();
    this.keep();
  }

  reset() {
    this.host.reset();
    this.restart();
  }

  hold(name, rows, i, position) {
    this.simulation.hold(name, rows, i, position);
    if (!this.player.isPlaying) this.draw();
  }

  release() {
    this.simulation.release();
    if (!this.player.isPlaying) this.keep();
  }

  /** Let Python and other views stand where this one does. */
  keep() {
    this.version += 1;
    const { isPlaying } = this.player;
    this.host.keep({ state: this.simulation.state, playing: isPlaying, version: this.version });
  }

  // ---- Drawing ----

  draw() {
    for (const name of Object.keys(NAMES)) this.drawSphere(name);
    CURVES.forEach((curve, place) => this.drawCurve(this.charts[place], ...curve));
    this.summary.textContent = this.sentence();
  }

  drawSphere(name) {
    const learner = this.simulation[name];
    const codes = learner.codes.subarray(0, 3 * MOST.codes);
    const unused = Array.from(learner.counts, (count) => count === 0);
    const color = name === "samp" ? this.theme.vermillion : this.theme.plain;
    const layers = [
      {
        kind: "points",
        rows: learner.latents.subarray(0, 3 * MOST.latents),
        size: 2.2,
        color: this.theme.sky,
        tell: (i) => `latent ${i} chooses code ${learner.codeOf(i)}`,
        drag: (i, position) => this.hold(name, "latents", i, position),
        release: () => this.release(),
      },
      {
        kind: "points",
        rows: codes,
        size: 4.5,
        colors: unused.map((isUnused) => (isUnused ? this.theme.soft : color)),
        hollow: unused,
        tell: (j) => `code ${j}: ${plural(learner.counts[j], "latent")}`,
        drag: (j, position) => this.hold(name, "codes", j, position),
        // An unused code of plain VQ lies near the center, where no latent is; a reader who drags it
        // wants it among them.
        distance: (norm) => (name === "plain" ? Math.max(norm, DATA_NORM) : norm),
        release: () => this.release(),
      },
    ];
    const { radius } = this.simulation;
    if (name === "samp" && radius <= REACH) {
      layers.push({ kind: "ball", radius, color: this.theme.orange });
    }
    this.spheres[name].show(layers);

    const { used } = learner.last;
    const title = `${NAMES[name]}: ${used} of ${learner.numCodes} codes used`;
    this.titles[name].textContent = title;
    this.titles[name].previousSibling.style.color = color;
    this.spheres[name].describe(title);
  }

  drawCurve(chart, column, title) {
    const lines = Object.keys(NAMES).map((name) => {
      const { history } = this.simulation[name];
      return {
        name: NAMES[name],
        color: name === "samp" ? this.theme.vermillion : this.theme.plain,
        dash: name === "samp" ? [] : [5, 3],
        x: history.map((row) => row.step),
        y: history.map((row) => row[column]),
      };
    });
    const dots = lines.map(({ x, y, color }) => {
      return { x: x[x.length - 1], y: y[y.length - 1], color, size: 3 };
    });
    const [first] = lines[0].x;
    const isLast = column === "minAngle"; // below which the steps are named
    const x = { label: isLast ? "step" : "", range: [first, first + WINDOW] };
    const y = isLast ? {} : { range: [0, 1.04 * this.simulation.samp.numCodes] };
    chart.show({ title, x, y, lines, dots, hasLegend: false });
    chart.describe(`${title}: ${lines.map((line) => `${line.name} ${short(line.y.at(-1))}`).join(", ")}`);
  }

  sentence() {
    const { steps, radius, samp, plain } = this.simulation;
    const parts = Object.entries({ samp, plain }).map(([name, { last: row, numCodes }]) => {
      const angle = `smallest angle ${short(row.minAngle)} degrees`;
      const usage = `${row.used} of ${numCodes} codes, perplexity ${row.perplexity.toFixed(1)}`;
      return `${NAMES[name]} uses ${usage}, ${angle}`;
    });
    const ball = `the ball's radius is ${short(radius)}`;
    return `Step ${whole(steps)}: ${parts.join("; ")}; ${ball}.${this.thinned()}`;
  }

  /** What is left out of the pictures. */
  thinned() {
    const { codes, latents } = this.simulation.samp;
    const words = Object.entries({ codes, latents })
      .filter(([name, rows]) => rows.length > 3 * MOST[name])
      .map(([name, rows]) => `${whole(MOST[name])} of ${whole(rows.length / 3)} ${name}`);
    return words.length ? ` ${words.join(" and ")} are drawn.` : "";
  }

  destroy() {
    this.player.destroy();
    for (const picture of [...Object.values(this.spheres), ...this.charts]) picture.destroy();
  }
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
