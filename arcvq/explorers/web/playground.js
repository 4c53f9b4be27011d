// Two spheres and three curves on one canvas. The kernel sends the whole state as one buffer of float32; each frame
// that was drawn is acknowledged, so that the kernel never runs ahead of the browser.
const HEADER = 7, CURVES = ["codes used", "perplexity", "smallest angle (°)"];

function decode(view) {
  const floats = new Float32Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
  const [number, step, latents, codes, window, radius, reach] = floats;
  let at = HEADER;
  const take = (count) => floats.subarray(at, (at += count));
  const sides = [0, 1].map(() => ({ latents: take(3 * latents), codes: take(3 * codes), counts: take(codes) }));
  const steps = take(window);
  for (const side of sides) side.curves = CURVES.map(() => take(window));
  return { number, step, radius, reach, numCodes: codes, steps, sides };
}

function render({ model, el }) {
  const look = model.get("look"), names = ["SAMP", "plain VQ"], keys = ["samp", "plain"];
  const colours = [look.samp, look.plain];
  const canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "img");
  canvas.style.cssText = "width:100%;max-width:1000px;display:block;touch-action:none;cursor:grab";
  el.classList.add("arcvq-playground");
  el.appendChild(canvas);
  let state = null, waiting = false, frames = 0, turn = 0.6, tilt = 0.35, size = 0, grip = null, moved = null;

  // Geometry: a turn about the vertical axis, then a tilt towards the reader; depth grows towards the reader.
  const centre = (side) => [size * (0.5 + side), size * 0.5 + 30];
  const zoom = () => (0.42 * size) / state.reach;
  const axes = () => {
    const [ct, st, cp, sp] = [Math.cos(turn), Math.sin(turn), Math.cos(tilt), Math.sin(tilt)];
    return [[ct, st, 0], [-sp * st, sp * ct, cp], [cp * st, -cp * ct, sp]]; // right, up, towards the reader
  };
  function facing(rows) { // the turn that shows the side on which most latents are
    let [x, y] = [0, 0];
    for (let i = 0; i < rows.length; i += 3) { x += rows[i]; y += rows[i + 1]; }
    return Math.atan2(x, -y);
  }
  const dot = (a, rows, i) => a[0] * rows[i] + a[1] * rows[i + 1] + a[2] * rows[i + 2];
  function project(rows, side) {
    const [right, up, near] = axes(), [cx, cy] = centre(side), scale = zoom(), points = [];
    for (let i = 0; i < rows.length; i += 3)
      points.push([cx + scale * dot(right, rows, i), cy - scale * dot(up, rows, i), dot(near, rows, i)]);
    return points;
  }

  function disc(x, y, radius, colour, hollow) {
    pen.beginPath();
    pen.arc(x, y, radius, 0, 2 * Math.PI);
    if (hollow) { pen.strokeStyle = colour; pen.lineWidth = 1.5; pen.stroke(); }
    else { pen.fillStyle = colour; pen.fill(); }
  }

  function ring(rows, side, front) { // the half of a closed line that lies in front, or behind
    pen.beginPath();
    let down = false;
    for (const [x, y, depth] of project(rows, side)) {
      if (depth > 0 === front) { down ? pen.lineTo(x, y) : pen.moveTo(x, y); down = true; } else down = false;
    }
    pen.strokeStyle = look.grid; pen.lineWidth = 1; pen.stroke();
  }

  function sphere(side) {
    const { latents, codes, counts } = state.sides[side], [cx, cy] = centre(side), scale = zoom(), great = [[], [], []];
    for (let i = 0; i <= 60; i++) {
      const [c, s] = [Math.cos(i * Math.PI / 30), Math.sin(i * Math.PI / 30)].map((x) => x * state.reach);
      great[0].push(c, s, 0); great[1].push(c, 0, s); great[2].push(0, c, s);
    }
    great.forEach((line) => ring(line, side, false));
    const dots = [
      ...project(latents, side).map((point) => [...point, look.latents, 2.2, false]),
      ...project(codes, side).map((point, j) => [...point, counts[j] ? colours[side] : look.grey, 4.5, !counts[j]]),
    ].sort((a, b) => a[2] - b[2]);
    let behind = true;
    pen.globalAlpha = 0.4; // what lies behind the centre is faint
    for (const [x, y, depth, colour, radius, hollow] of dots) {
      if (behind && depth > 0) { behind = false; pen.globalAlpha = 1; }
      disc(x, y, radius, colour, hollow);
    }
    pen.globalAlpha = 1;
    great.forEach((line) => ring(line, side, true));
    disc(cx, cy, scale * state.reach, look.grey, true);
    const ball = side === 0 && state.radius <= 1.1 * state.reach;
    if (ball) {
      pen.setLineDash([6, 4]); disc(cx, cy, scale * state.radius, look.ball, true); pen.setLineDash([]);
    }
    const used = counts.reduce((sum, count) => sum + (count > 0), 0);
    text(`${names[side]}: ${used} of ${state.numCodes} codes used`, cx - size / 2 + 12, 22, look.text, "600 14px");
    if (side === 0) text(`ball of radius ${state.radius < 1000 ? state.radius.toFixed(2) : state.radius.toExponential(1)}`
      + (ball ? " (dashed)" : ", beyond the picture"), cx - size / 2 + 12, 40, look.text, "12px");
  }

  function text(words, x, y, colour, font, align = "left") {
    pen.fillStyle = colour; pen.font = `${font} ${look.font}`; pen.textAlign = align;
    pen.fillText(words, x, y);
  }

  function curves(left, width, height) {
    const row = height / CURVES.length, { steps } = state;
    CURVES.forEach((name, k) => {
      const [top, bottom] = [k * row + 32, (k + 1) * row - 14], values = state.sides.map((side) => side.curves[k]);
      const highest = Math.max(1e-9, ...values.flatMap((side) => Array.from(side)).filter(Number.isFinite));
      const span = Math.max(1, steps[steps.length - 1] - steps[0]);
      text(name, left, top - 10, look.text, "12px");
      pen.strokeStyle = look.grid; pen.lineWidth = 1; pen.strokeRect(left, top, width, bottom - top);
      values.forEach((side, s) => {
        pen.beginPath();
        side.forEach((value, i) => {
          if (Number.isFinite(value))
            pen.lineTo(left + width * (steps[i] - steps[0]) / span, bottom - (bottom - top) * value / (1.08 * highest));
        });
        pen.strokeStyle = colours[s]; pen.lineWidth = 2; pen.setLineDash(s ? [5, 3] : []); pen.stroke();
      });
      pen.setLineDash([]);
      const last = values.map((side) => side[side.length - 1]).map((x) => (Number.isFinite(x) ? +x.toFixed(1) : "-"));
      text(`SAMP ${last[0]}, plain ${last[1]}`, left + width, top - 10, look.text, "12px", "right");
    });
    text(`step ${state.step}`, left + width, height + 4, look.text, "12px", "right");
  }

  function draw() {
    waiting = false;
    if (!state || !el.isConnected) return;
    const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth || 900;
    size = width * 0.34;
    const height = Math.round(size + 44);
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio);
      canvas.style.height = `${height}px`;
    }
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.fillStyle = look.paper; pen.fillRect(0, 0, width, height);
    sphere(0); sphere(1);
    curves(2 * size + 14, width - 2 * size - 26, height - 14);
    frames += 1;
    el.dataset.frame = frames; el.dataset.step = state.step;
    sendMove();
    model.send({ drawn: state.number });
  }
  function sendMove() {
    if (moved) model.send({ hold: [keys[grip.side], grip.code, moved] });
    moved = null;
  }
  const redraw = () => { if (!waiting) { waiting = true; requestAnimationFrame(draw); } };
  const receive = () => {
    if (!model.get("frame").byteLength) return;
    const first = !state;
    state = decode(model.get("frame"));
    if (first) turn = facing(state.sides[0].latents);
    canvas.setAttribute("aria-label", model.get("summary"));
    redraw();
  };

  // By hand: a code that is taken moves over the sphere on which it lies; anywhere else both spheres turn.
  function nearest(x, y) {
    let best = null;
    state.sides.forEach((side, s) => project(side.codes, s).forEach(([px, py, depth], j) => {
      const far = Math.hypot(px - x, py - y);
      if (far < 10 && depth > -0.05 && (!best || far < best.far)) best = { side: s, code: j, far };
    }));
    return best;
  }
  function place(x, y) { // the point under the pointer, on the front of the sphere through the code
    const rows = state.sides[grip.side].codes, at = 3 * grip.code, [cx, cy] = centre(grip.side), scale = zoom();
    const norm = grip.norm ?? (grip.norm = Math.hypot(rows[at], rows[at + 1], rows[at + 2]));
    let [a, b] = [(x - cx) / scale, (cy - y) / scale];
    const off = Math.hypot(a, b), shrink = off > norm ? norm / off : 1;
    [a, b] = [a * shrink, b * shrink];
    const c = Math.sqrt(Math.max(0, norm * norm - a * a - b * b)), [right, up, near] = axes();
    return [0, 1, 2].map((i) => a * right[i] + b * up[i] + c * near[i]);
  }
  canvas.onpointerdown = (event) => {
    if (!state) return;
    canvas.setPointerCapture(event.pointerId);
    grip = nearest(event.offsetX, event.offsetY) || { turning: true };
    grip.last = [event.clientX, event.clientY];
  };
  canvas.onpointermove = (event) => {
    if (!state) return;
    if (!grip) { canvas.style.cursor = nearest(event.offsetX, event.offsetY) ? "pointer" : "grab"; return; }
    if (grip.turning) {
      turn -= (event.clientX - grip.last[0]) / 150;
      tilt = Math.max(-1.5, Math.min(1.5, tilt + (event.clientY - grip.last[1]) / 150));
      grip.last = [event.clientX, event.clientY];
    } else moved = place(event.offsetX, event.offsetY);
    redraw();
  };
  canvas.onpointerup = canvas.onpointercancel = () => {
    sendMove();
    if (grip && !grip.turning) model.send({ release: true });
    grip = null;
  };
  canvas.onkeydown = (event) => {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!move) return;
    event.preventDefault();
    event.stopPropagation();
    turn += 0.1 * move[0]; tilt = Math.max(-1.5, Math.min(1.5, tilt + 0.1 * move[1]));
    redraw();
  };

  model.on("change:frame", receive);
  const resized = new ResizeObserver(redraw);
  resized.observe(canvas);
  model.send({ view: true });
  receive();
  return () => { resized.disconnect(); model.off("change:frame", receive); };
}
export default { render };
