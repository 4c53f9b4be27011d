/** How an explorer lives on a page without a kernel: its settings are kept here. */
import { filledIn } from "./code.js";
import { keepKeys } from "./controls.js";
import { readState, writeState } from "./link.js";
import { mountOrTell } from "./mounting.js";
import { spare } from "./spare.js";
import { watchTheme } from "./theme.js";

const PAUSE = 250; // milliseconds without a change before the address follows

/**
 * Draw an explorer and answer its settings.
 *
 * @param mount as for `widget`.
 * @param el where it goes.
 * @param state specs, presets, values, data (arrays as their type and base64), template (of
 *   `filledIn`), and address, the explorer's name in the page's address, where its settings then
 *   stand; without one they stand nowhere. `isSpare` says that a notebook's widget comes first.
 */
export function page(mount, el, state) {
  if (state.isSpare) spare(el, () => draw(mount, el, state));
  else draw(mount, el, state);
}

function draw(mount, el, { specs, presets = [], values, data, template, address }) {
  const start = { ...values };
  let timer;
  const setAll = (changed) => {
    Object.assign(values, changed);
    view.update(values);
    if (!address) return;
    clearTimeout(timer);
    timer = setTimeout(() => history.replaceState(null, "", link()), PAUSE);
  };
  const link = () => writeState(location, address, start, values);
  const host = {
    specs,
    presets,
    start,
    values,
    data: Object.fromEntries(Object.entries(data).map(([name, value]) => [name, decoded(value)])),
    theme: watchTheme(el, () => view.update(values)),
    set: (name, value) => setAll({ [name]: value }),
    setAll,
    reset: () => setAll(host.start),
    code: () => filledIn(template, specs, values),
    link: address && link,
    keep: (changed) => Object.assign(host.data, changed),
  };
  const follow = () => Object.assign(values, start, readState(location, address, specs));
  if (address) {
    follow();
    window.addEventListener("hashchange", () => view.update(follow()));
  }
  keepKeys(el); // the page may be a notebook's
  el.classList.add("arcvq-explorer");
  const view = mountOrTell(mount, el, host);
  host.restart = () => view.restart?.();
}

function decoded(value) {
  if (!value?.array) return value;
  const bytes = Uint8Array.from(atob(value.bytes), (letter) => letter.charCodeAt(0));
  return new globalThis[value.array](bytes.buffer);
}
