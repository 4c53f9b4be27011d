/**
 * A sphere to look at from all sides: points, arrows, circles and balls on a 2-D canvas.
 *
 * What is drawn is a list of layers, each a plain object:
 *
 *   { kind: "points", rows, size, color, colors, hollow, drag, tell }
 *   { kind: "arrows", rows, moves, color }
 *   { kind: "line", rows, color, width }
 *   { kind: "ball", radius, color }
 *
 * `rows` and `moves` are flat rows of three. `colors` and `hollow` hold one value for each point,
 * `tell(i)` says what a point is (text or an element), and `drag(i, position)` takes it to another place.
 */
import { Picture, disc, onArrowKeys } from "./canvas.js";
import { rightAngles } from "./math.js";

const BEHIND = 0.35; // opacity of what lies behind the center
const REACH_OF_POINTER = 12; // pixels
const CIRCLE = 72; // corners of a circle
const FLAT = 1e-9; // the depth up to which a point lies in the plane of the center

/** Where the reader stands. Several spheres may share one camera, and then turn together. */
export class Camera {
  /** @param isFixed whether the reader cannot turn it, as in front of a circle. */
  constructor(turn = 0.6, tilt = 0.35, isFixed = false) {
    this.turn = turn;
    this.tilt = tilt;
    this.isFixed = isFixed;
    this.spheres = [];
  }

  /** Turn to the side on which most of these rows are. */
  face(rows) {
    const sum = [0, 0, 0];
    for (let at = 0; at < rows.length; at++) sum[at % 3] += rows[at];
    const [x, y, z] = sum;
    if (x || y) this.turn = Math.atan2(x, -y);
    this.tilt = 0.7 * Math.atan2(z, Math.hypot(x, y)); // a little from above or below
  }

  move(right, up) {
    if (this.isFixed) return;
    this.turn += right;
    this.tilt = Math.min(Math.max(this.tilt + up, -1.5), 1.5);
    for (const sphere of this.spheres) sphere.redraw();
  }

  /** The unit vectors to the right, up, and towards the reader. */
  axes() {
    const [ct, st] = [Math.cos(this.turn), Math.sin(this.turn)];
    const [cp, sp] = [Math.cos(this.tilt), Math.sin(this.tilt)];
    return [
      [ct, st, 0],
      [-sp * st, sp * ct, cp],
      [cp * st, -cp * ct, sp],
    ];
  }
}

/** The corners of a circle on the unit sphere, at an angle from a direction. */
export function ringAround(direction, angle) {
  const [right, up] = rightAngles(direction);
  const corners = [];
  for (let corner = 0; corner <= CIRCLE; corner++) {
    const turn = (2 * Math.PI * corner) / CIRCLE;
    for (let d = 0; d < 3; d++) {
      const aside = Math.cos(turn) * right[d] + Math.sin(turn) * up[d];
      corners.push(Math.cos(angle) * direction[d] + Math.sin(angle) * aside);
    }
  }
  return Float64Array.from(corners);
}

export class Sphere extends Picture {
  /**
   * @param el where it goes.
   * @param camera a `Camera`.
   * @param theme as `readTheme` gives it.
   * @param reach the distance from the center that touches the edge of the picture.
   * @param radius of the sphere whose great circles are drawn.
   */
  constructor(el, camera, theme, reach, radius = reach) {
    super(el, 1, (pen, width) => this.paintLayers(pen, width));
    this.camera = camera;
    this.theme = theme;
    this.reach = reach;
    this.radius = radius;
    this.layers = [];
    camera.spheres.push(this);
    this.canvas.style.cursor = "grab";
    this.canvas.style.touchAction = "none";
    this.tip = document.createElement("div");
    this.tip.className = "arcvq-tip";
    this.tip.hidden = true;
    el.style.position = "relative";
    el.appendChild(this.tip);
    this.listen();
    onArrowKeys(this.canvas, (right, up) => camera.move(0.1 * right, 0.1 * up));
  }

  show(layers) {
    this.layers = layers;
    this.redraw();
  }

  // ---- Drawing ----

  paintLayers(pen, width) {
    this.center = width / 2;
    this.zoom = (0.46 * width) / this.reach;
    this.view = this.camera.axes();
    this.paintGlobe(pen, false);
    const behind = this.layers.map((layer) => this.projected(layer));
    for (const inFront of [false, true]) {
      pen.globalAlpha = inFront ? 1 : BEHIND;
      this.layers.forEach((layer, place) => this.paintLayer(pen, layer, behind[place], inFront));
    }
    this.paintGlobe(pen, true);
  }

  paintLayer(pen, layer, points, inFront) {
    if (layer.kind === "points") this.paintPoints(pen, layer, points, inFront);
    if (layer.kind === "arrows") this.paintArrows(pen, layer, points, inFront);
    if (layer.kind === "line") this.paintLine(pen, points, inFront, layer.color, layer.width);
    if (layer.kind === "ball" && inFront) this.paintBall(pen, layer);
  }

  projected(layer) {
    return layer.rows ? this.project(layer.rows) : null;
  }

  /** Pixels to the right and down, and the depth, which grows towards the reader. */
  project(rows) {
    const [right, up, near] = this.view;
    const points = new Float64Array(rows.length);
    for (let at = 0; at < rows.length; at += 3) {
      points[at] = this.center + this.zoom * along(right, rows, at);
      points[at + 1] = this.center - this.zoom * along(up, rows, at);
      points[at + 2] = along(near, rows, at);
    }
    return points;
  }

  paintPoints(pen, layer, points, inFront) {
    const order = [];
    for (let i = 0; i < points.length / 3; i++) {
      if (points[3 * i + 2] >= -FLAT === inFront) order.push(i);
    }
    order.sort((a, b) => points[3 * a + 2] - points[3 * b + 2]);
    for (const i of order) {
      const color = layer.colors ? layer.colors[i] : layer.color;
      disc(pen, points[3 * i], points[3 * i + 1], layer.size);
      if (layer.hollow?.[i]) {
        pen.strokeStyle = color;
        pen.lineWidth = 1.5;
        pen.stroke();
      } else {
        pen.fillStyle = color;
        pen.fill();
      }
    }
  }

  paintArrows(pen, { rows, moves, color }, starts, inFront) {
    const ends = this.project(rows.map((value, at) => value + moves[at]));
    pen.strokeStyle = color;
    pen.lineWidth = 1.6;
    pen.beginPath();
    for (let at = 0; at < starts.length; at += 3) {
      if (starts[at + 2] >= -FLAT === inFront) {
        traceArrow(pen, starts[at], starts[at + 1], ends[at], ends[at + 1]);
      }
    }
    pen.stroke();
  }

  paintLine(pen, points, inFront, color, width = 1.5) {
    pen.beginPath();
    let isDown = false;
    for (let at = 0; at < points.length; at += 3) {
      const isSeen = points[at + 2] >= -FLAT === inFront;
      if (isSeen && isDown) pen.lineTo(points[at], points[at + 1]);
      if (isSeen && !isDown) pen.moveTo(points[at], points[at + 1]);
      isDown = isSeen;
    }
    pen.strokeStyle = color;
    pen.lineWidth = width;
    pen.stroke();
  }

  paintBall(pen, { radius, color }) {
    disc(pen, this.center, this.center, this.zoom * radius);
    pen.strokeStyle = color;
    pen.lineWidth = 2;
    pen.setLineDash([6, 4]);
    pen.stroke();
    pen.setLineDash([]);
  }

  /** Three great circles and the outline, so that one sees how the sphere is turned. */
  paintGlobe(pen, inFront) {
    for (const ring of this.camera.isFixed ? [] : greatCircles(this.radius)) {
      this.paintLine(pen, this.project(ring), inFront, this.theme.grid, 1);
    }
    if (!inFront) return;
    disc(pen, this.center, this.center, this.zoom * this.radius);
    pen.strokeStyle = this.theme.grid;
    pen.lineWidth = 1;
    pen.stroke();
  }

  // ---- Pointer ----

  listen() {
    let grip = null;
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      const hit = this.hit(event.offsetX, event.offsetY, (layer) => layer.drag);
      grip = { hit, x: event.clientX, y: event.clientY };
      this.tip.hidden = true;
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!grip) {
        this.tellAt(event.offsetX, event.offsetY);
      } else if (grip.hit) {
        const { layer, i } = grip.hit;
        grip.norm ??= Math.hypot(...layer.rows.slice(3 * i, 3 * i + 3));
        layer.drag(i, this.placeAt(event.offsetX, event.offsetY, grip.norm));
      } else {
        this.camera.move((grip.x - event.clientX) / 150, (event.clientY - grip.y) / 150);
        Object.assign(grip, { x: event.clientX, y: event.clientY });
      }
    });
    const release = () => {
      grip?.hit?.layer.release?.();
      grip = null;
    };
    canvas.addEventListener("pointerup", release);
    canvas.addEventListener("pointercancel", release);
    canvas.addEventListener("pointerleave", () => {
      this.tip.hidden = true;
    });
  }

  /** The point under the pointer of a layer that is `wanted`: the one that is nearest in front. */
  hit(x, y, wanted) {
    let best = null;
    for (const layer of this.layers) {
      if (layer.kind !== "points" || !wanted(layer)) continue;
      const points = this.project(layer.rows);
      for (let i = 0; i < points.length / 3; i++) {
        const far = Math.hypot(points[3 * i] - x, points[3 * i + 1] - y);
        const isSeen = points[3 * i + 2] > -0.05;
        if (isSeen && far < REACH_OF_POINTER && !(best?.far <= far)) best = { layer, i, far };
      }
    }
    return best;
  }

  tellAt(x, y) {
    const hit = this.view && this.hit(x, y, (layer) => layer.tell);
    this.tip.hidden = !hit;
    this.canvas.style.cursor = hit?.layer.drag ? "pointer" : "grab";
    if (!hit) return;
    this.tip.replaceChildren(hit.layer.tell(hit.i));
    this.tip.style.left = `${x + 14}px`;
    this.tip.style.top = `${y + 14}px`;
  }

  /** The point under the pointer on the front of the sphere with this radius. */
  placeAt(x, y, radius) {
    let right = (x - this.center) / this.zoom;
    let up = (this.center - y) / this.zoom;
    const off = Math.hypot(right, up);
    if (off > radius) {
      right *= radius / off;
      up *= radius / off;
    }
    const near = Math.sqrt(Math.max(0, radius ** 2 - right ** 2 - up ** 2));
    const [a, b, c] = this.view;
    return [0, 1, 2].map((d) => right * a[d] + up * b[d] + near * c[d]);
  }

  destroy() {
    this.camera.spheres = this.camera.spheres.filter((other) => other !== this);
    this.tip.remove();
    super.destroy();
  }
}

function along(axis, rows, at) {
  return axis[0] * rows[at] + axis[1] * rows[at + 1] + axis[2] * rows[at + 2];
}

function greatCircles(radius) {
  const rings = [[], [], []];
  for (let corner = 0; corner <= CIRCLE; corner++) {
    const angle = (2 * Math.PI * corner) / CIRCLE;
    const [c, s] = [radius * Math.cos(angle), radius * Math.sin(angle)];
    rings[0].push(c, s, 0);
    rings[1].push(c, 0, s);
    rings[2].push(0, c, s);
  }
  return rings;
}

/** A line with a head, unless it is too short for one. */
function traceArrow(pen, x, y, endX, endY) {
  const length = Math.hypot(endX - x, endY - y);
  pen.moveTo(x, y);
  pen.lineTo(endX, endY);
  if (length < 4) return;
  const size = Math.min(7, 0.4 * length);
  const angle = Math.atan2(endY - y, endX - x);
  for (const side of [-0.45, 0.45]) {
    pen.moveTo(endX, endY);
    pen.lineTo(endX - size * Math.cos(angle + side), endY - size * Math.sin(angle + side));
  }
}
