/**
 * Lines over an axis with numbers, on a canvas.
 *
 * What is drawn is a plain object:
 *
 *   { title, x: { label, range }, y: { range, log }, lines, dots, cursor, hasLegend }
 *
 * Lines are { name, color, dash, x, y }, dots { x, y, color, size }, and `cursor` is a place on the
 * x-axis. A range that is left out holds all finite values; y then starts at 0.
 */
import { Picture, disc } from "./canvas.js";

const MARGIN = { left: 52, right: 22, top: 36, bottom: 38 };
const NO_TITLE = 8; // the margin there
const NO_LABEL = 20;
const LEAST_HEIGHT = 170; // below it, title and axis leave no room for the lines
const SIGN = 18; // length of a line in the legend, with 6 beside it and 14 to the next

export class Chart extends Picture {
  constructor(el, theme, aspect = 0.62, leastHeight = LEAST_HEIGHT) {
    super(el, aspect, (pen, width, height) => this.paintChart(pen, width, height));
    this.theme = theme;
    this.leastHeight = leastHeight;
    this.content = null;
  }

  show(content) {
    this.content = content;
    this.redraw();
  }

  heightFor(width) {
    return Math.max(super.heightFor(width), this.leastHeight);
  }

  paintChart(pen, width, height) {
    if (!this.content) return;
    const { title = "", x, y, lines = [], dots = [], cursor, hasLegend = true } = this.content;
    const [left, right] = [MARGIN.left, width - MARGIN.right];
    const [top, bottom] = [title ? MARGIN.top : NO_TITLE, height - bottomOf(x)];
    const across = scale(x.range ?? rangeOf(lists(lines, dots, "x")), left, right);
    const up = scale(y.range ?? usualRange(lists(lines, dots, "y"), y.log), bottom, top, y.log);
    this.paintAxes(pen, x, y, across, up, width, height);
    this.text(title, MARGIN.left, 14, { weight: 600 });
    if (hasLegend) this.paintLegend(pen, title, lines, width);
    pen.save();
    pen.beginPath();
    pen.rect(left - 2, top - 4, right - left + 4, bottom - top + 8);
    pen.clip();
    for (const line of lines) paintLine(pen, line, across, up);
    if (cursor !== undefined) paintCursor(pen, across(cursor), top, bottom, this.theme);
    for (const { x: at, y: value, color, size = 4 } of dots) {
      disc(pen, across(at), up(value), size);
      pen.fillStyle = color;
      pen.fill();
    }
    pen.restore();
  }

  paintAxes(pen, x, y, across, up, width, height) {
    const [bottom, right] = [height - bottomOf(x), width - MARGIN.right];
    pen.strokeStyle = this.theme.grid;
    pen.lineWidth = 1;
    pen.beginPath();
    for (const tick of ticks(across.range, 5)) {
      this.text(tickText(tick), across(tick), bottom + 14, { align: "center", soft: true });
    }
    for (const tick of y.log ? powers(up.range) : ticks(up.range, 4)) {
      pen.moveTo(MARGIN.left, up(tick));
      pen.lineTo(right, up(tick));
      this.text(tickText(tick), MARGIN.left - 6, up(tick) + 4, { align: "right", soft: true });
    }
    pen.moveTo(MARGIN.left, bottom);
    pen.lineTo(right, bottom);
    pen.stroke();
    this.text(x.label, (MARGIN.left + right) / 2, height - 6, { align: "center", soft: true });
  }

  /** Names of the lines, in their colors: beside the title, or below it where that is too long. */
  paintLegend(pen, title, lines, width) {
    const named = lines.filter(({ name }) => name);
    const titleEnd = MARGIN.left + pen.measureText(title).width;
    pen.font = this.font(400);
    const lengths = named.map(({ name }) => SIGN + 6 + pen.measureText(name).width + 14);
    const start = width - MARGIN.right + 14 - lengths.reduce((sum, length) => sum + length, 0);
    const y = titleEnd + 14 < start ? 14 : 28;
    let x = Math.max(4, start);
    named.forEach(({ name, color, dash = [] }, place) => {
      pen.strokeStyle = color;
      pen.lineWidth = 2.5;
      pen.setLineDash(dash);
      pen.beginPath();
      pen.moveTo(x, y - 4);
      pen.lineTo(x + SIGN, y - 4);
      pen.stroke();
      pen.setLineDash([]);
      this.text(name, x + SIGN + 6, y);
      x += lengths[place];
    });
  }

  text(words, x, y, { align = "left", weight = 400, soft = false } = {}) {
    this.pen.font = this.font(weight);
    this.pen.textAlign = align;
    this.pen.fillStyle = soft ? this.theme.soft : this.theme.text;
    this.pen.fillText(words, x, y);
  }

  font(weight) {
    return `${weight} 12px ${this.theme.font}`;
  }
}

/** The margin below the axis. */
function bottomOf({ label }) {
  return label ? MARGIN.bottom : NO_LABEL;
}

function lists(lines, dots, axis) {
  return [...lines.map((line) => line[axis]), dots.map((dot) => dot[axis])];
}

/** The smallest and the largest finite number, a little apart. */
function rangeOf(columns, isLog = false) {
  let low = Infinity;
  let high = -Infinity;
  for (const column of columns) {
    for (const value of column) {
      if (!Number.isFinite(value) || (isLog && value <= 0)) continue;
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
  }
  if (low > high) return isLog ? [1, 10] : [0, 1];
  return low === high ? [low, low + 1] : [low, high];
}

/** From 0 to a little above the largest value; on a log axis from the smallest. */
function usualRange(columns, isLog) {
  const [low, high] = rangeOf(columns, isLog);
  return isLog ? [low, 2 * high] : [Math.min(0, low), 1.08 * high];
}

/** A function from values to pixels. */
function scale(range, start, end, isLog = false) {
  const place = isLog ? Math.log10 : (value) => value;
  const [low, high] = range.map(place);
  const toPixels = (value) => start + ((end - start) * (place(value) - low)) / (high - low || 1);
  toPixels.range = range;
  return toPixels;
}

/** About `count` round numbers within a range. */
function ticks([low, high], count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const found = [];
  const last = Math.floor(high / step + 1e-9);
  for (let tick = Math.ceil(low / step); tick <= last; tick++) found.push(tick * step);
  return found;
}

/** Powers of ten within a range, some five of them. */
function powers([low, high]) {
  const first = Math.ceil(Math.log10(low));
  const last = Math.floor(Math.log10(high));
  const apart = Math.max(1, Math.ceil((last - first) / 5));
  const found = [];
  for (let power = first; power <= last; power += apart) found.push(10 ** power);
  return found;
}

/** The number at a tick. */
export function tickText(number) {
  const rounded = +number.toPrecision(4);
  return Math.abs(number) >= 1e5 ? rounded.toExponential().replace("e+", "e") : String(rounded);
}

function paintLine(pen, { x, y, color, dash = [], width = 2 }, across, up) {
  pen.strokeStyle = color;
  pen.lineWidth = width;
  pen.setLineDash(dash);
  pen.lineCap = "round";
  pen.beginPath();
  let isDown = false;
  for (let i = 0; i < x.length; i++) {
    const isKnown = Number.isFinite(y[i]);
    if (isKnown && isDown) pen.lineTo(across(x[i]), up(y[i]));
    if (isKnown && !isDown) pen.moveTo(across(x[i]), up(y[i]));
    isDown = isKnown;
  }
  pen.stroke();
  pen.setLineDash([]);
}

function paintCursor(pen, x, top, bottom, theme) {
  pen.strokeStyle = theme.text;
  pen.lineWidth = 1;
  pen.setLineDash([2, 3]);
  pen.beginPath();
  pen.moveTo(x, top);
  pen.lineTo(x, bottom);
  pen.stroke();
  pen.setLineDash([]);
}
