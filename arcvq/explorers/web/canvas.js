/** A canvas that is drawn once a frame at most, sharp on every screen, and again when resized. */

export class Picture {
  /**
   * @param el where the canvas goes.
   * @param aspect height over width.
   * @param paint called with the pen, width and height in CSS pixels.
   */
  constructor(el, aspect, paint) {
    this.aspect = aspect;
    this.paint = paint;
    this.canvas = document.createElement("canvas");
    this.canvas.setAttribute("role", "img");
    this.canvas.style.cssText = "display:block;width:100%";
    el.appendChild(this.canvas);
    this.pen = this.canvas.getContext("2d");
    if (!this.pen) throw new Error("the browser gives no canvas to draw on");
    this.isWaiting = false;
    this.frames = 0;
    this.observer = new ResizeObserver(() => this.redraw());
    this.observer.observe(el);
  }

  /** What a screen reader says of the picture. */
  describe(words) {
    this.canvas.setAttribute("aria-label", words);
  }

  /** Draw in the next frame. */
  redraw() {
    if (this.isWaiting) return;
    this.isWaiting = true;
    requestAnimationFrame(() => {
      this.isWaiting = false;
      this.drawNow();
    });
  }

  drawNow() {
    const width = this.canvas.parentElement?.clientWidth ?? 0;
    if (!width) return; // not in the page, or hidden
    const height = Math.round(this.heightFor(width));
    this.resize(width, height, window.devicePixelRatio || 1);
    this.pen.clearRect(0, 0, width, height);
    this.paint(this.pen, width, height);
    this.frames += 1;
    this.canvas.dataset.frames = this.frames;
  }

  heightFor(width) {
    return width * this.aspect;
  }

  resize(width, height, ratio) {
    this.ratio = ratio;
    const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (this.canvas.width !== w || this.canvas.height !== h) {
      this.canvas.width = w;
      this.canvas.height = h;
      this.canvas.style.height = `${height}px`;
    }
    this.pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  }

  destroy() {
    this.observer.disconnect();
    this.canvas.remove();
  }
}

/** Call `press(key, isShifted)`; a key that it answers does not scroll the page. */
export function onKeys(element, press) {
  element.tabIndex = 0;
  element.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (!press(event.key, event.shiftKey)) return;
    event.preventDefault();
    event.stopPropagation();
  });
}

export function disc(pen, x, y, radius) {
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
}
