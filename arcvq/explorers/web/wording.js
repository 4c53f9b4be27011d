/** Numbers in words and captions. */
import { DEGREES } from "./math.js";

/** Three digits, with an exponent only where a number is very large or very small. */
export function short(value) {
  if (!Number.isFinite(value)) return "unknown";
  const rounded = +value.toPrecision(3);
  return isLong(rounded) ? whole(rounded) : String(rounded);
}

/** Up to eight digits, at most three of them behind the point. */
export function inFull(value) {
  if (value >= 1e9) return value.toExponential(1);
  return (+value.toPrecision(8)).toLocaleString("en-US", { maximumFractionDigits: 3 });
}

/** A whole number. */
export function whole(count) {
  return count.toLocaleString("en-US");
}

/** A number of things: "1 latent", "1,200 latents". */
export function plural(count, word, ending = "s") {
  return `${whole(count)} ${word}${count === 1 ? "" : ending}`;
}

/** An angle in radians. */
export function degrees(angle) {
  return `${(angle * DEGREES).toFixed(1)}°`;
}

function isLong(value) {
  const size = Math.abs(value);
  return size >= 1000 && size < 1e9;
}
