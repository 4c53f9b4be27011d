/**
 * What stands below a widget in a notebook and shows itself when the widget is not there: after the
 * kernel has ended and the notebook was loaded again, JupyterLab finds no model for it.
 */

const PATIENCE = 3000; // milliseconds in which a widget usually comes
const NOTE =
  "Drawn by the browser alone: the settings move, but do not reach Python. " +
  "Run the cell again for that.";

/**
 * @param el the element of the explorer, hidden at first.
 * @param draw called once, before it is first shown.
 */
export function spare(el, draw) {
  const output = el.closest(".jp-OutputArea-child");
  const widget = output?.previousElementSibling;
  if (!widget) return; // no JupyterLab, or no widget above
  let isLate = false;
  let isDrawn = false;
  let hasBeen = false; // the widget
  const update = () => {
    const isThere = widget.querySelector(".arcvq-explorer") !== null;
    hasBeen ||= isThere;
    // A cell that runs again takes both out of the page, the widget first.
    if (hasBeen && !output.isConnected) return;
    const isNeeded = isLate && !isThere;
    el.hidden = !isNeeded;
    output.style.display = isNeeded ? "" : "none";
    widget.style.display = isNeeded ? "none" : "";
    if (!isNeeded || isDrawn) return;
    isDrawn = true;
    const note = document.createElement("p");
    note.className = "arcvq-note";
    note.textContent = NOTE;
    el.append(note);
    draw();
  };
  update();
  new MutationObserver(update).observe(widget, { childList: true, subtree: true });
  setTimeout(() => {
    isLate = true;
    update();
  }, PATIENCE);
}
