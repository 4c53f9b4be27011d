/** Draw an explorer, or say in its place why that cannot be done. */

const NOTHING = { update() {}, destroy() {} };

export function mountOrTell(mount, el, host) {
  try {
    return mount(el, host);
  } catch (error) {
    const note = document.createElement("p");
    note.className = "arcvq-note";
    note.setAttribute("role", "alert");
    note.textContent = `This explorer cannot be drawn: ${error.message}.`;
    el.replaceChildren(note);
    console.error(error);
    return NOTHING;
  }
}
