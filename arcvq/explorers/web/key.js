/** What the colors of a picture mean, as a list below it. */

/**
 * @param el where it goes.
 * @param entries of { name, color, mark }, gray without a color; the marks are "dot" (the
 *   usual one), "ring", "line", "dashed".
 */
export function key(el, entries) {
  const list = document.createElement("ul");
  list.className = "arcvq-key";
  for (const { name, color = "var(--arcvq-soft)", mark = "dot" } of entries) {
    const entry = document.createElement("li");
    const sign = document.createElement("span");
    sign.className = `arcvq-mark arcvq-mark-${mark}`;
    sign.style.color = color;
    entry.append(sign, name);
    list.append(entry);
  }
  el.append(list);
  return list;
}
