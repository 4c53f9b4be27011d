/** A plotly figure of the kernel in a notebook, and what its controls lack: names, a copy. */
import { shadesFor } from "./codes.js";
import { copy, keepKeys } from "./controls.js";
import { nameControls } from "./names.js";
import { watchTheme } from "./theme.js";

const ARRAYS = {
  int8: Int8Array,
  int16: Int16Array,
  int32: Int32Array,
  uint8: Uint8Array,
  uint16: Uint16Array,
  uint32: Uint32Array,
  float32: Float32Array,
  float64: Float64Array,
};
// A scale of figures on paper ("Viridis_r"), whose last color would be lost on a dark ground.
const SCALE = [
  "#fde725", "#b5de2b", "#6ece58", "#35b779", "#1f9e89",
  "#26828e", "#31688e", "#3e4989", "#482878", "#440154",
];
const NARROWEST = 0.6; // a narrow page shrinks a figure to this; below, it scrolls sideways
const LOWEST = 0.75; // a low page to this, so that the figure is in view with its controls
const BARS = 130; // pixels of JupyterLab above and below a notebook
const GONE = "The kernel behind this explorer is gone: run the cell again.";
const PAUSE = 1500; // milliseconds without a change after which the still is made

/**
 * Show a figure.
 *
 * Of anywidget's own model only its start is used: where the page is busy for two seconds while it
 * begins, anywidget drops all that the kernel sends to it later. What moves is in models of the
 * notebook's own kind, to which these references lead.
 */
export async function render({ model, el }) {
  const find = (name) => model.widget_manager.get_model(model.get(name).slice("IPY_MODEL_".length));
  const figure = await find("figure");
  const script = await find("script");
  const Plotly = await load(script.get("source"));
  await isIn(el);
  const root = el.closest(".arcvq-explorer") ?? el;
  const view = new FigureView(el, root, figure, Plotly);
  const stopNaming = nameControls(root);
  keepKeys(root);
  const button = await find("copy_button");
  const onClick = ({ target }) => {
    const pressed = target.closest(".arcvq-copy-as-code");
    if (pressed) copy(button.get("code"), pressed);
  };
  root.addEventListener("click", onClick);
  return () => {
    root.removeEventListener("click", onClick);
    stopNaming();
    view.destroy();
  };
}

/** plotly.js, which a page runs once for all its figures. */
function load(source) {
  globalThis.arcvqPlotly ??= (async () => {
    const module = `const module = { exports: {} };\n${source}\nexport default module.exports;`;
    const url = URL.createObjectURL(new Blob([module], { type: "text/javascript" }));
    const { default: Plotly } = await import(url);
    URL.revokeObjectURL(url);
    return Plotly;
  })();
  return globalThis.arcvqPlotly;
}

/** Resolves once the element is in the page. */
async function isIn(el) {
  while (!el.isConnected) await new Promise((resolve) => setTimeout(resolve, 20));
}

class FigureView {
  constructor(el, root, figure, Plotly) {
    this.el = el;
    this.root = root;
    this.figure = figure;
    this.Plotly = Plotly;
    this.gone = document.createElement("p");
    this.gone.className = "arcvq-note";
    this.gone.setAttribute("role", "status");
    this.plot = document.createElement("div");
    this.plot.setAttribute("role", "figure");
    this.style = document.createElement("style");
    el.append(this.style, this.gone, this.plot);
    this.theme = watchTheme(root, () => this.renew());
    this.draw();
    this.listen();
    this.tellWhetherGone();
    // A change that came before this view is in no message to it.
    if (this.hasChanged()) this.renew();
  }

  hasChanged() {
    return this.figure.get("_last_layout_edit_id") > 0;
  }

  /** Draw all as it is now, which Python knows: the model in the browser is as at the start. */
  renew() {
    if (this.hasChanged() && this.figure.comm_live) this.figure.send("whole");
    else this.draw();
  }

  /** Draw all as in the model; what the reader turned, zoomed or hid stays. */
  draw() {
    const layout = this.decoded("_widget_layout");
    layout.height ??= 360;
    this.Plotly.react(this.plot, this.decoded("_widget_data"), layout, this.decoded("_config"));
  }

  listen() {
    const { figure, plot, Plotly } = this;
    const onMessage = (name, take) => {
      this.on(`change:${name}`, () => {
        const message = this.decoded(name);
        if (message) take(message);
      });
    };
    this.kept = [];
    this.on("msg:custom", async () => {
      await figure.state_change; // the whole came with the message before
      this.draw();
    });
    this.on("change:still_name", () => this.afterPlot());
    this.on("comm_live_update", () => this.tellWhetherGone());
    onMessage("_py2js_restyle", (part) => {
      Plotly.restyle(plot, part.restyle_data, part.restyle_traces);
    });
    onMessage("_py2js_relayout", (part) => Plotly.relayout(plot, part.relayout_data));
    onMessage("_py2js_update", (part) => {
      Plotly.update(plot, part.style_data ?? {}, part.layout_data ?? {}, part.style_traces);
    });
    for (const name of ["_py2js_addTraces", "_py2js_deleteTraces", "_py2js_moveTraces"]) {
      onMessage(name, () => this.renew());
    }
    for (const name of ["plotly_click", "plotly_hover", "plotly_unhover"]) {
      plot.on(name, (event) => this.tellPoints(name, event));
    }
    plot.on("plotly_afterplot", () => this.afterPlot());
    this.onResize = () => this.fit();
    this.resizing = new ResizeObserver(this.onResize);
    this.resizing.observe(this.el);
    window.addEventListener("resize", this.onResize); // which may change the height alone
  }

  on(event, handler) {
    this.figure.on(event, handler);
    this.kept.push([event, handler]);
  }

  /** A value of the figure's model, with its arrays and in the colors of the page. */
  decoded(name) {
    return decoded(this.figure.get(name), colorsOn(this.theme));
  }

  afterPlot() {
    const { title, meta } = this.plot.layout;
    const words = [title?.text, meta?.summary]
      .filter(Boolean)
      .join(". ")
      .replace(/([?!.])\. /, "$1 "); // a question keeps its mark alone
    this.plot.setAttribute("aria-label", words.replace(/<[^>]+>/g, " "));
    const name = this.figure.get("still_name");
    if (!name) return;
    this.style.textContent = `[data-arcvq-still="${name}"] { display: none; }`;
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => this.sendStill(words), PAUSE);
  }

  /** Shrink a figure that is wider than its place, or too high to be seen with its controls. */
  fit() {
    const { width, height } = this.plot.layout;
    if (!width) {
      this.Plotly.Plots.resize(this.plot);
      return;
    }
    const controls = this.root.offsetHeight - this.el.offsetHeight;
    const room = (window.innerHeight - BARS - controls) / height;
    const across = Math.max(NARROWEST, this.el.clientWidth / width);
    const scale = Math.min(1, across, Math.max(LOWEST, room));
    this.plot.style.transform = scale < 1 ? `scale(${scale})` : "";
    this.plot.style.height = `${scale * height}px`;
  }

  async sendStill(words) {
    const { width, height } = this.plot._fullLayout;
    const size = { width, height, scale: 2 };
    const url = await this.Plotly.toImage(this.plot, { format: "png", ...size });
    if (this.figure.comm_live) this.figure.send({ still: { url, words, width } });
  }

  tellPoints(kind, { points, event }) {
    const { altKey, ctrlKey, metaKey, shiftKey, button, buttons } = event ?? {};
    this.figure.set("_js2py_pointsCallback", {
      event_type: kind,
      points: {
        trace_indexes: points.map((point) => point.curveNumber),
        point_indexes: points.map((point) => point.pointNumber),
        xs: points.map((point) => point.x),
        ys: points.map((point) => point.y),
      },
      device_state: { alt: altKey, ctrl: ctrlKey, meta: metaKey, shift: shiftKey, button, buttons },
      selector: null,
    });
    this.figure.save_changes();
  }

  tellWhetherGone() {
    const isGone = !this.figure.comm_live;
    this.gone.textContent = isGone ? GONE : "";
    this.plot.style.opacity = isGone ? 0.4 : "";
  }

  destroy() {
    for (const [event, handler] of this.kept) this.figure.off(event, handler);
    this.resizing.disconnect();
    window.removeEventListener("resize", this.onResize);
    this.theme.stop();
    clearTimeout(this.waiting);
    this.Plotly.purge(this.plot);
  }
}

/** What the colors of a figure on paper become on the ground of this page. */
function colorsOn({ isDark, ground, text, soft, grid, plain }) {
  if (!isDark) return new Map();
  const shades = shadesFor({ isDark }, SCALE.length);
  return new Map([
    ...SCALE.map((color, place) => [color, shades[place]]),
    ["#FCFCFA", ground],
    ["#222222", text],
    ["#6E6E6E", soft],
    ["#E4E4E0", grid],
    ["#000000", plain],
    ["#ECECE8", "#2C2C2C"], // a token to come
    ["#C9C9C4", "#5C5C5C"], // a token that was given
    ["#B9B9B4", "#5C5C5C"], // a code that cannot come
  ]);
}

/** A value as plotly takes it: bytes become arrays of numbers, colors those of the page. */
function decoded(value, colors) {
  if (value === "_undefined_") return undefined;
  if (typeof value === "string") return colors.get(value) ?? value;
  if (Array.isArray(value)) return value.map((item) => decoded(item, colors));
  if (value === null || typeof value !== "object") return value;
  const bytes = value.buffer ?? value.value;
  if (bytes instanceof DataView) {
    const { buffer, byteOffset, byteLength } = bytes;
    return new ARRAYS[value.dtype](buffer.slice(byteOffset, byteOffset + byteLength));
  }
  const entries = Object.entries(value);
  return Object.fromEntries(entries.map(([name, item]) => [name, decoded(item, colors)]));
}
