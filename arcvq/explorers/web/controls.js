/** Sliders, menus, boxes and buttons: the browser's own, with names, units and values. */
import { whole } from "./wording.js";

/**
 * Controls of settings, in one grid.
 *
 * @param el where they go.
 * @param specs for each setting { name, label, unit, kind, min, max, step, log, options }, in
 *   order. The kinds are "number", "whole", "stops" (a slider over options), "choice" and "flag".
 * @param change called with the name and the new value of a setting.
 */
export class Controls {
  constructor(el, specs, change) {
    this.controls = new Map();
    const grid = document.createElement("div");
    grid.className = "arcvq-controls";
    for (const spec of specs) {
      if (spec.kind === "text") continue;
      const control = CONTROLS[spec.kind](spec, (value) => change(spec.name, value));
      control.element.classList.add(className(spec.name));
      this.controls.set(spec.name, control);
      grid.append(control.element);
    }
    el.append(grid);
  }

  /** End a slider at another value. */
  limit(name, max) {
    this.controls.get(name).limit(max);
  }

  /** Show these values, without telling of a change. */
  show(values) {
    for (const [name, control] of this.controls) {
      if (name in values) control.show(values[name]);
    }
  }
}

const CONTROLS = {
  number: (spec, change) => (spec.log ? stops(logStops(spec), change) : steps(spec, change)),
  whole: (spec, change) => (spec.log ? stops(logStops(spec), change) : steps(spec, change)),
  stops,
  choice: menu,
  flag: box,
};
// What a decade of a log slider stops at: round numbers, some 3 to 10 % apart.
const MANTISSAS = [
  1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.8, 2, 2.2, 2.4, 2.6, 2.8, 3, 3.3, 3.6, 4, 4.5, 5, 5.5, 6, 6.5,
  7, 7.5, 8, 8.5, 9, 9.5,
];

/** A slider with even steps. */
function steps({ min, max, step = 1, ...spec }, change) {
  const valueAt = (position) => Math.min(+position.toPrecision(6), max);
  return slider(spec, { min, max, step, valueAt, positionOf: (value) => value }, change);
}

/** A slider over some values, however far apart they are. */
function stops({ options, ...spec }, change) {
  const positionOf = (value) => {
    const distances = options.map((option) => Math.abs(option - value));
    return distances.indexOf(Math.min(...distances));
  };
  const valueAt = (position) => options[position];
  const scale = { min: 0, max: options.length - 1, step: 1, valueAt, positionOf };
  return slider(spec, scale, change);
}

/** The settings of a log slider as `stops` takes them. */
function logStops({ min, max, least = min, kind, ...spec }) {
  const found = [min, max];
  for (let power = Math.floor(Math.log10(least)); power <= Math.log10(max); power++) {
    for (const mantissa of MANTISSAS) {
      const value = Number(`${mantissa}e${power}`);
      const isPossible = kind === "number" || Number.isInteger(value);
      if (isPossible && value >= least && value > min && value < max) found.push(value);
    }
  }
  return { ...spec, options: found.sort((a, b) => a - b) };
}

/** A range input with its value, which may lie between two stops of the input. */
function slider({ label, unit = "" }, { min, max, step, valueAt, positionOf }, change) {
  const input = document.createElement("input");
  Object.assign(input, { type: "range", min, max, step });
  input.setAttribute("aria-label", label);
  const output = document.createElement("output");
  const tell = (value) => {
    output.textContent = inWords(value) + (unit && ` ${unit}`);
    input.setAttribute("aria-valuetext", output.textContent);
  };
  input.addEventListener("input", () => {
    const value = valueAt(+input.value);
    tell(value);
    change(value);
  });
  const show = (value) => {
    input.value = positionOf(value);
    tell(value);
  };
  const limit = (end) => {
    input.max = positionOf(end);
  };
  return { element: labelled(label, output, input), show, limit };
}

/** Four digits of a number, all of a whole one. */
function inWords(value) {
  if (Number.isInteger(value)) return whole(value);
  return String(+value.toPrecision(4));
}

function menu({ label, options }, change) {
  const select = document.createElement("select");
  for (const option of options) select.add(new Option(option, option));
  select.addEventListener("change", () => change(select.value));
  const show = (value) => {
    select.value = value;
  };
  return { element: labelled(label, select), show };
}

function box({ label }, change) {
  const input = document.createElement("input");
  input.type = "checkbox";
  input.addEventListener("change", () => change(input.checked));
  const show = (value) => {
    input.checked = value;
  };
  return { element: labelled(label, input), show };
}

function labelled(label, ...parts) {
  const element = document.createElement("label");
  const name = document.createElement("span");
  name.textContent = label;
  element.append(name, ...parts);
  return element;
}

/**
 * What stands above the pictures of every explorer: presets, settings and buttons.
 *
 * Its buttons are those of the explorer, "reset", "copy as code" and, on a page, "copy link".
 */
export class Toolbar {
  /**
   * @param el where it goes.
   * @param host as for `widget`.
   * @param actions functions by the names of the explorer's own buttons.
   * @param code the present settings as a line of Python; without it, `host.code`.
   */
  constructor(el, host, actions = {}, code = host.code) {
    this.presets = new Presets(el, host);
    this.controls = new Controls(el, host.specs, host.set);
    const shared = {
      reset: host.reset,
      "copy as code": (button) => copy(code(), button),
    };
    if (host.link) shared["copy link"] = (button) => copy(host.link(), button);
    this.buttons = buttons(el, { ...actions, ...shared });
    this.show(host.values);
  }

  /** Show these values, without telling of a change. */
  show(values) {
    this.controls.show(values);
    this.presets.show(values);
  }

  /** End a slider at another value. */
  limit(name, max) {
    this.controls.limit(name, max);
  }

  /** The button of this name. */
  button(name) {
    return this.buttons.querySelector(`.${className(name)}`);
  }
}

/** A button for each preset, and the sentence of the one that is chosen. */
class Presets {
  constructor(el, host) {
    this.presets = host.presets;
    this.start = host.start;
    if (!this.presets.length) return;
    const choose = ({ settings }) => {
      host.setAll({ ...host.start, ...settings });
      host.restart?.();
    };
    const actions = this.presets.map((preset) => [preset.name, () => choose(preset)]);
    this.row = buttons(el, Object.fromEntries(actions), "arcvq-presets");
    this.row.setAttribute("role", "group");
    this.row.setAttribute("aria-label", "presets");
    this.sentence = document.createElement("p");
    this.sentence.className = "arcvq-sentence";
    this.sentence.setAttribute("aria-live", "polite");
    el.append(this.sentence);
  }

  show(values) {
    if (!this.presets.length) return;
    const isChosen = ({ settings }) => {
      return Object.keys(values).every((name) => {
        return values[name] === (name in settings ? settings : this.start)[name];
      });
    };
    const chosen = this.presets.findIndex(isChosen);
    [...this.row.children].forEach((button, place) => {
      button.setAttribute("aria-pressed", place === chosen);
    });
    const words = this.presets[chosen]?.sentence ?? "Choose a preset, or move a slider.";
    if (this.sentence.textContent !== words) this.sentence.textContent = words;
  }
}

/** Keys belong to the control with the focus and not to the notebook, but those with Ctrl or Cmd. */
export function keepKeys(el) {
  // JupyterLab takes the keys that rise to it. Notebook 7 takes them on their way down, except for
  // an element with this attribute; the Ctrl key comes before the one that is pressed with it.
  const keep = ({ target, ctrlKey, metaKey }) => {
    target.toggleAttribute("data-lm-suppress-shortcuts", !ctrlKey && !metaKey);
  };
  el.addEventListener("focusin", keep);
  el.addEventListener("keyup", keep);
  el.addEventListener("keydown", (event) => {
    keep(event);
    if (!event.ctrlKey && !event.metaKey) event.stopPropagation();
  });
}

/** A row of buttons: { name: action }. */
export function buttons(el, actions, kind = "arcvq-buttons") {
  const row = document.createElement("div");
  row.className = kind;
  for (const [name, action] of Object.entries(actions)) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = className(name);
    button.textContent = name;
    button.addEventListener("click", () => action(button));
    row.append(button);
  }
  el.append(row);
  return row;
}

/** The class by which styles and tests find a control or a button. */
function className(name) {
  return `arcvq-${name.toLowerCase().replaceAll(/[^a-z0-9]+/g, "-")}`;
}

/** Copy text to the clipboard, or show it where the browser forbids that. */
export async function copy(text, button) {
  const name = (button.dataset.name ??= button.textContent); // also while it says "copied"
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "copied";
  } catch {
    window.prompt(`${name}:`, text);
  }
  setTimeout(() => {
    button.textContent = name;
  }, 1500);
}
