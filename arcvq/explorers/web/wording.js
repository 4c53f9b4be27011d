/** Numbers in words and captions. */

/** Three digits, without exponents for what is neither very large nor very small. */
export function short(value) {
  return String(+value.toPrecision(3));
}
