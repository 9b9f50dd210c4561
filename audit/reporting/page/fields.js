// The fields of the detail: sample, gradients, projections, by the kind of the input.

const title = (field, sample) => ({
  "sample": "sample",
  "gradient-a": `∂z/∂x of ${className(sample.a)}`,
  "gradient-b": `∂z/∂x of ${className(sample.b)}`,
  "projection-a": `x + k · ∂z/∂x of ${className(sample.a)}`,
  "projection-b": `x + k · ∂z/∂x of ${className(sample.b)}`,
}[field]);

/** An empty figure in its place; what is drawn goes into what it returns. */
function addField(field, sample, ...content) {
  const kind = field.endsWith("-a") ? "of-a" : field.endsWith("-b") ? "of-b" : "";
  const figure = make("figure", { data: { field } },
    make("figcaption", { className: kind }, title(field, sample)), ...content);
  $("detail-fields").append(figure);
  return figure;
}

function addCanvas(field, sample, ...content) {
  const label = `${title(field, sample)}, sample ${sample.index}`;
  const canvas = make("canvas", { className: "picture", role: "img", "aria-label": label });
  addField(field, sample, canvas, ...content);
  return canvas;
}

const addReach = (which) => make("p", { className: "reach", id: `reach-${"ab"[which]}` });

function showReach(sample, which, k, values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  const margin = marginAt(sample, which, k);
  const said = low > high ? "no values" : `values ${shownNumber(low)} … ${shownNumber(high)}`;
  $(`reach-${"ab"[which]}`).textContent = said + (margin === null ? "" : `; margin to first order ${shownNumber(margin)}`);
}

function imageView(sample, { x, gradients }) {
  const layout = layoutOf(gradients);
  const limits = limitsOf(shownValues(layout, x));
  const scale = `${shownNumber(limits.low)} … ${shownNumber(limits.high)}`;
  paintValues(addCanvas("sample", sample), layout, x, limits);
  if (gradients === null) return { notes: [...layout.notes, `Sample shown from ${scale}.`] };
  const flat = gradients.map((g) => Float64Array.from(layout.source, (at) => (at < 0 ? 0 : gradientAt(layout, g, at))));
  const bound = symmetricLimit(...flat);
  gradients.forEach((gradient, which) =>
    paintGradient(addCanvas(`gradient-${"ab"[which]}`, sample), layout, gradient, bound));
  $("detail-fields").append(colorBar, controls);
  const canvases = gradients.map((_, which) =>
    addCanvas(`projection-${"ab"[which]}`, sample, addReach(which)));
  showColorBar(bound);
  return {
    notes: [...layout.notes, `Sample and projections shown from ${scale}; projections are clipped to that.`],
    project(k) {
      gradients.forEach((gradient, which) => {
        const values = projection(x, gradient, k);
        paintValues(canvases[which], layout, values, limits);
        canvases[which].setAttribute("aria-label",
          `${title(`projection-${"ab"[which]}`, sample)}, k = ${shownNumber(k)}, sample ${sample.index}`);
        showReach(sample, which, k, values);
      });
    },
  };
}

function showColorBar(bound) {
  const pixels = Int32Array.from({ length: 256 }, (_, i) => i);
  paint($("colour-bar"), { width: 256, height: 1, source: pixels, fills: true }, (at) => DIVERGING[at]);
  $("colour-low").textContent = shownNumber(-bound);
  $("colour-high").textContent = shownNumber(bound);
}

function signalView(sample, { x, gradients }) {
  const channels = Array.from({ length: LINES }, (_, channel) => channel);
  const lines = (values) => channels.map((channel) => lineOf(values, channel));
  const padded = ({ low, high }) => [low - 0.05 * (high - low), high + 0.05 * (high - low)];
  let range = padded(limitsOf(x));
  const plotIn = (field, series, data, ofY, ...content) => {
    const figure = addField(field, sample);
    const { low, high } = limitsOf(...data.map((line) => line.filter((value) => value !== null)));
    const words = `${title(field, sample)}, sample ${sample.index}, within ${shownNumber(low)} … ${shownNumber(high)}`;
    const chart = make("div", { role: "img", "aria-label": field.startsWith("projection") ? title(field, sample) : words });
    figure.append(chart, ...content);
    return linePlot(chart, series, data, ofY, 170);
  };
  plotIn("sample", channels.map(channelSeries), lines(x), () => padded(limitsOf(x)));
  const notes = LINES > 1 ? [`${LINES} channels: ${LINE_NAMES.slice(0, LINES).join(", ")}.`] : [];
  if (gradients === null) return { notes };
  const bound = symmetricLimit(...gradients);
  gradients.forEach((gradient, which) => {
    const [series, data] = gradientLines(lines(gradient));
    plotIn(`gradient-${"ab"[which]}`, series, data, [-1.05 * bound, 1.05 * bound]);
  });
  $("detail-fields").append(controls);
  const behind = channels.map(() => ({ stroke: () => token("--edge"), width: 1, dash: [3, 3] }));
  const charts = gradients.map((_, which) => plotIn(`projection-${"ab"[which]}`,
    [...behind, ...channels.map(channelSeries)], [...lines(x), ...lines(x)], () => range, addReach(which)));
  return {
    notes: [...notes, "Both gradients on one scale, both projections on another; there the sample is dashed."],
    project(k) {
      const projections = gradients.map((gradient) => projection(x, gradient, k));
      range = padded(limitsOf(x, ...projections));
      projections.forEach((values, which) => {
        charts[which].setData([POSITIONS, ...lines(x), ...lines(values)]);
        showReach(sample, which, k, values);
      });
    },
  };
}

const LINE_NAMES = ["0 blue", "1 orange", "2 green", "3 pink", "4 light blue", "5 grey"];

/** Series and data of a gradient: one channel is filled by its sign, more are lines. */
function gradientLines(lines) {
  if (lines.length > 1) return [lines.map((_, channel) => channelSeries(channel)), lines];
  const part = (keeps) => lines[0].map((value) => (value === null ? null : keeps(value) ? value : 0));
  const series = (stroke) => ({ channel: 0, stroke, fill: `${stroke}99`, width: 1 });
  return [[series(POSITIVE), series(NEGATIVE)], [part((value) => value > 0), part((value) => value < 0)]];
}

function featureView(sample, { x, gradients }) {
  const chosen = chosenFeatures(gradients, MAX_FEATURES);
  const columns = ["feature", "sample"];
  if (gradients !== null) columns.push(...["gradient-a", "gradient-b", "projection-a", "projection-b"].map((f) => title(f, sample)));
  const bound = gradients === null ? 1 : symmetricLimit(...gradients.map((g) => chosen.map((at) => g[at])));
  const cells = []; // of projections
  const rows = chosen.map((at) => {
    const row = make("tr", {}, make("th", { scope: "row" }, featureName(at)), valueCell(x[at]));
    if (gradients === null) return row;
    row.append(...gradients.map((gradient) => gradientCell(gradient[at], bound)));
    cells.push(gradients.map(() => make("td", { className: "number" })));
    row.append(...cells.at(-1));
    return row;
  });
  const head = columns.map((name, i) => make("th", { scope: "col", className: i ? "number" : "" }, name));
  const reaches = gradients === null ? [] : gradients.map((_, which) => addReach(which));
  const table = make("table", { id: "detail-features" },
    make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows));
  $("detail-fields").append(controls,
    make("div", { className: "wide", tabIndex: 0, role: "group", "aria-label": "Features" }, table),
    make("div", { className: "wide" }, ...reaches));
  const notes = SIZE > chosen.length
    ? [`The ${chosen.length} of ${SIZE.toLocaleString("en")} features${gradients === null ? " that come first" : " with the largest gradients"}.`] : [];
  return {
    notes,
    project(k) {
      gradients.forEach((gradient, which) => {
        const values = projection(x, gradient, k);
        chosen.forEach((at, place) => showValue(cells[place][which], values[at]));
        showReach(sample, which, k, values);
        $(`reach-${"ab"[which]}`).prepend(`Towards ${className(which ? sample.b : sample.a)}: `);
      });
    },
  };
}

function showValue(cell, value) {
  cell.textContent = shownValue(value);
  cell.classList.toggle("missing", Number.isNaN(value));
}

function valueCell(value) {
  const cell = make("td", { className: "number" });
  showValue(cell, value);
  return cell;
}

function gradientCell(value, bound) {
  const cell = valueCell(value);
  const share = Number.isNaN(value) ? 0 : Math.abs(value) / bound / 2;
  cell.append(bar(value < 0 ? 0.5 - share : 0.5, share, value < 0 ? "negative" : "positive"));
  return cell;
}
