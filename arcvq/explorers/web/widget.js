/**
 * How an explorer lives in a notebook: its settings are traits of a widget's model.
 *
 * An explorer is a module that exports mount(el, host), which draws it in an element and returns
 *
 *   { update(values), destroy(), restart() }
 *
 * `update` shows other settings; `restart`, which it may leave out, begins again what plays. The
 * host, here and on a page, is what the explorer lives in:
 *
 *   specs, presets, start   of its settings, as `Toolbar` takes them, and their values at the start
 *   values, data            the settings and the rest at present
 *   theme                   the colors, which change with those of the page, as `watchTheme` says
 *   set(name, value)        change a setting, which calls `update`
 *   setAll(values)          change several at once
 *   reset()                 go back to the start
 *   code()                  the present settings as a line of Python
 *   link()                  the address of the present state; not in a notebook
 *   restart()               begin again what plays
 *   send(words)             tell Python; not on a page
 *   keep(changed)           put plain values and arrays of the explorer's own into `data`, where
 *                           Python and other views find them
 */
import { filledIn } from "./code.js";
import { keepKeys } from "./controls.js";
import { mountOrTell } from "./mounting.js";
import { watchTheme } from "./theme.js";

const PAUSE = 100; // milliseconds between two messages to the kernel
const GONE =
  "The kernel that drew this has ended. The explorer still answers here, but its settings no " +
  "longer reach Python: run the cell again.";

/** Make the function that anywidget calls, of an explorer's `mount`. */
export function widget(mount) {
  return ({ model, el }) => {
    const specs = model.get("specs");
    // What the kernel has yet to hear. The model learns it when it is sent, not before: an answer
    // to an earlier message would undo it there.
    let unsent = {};
    let isSaving = false;
    let view;
    const read = (name) => (Object.hasOwn(unsent, name) ? unsent[name] : model.get(name));
    const values = () => Object.fromEntries(specs.map(({ name }) => [name, read(name)]));
    const update = () => {
      if (isSaving) return; // these values are drawn already
      host.values = values();
      view?.update(host.values);
    };
    const renew = () => {
      host.data = unpacked(read("data"));
    };
    const setAll = (changed) => {
      Object.assign(unsent, changed);
      if (Object.hasOwn(changed, "data")) renew();
      update();
      save();
    };
    const save = atMostEvery(PAUSE, () => {
      const latest = unsent;
      unsent = {};
      isSaving = true;
      model.set(latest);
      isSaving = false;
      model.save_changes();
    });
    const host = {
      specs,
      presets: model.get("preset_specs"),
      start: model.get("first_settings"),
      values: values(),
      data: unpacked(read("data")),
      theme: watchTheme(el, update),
      set: (name, value) => setAll({ [name]: value }),
      setAll,
      reset: () => setAll(host.start),
      code: () => filledIn(model.get("code_template"), specs, host.values),
      send: (words) => model.send(words),
      keep: (changed) => setAll({ data: { ...read("data"), ...packed(changed) } }),
    };
    const itself = modelItself(model);
    listenAgain(itself);
    keepKeys(el);
    el.classList.add("arcvq-explorer");
    const note = document.createElement("p");
    note.className = "arcvq-note";
    note.setAttribute("role", "status");
    el.append(note);
    view = mountOrTell(mount, el, host);
    host.restart = () => view.restart?.();
    const tell = () => {
      note.textContent = itself.comm_live ? "" : GONE;
    };
    tell();
    // "change" comes once, after all that a message of Python changed
    const listeners = { "change:data": renew, change: update, comm_live_update: tell };
    for (const [event, listener] of Object.entries(listeners)) model.on(event, listener);
    model.send({ shown: host.values });
    return () => {
      for (const [event, listener] of Object.entries(listeners)) model.off(event, listener);
      host.theme.stop();
      view.destroy();
    };
  };
}

/**
 * The kernel is told at once, and then so often at most, however fast a slider moves: the notebook
 * takes its time for each message and its answer.
 */
function atMostEvery(pause, action) {
  let isPausing = false;
  let isDue = false;
  const act = () => {
    isDue = false;
    action();
    setTimeout(() => {
      isPausing = false;
      if (isDue) ask();
    }, pause);
  };
  const ask = () => {
    isDue = true;
    if (isPausing) return;
    isPausing = true;
    requestAnimationFrame(act);
  };
  return ask;
}

/** The model that anywidget hides: the events tell of it. */
function modelItself(model) {
  let itself;
  model.on("change:isOpen", (found) => {
    itself = found;
  });
  // A model tells only of what changes, and another view of it may have been opened before.
  model.set("isOpen", !model.get("isOpen"));
  return itself;
}

/**
 * Hear what Python says, however late this is.
 *
 * anywidget 0.11 waits two seconds for a module, and then draws it but drops all later messages
 * without a word; a busy browser takes longer. So the model's own listener takes them over.
 */
function listenAgain(model) {
  const base = Object.getPrototypeOf(Object.getPrototypeOf(model));
  if (base._handle_comm_msg) model.comm?.on_msg?.(base._handle_comm_msg.bind(model));
}

/** The data with arrays where Python sent their types and bytes; all else as it is. */
function unpacked(data) {
  const entries = Object.entries(data).map(([name, value]) => [name, toArray(value)]);
  return Object.fromEntries(entries);
}

/** The same the other way. */
function packed(data) {
  const entries = Object.entries(data).map(([name, value]) => [name, fromArray(value)]);
  return Object.fromEntries(entries);
}

function fromArray(value) {
  if (!ArrayBuffer.isView(value)) return value;
  // An array may be a part of its buffer.
  const bytes = new DataView(value.buffer, value.byteOffset, value.byteLength);
  return { array: value.constructor.name, bytes };
}

function toArray(value) {
  if (!value?.array) return value;
  const { buffer, byteOffset: start, byteLength: length } = value.bytes;
  return new globalThis[value.array](buffer.slice(start, start + length));
}
