/**
 * The settings of explorers in the address of their page: "#margin.scale=30&radius.step=12".
 *
 * Those of an explorer stand under its name; what is as at the start is left out.
 */

/** The settings of an explorer in an address; one that makes no sense is left out. */
export function readState(location, explorer, specs) {
  const found = {};
  for (const [name, words] of entries(location)) {
    const spec = specs.find((one) => name === `${explorer}.${one.name}`);
    const value = spec && VALUES[spec.kind](words, spec);
    if (value !== undefined) found[spec.name] = value;
  }
  return found;
}

/** The address with the settings of an explorer; those of others stay. */
export function writeState(location, explorer, start, values) {
  const others = entries(location).filter(([name]) => !name.startsWith(`${explorer}.`));
  const own = Object.entries(values).filter(([name, value]) => value !== start[name]);
  const all = [...others, ...own.map(([name, value]) => [`${explorer}.${name}`, value])];
  const hash = all.map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join("&");
  return `${location.href.split("#")[0]}#${hash}`;
}

const VALUES = {
  number,
  whole: (words, spec) => number(words, spec, Math.round),
  choice: option,
  stops: option,
  text: (words) => words,
  flag: (words) => ({ true: true, false: false })[words],
};

function number(words, { min, max }, round = (value) => value) {
  const value = Number(words);
  if (words.trim() === "" || Number.isNaN(value)) return undefined;
  return Math.min(Math.max(round(value), min), max);
}

function option(words, { options }) {
  return options.find((one) => String(one) === words);
}

/** Names and values after the "#"; an address that is no list of them, as "#method", has none. */
function entries(location) {
  const pairs = location.hash.slice(1).split("&").map((pair) => pair.split("="));
  return pairs.filter((pair) => pair.length === 2).map(([name, value]) => [name, decoded(value)]);
}

function decoded(value) {
  try {
    return decodeURIComponent(value);
  } catch {
    return ""; // cut short on its way
  }
}
