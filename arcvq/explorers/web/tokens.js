/** A trained model at work: an image, its tokens on the sphere and on a map, the image decoded. */
import { Picture, onKeys } from "./canvas.js";
import { buttons, copy } from "./controls.js";
import { Pad, paintImage } from "./images.js";
import { DEGREES, angleBetween, directions, norms } from "./math.js";
import { Model, fromHalf } from "./model.js";
import { Camera, Sphere } from "./sphere.js";
import { plural, whole } from "./wording.js";

const OFFERS = [0, 0.01, 0.03, 0.1, 0.25, 0.5, 1]; // from the nearest code to the farthest
const AROUND = 4; // pixels around a token that its neighbors are shown with
const REST = 120; // milliseconds without a change before the neighbors are drawn
const TURN = 350; // milliseconds in which the sphere turns to a code
const SHARP = 96; // pixels of the image on a button
const FAR = 1.02; // from the center to the edge of the picture
const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
const NO_MODEL =
  "This page has come without its trained model: write it again with arcvq export-explorers.";

/**
 * @param el where the explorer goes.
 * @param host as for `widget`; data are images (bytes), plan and weights (half precision) of
 *   the model.
 */
export function mount(el, host) {
  if (!host.data.weights) {
    el.textContent = NO_MODEL;
    return { update() {}, destroy() {} };
  }
  return new Tokens(el, host);
}

class Tokens {
  constructor(el, host) {
    this.host = host;
    this.theme = host.theme;
    this.model = new Model(host.data.plan, fromHalf(host.data.weights));
    this.codes = new Codes(this.model);
    [this.side] = this.model.plan.image;
    [this.rows, this.columns] = this.model.plan.grid;
    this.images = imagesOf(host.data.images, this.side ** 2);
    this.layOut(el);
    this.update(host.values);
  }

  // ---- What is on the page ----

  layOut(el) {
    this.offerImages(el);
    const panels = document.createElement("div");
    panels.className = "arcvq-panels arcvq-token-panels";
    const pictures = document.createElement("div");
    pictures.className = "arcvq-token-pictures";
    this.pad = this.figure(pictures, "draw here", (figure) => this.makePad(figure));
    this.map = this.figure(pictures, "its tokens", (figure) => this.makeMap(figure));
    this.result = this.figure(pictures, "decoded", (figure) => this.makeResult(figure));
    const beside = document.createElement("div");
    this.summary = beside.appendChild(document.createElement("p"));
    this.summary.className = "arcvq-summary";
    this.summary.setAttribute("aria-live", "polite");
    this.neighbors = new Neighbors(beside, (code) => this.put(code));
    const left = document.createElement("div");
    left.append(pictures, beside);
    panels.append(left);
    this.camera = new Camera();
    this.sphere = this.figure(panels, "all codes on the sphere", (figure) => {
      return new Sphere(figure, this.camera, this.theme, FAR, 1);
    });
    el.append(panels);
  }

  figure(parent, title, make) {
    const figure = document.createElement("figure");
    const caption = figure.appendChild(document.createElement("figcaption"));
    caption.textContent = title;
    const picture = make(figure);
    picture.caption = caption;
    parent.append(figure);
    return picture;
  }

  offerImages(el) {
    const actions = {
      erase: () => this.erase(),
      "the encoder's tokens": () => this.undo(),
    };
    const { link } = this.host;
    if (link) actions["copy link"] = (button) => copy(link(), button);
    const row = buttons(el, actions);
    this.offers = this.images.map((image, number) => {
      const choose = () => this.host.setAll({ tokens: "", image: number });
      return imageButton(`image ${number}`, this.side, choose);
    });
    row.prepend(...this.offers);
    this.undoing = row.querySelector(".arcvq-the-encoder-s-tokens");
  }

  /** Paint the images to choose from, once for each theme. */
  paintOffers() {
    if (this.wasDark === this.theme.isDark) return;
    this.wasDark = this.theme.isDark;
    this.offers.forEach((button, number) => {
      const pen = button.querySelector("canvas").getContext("2d");
      paintImage(pen, this.images[number], this.side, this.side, this.theme);
    });
  }

  makePad(figure) {
    const paint = (pen, width) => {
      paintImage(pen, this.pad.image, this.side, width, this.theme);
      this.paintFrame(pen, width, this.theme.vermillion);
    };
    return new Pad(figure, this.side, paint, (image, isDone) => this.draw(image, isDone));
  }

  makeMap(figure) {
    const map = new Picture(figure, 1, (pen, width) => this.paintMap(pen, width));
    onKeys(map.canvas, (key) => key in STEPS && this.step(...STEPS[key]));
    this.selectOn(map);
    return map;
  }

  makeResult(figure) {
    const result = new Picture(figure, 1, (pen, width) => {
      paintImage(pen, this.decoded, this.side, width, this.theme);
      this.paintFrame(pen, width, this.theme.vermillion);
    });
    this.selectOn(result);
    return result;
  }

  selectOn({ canvas }) {
    canvas.style.cursor = "pointer";
    canvas.addEventListener("pointerdown", (event) => {
      const column = Math.floor((event.offsetX / canvas.clientWidth) * this.columns);
      const row = Math.floor((event.offsetY / canvas.clientHeight) * this.rows);
      this.host.set("place", this.placeAt(row, column));
    });
  }

  // ---- What the reader does ----

  step(down, right) {
    const row = Math.floor(this.place / this.columns) + down;
    this.host.set("place", this.placeAt(row, (this.place % this.columns) + right));
    return true;
  }

  placeAt(row, column) {
    const within = (value, count) => Math.min(Math.max(value, 0), count - 1);
    return within(row, this.rows) * this.columns + within(column, this.columns);
  }

  erase() {
    this.pad.image.fill(-1);
    this.draw(this.pad.image, true);
  }

  /** The reader has drawn. A link keeps the tokens of a drawing, once the pen is lifted. */
  draw(image, isDone) {
    this.drawing = image.slice();
    this.host.setAll({ tokens: "", image: -1 });
    if (isDone) this.host.set("tokens", inLetters(this.own));
  }

  /** Take the encoder's tokens again. A link holds those of a drawing, as the drawing is not in it. */
  undo() {
    this.host.set("tokens", this.isDrawing ? inLetters(this.own) : "");
  }

  /** Put a code in the place of the selected token. */
  put(code) {
    if (this.tokens[this.place] === code) return;
    const tokens = this.tokens.slice();
    tokens[this.place] = code;
    this.host.set("tokens", inLetters(tokens));
  }

  // ---- What follows from it ----

  update(values) {
    this.place = Math.min(values.place, this.rows * this.columns - 1);
    this.offers.forEach((button, number) => {
      button.setAttribute("aria-pressed", String(number === values.image));
    });
    this.paintOffers();
    this.isDrawing = values.image < 0;
    const image = this.isDrawing ? this.drawing : this.images[values.image];
    if (image) this.pad.image.set(image);
    const start = performance.now();
    this.encode(image);
    this.undoing.disabled = !this.hasImage;
    const given = fromLetters(values.tokens, this.rows * this.columns, this.model.numCodes);
    this.tokens = given ?? this.own;
    this.decoded = this.model.decode(this.tokens);
    this.took = performance.now() - start;
    this.show();
  }

  /** The latents and tokens of the image on the pad. */
  encode(image) {
    const key = String(this.pad.image);
    this.hasImage = Boolean(image);
    if (this.encoded === key) return;
    this.encoded = key;
    this.latents = this.model.latents(this.pad.image);
    this.own = this.model.tokens(this.latents);
  }

  show() {
    const code = this.tokens[this.place];
    this.showSphere(code);
    for (const picture of [this.pad, this.map, this.result]) picture.redraw();
    this.tell(code);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.showNeighbors(code), REST);
  }

  showSphere(code) {
    const { drawn, colors } = this.codes;
    const here = countsOf(this.tokens, colors.length);
    const { text, vermillion } = this.theme;
    const row = drawn.subarray(3 * code, 3 * code + 3);
    const latents = this.hasImage ? this.codes.place(this.latents) : new Float64Array();
    const layers = [
      {
        kind: "points",
        rows: drawn,
        size: 4.5,
        colors,
        hollow: Array.from(here, (count) => count === 0),
        tell: (j) => `code ${j}: ${plural(here[j], "time")} in this image`,
        pick: (j) => this.put(j),
      },
      { kind: "points", rows: latents, size: 1.5, color: text },
      {
        kind: "points",
        rows: row,
        size: 9,
        color: vermillion,
        hollow: [true],
        drag: (_, position) => this.put(nearestTo(drawn, position)),
      },
    ];
    if (this.hasImage) {
      const latent = latents.subarray(3 * this.place, 3 * this.place + 3);
      const rows = Float64Array.of(...latent, ...row);
      layers.push({ kind: "line", rows, color: vermillion, width: 2 });
    }
    this.sphere.show(layers);
    if (!this.isHeld()) this.turnTo(row);
  }

  /** Whether the reader has a hand on the sphere, which then should not turn by itself. */
  isHeld() {
    return this.sphere.canvas.matches(":active");
  }

  /** Turn the sphere until a code is in front, unless it is. */
  turnTo(row) {
    const { camera } = this;
    const [, , near] = camera.axes();
    if (near[0] * row[0] + near[1] * row[1] + near[2] * row[2] > 0) return;
    const from = [camera.turn, camera.tilt];
    camera.face(row);
    const to = [from[0] + nearerTurn(camera.turn - from[0]), camera.tilt];
    const start = performance.now();
    const isStill = matchMedia("(prefers-reduced-motion: reduce)").matches;
    cancelAnimationFrame(this.turning);
    const turn = (now) => {
      const share = isStill ? 1 : Math.min(Math.max((now - start) / TURN, 0), 1);
      const eased = share * share * (3 - 2 * share);
      camera.turn = from[0] + eased * (to[0] - from[0]);
      camera.tilt = from[1] + eased * (to[1] - from[1]);
      camera.move(0, 0);
      if (share < 1) this.turning = requestAnimationFrame(turn);
    };
    turn(start);
  }

  showNeighbors(code) {
    const { side } = this;
    const height = side / this.rows;
    const part = height + 2 * AROUND;
    const corner = (place) => Math.min(Math.max(place * height - AROUND, 0), side - part);
    const top = corner(Math.floor(this.place / this.columns));
    const left = corner(this.place % this.columns);
    const around = this.codes.others(code, OFFERS).map((other) => {
      const tokens = this.tokens.slice();
      tokens[this.place] = other;
      const paint = (pen, width) => {
        paintImage(pen, this.model.decode(tokens), side, width, this.theme, { left, top, part });
      };
      return { code: other, words: this.codes.distance(code, other), paint };
    });
    this.neighbors.show(around);
  }

  tell(code) {
    const row = 1 + Math.floor(this.place / this.columns);
    const column = 1 + (this.place % this.columns);
    const used = new Set(this.tokens).size;
    const bits = Math.ceil(Math.log2(this.codes.numbers.length));
    const bytes = Math.ceil((bits * this.tokens.length) / 8);
    const changed = this.tokens.reduce((sum, token, at) => sum + (token !== this.own[at]), 0);
    let words =
      `Row ${row}, column ${column}: token ${code}. The image is ${this.tokens.length} tokens of ` +
      `${plural(used, "different code")}: ${bytes} bytes, while its pixels take ` +
      `${whole(this.side ** 2)}.`;
    if (!this.hasImage) words += " A link keeps the tokens of a drawing, not the drawing itself.";
    else if (changed) words += ` Chosen by you and not by the encoder: ${changed}.`;
    this.summary.textContent = words;
    this.result.canvas.dataset.milliseconds = this.took.toFixed(1);
    this.pad.describe("The image. Draw on it with the mouse or a finger.");
    this.map.describe(`Map of the tokens; the arrow keys move through it. ${words}`);
    this.result.describe("The image that the decoder makes of the tokens.");
    this.sphere.describe(`The codes on the sphere. Token ${code} is marked.`);
  }

  // ---- Drawing ----

  paintMap(pen, width) {
    const cell = width / this.columns;
    pen.font = `${Math.min(13, cell / 2.2)}px ${this.theme.font}`;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    this.tokens.forEach((token, place) => {
      const left = (place % this.columns) * cell;
      const top = Math.floor(place / this.columns) * cell;
      pen.fillStyle = this.codes.colors[token];
      pen.fillRect(left, top, cell - 1, cell - 1);
      pen.fillStyle = "#000";
      if (cell > 20) pen.fillText(token, left + cell / 2, top + cell / 2);
      if (this.hasImage && token !== this.own[place]) pen.fillRect(left + 2, top + 2, 5, 5);
    });
    this.paintFrame(pen, width, this.theme.text);
  }

  /** The square of the selected token. */
  paintFrame(pen, width, color) {
    const cell = width / this.columns;
    const left = (this.place % this.columns) * cell;
    const top = Math.floor(this.place / this.columns) * cell;
    pen.strokeStyle = color;
    pen.lineWidth = 2;
    pen.strokeRect(left, top, cell - 1, cell - 1);
  }

  destroy() {
    clearTimeout(this.timer);
    cancelAnimationFrame(this.turning);
    this.neighbors.destroy();
    for (const picture of [this.pad, this.map, this.result, this.sphere]) picture.destroy();
  }
}

/** The codes as they are drawn: by their directions where only these count. */
class Codes {
  constructor({ codes, plan }) {
    this.isCosine = plan.metric === "cosine";
    this.longest = Math.max(...norms(codes, 3));
    this.drawn = this.place(codes);
    this.numbers = Array.from(norms(codes, 3).keys());
    this.colors = this.numbers.map((code) => colorOf(this.drawn, code));
  }

  /** Where codes or latents are drawn. */
  place(rows) {
    const exact = Float64Array.from(rows);
    return this.isCosine ? directions(exact, 3) : exact.map((value) => value / this.longest);
  }

  /** Other codes, at these shares of the way from the nearest to the farthest of them. */
  others(code, shares) {
    const others = this.numbers.filter((other) => other !== code);
    others.sort((a, b) => apart(this.drawn, code, a) - apart(this.drawn, code, b));
    return shares.map((share) => others[Math.round(share * (others.length - 1))]);
  }

  distance(code, other) {
    if (!this.isCosine) return `at ${(this.longest * apart(this.drawn, code, other)).toFixed(2)}`;
    return `${(angleBetween(this.drawn, code, this.drawn, other, 3) * DEGREES).toFixed(0)}°`;
  }
}

/** Buttons with what a token would draw there if it had another code. */
class Neighbors {
  constructor(el, choose) {
    this.choose = choose;
    this.row = document.createElement("div");
    this.row.className = "arcvq-token-neighbors";
    this.row.setAttribute("role", "group");
    this.row.setAttribute("aria-label", "other codes, from near to far, to put in its place");
    el.append(this.row);
  }

  show(neighbors) {
    const buttons = neighbors.map(({ code, words }) => {
      const name = `code ${code}, ${words}: put it here`;
      const button = imageButton(name, SHARP, () => this.choose(code));
      button.append(`${code} (${words})`);
      return button;
    });
    const focused = [...this.row.children].indexOf(document.activeElement);
    this.row.replaceChildren(...buttons);
    buttons[focused]?.focus();
    this.paintNext(neighbors, 0);
  }

  /** One a frame, so that nothing waits for them. */
  paintNext(neighbors, at) {
    cancelAnimationFrame(this.frame);
    if (at === neighbors.length) return;
    const canvas = this.row.children[at].firstChild;
    neighbors[at].paint(canvas.getContext("2d"), canvas.width);
    this.frame = requestAnimationFrame(() => this.paintNext(neighbors, at + 1));
  }

  destroy() {
    cancelAnimationFrame(this.frame);
  }
}

/** A button with an image on it. */
function imageButton(name, side, action) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "arcvq-image";
  button.setAttribute("aria-label", name);
  const canvas = button.appendChild(document.createElement("canvas"));
  canvas.width = side;
  canvas.height = side;
  button.addEventListener("click", action);
  return button;
}

function imagesOf(bytes, size) {
  const count = bytes.length / size;
  return Array.from({ length: count }, (_, number) => {
    const image = bytes.subarray(number * size, (number + 1) * size);
    return Float32Array.from(image, (value) => value / 127.5 - 1);
  });
}

/** Codes that are near each other on the sphere have similar colors, all light enough for black. */
function colorOf(rows, code) {
  const [x, y, z] = directions(rows.slice(3 * code, 3 * code + 3), 3);
  return `oklab(${0.75 + 0.1 * z} ${0.13 * x} ${0.13 * y})`;
}

function apart(rows, a, b) {
  return Math.hypot(...[0, 1, 2].map((d) => rows[3 * a + d] - rows[3 * b + d]));
}

function nearestTo(rows, position) {
  const both = [...position, ...rows];
  let best = 1;
  for (let j = 2; j < both.length / 3; j++) {
    if (apart(both, 0, j) < apart(both, 0, best)) best = j;
  }
  return best - 1;
}

function countsOf(tokens, numCodes) {
  const counts = new Uint16Array(numCodes);
  for (const token of tokens) counts[token] += 1;
  return counts;
}

/** A turn by the same angle, the short way around. */
function nearerTurn(angle) {
  return Math.atan2(Math.sin(angle), Math.cos(angle));
}

/** Tokens as text, two letters each. */
function inLetters(tokens) {
  return Array.from(tokens, (token) => token.toString(36).padStart(2, "0")).join("");
}

/** The tokens of a text; null where it does not hold as many as there are places. */
function fromLetters(text, count, numCodes) {
  const tokens = Int32Array.from(text.match(/../g) ?? [], (pair) => Number.parseInt(pair, 36));
  const isCode = (token) => token >= 0 && token < numCodes;
  return tokens.length === count && tokens.every(isCode) ? tokens : null;
}
