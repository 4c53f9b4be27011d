/**
 * A trained VQ-VAE in plain JavaScript: its encoder and its decoder are a few convolutions.
 *
 * An image and what becomes of it on the way are maps, { rows, columns, channels, values }. The
 * channels of one place lie side by side, so that the innermost loops run over memory in order.
 */
import { nearestCode } from "./math.js";

/**
 * A map of numbers.
 *
 * @param values as they are given, or zeros.
 */
export function featureMap(rows, columns, channels, values = null) {
  return { rows, columns, channels, values: values ?? new Float32Array(rows * columns * channels) };
}

/**
 * A convolution.
 *
 * @param layer { size, stride, padding, channels, weights, bias }; the weights are ordered by row
 *   and column of the kernel, channel of the input, channel of the output.
 */
export function convolve(input, layer) {
  const { size, stride, padding, channels, weights } = layer;
  const rows = Math.floor((input.rows + 2 * padding - size) / stride) + 1;
  const columns = Math.floor((input.columns + 2 * padding - size) / stride) + 1;
  const output = filled(featureMap(rows, columns, channels), layer.bias);
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      for (let tap = 0; tap < size * size; tap++) {
        const fromY = y * stride - padding + Math.floor(tap / size);
        const fromX = x * stride - padding + (tap % size);
        addTap(input, fromY, fromX, output, y, x, weights, tap);
      }
    }
  }
  return output;
}

/** A transposed convolution; the layer is as for `convolve`. */
export function convolveTransposed(input, layer) {
  const { size, stride, padding, channels, weights } = layer;
  const rows = (input.rows - 1) * stride - 2 * padding + size;
  const columns = (input.columns - 1) * stride - 2 * padding + size;
  const output = filled(featureMap(rows, columns, channels), layer.bias);
  for (let y = 0; y < input.rows; y++) {
    for (let x = 0; x < input.columns; x++) {
      for (let tap = 0; tap < size * size; tap++) {
        const toY = y * stride - padding + Math.floor(tap / size);
        const toX = x * stride - padding + (tap % size);
        addTap(input, y, x, output, toY, toX, weights, tap);
      }
    }
  }
  return output;
}

/** What one place of the input adds to one place of the output through one tap of the kernel. */
function addTap(input, fromY, fromX, output, toY, toX, weights, tap) {
  if (!isInside(input, fromY, fromX) || !isInside(output, toY, toX)) return;
  const width = output.channels;
  const from = (fromY * input.columns + fromX) * input.channels;
  const to = (toY * output.columns + toX) * width;
  const taken = input.values;
  const sums = output.values;
  for (let channel = 0; channel < input.channels; channel++) {
    const value = taken[from + channel];
    if (value === 0) continue; // half of them are, behind a ReLU
    const at = (tap * input.channels + channel) * width;
    for (let out = 0; out < width; out++) sums[to + out] += value * weights[at + out];
  }
}

function isInside({ rows, columns }, y, x) {
  return y >= 0 && y < rows && x >= 0 && x < columns;
}

function filled(output, bias) {
  for (let at = 0; at < output.values.length; at += bias.length) output.values.set(bias, at);
  return output;
}

export function relu(input) {
  return { ...input, values: input.values.map((value) => Math.max(value, 0)) };
}

/** relu(x) + mix(relu(conv(relu(x)))): as in the paper's code, the skip path has a ReLU too. */
export function residual(input, { conv, mix }) {
  const kept = relu(input);
  const output = convolve(relu(convolve(kept, conv)), mix);
  for (let at = 0; at < output.values.length; at++) output.values[at] += kept.values[at];
  return output;
}

const LAYERS = { conv: convolve, transposed: convolveTransposed, relu, residual };

export class Model {
  /**
   * @param plan { image, grid, dim, metric, encoder, decoder }: `image` and `grid` are [rows,
   *   columns], `metric` is that of `nearestCode`, and the layers are { kind, size, stride,
   *   padding, inputs, channels }, a residual layer { kind, conv, mix }.
   * @param numbers all weights in the order of the plan, each layer's bias after its weights, and
   *   the codebook behind them.
   */
  constructor(plan, numbers) {
    this.plan = plan;
    const reader = new Reader(numbers);
    this.encoder = plan.encoder.map((layer) => reader.layer(layer));
    this.decoder = plan.decoder.map((layer) => reader.layer(layer));
    this.codes = Float64Array.from(reader.rest());
    this.numCodes = this.codes.length / plan.dim;
  }

  /** The latents of an image with values in [-1, 1], a row for each place. */
  latents(image) {
    const [rows, columns] = this.plan.image;
    return through(this.encoder, featureMap(rows, columns, 1, Float32Array.from(image))).values;
  }

  /** The index of each latent: its token. */
  tokens(latents) {
    return nearestCode(Float64Array.from(latents), this.codes, this.plan.dim, this.plan.metric);
  }

  /** The image of tokens, with values in [-1, 1]. */
  decode(tokens) {
    const { dim, grid } = this.plan;
    const chosen = featureMap(...grid, dim);
    tokens.forEach((token, place) => {
      chosen.values.set(this.codes.subarray(token * dim, (token + 1) * dim), place * dim);
    });
    const image = through(this.decoder, chosen).values;
    return image.map((value) => Math.min(Math.max(value, -1), 1));
  }
}

function through(layers, input) {
  return layers.reduce((values, layer) => LAYERS[layer.kind](values, layer), input);
}

/** Takes the numbers of one layer after the other. */
class Reader {
  constructor(numbers) {
    this.numbers = numbers;
    this.at = 0;
  }

  take(count) {
    this.at += count;
    return this.numbers.subarray(this.at - count, this.at);
  }

  layer(layer) {
    if (layer.kind === "relu") return layer;
    if (layer.kind === "residual") {
      return { ...layer, conv: this.layer(layer.conv), mix: this.layer(layer.mix) };
    }
    const { size, inputs, channels } = layer;
    const weights = this.take(size * size * inputs * channels);
    return { ...layer, weights, bias: this.take(channels) };
  }

  rest() {
    return this.numbers.subarray(this.at);
  }
}

/** The numbers behind the bits of half precision (IEEE 754 binary16). */
export function fromHalf(bits) {
  return Float32Array.from(bits, (half) => {
    const exponent = (half >> 10) & 31;
    const fraction = half & 1023;
    const size = exponent ? 2 ** (exponent - 25) * (1024 + fraction) : 2 ** -24 * fraction;
    return half >> 15 ? -size : size;
  });
}
