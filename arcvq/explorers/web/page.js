/** How an explorer lives on a page without a kernel: its settings are kept here. */

/**
 * Draw an explorer and answer its settings.
 *
 * @param mount as for `widget`.
 * @param el where it goes.
 * @param state specs, values, data (arrays as their type and base64), and code, a line of
 *   Python with {name} in place of each setting.
 */
export function page(mount, el, { specs, values, data, code }) {
  const start = { ...values };
  const set = (name, value) => {
    values[name] = value;
    view.update(values);
  };
  const host = {
    specs,
    values,
    data: Object.fromEntries(Object.entries(data).map(([name, value]) => [name, decoded(value)])),
    set,
    code: () => code.replace(/\{(\w+)\}/g, (_, name) => inPython(values[name])),
    reset: () => view.update(Object.assign(values, start)),
  };
  const view = mount(el, host);
  return view;
}

function decoded(value) {
  if (!value?.array) return value;
  const bytes = Uint8Array.from(atob(value.bytes), (letter) => letter.charCodeAt(0));
  return new globalThis[value.array](bytes.buffer);
}

function inPython(value) {
  if (typeof value === "boolean") return value ? "True" : "False";
  return typeof value === "string" ? `'${value}'` : String(value);
}
