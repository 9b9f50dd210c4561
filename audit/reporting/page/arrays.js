// What a sample's arrays are, and between which limits they are shown.

const SHAPE = report.picture.shape;
const SIZE = SHAPE.reduce((product, size) => product * size, 1);
const TYPES = { uint8: Uint8Array, float32: Float32Array, float64: Float64Array, int8: Int8Array };
const NOT_FINITE = -128; // of an int8 gradient
const MAX_DRAWN = 1e30; // beyond it there is nothing to see
const MAX_LINES = 6; // more channels are a heat map

/** How samples of this shape are drawn: "features", "signal" or "image". */
const KIND = SHAPE.length === 2 && SHAPE[0] <= MAX_LINES ? "signal"
  : SHAPE.length >= 2 && SHAPE.length <= 4 ? "image" : "features";

function decoded(base64, dtype) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return new TYPES[dtype](bytes.buffer); // little-endian, as all that runs browsers is
}

const drawable = (value) => (Math.abs(value) <= MAX_DRAWN ? value : NaN);

/** Input-space values of a sample, as the network was given them. */
function inputOf(sample) {
  const { dtype, scale, offset } = report.picture;
  return Float32Array.from(decoded(sample.x, dtype), (raw) => drawable(raw * scale + offset));
}

/** Both gradients, or null. */
function gradientsOf(sample) {
  if (sample.g === null) return null;
  const values = decoded(sample.g, report.picture.gradient);
  return [0, 1].map((which) => {
    const part = values.subarray(which * SIZE, (which + 1) * SIZE);
    const scale = sample.g_scale === null ? 1 : sample.g_scale[which];
    const quantised = sample.g_scale !== null;
    return Float32Array.from(part, (value) =>
      quantised && value === NOT_FINITE ? NaN : drawable(value * scale));
  });
}

const arrays = new Map();

/** { x, gradients } of a row, decoded once; null where the page has no room for it. */
function arraysOf(row) {
  const sample = samples[row];
  if (sample.x === null) return null;
  if (!arrays.has(row)) arrays.set(row, { x: inputOf(sample), gradients: gradientsOf(sample) });
  return arrays.get(row);
}

const projection = (x, gradient, k) => Float64Array.from(x, (value, i) => value + k * gradient[i]);

/** [0, 1] where all values lie in it, as stored pixels' do; else from smallest to largest. */
function limitsOf(...lists) {
  let low = Infinity, high = -Infinity;
  for (const values of lists) {
    for (const value of values) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  if (low > high || (low >= 0 && high <= 1)) return { low: 0, high: 1 };
  if (high - low <= Math.max(Math.abs(low), Math.abs(high)) * 1e-9) {
    const slack = Math.max(Math.abs(low) * 0.1, 1e-30);
    return { low: low - slack, high: high + slack };
  }
  return { low, high };
}

/** The largest size, from which minus to plus is a scale; 1 where all is zero. */
function symmetricLimit(...lists) {
  let largest = 0;
  for (const values of lists) for (const value of values) largest = Math.max(largest, Math.abs(value) || 0);
  return largest > 1e-30 ? largest : 1;
}
