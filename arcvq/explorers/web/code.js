/** Settings as a line of Python. */

/**
 * Write the values into a template.
 *
 * @param template Python with {name} in place of each setting.
 * @param specs as for `Controls`.
 * @param values by name.
 */
export function filledIn(template, specs, values) {
  const kinds = Object.fromEntries(specs.map(({ name, kind }) => [name, kind]));
  return template.replace(/\{(\w+)\}/g, (_, name) => inPython(values[name], kinds[name]));
}

function inPython(value, kind) {
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "string") return `'${value}'`;
  return kind === "number" && Number.isInteger(value) ? value.toFixed(1) : String(value);
}
