/**
 * Many dots at once, pixel by pixel: without a graphics card that takes a tenth of the time of as
 * many calls of arc().
 */

const PLACES = 4; // a dot lies at a quarter of a pixel, so that it moves smoothly
const SAMPLES = 4; // of a pixel to each side, for smooth edges
const RING = 1.5; // width of a hollow dot's line, in CSS pixels

export class Dots {
  constructor() {
    this.canvas = document.createElement("canvas");
    this.pen = this.canvas.getContext("2d");
    this.stamps = new Map();
    this.isWaiting = false;
  }

  /**
   * Put dots above those that wait to be painted, the first ones below the others.
   *
   * @param pen of a canvas that is scaled to the screen by `ratio`.
   * @param points right, down and depth of each, in CSS pixels.
   * @param order the numbers of those to be painted.
   * @param layer size (radius), color or colors, hollow (one for each dot, or none).
   * @param ratio device pixels in a CSS pixel.
   */
  add(pen, points, order, { size, color, colors, hollow }, ratio) {
    if (!order.length) return;
    if (!this.isWaiting) this.clear(pen.canvas.width, pen.canvas.height);
    this.isWaiting = true;
    const full = this.stampsOf(size * ratio, 0);
    const rings = hollow ? this.stampsOf(size * ratio, RING * ratio) : full;
    const single = toRGB(color ?? "black");
    const own = colors && allToRGB(colors);
    for (const i of order) {
      const stamps = hollow?.[i] ? rings : full;
      const rgb = own ? own[i] : single;
      this.put(stamps, points[3 * i] * ratio, points[3 * i + 1] * ratio, rgb);
    }
  }

  /** Paint what waits, all at once: copying the pixels takes as long as a thousand dots. */
  paint(pen) {
    if (!this.isWaiting) return;
    this.isWaiting = false;
    this.pen.putImageData(this.image, 0, 0);
    pen.save();
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.drawImage(this.canvas, 0, 0);
    pen.restore();
  }

  clear(width, height) {
    if (this.width === width && this.height === height) {
      this.pixels.fill(0);
      return;
    }
    this.width = this.canvas.width = width;
    this.height = this.canvas.height = height;
    this.image = new ImageData(width, height);
    this.pixels = new Uint32Array(this.image.data.buffer);
  }

  /** Put a dot's stamp on the pixels; what would leave the picture is left out. */
  put({ reach, byPlace }, x, y, rgb) {
    const { width, height, pixels } = this;
    const left = Math.floor(x);
    const top = Math.floor(y);
    if (!(left >= reach && top >= reach && left < width - reach && top < height - reach)) return;
    const place = PLACES * Math.floor(PLACES * (y - top)) + Math.floor(PLACES * (x - left));
    const { dx, dy, cover } = byPlace[place];
    for (let at = 0; at < cover.length; at++) {
      const pixel = (top + dy[at]) * width + left + dx[at];
      pixels[pixel] = cover[at] === 255 ? OPAQUE | rgb : blend(pixels[pixel], rgb, cover[at]);
    }
  }

  /** The pixels of a disc, or of a ring of some width, for each place within a pixel. */
  stampsOf(radius, ring) {
    const key = `${radius} ${ring}`;
    if (!this.stamps.has(key)) {
      const byPlace = [];
      for (let place = 0; place < PLACES * PLACES; place++) {
        const x = ((place % PLACES) + 0.5) / PLACES;
        const y = (Math.floor(place / PLACES) + 0.5) / PLACES;
        byPlace.push(stampAt(x, y, radius, ring));
      }
      this.stamps.set(key, { reach: Math.ceil(radius + ring) + 2, byPlace });
    }
    return this.stamps.get(key);
  }
}

const OPAQUE = 0xff000000;

/** Pixels around the one in which the center (x, y) lies, and how much of each is covered. */
function stampAt(x, y, radius, ring) {
  const outer = radius + ring / 2;
  const inner = ring ? radius - ring / 2 : -1;
  const reach = Math.ceil(outer) + 1;
  const [dx, dy, cover] = [[], [], []];
  for (let down = -reach; down <= reach; down++) {
    for (let right = -reach; right <= reach; right++) {
      let inside = 0;
      for (let sample = 0; sample < SAMPLES * SAMPLES; sample++) {
        const a = right + ((sample % SAMPLES) + 0.5) / SAMPLES - x;
        const b = down + (Math.floor(sample / SAMPLES) + 0.5) / SAMPLES - y;
        const far = Math.hypot(a, b);
        if (far <= outer && far >= inner) inside += 1;
      }
      if (!inside) continue;
      dx.push(right);
      dy.push(down);
      cover.push(Math.round((255 * inside) / SAMPLES ** 2));
    }
  }
  return { dx: Int8Array.from(dx), dy: Int8Array.from(dy), cover: Uint8Array.from(cover) };
}

/** A color over a pixel; both as a number 0xAABBGGRR, as little-endian machines keep them. */
function blend(below, rgb, cover) {
  const alpha = below >>> 24;
  const left = (alpha * (255 - cover)) / 255;
  const total = cover + left;
  const blue = (cover * ((rgb >>> 16) & 255) + left * ((below >>> 16) & 255)) / total;
  const green = (cover * ((rgb >>> 8) & 255) + left * ((below >>> 8) & 255)) / total;
  const red = (cover * (rgb & 255) + left * (below & 255)) / total;
  return (total << 24) | (blue << 16) | (green << 8) | red;
}

const KNOWN = new Map();
const PROBE = document.createElement("canvas").getContext("2d", { willReadFrequently: true });

const LISTS = new WeakMap();

/** The same for a list of colors, which is read once. */
function allToRGB(colors) {
  if (!LISTS.has(colors)) LISTS.set(colors, Uint32Array.from(colors, toRGB));
  return LISTS.get(colors);
}

/** A CSS color as 0xBBGGRR. */
function toRGB(color) {
  let rgb = KNOWN.get(color);
  if (rgb === undefined) {
    PROBE.fillStyle = color;
    PROBE.fillRect(0, 0, 1, 1);
    const [red, green, blue] = PROBE.getImageData(0, 0, 1, 1).data;
    rgb = (blue << 16) | (green << 8) | red;
    KNOWN.set(color, rgb);
  }
  return rgb;
}
