/**
 * Codes that learn on the sphere in three dimensions: SAMP and plain VQ from one start.
 *
 * As arcvq.explorers.simulation, which says what is simulated and which it is held against.
 */
import {
  adamState,
  adamStep,
  codesUsed,
  directions,
  marginLoss,
  minAngle,
  nearestCode,
  perplexity,
  projectToBall,
  rightAngles,
  usageCounts,
  vqLoss,
} from "./math.js";

const REACH = 2; // norm of the data
const SPRING = 4; // weight of the spring
const BETA = 0.25; // weight of the commitment loss
export const WINDOW = 300; // steps that the curves remember
const MAX_LOG_RADIUS = 80;

/**
 * Unit vectors from von Mises-Fisher clusters of equal weight.
 *
 * @param draws uniform and turn (numbers in [0, 1), one for each vector), and normals (rows of
 *   three, one for each of the most clusters that there can be).
 */
export function vmfMixture({ uniform, turn, normals }, clusters, concentration) {
  const means = directions(Float64Array.from(normals.slice(0, 3 * clusters)), 3);
  const kappa = Math.max(concentration, 1e-12);
  const points = new Float64Array(3 * uniform.length);
  uniform.forEach((u, i) => {
    const at = 3 * (i % clusters);
    const mean = means.slice(at, at + 3);
    const short = -Math.log1p(u * Math.expm1(-2 * kappa)) / kappa; // 1 - cosine to the mean
    const away = Math.min(Math.max(short, 0), 2);
    const across = Math.sqrt(away * (2 - away));
    const [right, up] = rightAngles(mean);
    const angle = 2 * Math.PI * turn[i];
    for (let d = 0; d < 3; d++) {
      const ring = Math.cos(angle) * right[d] + Math.sin(angle) * up[d];
      points[3 * i + d] = (1 - away) * mean[d] + across * ring;
    }
  });
  return directions(points, 3);
}

/** A codebook and the latents that it quantizes, both free to move. */
class Learner {
  constructor(metric, codes, data) {
    this.metric = metric;
    this.codes = Float64Array.from(codes);
    this.latents = Float64Array.from(data);
    this.codesAdam = adamState(this.codes.length);
    this.latentsAdam = adamState(this.latents.length);
    this.history = [];
    this.count();
    this.measure(0);
  }

  /** The arrays that the next steps follow from. */
  get memory() {
    const ofCodes = [this.codes, this.codesAdam.mean, this.codesAdam.square];
    const ofLatents = [this.latents, this.latentsAdam.mean, this.latentsAdam.square];
    return [...ofCodes, ...ofLatents, this.counts];
  }

  get numCodes() {
    return this.codes.length / 3;
  }

  /** Note how many latents choose each code now; returns the index of each. */
  count() {
    const indices = nearestCode(this.latents, this.codes, 3, this.metric);
    this.counts = usageCounts(indices, this.numCodes);
    return indices;
  }

  /** The code that latent i chooses now. */
  codeOf(i) {
    return nearestCode(this.latents.subarray(3 * i, 3 * i + 3), this.codes, 3, this.metric)[0];
  }

  /** Take a step of Adam; `margin` holds the settings of the margin loss, or is null. */
  learn(data, margin, lr) {
    const indices = this.count();
    const { toLatents, toCodes } = vqLoss(this.latents, this.codes, indices, 3, BETA);
    for (let at = 0; at < data.length; at++) {
      toLatents[at] += (2 * SPRING * (this.latents[at] - data[at])) / data.length;
    }
    if (margin) {
      const { gradient } = marginLoss(this.latents, this.codes, 3, margin);
      for (let at = 0; at < data.length; at++) toLatents[at] += margin.weight * gradient[at];
    }
    adamStep(this.latents, toLatents, this.latentsAdam, lr);
    adamStep(this.codes, toCodes, this.codesAdam, lr);
  }

  measure(step) {
    const degrees = (minAngle(this.codes, 3) * 180) / Math.PI;
    const used = codesUsed(this.counts);
    this.history.push({ step, used, perplexity: perplexity(this.counts), minAngle: degrees });
    if (this.history.length > WINDOW) this.history.shift();
  }

  get last() {
    return this.history[this.history.length - 1];
  }
}

/** SAMP (`samp`) and plain VQ (`plain`) learning side by side from the same data. */
export class Simulation {
  /**
   * @param draws what is random: those of `vmfMixture`, and codes, uniform in (-1, 1).
   * @param settings clusters, concentration, margin, scale, topK, growth, weight, learningRate.
   */
  constructor(draws, settings) {
    this.draws = draws;
    this.settings = settings;
    this.reset();
  }

  get radius() {
    return Math.exp(this.logRadius);
  }

  /** Go back to step 0, with the present settings. */
  reset() {
    this.steps = 0;
    this.logRadius = 0;
    this.held = null;
    this.placeData();
    const drawn = Float64Array.from(this.draws.codes);
    const numCodes = drawn.length / 3;
    this.samp = new Learner("cosine", directions(drawn, 3), this.data);
    this.plain = new Learner("euclidean", drawn.map((x) => x / numCodes), this.data);
  }

  /** Go on with other settings; springs draw the latents to their new places, if any. */
  change(settings) {
    this.settings = { ...this.settings, ...settings };
    this.placeData();
  }

  placeData() {
    const { clusters, concentration } = this.settings;
    this.data = vmfMixture(this.draws, clusters, concentration).map((x) => REACH * x);
  }

  step() {
    const { growth, learningRate } = this.settings;
    this.steps += 1;
    this.logRadius = Math.min(this.logRadius + growth, MAX_LOG_RADIUS);
    this.samp.learn(this.data, this.settings, learningRate);
    this.plain.learn(this.data, null, learningRate);
    projectToBall(this.samp.codes, 3, this.radius);
    this.keepHeld();
    this.samp.measure(this.steps);
    this.plain.measure(this.steps);
  }

  /**
   * All that the next steps follow from, in one array, laid out as `Simulation.state` in Python.
   *
   * To be given back to a simulation with the same draws.
   */
  get state() {
    const learners = [this.samp, this.plain];
    const memories = learners.flatMap((learner) => learner.memory);
    const curves = learners.flatMap((learner) => learner.history.map(Object.values));
    return joined([[this.steps, this.logRadius], ...memories, ...curves]);
  }

  set state(numbers) {
    const learners = [this.samp, this.plain];
    [this.steps, this.logRadius] = numbers;
    let at = 2;
    for (const part of learners.flatMap((learner) => learner.memory)) {
      part.set(numbers.subarray(at, at + part.length));
      at += part.length;
    }
    const half = (numbers.length - at) / 2;
    for (const learner of learners) {
      learner.codesAdam.step = this.steps;
      learner.latentsAdam.step = this.steps;
      learner.history = rowsOf(numbers.subarray(at, at + half));
      at += half;
    }
  }

  /** Put a point of `rows`, "codes" or "latents", somewhere, and keep it there until `release`. */
  hold(name, rows, i, position) {
    this.held = { name, rows, i, position };
    this.keepHeld();
    const learner = this[name];
    learner.count();
    learner.history.pop();
    learner.measure(this.steps);
  }

  /** Let the point that is held learn again. */
  release() {
    this.held = null;
  }

  keepHeld() {
    if (!this.held) return;
    const { name, rows, i, position } = this.held;
    this[name][rows].set(position, 3 * i);
  }
}

function joined(parts) {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  const numbers = new Float64Array(length);
  let at = 0;
  for (const part of parts) {
    numbers.set(part, at);
    at += part.length;
  }
  return numbers;
}

/** The rows of a learner's history, which are four numbers each. */
function rowsOf(numbers) {
  const rows = [];
  for (let at = 0; at < numbers.length; at += 4) {
    const [step, used, perplexity, minAngle] = numbers.subarray(at, at + 4);
    rows.push({ step, used, perplexity, minAngle });
  }
  return rows;
}
