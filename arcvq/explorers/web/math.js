/**
 * The method in JavaScript: lookup, losses with their gradients, the ball, schedules and Adam.
 *
 * Vectors are the rows of a flat Float64Array. Every function is held against the Python package.
 */

/** Of a radian. */
export const DEGREES = 180 / Math.PI;

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

// What is done for each code and each latent takes nearly all of the time of a step. In three
// dimensions it is written out for four at once, without calls and with few reads for each product.
const BLOCK = 4;

/** The rows, and as many of zeros behind them as it takes to whole blocks. */
function padded(rows, dim) {
  const size = BLOCK * dim;
  const result = new Float64Array(size * Math.ceil(rows.length / size));
  result.set(rows);
  return result;
}

/** `BLOCK` arrays, each with a number for every row. */
function arraysFor(rows, dim) {
  return Array.from({ length: BLOCK }, () => new Float64Array(rows.length / dim));
}

/** The dot products of each row with those of a block, into a list of as many arrays. */
function dotsWithBlock(rows, block, dim, products) {
  if (dim === 3) dotsInSpace(rows, block, ...products);
  else products.forEach((ofOne, j) => fillWithDots(rows, block, j, dim, ofOne));
}

function fillWithDots(rows, block, j, dim, products) {
  for (let i = 0; i < products.length; i++) products[i] = dot(rows, i, block, j, dim);
}

function dotsInSpace(rows, block, a, b, c, d) {
  const [ax, ay, az, bx, by, bz, cx, cy, cz, dx, dy, dz] = block;
  for (let i = 0, at = 0; i < a.length; i++, at += 3) {
    const x = rows[at];
    const y = rows[at + 1];
    const z = rows[at + 2];
    a[i] = x * ax + y * ay + z * az;
    b[i] = x * bx + y * by + z * bz;
    c[i] = x * cx + y * cy + z * cz;
    d[i] = x * dx + y * dy + z * dz;
  }
}

/** Fill `places` with those of the largest values, the largest first; of equal ones the first. */
function findLargest(values, places) {
  const last = places.length - 1;
  let least = -Infinity; // of the largest so far
  for (let start = 0; start < values.length; start += BLOCK) {
    const end = Math.min(start + BLOCK, values.length);
    const isWhole = end === start + BLOCK;
    const isPairLow = isWhole && values[start] <= least && values[start + 1] <= least;
    if (isPairLow && values[start + 2] <= least && values[start + 3] <= least) continue;
    for (let i = start; i < end; i++) {
      const value = values[i];
      if (value <= least) continue;
      let at = Math.min(i, last);
      while (at > 0 && values[places[at - 1]] < value) {
        places[at] = places[at - 1];
        at -= 1;
      }
      places[at] = i;
      if (i >= last) least = values[places[last]];
    }
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
  const done = dim === 3 ? findInSpace(latents, candidates, offsets, indices) : 0;
  find(latents, candidates, offsets, dim, indices, done);
  return indices;
}

/** For each row of `a` from `start` on the first row of `b` with the highest product - offset. */
function find(a, b, offsets, dim, indices, start) {
  for (let i = start; i < indices.length; i++) {
    let highest = -Infinity;
    for (let j = 0; j < offsets.length; j++) {
      const score = dot(a, i, b, j, dim) - offsets[j];
      if (score <= highest) continue;
      highest = score;
      indices[i] = j;
    }
  }
}

/** The same for blocks of rows in three dimensions; returns how many rows that were. */
function findInSpace(rows, codes, offsets, indices) {
  const whole = indices.length - (indices.length % BLOCK);
  for (let i = 0; i < whole; i += BLOCK) {
    const at = 3 * i;
    const [ax, ay, az] = [rows[at], rows[at + 1], rows[at + 2]];
    const [bx, by, bz] = [rows[at + 3], rows[at + 4], rows[at + 5]];
    const [cx, cy, cz] = [rows[at + 6], rows[at + 7], rows[at + 8]];
    const [dx, dy, dz] = [rows[at + 9], rows[at + 10], rows[at + 11]];
    let [a, b, c, d] = [-Infinity, -Infinity, -Infinity, -Infinity]; // the highest scores so far
    let [ofA, ofB, ofC, ofD] = [0, 0, 0, 0]; // and their codes
    for (let j = 0, from = 0; j < offsets.length; j++, from += 3) {
      const x = codes[from];
      const y = codes[from + 1];
      const z = codes[from + 2];
      const offset = offsets[j];
      const scoreA = ax * x + ay * y + az * z - offset;
      const scoreB = bx * x + by * y + bz * z - offset;
      const scoreC = cx * x + cy * y + cz * z - offset;
      const scoreD = dx * x + dy * y + dz * z - offset;
      if (scoreA > a) [a, ofA] = [scoreA, j];
      if (scoreB > b) [b, ofB] = [scoreB, j];
      if (scoreC > c) [c, ofC] = [scoreC, j];
      if (scoreD > d) [d, ofD] = [scoreD, j];
    }
    indices.set([ofA, ofB, ofC, ofD], i);
  }
  return whole;
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
  const blocks = padded(units, dim);
  const cosines = arraysFor(units, dim);
  const nearest = new Int32Array(2); // one of them may be the code itself
  let smallest = count > 1 ? Math.PI : NaN;
  for (let first = 0; first < count && count > 1; first += BLOCK) {
    dotsWithBlock(units, blocks.subarray(first * dim, (first + BLOCK) * dim), dim, cosines);
    for (let a = first; a < Math.min(first + BLOCK, count); a++) {
      findLargest(cosines[a - first], nearest);
      const b = nearest.find((code) => code !== a);
      smallest = Math.min(smallest, angleBetween(units, a, units, b, dim));
    }
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
  const z = directions(latents, dim);
  const e = padded(directions(codes, dim), dim);
  const weights = arraysFor(latents, dim);
  const toDirections = new Float64Array(latents.length);
  const nearest = [];
  let loss = 0;
  for (let first = 0; first < numCodes; first += BLOCK) {
    const block = e.subarray(first * dim, (first + BLOCK) * dim);
    dotsWithBlock(z, block, dim, weights); // cosines, which become weights
    for (let j = 0; j < Math.min(BLOCK, numCodes - first); j++) {
      const ofCode = lossOfCode(z, block, j, dim, settings, weights[j]);
      nearest.push(ofCode.pulled);
      loss += ofCode.loss / numCodes;
      const factor = ofCode.factor / numCodes;
      for (let at = j * dim; at < (j + 1) * dim; at++) block[at] *= factor;
    }
    addWeighted(toDirections, weights, block, dim);
  }
  return { loss, gradient: throughNormalization(toDirections, latents, z, dim), nearest };
}

/**
 * The loss of code j and the latents that it pulls.
 *
 * Its gradient to each unit latent is the code's direction, times a factor and the latent's weight,
 * which takes the place of the cosine.
 */
function lossOfCode(z, e, j, dim, { margin, scale, topK }, weights) {
  const ranked = new Int32Array(Math.min(topK + 1, weights.length));
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
  // For unit vectors the squares add up to 4, with a row of zeros to 2 or 0: a right angle.
  const sine = apart ** 2 + along ** 2 < 3 ? 1 : (apart * along) / 2;
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
