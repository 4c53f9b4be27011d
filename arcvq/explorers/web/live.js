/** A training run, watched and steered while it goes: its codes, its curves, its images. */
import { Chart } from "./chart.js";
import {
  codeTip,
  decadesAround,
  drawnPatch,
  lineEntry,
  normOf,
  rowsOf,
  usageColors,
  usageLegend,
} from "./codes.js";
import { Toolbar } from "./controls.js";
import { boundedExp } from "./math.js";
import { Camera, Sphere } from "./sphere.js";
import { plural, short, whole } from "./wording.js";

/** By the name of a panel: its y-axis, and its lines by the names of their data. */
const PANELS = {
  loss: {
    y: { log: true },
    lines: {
      reconstruction: ["reconstruction", "blue"],
      commitment: ["commitment", "green"],
      margin: ["margin", "vermillion"],
    },
  },
  "PSNR (dB)": {
    y: {},
    lines: { psnr: ["training", "blue"], validation_psnr: ["validation", "vermillion"] },
  },
  codes: {
    y: {},
    lines: { codes_used: ["used", "blue"], perplexity: ["perplexity", "vermillion"] },
  },
  schedules: {
    y: { log: true, range: [1e-4, 1e4] },
    lines: { radius: ["radius M(t)", "blue"], weight: ["weight", "vermillion"] },
  },
};
const AHEAD = [2, 3]; // dashes of what is still to come

/**
 * @param el where the dashboard goes.
 * @param host as for `widget`; its data, which come anew with each moment of the run, hold title,
 *   summary, note, status and isTraining; steps (of the whole run), step; codes (as `rowsOf` takes
 *   them) with extent, counts, counted (on what), shown, total; ball, its radius (Infinity for
 *   none); steps and
 *   values of each curve, of radius_ahead, which is that at the setting growth_then, and of
 *   weight_ahead, that at weight 1; and tiles (pixels) with tiles_width and tiles_height.
 */
export function mount(el, host) {
  return new Live(el, host);
}

class Live {
  constructor(el, host) {
    this.host = host;
    this.theme = host.theme;
    const reset = () => {
      host.reset();
      host.send?.("reset");
    };
    this.toolbar = new Toolbar(el, { ...host, reset }, {
      start: () => this.ask("start", "Starting."),
      stop: () => this.ask("stop", "Stopping at the next row."),
    });
    this.layOut(el);
    this.update(host.values);
    host.send?.("view"); // the run may have gone on since the message that this was drawn from
  }

  /** Tell Python, and the reader at once: the answer may take until the next row. */
  ask(words, status) {
    if (!this.host.send) {
      this.status.textContent = "Training needs Python: run the cell again.";
      return;
    }
    this.host.send(words);
    this.status.textContent = status;
    this.toolbar.button(words).disabled = true;
  }

  layOut(el) {
    this.status = append(el, "p", "arcvq-status");
    this.status.setAttribute("role", "status");
    const panels = append(el, "div", "arcvq-live");
    const figure = append(panels, "figure", "arcvq-live-sphere");
    this.title = append(figure, "figcaption");
    this.sphere = new Sphere(append(figure, "div"), new Camera(), this.theme, 1);
    this.legend = append(figure, "div");
    const charts = append(panels, "div", "arcvq-live-charts");
    this.charts = Object.entries(PANELS).map(([title, { lines }]) => {
      return this.panel(charts, title, Object.values(lines), title === "schedules");
    });
    this.norms = this.panel(charts, "norms, the longest first", [["codes", "blue"]]);
    this.images = append(charts, "figure");
    append(this.images, "figcaption").textContent = "images, reconstructed below";
    this.tiles = append(this.images, "div", "arcvq-tiles");
    this.summary = append(el, "p", "arcvq-summary");
  }

  /** A chart below its title and the names of its lines. */
  panel(el, title, lines, hasAhead = false) {
    const figure = append(el, "figure");
    const caption = append(figure, "figcaption");
    caption.textContent = title;
    for (const [name, color] of lines) caption.append(lineEntry(name, this.theme[color]));
    if (hasAhead) caption.append(lineEntry("ahead", "var(--arcvq-soft)", true));
    return new Chart(append(figure, "div"), this.theme, 0.42);
  }

  update(values) {
    const { data } = this.host;
    this.toolbar.show(values);
    this.toolbar.button("start").disabled = data.isTraining;
    this.toolbar.button("stop").disabled = !data.isTraining;
    this.status.textContent = data.status;
    this.title.textContent = data.title;
    this.summary.textContent = `${data.summary}${data.note}`;
    this.drawSphere();
    Object.entries(PANELS).forEach(([title, panel], place) => {
      this.drawPanel(this.charts[place], title, panel, values);
    });
    this.drawNorms();
    this.drawTiles();
  }

  // ---- Drawing ----

  drawSphere() {
    const { codes, counts, shown, extent, title, counted, ball: [radius] } = this.host.data;
    const ends = decadesAround(1, counts.reduce((most, count) => Math.max(most, count), 10));
    this.sphere.reach = this.sphere.radius = 1.02 * Math.max(extent, 1e-9);
    const tell = (place) => {
      const norm = short(normOf(codes, place, extent));
      const times = counts[place] ? `chosen ${plural(counts[place], "time")}` : "unused";
      return codeTip([`code ${shown[place]}`, `norm ${norm}`, times]);
    };
    const points = {
      kind: "points",
      rows: rowsOf(codes, extent),
      size: shown.length > 1000 ? 2.4 : 3.4,
      colors: usageColors(counts, ends, this.theme),
      hollow: Array.from(counts, (count) => count === 0),
      tell,
    };
    const ball = { kind: "ball", radius, color: this.theme.orange };
    this.sphere.show(radius <= this.sphere.reach ? [points, ball] : [points]);
    this.sphere.describe(`The codes on the sphere. ${title}.`);
    const times = `${whole(ends[1])} ${counted}`;
    this.legend.replaceChildren(usageLegend("1", times, Number.isFinite(radius)));
  }

  drawPanel(chart, title, { y, lines }, values) {
    const { data } = this.host;
    const drawn = Object.entries(lines).map(([column, [, color]]) => {
      return { color: this.theme[color], ...pairs(data[column]) };
    });
    if (title === "schedules") drawn.push(...this.ahead(values));
    const range = title === "codes" ? { range: [0, 1.04 * data.total] } : y;
    chart.show({ x: { label: "step", range: [0, data.steps] }, y: range, lines: drawn });
    chart.describe(`${title} over the steps of training.`);
  }

  /** What the schedules will do, under the settings as they are here, also before Python knows. */
  ahead({ growth, weight }) {
    const { data, theme } = this.host;
    const radii = pairs(data.radius_ahead);
    const weights = pairs(data.weight_ahead);
    const faster = (growth ?? 0) - data.growth_then;
    radii.y = radii.y.map((radius, place) => {
      return radius * boundedExp(faster * (radii.x[place] - data.step));
    });
    weights.y = weights.y.map((value) => (weight ?? 1) * value);
    return [
      { color: theme.blue, dash: AHEAD, ...radii },
      { color: theme.vermillion, dash: AHEAD, ...weights },
    ];
  }

  drawNorms() {
    const { codes, extent, shown, total, ball: [radius] } = this.host.data;
    const norms = Array.from(shown, (_, place) => normOf(codes, place, extent));
    norms.sort((a, b) => b - a);
    const ends = [1, Math.max(2, total)];
    const x = norms.map((_, place) => 1 + (place * (total - 1)) / Math.max(1, norms.length - 1));
    const lines = [{ color: this.theme.blue, width: 3, x, y: norms }];
    if (radius <= 2 * norms[0]) {
      lines.push({ color: this.theme.orange, dash: [6, 4], x: ends, y: [radius, radius] });
    }
    this.norms.show({ x: { label: "codes", range: ends }, y: {}, lines });
    const between = `from ${short(norms.at(-1))} to ${short(norms[0])}`;
    this.norms.describe(`Norms of the codes, ${between}.`);
  }

  drawTiles() {
    const { tiles: pixels, tiles_width: width, tiles_height: height } = this.host.data;
    const drawn = drawnPatch({ pixels, width, height });
    drawn.setAttribute("role", "img");
    drawn.setAttribute("aria-label", "validation images and their reconstructions");
    this.tiles.replaceChildren(drawn);
  }

  destroy() {
    for (const picture of [this.sphere, this.norms, ...this.charts]) picture.destroy();
  }
}

function append(el, kind, name = "") {
  const element = document.createElement(kind);
  element.className = name;
  return el.appendChild(element);
}

/** Steps and values, which come one after the other. */
function pairs(numbers) {
  const half = numbers.length / 2;
  return { x: numbers.subarray(0, half), y: numbers.subarray(half) };
}
