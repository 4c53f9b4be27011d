/**
 * The method in JavaScript: lookup, losses with their gradients, the ball, schedules and Adam.
 *
 * Vectors are the rows of a flat Float64Array. Every function is held against the Python package.
 */

/** The smallest norm that anything is divided by: a row of zeros then stays zero. */
const TINY = 1e-12;

/** Up to this exponent, exp and its products with ordinary norms are finite in float32 too. */
const MAX_EXPONENT = 80;

// ---- Vectors ----

export function dot(a, i, b, j, dim) {
  let sum = 0;
  for (let d = 0; d < dim; d++) sum += a[i * dim + d] * b[j * dim + d];
  return sum;
}

/** The dot product of each row of `a` with row j of `b`. */
function dots(a, b, j, dim, products) {
  if (dim === 3) dotsInSpace(a, b, j, products);
  else products.forEach((_, i) => (products[i] = dot(a, i, b, j, dim)));
}

// Loops that run for each code and latent are written out in three dimensions, without calls.
function dotsInSpace(a, b, j, products) {
  const [x, y, z] = [b[3 * j], b[3 * j + 1], b[3 * j + 2]];
  for (let i = 0, at = 0; i < products.length; i++, at += 3) {
    products[i] = a[at] * x + a[at + 1] * y + a[at + 2] * z;
  }
}

/** Fill `places` with those of the largest values, the largest first; of equal ones the first. */
function findLargest(values, places) {
  const last = places.length - 1;
  let threshold = -Infinity;
  for (let i = 0; i < values.length; i++) {
    const value = values[i];
    if (value <= threshold) continue;
    let at = Math.min(i, last);
    while (at > 0 && values[places[at - 1]] < value) {
      places[at] = places[at - 1];
      at -= 1;
    }
    places[at] = i;
    if (i >= last) threshold = values[places[last]];
  }
}

/**
 * Add `BLOCK` rows, each times a weight of its own, to each row of the sum.
 *
 * @param weights a list of `BLOCK` arrays, each with a weight for every row of the sum.
 */
function addWeighted(sum, weights, rows, dim) {
  if (dim === 3) addWeightedInSpace(sum, ...weights, rows);
  else weights.forEach((ofRow, j) => ofRow.forEach((w, i) => addScaled(sum, i, rows, j, dim, w)));
}

function addWeightedInSpace(sum, a, b, c, d, rows) {
  const [ax, ay, az, bx, by, bz, cx, cy, cz, dx, dy, dz] = rows;
  for (let i = 0, at = 0; i < a.length; i++, at += 3) {
    const ofA = a[i];
    const ofB = b[i];
    const ofC = c[i];
    const ofD = d[i];
    sum[at] += ofA * ax + ofB * bx + ofC * cx + ofD * dx;
    sum[at + 1] += ofA * ay + ofB * by + ofC * cy + ofD * dy;
    sum[at + 2] += ofA * az + ofB * bz + ofC * cz + ofD * dz;
  }
}

function addScaled(sum, i, rows, j, dim, factor) {
  for (let d = 0; d < dim; d++) sum[i * dim + d] += factor * rows[j * dim + d];
}

export function norms(rows, dim) {
  const lengths = new Float64Array(rows.length / dim);
  for (let i = 0; i < lengths.length; i++) lengths[i] = Math.sqrt(dot(rows, i, rows, i, dim));
  return lengths;
}

/** Unit vectors; a row of zeros stays zero. */
export function directions(rows, dim) {
  const lengths = norms(rows, dim);
  return rows.map((value, at) => value / Math.max(lengths[Math.floor(at / dim)], TINY));
}

/** |a - b| and |a + b|: from them angles are exact near 0 and pi, where a cosine loses digits. */
function apartAndAlong(a, i, b, j, dim) {
  let apart = 0;
  let along = 0;
  for (let d = 0; d < dim; d++) {
    apart += (a[i * dim + d] - b[j * dim + d]) ** 2;
    along += (a[i * dim + d] + b[j * dim + d]) ** 2;
  }
  return [Math.sqrt(apart), Math.sqrt(along)];
}

/** The angle between row i of `a` and row j of `b`, both unit vectors, in [0, pi]. */
export function angleBetween(a, i, b, j, dim) {
  const [apart, along] = apartAndAlong(a, i, b, j, dim);
  return apart + along > 0 ? 2 * Math.atan2(apart, along) : Math.PI / 2;
}

/** Two unit vectors at right angles to a unit vector and to each other. */
export function rightAngles(mean) {
  const sizes = Array.from(mean, Math.abs);
  const axis = [0, 0, 0];
  axis[sizes.indexOf(Math.min(...sizes))] = 1; // the axis that is farthest from it
  const right = directions(cross(mean, axis), 3);
  return [right, cross(mean, right)];
}

function cross(a, b) {
  return Float64Array.of(
    a[1] * b[2] - a[2] * b[1],
    a[2] * b[0] - a[0] * b[2],
    a[0] * b[1] - a[1] * b[0],
  );
}

// ---- The codebook ----

/**
 * The index of the nearest code of each latent; of equal scores the lowest.
 *
 * @param metric "cosine" for the smallest angle, "euclidean" for the smallest distance.
 */
export function nearestCode(latents, codes, dim, metric) {
  const isCosine = metric === "cosine";
  const candidates = isCosine ? directions(codes, dim) : codes;
  // |z - e|^2 is smallest where z e - |e|^2 / 2 is largest
  const offsets = norms(codes, dim).map((norm) => (isCosine ? 0 : norm ** 2 / 2));
  const indices = new Int32Array(latents.length / dim);
  if (dim === 3) findInSpace(latents, candidates, offsets, indices);
  else find(latents, candidates, offsets, dim, indices);
  return indices;
}

/** For each row of `a` the first row of `b` with the largest dot product, less its offset. */
function find(a, b, offsets, dim, indices) {
  for (let i = 0; i < indices.length; i++) {
    let highest = -Infinity;
    for (let j = 0; j < offsets.length; j++) {
      const score = dot(a, i, b, j, dim) - offsets[j];
      if (score <= highest) continue;
      highest = score;
      indices[i] = j;
    }
  }
}

/** The same in three dimensions: for two rows at a time, so that `b` is read half as often. */
function findInSpace(a, b, offsets, indices) {
  const last = indices.length - 1;
  for (let i = 0; i <= last; i += 2) {
    const next = Math.min(i + 1, last);
    const [x, y, z] = [a[3 * i], a[3 * i + 1], a[3 * i + 2]];
    const [u, v, w] = [a[3 * next], a[3 * next + 1], a[3 * next + 2]];
    let highest = -Infinity;
    let highestOfNext = -Infinity;
    let found = 0;
    let foundOfNext = 0;
    for (let j = 0, at = 0; j < offsets.length; j++, at += 3) {
      const score = x * b[at] + y * b[at + 1] + z * b[at + 2] - offsets[j];
      const scoreOfNext = u * b[at] + v * b[at + 1] + w * b[at + 2] - offsets[j];
      if (score > highest) {
        highest = score;
        found = j;
      }
      if (scoreOfNext > highestOfNext) {
        highestOfNext = scoreOfNext;
        foundOfNext = j;
      }
    }
    indices[i] = found;
    indices[next] = foundOfNext;
  }
}

/** How many latents chose each code. */
export function usageCounts(indices, numCodes) {
  const counts = new Int32Array(numCodes);
  for (const index of indices) counts[index] += 1;
  return counts;
}

export function codesUsed(counts) {
  return counts.reduce((used, count) => used + (count > 0), 0);
}

/** exp of the entropy of the usage: how many codes it would take if all were used alike. */
export function perplexity(counts) {
  const total = counts.reduce((sum, count) => sum + count, 0);
  let entropy = 0;
  for (const count of counts) {
    if (count > 0) entropy -= (count / total) * Math.log(count / total);
  }
  return total > 0 ? Math.exp(entropy) : 0;
}

/** The smallest angle between two codes that are not zero, in radians; NaN for fewer than two. */
export function minAngle(codes, dim) {
  const lengths = norms(codes, dim);
  const units = directions(codes, dim).filter((_, at) => lengths[Math.floor(at / dim)] > 0);
  const count = units.length / dim;
  const cosines = new Float64Array(count);
  const nearest = new Int32Array(1);
  let smallest = count > 1 ? Math.PI : NaN;
  for (let a = 1; a < count; a++) {
    const before = cosines.subarray(0, a);
    dots(units, units, a, dim, before);
    findLargest(before, nearest);
    smallest = Math.min(smallest, angleBetween(units, a, units, nearest[0], dim));
  }
  return smallest;
}

/** Scale every code that is longer than `radius` back to that length, in place (BBNR). */
export function projectToBall(codes, dim, radius) {
  const lengths = norms(codes, dim);
  for (let at = 0; at < codes.length; at++) {
    const length = Math.max(lengths[Math.floor(at / dim)], TINY);
    codes[at] *= Math.min(1, radius / length);
  }
  return codes;
}

// ---- Losses ----

const BLOCK = 4; // codes whose gradients are added at once, so that the sums are read less often

/**
 * The ArcCosine Additive Margin loss: the mean over the codes, with its gradient to the latents.
 *
 * Each code pulls its `topK` nearest latents, whose angles count as larger by `margin`, against all
 * others.
 *
 * @param settings margin in radians, scale, and topK, which is all latents where there are fewer.
 * @returns loss, gradient (of the shape of the latents), and for each code the nearest latents.
 */
export function marginLoss(latents, codes, dim, settings) {
  const numCodes = codes.length / dim;
  const numLatents = latents.length / dim;
  const z = directions(latents, dim);
  const e = directions(codes, dim);
  const weights = Array.from({ length: BLOCK }, () => new Float64Array(numLatents));
  const toDirections = new Float64Array(latents.length);
  const nearest = [];
  let loss = 0;
  for (let first = 0; first < numCodes; first += BLOCK) {
    const rows = new Float64Array(BLOCK * dim); // the last block may have rows of zeros
    for (let j = first; j < Math.min(first + BLOCK, numCodes); j++) {
      const ofCode = lossOfCode(z, e, j, dim, settings, weights[j - first]);
      nearest.push(ofCode.pulled);
      loss += ofCode.loss / numCodes;
      addScaled(rows, j - first, e, j, dim, ofCode.factor / numCodes);
    }
    addWeighted(toDirections, weights, rows, dim);
  }
  return { loss, gradient: throughNormalization(toDirections, latents, z, dim), nearest };
}

/**
 * The loss of code j and the latents that it pulls.
 *
 * Its gradient to each unit latent is the code's direction, times a factor and the latent's weight.
 */
function lossOfCode(z, e, j, dim, { margin, scale, topK }, weights) {
  const ranked = new Int32Array(Math.min(topK + 1, weights.length));
  dots(z, e, j, dim, weights); // cosines, until they are made weights below
  findLargest(weights, ranked);
  const pulled = Array.from(ranked.subarray(0, topK));
  const positives = pulled.map((i) => positiveLogit(z, i, e, j, dim, margin));
  pulled.forEach((i, place) => {
    weights[i] = positives[place].logit;
  });
  const highest = ranked.reduce((most, i) => Math.max(most, weights[i]), -Infinity);
  const total = makeWeights(weights, scale, highest);
  const exps = positives.map(({ logit }) => Math.exp(Math.max(scale * (logit - highest), LOWEST)));
  const ofPulled = exps.reduce((sum, exp) => sum + exp, 0);

  // The gradient to a logit is the softmax over all latents, minus that over the pulled ones.
  pulled.forEach((i, place) => {
    weights[i] = positives[place].slope * exps[place] * (1 - total / ofPulled);
  });
  return { loss: Math.log(total) - Math.log(ofPulled), pulled, factor: scale / total };
}

const LOWEST = -700; // exp of less is near the smallest number that there is
const NEGLIGIBLE = -50; // exp of less is lost in a sum with a 1 in it
const PARTS = 128; // of a halving
const PART = Math.LN2 / PARTS;
const LAST = Math.floor(-NEGLIGIBLE / PART);
const EXP_OF_PARTS = Float64Array.from({ length: LAST + 1 }, (_, n) => 2 ** (-n / PARTS));

/**
 * Turn logits into the exp of what they lie below the highest, in place; returns their sum.
 *
 * This takes a third of the time of a step, and Math.exp is seven times as slow as a table and a
 * short series, which give 11 digits; far below the highest the weight stays at exp(-50).
 */
function makeWeights(logits, scale, highest) {
  const table = EXP_OF_PARTS;
  const perLogit = scale / PART;
  const start = 0.5 + perLogit * highest;
  const [of1, of2, of3] = [PART, PART ** 2 / 2, PART ** 3 / 6];
  let total = 0;
  for (let i = 0; i < logits.length; i++) {
    const parts = Math.min(start - perLogit * logits[i], LAST); // below the highest, and a half
    const n = Math.floor(parts);
    const rest = n + 0.5 - parts; // from there to the nearest place of the table
    const weight = table[n] * (1 + rest * (of1 + rest * (of2 + rest * of3)));
    logits[i] = weight;
    total += weight;
  }
  return total;
}

/** cos(theta + margin) of a latent that a code pulls, and its slope by cos(theta). */
function positiveLogit(z, i, e, j, dim, margin) {
  const [apart, along] = apartAndAlong(z, i, e, j, dim);
  const cosine = (along ** 2 - apart ** 2) / 4;
  const sine = (apart * along) / 2;
  // Where theta + margin > pi the cosine would rise again: go on falling in a straight line.
  if (cosine < -Math.cos(margin)) return { logit: cosine + Math.cos(margin) - 1, slope: 1 };
  const logit = cosine * Math.cos(margin) - sine * Math.sin(margin);
  // The floor keeps the slope finite where latent and code coincide.
  const cotangent = cosine / Math.max(sine, Number.EPSILON);
  return { logit, slope: Math.cos(margin) + cotangent * Math.sin(margin) };
}

/** The logit at scale 1 of a latent that is pulled, by its angle to the code. */
export function marginLogit(theta, margin) {
  if (theta > Math.PI - margin) return Math.cos(theta) + Math.cos(margin) - 1;
  return Math.cos(theta + margin);
}

/** Of a gradient to z / |z| the part at right angles to z, divided by |z|, reaches z. */
function throughNormalization(gradient, latents, z, dim) {
  const lengths = norms(latents, dim);
  const result = new Float64Array(latents.length);
  for (let i = 0; i < lengths.length; i++) {
    if (lengths[i] <= TINY) continue; // a latent without a direction
    const along = dot(gradient, i, z, i, dim);
    for (let d = 0; d < dim; d++) {
      const at = i * dim + d;
      result[at] = (gradient[at] - along * z[at]) / lengths[i];
    }
  }
  return result;
}

/**
 * The VQ loss: the codes learn from its first term, the latents from the second, weighed by beta.
 *
 * @returns loss, and the gradients toLatents and toCodes.
 */
export function vqLoss(latents, codes, indices, dim, beta) {
  const toLatents = new Float64Array(latents.length);
  const toCodes = new Float64Array(codes.length);
  let squares = 0;
  for (let i = 0; i < indices.length; i++) {
    for (let d = 0; d < dim; d++) {
      const difference = latents[i * dim + d] - codes[indices[i] * dim + d];
      squares += difference ** 2;
      toLatents[i * dim + d] = (2 * beta * difference) / latents.length;
      toCodes[indices[i] * dim + d] -= (2 * difference) / latents.length;
    }
  }
  return { loss: ((1 + beta) * squares) / latents.length, toLatents, toCodes };
}

// ---- Schedules ----

export function boundedExp(exponent) {
  return Math.exp(Math.min(Math.max(exponent, -MAX_EXPONENT), MAX_EXPONENT));
}

const share = (step, steps) => Math.min(Math.max(step / steps, 0), 1);

/** The schedules of arcvq.schedules by kind: functions of the settings, the step and the usage. */
export const SCHEDULES = {
  Constant: ({ level }) => level,
  Exponential: ({ rate, start }, step) => start * boundedExp(rate * step),
  WarmUp: ({ start, end, steps }, step) => start + (end - start) * share(step, steps),
  Cosine: ({ start, end, steps }, step) =>
    end + ((start - end) * (1 + Math.cos(Math.PI * share(step, steps)))) / 2,
  Oscillating: ({ low, high, period }, step) =>
    low + ((high - low) * (1 + Math.cos((2 * Math.PI * step) / period))) / 2,
  Adaptive: ({ low, high, target }, step, usage) =>
    usage === undefined ? high : high + (low - high) * share(usage, target),
};

/** The value of a schedule, given as `config()` of a schedule in Python gives it. */
export function scheduleValue(config, step, usage) {
  return SCHEDULES[config.kind](config, step, usage);
}

// ---- Adam ----

/** The memory of Adam for one tensor. */
export function adamState(length) {
  return { step: 0, mean: new Float64Array(length), square: new Float64Array(length) };
}

/** One step of Adam, in place, with the defaults of PyTorch. */
export function adamStep(values, gradient, state, lr) {
  state.step += 1;
  const meanCorrection = 1 - 0.9 ** state.step;
  const squareCorrection = 1 - 0.999 ** state.step;
  for (let at = 0; at < values.length; at++) {
    state.mean[at] += (gradient[at] - state.mean[at]) * 0.1;
    state.square[at] = 0.999 * state.square[at] + 0.001 * gradient[at] ** 2;
    const root = Math.sqrt(state.square[at] / squareCorrection) + 1e-8;
    values[at] -= ((lr / meanCorrection) * state.mean[at]) / root;
  }
}
