/** What the controls of ipywidgets do not tell those who cannot see them: names and values. */

const PLAYER = ["play or pause", "stop", "repeat"]; // the buttons of a `Play`

/**
 * Name all sliders and players in an element, now and whenever they change.
 *
 * @param root the element.
 * @return a function that stops it.
 */
export function nameControls(root) {
  const observers = [];
  // The figure, in which most changes happen, is left alone.
  for (const box of root.querySelectorAll(".arcvq-sliders, .arcvq-buttons")) {
    const observer = new MutationObserver(() => nameAll(box));
    observer.observe(box, { childList: true, characterData: true, subtree: true });
    observers.push(observer);
    nameAll(box);
  }
  return () => observers.forEach((observer) => observer.disconnect());
}

function nameAll(box) {
  for (const slider of box.querySelectorAll(".widget-slider")) {
    const name = slider.querySelector(".widget-label")?.textContent ?? "";
    const readout = slider.querySelector(".widget-readout");
    readout?.setAttribute("role", "textbox");
    readout?.setAttribute("aria-label", name);
    const handle = slider.querySelector(".noUi-handle");
    handle?.setAttribute("aria-label", name);
    // A log slider would tell its exponent.
    handle?.setAttribute("aria-valuetext", readout?.textContent ?? "");
  }
  for (const player of box.querySelectorAll(".widget-play")) {
    const buttons = player.querySelectorAll("button");
    PLAYER.forEach((name, place) => buttons[place]?.setAttribute("aria-label", name));
  }
}
