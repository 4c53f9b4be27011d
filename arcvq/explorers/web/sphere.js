/**
 * A sphere to look at from all sides: points, arrows, circles and balls on a 2-D canvas.
 *
 * What is drawn is a list of layers, each a plain object:
 *
 *   { kind: "points", rows, size, color, colors, hollow, drag, tell }
 *   { kind: "arrows", rows, moves, color, gap }
 *   { kind: "line", rows, color, width }
 *   { kind: "ball", radius, color }
 *
 * `rows` and `moves` are flat rows of three; arrows begin `gap` pixels from their places.
 * `colors` and `hollow` hold one value for each point;
 * other colors come as another list.
 * `tell(i)` says what a point is (text or an element), `drag(i, position)` takes it to another
 * place, `release()` lets it go, and `pick(i)` is called for a click on it.
 *
 * By pointer: drag to turn, or to move a point that has a `drag`. By keys: arrows turn, + and -
 * zoom, n and p go to the next and the previous point, shift with an arrow moves it, and Enter
 * picks it.
 */
import { Picture, disc, onKeys } from "./canvas.js";
import { Dots } from "./dots.js";
import { rightAngles } from "./math.js";

const BEHIND = 0.35; // opacity of what lies behind the center
const REACH_OF_POINTER = 12; // pixels
const CLICK = 3; // pixels that the pointer may move in a click
const CIRCLE = 72; // corners of a circle
const HEIGHT = 0.5; // of the window at most, so that sliders and sphere are in view together
const DEPTHS = 256; // slices of the depth in which points are painted, the farthest first
const KEYS = "Arrow keys turn, plus and minus zoom, n and p go from point to point";
const KEYS_TO_PICK = ", Enter picks it";
const KEYS_TO_MOVE = ", shift with an arrow key moves the point";
const FLAT = 1e-9; // the depth up to which a point lies in the plane of the center

/** Where the reader stands. Several spheres may share one camera, and then turn together. */
export class Camera {
  /** @param isFixed whether the reader cannot turn it, as in front of a circle. */
  constructor(turn = 0.6, tilt = 0.35, isFixed = false) {
    this.turn = turn;
    this.tilt = tilt;
    this.isFixed = isFixed;
    this.closeness = 1;
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

  /** Magnify by a factor. */
  zoom(factor) {
    this.closeness = Math.min(Math.max(this.closeness * factor, 0.5), 8);
    for (const sphere of this.spheres) sphere.redraw();
  }

  /** The unit vectors to the right, up, and toward the reader. */
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
    super(el, 1, (pen, width, height) => this.paintLayers(pen, width, height));
    this.camera = camera;
    this.theme = theme;
    this.reach = reach;
    this.radius = radius;
    this.layers = [];
    this.dots = new Dots();
    this.chosen = null; // the place of a layer and the number of its point that the keys are at
    camera.spheres.push(this);
    this.canvas.style.cursor = "grab";
    this.canvas.style.touchAction = "pan-y pinch-zoom"; // a finger still scrolls the page
    this.tip = document.createElement("div");
    this.tip.className = "arcvq-tip";
    this.tip.setAttribute("role", "status");
    this.tip.hidden = true;
    el.style.position = "relative";
    el.appendChild(this.tip);
    this.listen();
    onKeys(this.canvas, (key, isShifted) => this.press(key, isShifted));
  }

  show(layers) {
    this.layers = layers;
    this.redraw();
  }

  describe(words) {
    const canMove = this.layers.some((layer) => layer.drag && layer.tell);
    const canPick = this.layers.some((layer) => layer.pick);
    const keys = KEYS + (canMove ? KEYS_TO_MOVE : "") + (canPick ? KEYS_TO_PICK : "");
    super.describe(`${words} ${keys}.`);
  }

  heightFor(width) {
    const notebook = this.canvas.closest(".jp-Notebook");
    const room = notebook?.clientHeight || window.innerHeight;
    return Math.min(super.heightFor(width), Math.max(240, HEIGHT * room));
  }

  // ---- Drawing ----

  paintLayers(pen, width, height) {
    this.center = [width / 2, height / 2];
    this.zoom = (0.46 * this.camera.closeness * Math.min(width, height)) / this.reach;
    this.view = this.camera.axes();
    this.paintGlobe(pen, false);
    const seen = this.layers.map((layer) => layer.rows && this.project(layer.rows));
    for (const inFront of [false, true]) {
      pen.globalAlpha = inFront ? 1 : BEHIND;
      this.layers.forEach((layer, place) => {
        if (layer.kind !== "points") this.dots.paint(pen); // those below it
        this.paintLayer(pen, layer, seen[place], inFront);
      });
      this.dots.paint(pen);
    }
    this.paintGlobe(pen, true);
    this.paintChosen(pen);
  }

  paintLayer(pen, layer, points, inFront) {
    if (layer.kind === "points") this.addPoints(pen, layer, points, inFront);
    if (layer.kind === "arrows") this.paintArrows(pen, layer, points, inFront);
    if (layer.kind === "line") this.paintLine(pen, points, inFront, layer.color, layer.width);
    if (layer.kind === "ball" && inFront) this.paintBall(pen, layer);
  }

  /** Pixels to the right and down, and the depth, which grows toward the reader. */
  project(rows) {
    const [right, up, near] = this.view;
    const [middle, level] = this.center;
    const points = new Float64Array(rows.length);
    for (let at = 0; at < rows.length; at += 3) {
      points[at] = middle + this.zoom * along(right, rows, at);
      points[at + 1] = level - this.zoom * along(up, rows, at);
      points[at + 2] = along(near, rows, at);
    }
    return points;
  }

  addPoints(pen, layer, points, inFront) {
    this.dots.add(pen, points, fromBehind(points, inFront), layer, this.ratio);
  }

  paintArrows(pen, { rows, moves, color, gap = 0 }, starts, inFront) {
    const ends = this.project(rows.map((value, at) => value + moves[at]));
    pen.strokeStyle = color;
    pen.lineWidth = 1.6;
    pen.beginPath();
    for (let at = 0; at < starts.length; at += 3) {
      if (starts[at + 2] >= -FLAT === inFront) {
        traceArrow(pen, starts[at], starts[at + 1], ends[at], ends[at + 1], gap);
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
    disc(pen, ...this.center, this.zoom * radius);
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
    disc(pen, ...this.center, this.zoom * this.radius);
    pen.strokeStyle = this.theme.grid;
    pen.lineWidth = 1;
    pen.stroke();
  }

  /** A ring around the point that the keys are at. */
  paintChosen(pen) {
    if (!this.chosen) return;
    const { layer, i } = this.chosenPoint();
    const [x, y] = this.project(layer.rows.slice(3 * i, 3 * i + 3));
    disc(pen, x, y, layer.size + 4);
    pen.strokeStyle = this.theme.text;
    pen.lineWidth = 2;
    pen.stroke();
  }

  // ---- Pointer ----

  listen() {
    let grip = null;
    const { canvas } = this;
    const on = (event, listener) => canvas.addEventListener(event, listener);
    on("touchstart", (event) => {
      const { left, top } = canvas.getBoundingClientRect();
      const { clientX, clientY } = event.touches[0];
      const hit = this.hit(clientX - left, clientY - top, isMovable);
      if (hit) event.preventDefault(); // the finger moves the point and not the page
    });
    on("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      const hit = this.hit(event.offsetX, event.offsetY, isMovable);
      grip = { hit, x: event.clientX, y: event.clientY, isClick: !hit };
      this.hideTip();
      if (event.pointerType === "touch") this.tellAt(event.offsetX, event.offsetY);
    });
    on("pointermove", (event) => {
      if (!grip) {
        this.tellAt(event.offsetX, event.offsetY);
      } else if (grip.hit) {
        const { place, i } = grip.hit;
        const layer = this.layers[place];
        grip.norm ??= dragNorm(layer, layer.rows.slice(3 * i, 3 * i + 3));
        layer.drag(i, this.placeAt(event.offsetX, event.offsetY, grip.norm));
      } else {
        const [right, down] = [event.clientX - grip.x, event.clientY - grip.y];
        grip.isClick &&= Math.hypot(right, down) < CLICK;
        if (grip.isClick) return;
        this.camera.move(-right / 150, down / 150);
        Object.assign(grip, { x: event.clientX, y: event.clientY });
      }
    });
    const release = () => {
      if (grip?.hit) this.layers[grip.hit.place].release?.();
      grip = null;
    };
    on("pointerup", (event) => {
      if (grip?.isClick) this.pickAt(event.offsetX, event.offsetY);
      release();
    });
    on("pointercancel", release);
    on("pointerleave", (event) => {
      if (event.pointerType !== "touch") this.hideTip(); // a finger leaves as soon as it has tapped
    });
    on("blur", () => this.leave());
    on("wheel", (event) => {
      if (!event.ctrlKey) return; // as a pinch on a touchpad; else the page scrolls
      event.preventDefault();
      this.camera.zoom(Math.exp(-event.deltaY / 200));
    });
  }

  /** The point under the pointer of a layer that is `wanted`: the one that is nearest in front. */
  hit(x, y, wanted) {
    let best = null;
    let least = REACH_OF_POINTER ** 2;
    this.layers.forEach((layer, place) => {
      if (!this.view || layer.kind !== "points" || !wanted(layer)) return;
      const points = this.project(layer.rows);
      for (let at = 0; at < points.length; at += 3) {
        const far = (points[at] - x) ** 2 + (points[at + 1] - y) ** 2;
        if (far > least || points[at + 2] < -0.05) continue;
        best = { place, layer, i: at / 3 };
        least = far;
      }
    });
    return best;
  }

  pickAt(x, y) {
    const hit = this.hit(x, y, (layer) => layer.pick);
    hit?.layer.pick(hit.i);
  }

  tellAt(x, y) {
    const hit = this.hit(x, y, (layer) => layer.tell);
    this.canvas.style.cursor = hit?.layer.drag || hit?.layer.pick ? "pointer" : "grab";
    if (hit) this.showTip(hit.layer.tell(hit.i), x, y);
    else this.hideTip();
  }

  /** Show what a point is beside it, on the side where there is room. */
  showTip(words, x, y) {
    const isLeft = x < this.center[0];
    this.tip.replaceChildren(words);
    this.tip.style.left = `${x + (isLeft ? 14 : -14)}px`;
    this.tip.style.top = `${this.canvas.offsetTop + y + 14}px`;
    this.tip.style.transform = isLeft ? "" : "translateX(-100%)";
    this.tip.hidden = false;
  }

  hideTip() {
    this.tip.hidden = true;
  }

  /** The point under the pointer on the front of the sphere with this radius. */
  placeAt(x, y, radius) {
    let right = (x - this.center[0]) / this.zoom;
    let up = (this.center[1] - y) / this.zoom;
    const off = Math.hypot(right, up);
    if (off > radius) {
      right *= radius / off;
      up *= radius / off;
    }
    const near = Math.sqrt(Math.max(0, radius ** 2 - right ** 2 - up ** 2));
    const [a, b, c] = this.view;
    return [0, 1, 2].map((d) => right * a[d] + up * b[d] + near * c[d]);
  }

  // ---- Keys ----

  /** Answer a key, and tell whether it was one of ours. */
  press(key, isShifted) {
    const direction = ARROWS[key];
    if (direction && isShifted && this.chosen) this.pushChosen(...direction);
    else if (direction) this.camera.move(0.1 * direction[0], 0.1 * direction[1]);
    else if (key === "+" || key === "=") this.camera.zoom(1.15);
    else if (key === "-") this.camera.zoom(1 / 1.15);
    else if (key === "n") this.choose(1);
    else if (key === "p") this.choose(-1);
    else if (key === "Enter" && this.chosen) this.pickChosen();
    else if (key === "Escape" && this.chosen) this.leave();
    else return false;
    return true;
  }

  pickChosen() {
    const { layer, i } = this.chosenPoint();
    layer.pick?.(i);
  }

  /** Go on to the next or the previous point that can say what it is. */
  choose(step) {
    const points = [];
    this.layers.forEach((layer, place) => {
      if (!layer.tell) return;
      for (let i = 0; i < layer.rows.length / 3; i++) points.push({ place, i });
    });
    if (!points.length) return;
    const isChosen = ({ place, i }) => place === this.chosen?.place && i === this.chosen.i;
    const now = points.findIndex(isChosen);
    const next = now < 0 && step < 0 ? points.length - 1 : now + step;
    this.chosen = points[(next + points.length) % points.length];
    this.tellChosen();
  }

  /** The layer and the number of the chosen point. */
  chosenPoint() {
    return { layer: this.layers[this.chosen.place], i: this.chosen.i };
  }

  tellChosen() {
    this.redraw();
    if (!this.view) return;
    const { layer, i } = this.chosenPoint();
    const [x, y] = this.project(layer.rows.slice(3 * i, 3 * i + 3));
    this.showTip(layer.tell(i), x, y);
  }

  /** Move the chosen point by some pixels. */
  pushChosen(right, up) {
    const { layer, i } = this.chosenPoint();
    if (!layer.drag) return;
    const row = layer.rows.slice(3 * i, 3 * i + 3);
    const [x, y] = this.project(row);
    layer.drag(i, this.placeAt(x + 8 * right, y - 8 * up, dragNorm(layer, row)));
    layer.release?.();
    this.tellChosen();
  }

  leave() {
    this.chosen = null;
    this.hideTip();
    this.redraw();
  }

  destroy() {
    this.camera.spheres = this.camera.spheres.filter((other) => other !== this);
    this.tip.remove();
    super.destroy();
  }
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

function isMovable(layer) {
  return layer.drag;
}

/** The numbers of the points in front of the center, or behind it; those far behind come first. */
function fromBehind(points, inFront) {
  const count = points.length / 3;
  const slices = new Int16Array(count).fill(-1);
  const starts = new Uint32Array(DEPTHS + 1);
  let most = FLAT;
  for (let i = 0; i < count; i++) most = Math.max(most, Math.abs(points[3 * i + 2]));
  for (let i = 0; i < count; i++) {
    const depth = points[3 * i + 2];
    if (depth >= -FLAT !== inFront) continue;
    const share = Math.abs(depth) / most;
    slices[i] = (DEPTHS - 1) * (inFront ? share : 1 - share);
    starts[slices[i] + 1] += 1;
  }
  for (let slice = 0; slice < DEPTHS; slice++) starts[slice + 1] += starts[slice];
  const order = new Uint32Array(starts[DEPTHS]);
  for (let i = 0; i < count; i++) {
    if (slices[i] >= 0) order[starts[slices[i]]++] = i;
  }
  return order;
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

/** A line with a head, unless it is too short for one; it is moved on by a gap. */
export function traceArrow(pen, startX, startY, toX, toY, gap = 0) {
  const length = Math.hypot(toX - startX, toY - startY);
  const shift = length ? gap / length : 0;
  const [aside, down] = [shift * (toX - startX), shift * (toY - startY)];
  const [x, y, endX, endY] = [startX + aside, startY + down, toX + aside, toY + down];
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

/** At what distance from the center a point is dragged: its own, if the layer has no other. */
function dragNorm(layer, row) {
  const norm = Math.hypot(...row);
  return layer.distance ? layer.distance(norm) : norm;
}
