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
      reset: () => model.send("reset"),
    };
    const view = mount(el, host);
    const update = () => view.update(values());
    for (const name of names) model.on(`change:${name}`, update);
    return () => {
      for (const name of names) model.off(`change:${name}`, update);
      view.destroy();
    };
  };
}

/** Numbers that Python sent as bytes of float64, by name; all else as it is. */
export function unpacked(data) {
  const entries = Object.entries(data).map(([name, value]) => [name, toNumbers(value)]);
  return Object.fromEntries(entries);
}

function toNumbers(value) {
  if (!(value instanceof DataView)) return value;
  return new Float64Array(value.buffer.slice(value.byteOffset, value.byteOffset + value.byteLength));
}
