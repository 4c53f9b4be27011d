/** Sliders, menus, boxes and buttons: the browser's own, with names, units and values. */

/**
 * Controls of settings, in one grid.
 *
 * @param el where they go.
 * @param specs for each setting { name, label, kind, min, max, step, log, options }, in order. The
 *   kinds are "number", "whole", "stops" (a slider over options), "choice" and "flag".
 * @param change called with the name and the new value of a setting.
 */
export class Controls {
  constructor(el, specs, change) {
    this.controls = new Map();
    const grid = document.createElement("div");
    grid.className = "arcvq-controls";
    for (const spec of specs) {
      const control = CONTROLS[spec.kind](spec, (value) => change(spec.name, value));
      control.element.classList.add(`arcvq-${spec.name.replaceAll("_", "-")}`);
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
  number: (spec, change) => slider(spec, change, (value) => value),
  whole: (spec, change) => slider(spec, change, Math.round),
  stops,
  choice: menu,
  flag: box,
};

/** A range input and its value beside it. On a log slider each stop is 1 % of the way. */
function slider(spec, change, round) {
  const { label, step = 0.01, log = false, words = inDigits } = spec;
  let { min, max } = spec;
  const input = document.createElement("input");
  input.type = "range";
  const place = log ? Math.log10 : (value) => value;
  const back = log ? (at) => +(10 ** at).toPrecision(3) : (at) => +at.toPrecision(6);
  input.min = place(min);
  input.max = place(max);
  input.step = log ? (place(max) - place(min)) / 100 : step;
  const output = document.createElement("output");
  const tell = (value) => {
    output.textContent = words(value);
    input.setAttribute("aria-valuetext", output.textContent);
  };
  input.addEventListener("input", () => {
    const value = Math.min(Math.max(round(back(+input.value)), min), max);
    tell(value);
    change(value);
  });
  const show = (value) => {
    if (document.activeElement !== input || back(+input.value) !== value) input.value = place(value);
    tell(value);
  };
  const limit = (end) => {
    max = end;
    input.max = place(end);
  };
  return { element: labelled(label, input, output), show, limit };
}

/** A slider over some values, however far apart they are. */
function stops({ label, options }, change) {
  const words = (place) => options[place].toLocaleString("en-US");
  const spec = { label, min: 0, max: options.length - 1, step: 1, words };
  const control = slider(spec, (place) => change(options[place]), Math.round);
  return { ...control, show: (value) => control.show(options.indexOf(value)) };
}

function inDigits(value) {
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

/** A row of buttons: { name: action }. */
export function buttons(el, actions) {
  const row = document.createElement("div");
  row.className = "arcvq-buttons";
  for (const [name, action] of Object.entries(actions)) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = `arcvq-${name.replaceAll(" ", "-")}`;
    button.textContent = name;
    button.addEventListener("click", () => action(button));
    row.append(button);
  }
  el.append(row);
  return row;
}

/** Copy text to the clipboard, or show it where the browser forbids that. */
export async function copy(text, button) {
  const name = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "copied";
  } catch {
    window.prompt("Copy the settings:", text);
  }
  setTimeout(() => {
    button.textContent = name;
  }, 1500);
}
