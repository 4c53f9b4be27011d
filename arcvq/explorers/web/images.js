/** Gray images on a canvas, and one that the reader draws on. Values: -1 for paper, 1 for ink. */
import { Picture } from "./canvas.js";

const PEN = 1.7; // pixels of the image from the middle of a stroke to its edge
const SOFT = 0.9; // of which so many are softer and softer

/** Paint an image, or the part of it from `left` and `top` on, into a square. */
export function paintImage(pen, image, side, width, theme, area = {}) {
  const { left = 0, top = 0, part = side } = area;
  const small = document.createElement("canvas");
  small.width = side;
  small.height = side;
  const smallPen = small.getContext("2d");
  const pixels = smallPen.createImageData(side, side);
  const [paper, ink] = theme.isDark ? [24, 240] : [255, 16];
  image.forEach((value, at) => {
    pixels.data.fill(paper + ((ink - paper) * (value + 1)) / 2, 4 * at, 4 * at + 3);
    pixels.data[4 * at + 3] = 255;
  });
  smallPen.putImageData(pixels, 0, 0);
  pen.imageSmoothingEnabled = false;
  pen.drawImage(small, left, top, part, part, 0, 0, width, width);
}

/** A picture of an image that follows the pen. */
export class Pad extends Picture {
  /**
   * @param el where it goes.
   * @param side pixels of the image to the right, and as many down.
   * @param paint as for `Picture`.
   * @param drawn called with the image while the reader draws, and with `true` at a stroke's end.
   */
  constructor(el, side, paint, drawn) {
    super(el, 1, paint);
    this.side = side;
    this.image = new Float32Array(side * side).fill(-1);
    this.canvas.style.touchAction = "none";
    this.canvas.style.cursor = "crosshair";
    this.listen(drawn);
  }

  listen(drawn) {
    let last = null;
    const { canvas } = this;
    const place = (event) => {
      const zoom = this.side / canvas.clientWidth;
      return [event.offsetX * zoom - 0.5, event.offsetY * zoom - 0.5];
    };
    const stroke = (event) => {
      const next = place(event);
      this.line(last ?? next, next);
      last = next;
      drawn(this.image, false);
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      canvas.setPointerCapture(event.pointerId);
      stroke(event);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (last) stroke(event);
    });
    const release = () => {
      if (last) drawn(this.image, true);
      last = null;
    };
    canvas.addEventListener("pointerup", release);
    canvas.addEventListener("pointercancel", release);
  }

  /** Draw with a round pen, in steps of half a pixel. */
  line([x, y], [endX, endY]) {
    const steps = Math.ceil(2 * Math.hypot(endX - x, endY - y)) || 1;
    for (let step = 0; step <= steps; step++) {
      const share = step / steps;
      this.dot(x + share * (endX - x), y + share * (endY - y));
    }
  }

  dot(x, y) {
    this.image.forEach((value, at) => {
      const far = Math.hypot((at % this.side) - x, Math.floor(at / this.side) - y);
      const ink = Math.min(Math.max((PEN - far) / SOFT, 0), 1);
      this.image[at] = Math.max(value, 2 * ink - 1);
    });
  }
}
