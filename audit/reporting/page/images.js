// Images: grey, RGB, mosaics of channels or slices, heat maps.

const MAX_TILES = 16;
const MAX_STRETCH = 5; // an image longer than so many times its width fills its field instead

/** `count` of 0 … total − 1, evenly spaced. */
function evenlySpaced(total, count) {
  if (count === 1) return [0];
  return Array.from({ length: count }, (_, i) => Math.round((i * (total - 1)) / (count - 1)));
}

/** A mosaic of images that start at these offsets; −1 between them, a pixel wide. */
function mosaic(offsets, height, width) {
  const columns = Math.min(offsets.length,
    Math.max(1, Math.round(Math.sqrt((offsets.length * height) / width))));
  const rows = Math.ceil(offsets.length / columns);
  const size = { width: columns * (width + 1) - 1, height: rows * (height + 1) - 1 };
  const source = new Int32Array(size.width * size.height).fill(-1);
  offsets.forEach((offset, tile) => {
    const top = Math.floor(tile / columns) * (height + 1), left = (tile % columns) * (width + 1);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        source[(top + y) * size.width + left + x] = offset + y * width + x;
      }
    }
  });
  return { ...size, source };
}

/** The channel of a volume with the largest gradient. */
function strongestChannel(gradients) {
  if (gradients === null) return 0;
  const each = SIZE / SHAPE[0];
  const reach = Array.from({ length: SHAPE[0] }, (_, channel) =>
    Math.max(...gradients.map((gradient) => {
      let largest = 0;
      for (let i = channel * each; i < (channel + 1) * each; i++) {
        largest = Math.max(largest, Math.abs(gradient[i]) || 0);
      }
      return largest;
    })));
  return reach.indexOf(Math.max(...reach));
}

/**
 * Where each pixel comes from: { width, height, source, planes, heat, fills, notes }. `source` is
 * an index into the values, −1 where there is nothing; of RGB, planes = 3 of them lie one behind
 * the other.
 */
function layoutOf(gradients) {
  const [height, width] = SHAPE.slice(-2);
  const plane = height * width;
  const stretched = Math.max(height, width) > MAX_STRETCH * Math.min(height, width);
  const common = { planes: 1, plane, heat: SHAPE.length === 2, fills: stretched || SHAPE.length === 2, notes: [] };
  const whole = () => ({ ...common, ...mosaic([0], height, width) });
  if (SHAPE.length === 2) return whole();
  const [channels] = SHAPE;
  if (SHAPE.length === 3 && channels === 1) return whole();
  if (SHAPE.length === 3 && channels === 3) {
    const note = "RGB gradients: of the three channels the value of largest size, with its sign.";
    return { ...whole(), planes: 3, notes: gradients === null ? [] : [note] };
  }
  const count = SHAPE.length === 3 ? channels : SHAPE[1];
  const chosen = evenlySpaced(count, Math.min(count, MAX_TILES));
  const channel = SHAPE.length === 3 ? 0 : strongestChannel(gradients);
  const offsets = chosen.map((each) => (channel * (SHAPE.length === 3 ? 0 : count) + each) * plane);
  const what = SHAPE.length === 3 ? "channels" : "slices";
  const notes = [chosen.length < count
    ? `${chosen.length} of ${count} ${what}, evenly spaced; ${count - chosen.length} left out.`
    : `${count} ${what}.`];
  if (SHAPE.length === 4 && channels > 1) {
    notes.unshift(`Channel ${channel} of ${channels}, which has the largest gradient.`);
  }
  return { ...common, fills: false, ...mosaic(offsets, height, width), notes };
}

/** The values that a layout shows. */
function* shownValues(layout, values) {
  for (const at of layout.source) {
    if (at < 0) continue;
    for (let plane = 0; plane < layout.planes; plane++) yield values[at + plane * layout.plane];
  }
}

/** One number a pixel of a gradient: of RGB the value of largest size; NaN must not hide. */
function gradientAt(layout, values, at) {
  let chosen = values[at];
  for (let plane = 1; plane < layout.planes; plane++) {
    const value = values[at + plane * layout.plane];
    if (Number.isNaN(chosen)) break;
    if (Number.isNaN(value) || Math.abs(value) > Math.abs(chosen)) chosen = value;
  }
  return chosen;
}

/** Paint one pixel of the canvas for each of the layout; `rgbOf(at)` says which colour. */
function paint(canvas, layout, rgbOf) {
  canvas.width = layout.width;
  canvas.height = layout.height;
  canvas.classList.toggle("fills", layout.fills);
  const context = canvas.getContext("2d");
  const image = context.createImageData(layout.width, layout.height);
  layout.source.forEach((at, pixel) => {
    if (at < 0) return;
    image.data.set(rgbOf(at), 4 * pixel);
    image.data[4 * pixel + 3] = 255;
  });
  context.putImageData(image, 0, 0);
}

function paintValues(canvas, layout, values, { low, high }) {
  const share = (value) => (value - low) / (high - low);
  paint(canvas, layout, (at) => {
    const parts = Array.from({ length: layout.planes }, (_, p) => values[at + p * layout.plane]);
    if (parts.some(Number.isNaN)) return MISSING_RGB;
    if (layout.heat) return colorAt(HEAT, share(parts[0]));
    const levels = parts.map((value) => greyLevel(share(value)));
    return layout.planes === 3 ? levels : [levels[0], levels[0], levels[0]];
  });
}

function paintGradient(canvas, layout, values, bound) {
  paint(canvas, layout, (at) => {
    const value = gradientAt(layout, values, at);
    return Number.isNaN(value) ? MISSING_RGB : colorAt(DIVERGING, (value + bound) / (2 * bound));
  });
}
