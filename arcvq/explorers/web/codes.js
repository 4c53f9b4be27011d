/** Codes as Python packs them (drawn_codes.py), and what a sphere shows of each. */
const MOST = 65535;
const FLOOR = 1e-6; // of the longest norm; a code below it lies at the center
const SHADES = 32;
const PAPER = [252, 252, 250]; // between images that Python has laid out
// Viridis without the end that is lost on the ground; the most used code stands out most. (In
// style.css as .arcvq-usage-bar.)
const ON_LIGHT = ["#5ec962", "#21918c", "#31688e", "#443983", "#440154"];
const ON_DARK = ["#3b7fa3", "#21918c", "#35b779", "#90d743", "#fde725"];

/** Rows of three coordinates, from azimuth, elevation and the logarithm of the norm. */
export function rowsOf(packed, extent) {
  const rows = new Float64Array(packed.length);
  for (let at = 0; at < packed.length; at += 3) {
    const turn = 2 * Math.PI * (packed[at] / MOST - 0.5);
    const tilt = Math.PI * (packed[at + 1] / MOST - 0.5);
    const norm = normAt(packed, at, extent);
    rows[at] = norm * Math.cos(tilt) * Math.cos(turn);
    rows[at + 1] = norm * Math.cos(tilt) * Math.sin(turn);
    rows[at + 2] = norm * Math.sin(tilt);
  }
  return rows;
}

/** The norm of a code. */
export function normOf(packed, code, extent) {
  return normAt(packed, 3 * code, extent);
}

function normAt(packed, at, extent) {
  const height = packed[at + 2];
  return height ? extent * FLOOR ** (1 - height / MOST) : 0;
}

/** Colors by the logarithm of how much each code is used, from `low` to `high`; unused: gray. */
export function usageColors(uses, [low, high], theme) {
  const shades = shadesFor(theme);
  const span = Math.log(high / low);
  return Array.from(uses, (use) => {
    if (!use) return theme.soft;
    return shades[Math.round(((SHADES - 1) * Math.log(use / low)) / span)];
  });
}

/** The powers of ten around two numbers, not the same one. */
export function decadesAround(least, most) {
  const high = 10 ** Math.ceil(Math.log10(most) - 1e-9);
  const low = 10 ** Math.floor(Math.log10(least) + 1e-9);
  return [Math.min(low, high / 10), high];
}

/**
 * A line that says what points and circles on the sphere are.
 *
 * @param least how much the least used code is used, in words.
 * @param most the same of the most used one, and of what, as "10 times in 8 images".
 * @param hasBall whether a ball is drawn.
 */
export function usageLegend(least, most, hasBall) {
  const legend = document.createElement("p");
  legend.className = "arcvq-usage-legend";
  legend.append(entry(`code chosen ${least} `, sign("arcvq-usage-bar"), ` ${most}`));
  legend.append(entry(sign("arcvq-ring"), " unused"));
  if (hasBall) legend.append(entry(sign("arcvq-dashes"), " ball of radius M(t)"));
  return legend;
}

/** The name of a line behind a piece of it. */
export function lineEntry(name, color, isDashed = false) {
  const element = entry(name);
  element.className = `arcvq-entry${isDashed ? " arcvq-dashed" : ""}`;
  element.style.setProperty("--line", color);
  return element;
}

function entry(...parts) {
  const element = document.createElement("span");
  element.append(...parts);
  return element;
}

function sign(name) {
  const element = document.createElement("i");
  element.className = name;
  return element;
}

/**
 * What the tip of a code says, with its decoded patch if there is one.
 *
 * @param lines of text.
 * @param patch { pixels, side }, pixels flat, gray or RGB.
 */
export function codeTip(lines, patch) {
  const tip = document.createElement("div");
  tip.className = "arcvq-code-tip";
  if (patch?.pixels.length) tip.append(drawnPatch(patch));
  const words = tip.appendChild(document.createElement("div"));
  for (const line of lines) words.appendChild(document.createElement("div")).textContent = line;
  return tip;
}

/** A canvas with an image from flat pixels, gray or RGB; paper is transparent. */
export function drawnPatch({ pixels, side, width = side, height = side }) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  canvas.className = "arcvq-patch";
  const channels = pixels.length / (width * height);
  const image = new ImageData(width, height);
  for (let at = 0; at < width * height; at++) {
    for (let c = 0; c < 3; c++) image.data[4 * at + c] = pixels[channels * at + (c % channels)];
    const isPaper = PAPER.every((value, c) => image.data[4 * at + c] === value);
    image.data[4 * at + 3] = isPaper ? 0 : 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

/** The colors from the least used code to the most used one. */
export function shadesFor(theme, count = SHADES) {
  const stops = (theme.isDark ? ON_DARK : ON_LIGHT).map(channelsOf);
  return Array.from({ length: count }, (_, shade) => {
    const place = ((stops.length - 1) * shade) / (count - 1);
    const below = Math.min(Math.floor(place), stops.length - 2);
    const mixed = stops[below].map((channel, c) => {
      return Math.round(channel + (place - below) * (stops[below + 1][c] - channel));
    });
    return `rgb(${mixed.join(" ")})`;
  });
}

function channelsOf(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}
