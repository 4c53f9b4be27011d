/** How an explorer lives in a notebook: its settings are traits of a widget's model. */

/**
 * Make the function that anywidget calls.
 *
 * @param mount mount(el, host) draws the explorer and returns { update(values), destroy() }.
 */
export function widget(mount) {
  return ({ model, el }) => {
    const specs = model.get("specs");
    const names = specs.map((spec) => spec.name);
    const values = () => Object.fromEntries(names.map((name) => [name, model.get(name)]));
    let isWaiting = false;
    // The kernel is told once a frame at most, however fast a slider moves.
    const save = () => {
      if (isWaiting) return;
      isWaiting = true;
      requestAnimationFrame(() => {
        isWaiting = false;
        model.save_changes();
      });
    };
    const host = {
      specs,
      values: values(),
      data: unpacked(model.get("data")),
      set: (name, value) => {
        model.set(name, value); // which calls `update`
        save();
      },
      code: () => model.get("code_text"),
      send: (words) => model.send(words),
      reset: () => model.send("reset"),
    };
    const view = mount(el, host);
    const update = () => view.update(values());
    const renew = () => {
      host.data = unpacked(model.get("data"));
      update();
    };
    for (const name of names) model.on(`change:${name}`, update);
    model.on("change:data", renew);
    return () => {
      model.off("change:data", renew);
      for (const name of names) model.off(`change:${name}`, update);
      view.destroy();
    };
  };
}

/** The data with arrays where Python sent their types and bytes; all else as it is. */
function unpacked(data) {
  const entries = Object.entries(data).map(([name, value]) => [name, toArray(value)]);
  return Object.fromEntries(entries);
}

function toArray(value) {
  if (!value?.array) return value;
  const { buffer, byteOffset: start, byteLength: length } = value.bytes;
  return new globalThis[value.array](buffer.slice(start, start + length));
}
