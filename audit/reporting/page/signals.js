// Signals of few channels: lines.

const [LINES, LENGTH] = KIND === "signal" ? SHAPE : [0, 0];
const POSITIONS = Array.from({ length: LENGTH }, (_, i) => i);
const lineOf = (values, channel) =>
  Array.from(values.subarray(channel * LENGTH, (channel + 1) * LENGTH), (value) =>
    Number.isNaN(value) ? null : value);

/** A small line chart; `series` are uPlot's, `range` is that of y. */
function linePlot(parent, series, data, range, height) {
  const axis = { stroke: () => token("--quiet"), grid: { stroke: () => token("--line"), width: 1 },
    ticks: { show: false }, font: "11px system-ui, sans-serif" };
  const plot = new uPlot({
    width: Math.max(160, parent.clientWidth), height,
    scales: { x: { time: false }, y: { range } },
    axes: [{ ...axis, size: 24 }, { ...axis, size: 50, values: (_, at) => at.map((value) => shownNumber(value)) }],
    series: [{}, ...series],
    legend: { show: false }, cursor: { show: false },
    hooks: { drawClear: [markMissing] },
  }, [POSITIONS, ...data], parent);
  plots.add(plot);
  return plot;
}

/** Magenta where a line has no value. */
function markMissing(plot) {
  const lines = plot.data.slice(1).filter((_, i) => plot.series[i + 1].channel !== undefined);
  const { left, top, height } = plot.bbox;
  plot.ctx.fillStyle = MISSING;
  for (let i = 0; i < LENGTH; i++) {
    if (lines.every((line) => line[i] !== null)) continue;
    const from = plot.valToPos(i - 0.5, "x", true), to = plot.valToPos(i + 0.5, "x", true);
    plot.ctx.fillRect(Math.max(left, from), top, Math.max(1, to - from), height);
  }
}

const channelSeries = (channel) =>
  ({ channel, stroke: LINES === 1 ? () => token("--ink") : LINE_COLORS[channel], width: 1.2 });

/** A sparkline. */
function paintSpark(canvas, x) {
  const width = (canvas.width = 200), height = (canvas.height = 200);
  const { low, high } = limitsOf(x);
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, width, height);
  context.lineWidth = 2;
  for (let channel = 0; channel < LINES; channel++) {
    context.strokeStyle = LINES === 1 ? token("--ink") : LINE_COLORS[channel];
    context.beginPath();
    let open = false;
    lineOf(x, channel).forEach((value, i) => {
      const at = 4 + ((width - 8) * i) / Math.max(1, LENGTH - 1);
      if (value === null) {
        context.fillStyle = MISSING;
        context.fillRect(at - 1, 0, 2, height);
        open = false;
        return;
      }
      const y = height - 10 - ((height - 20) * (value - low)) / (high - low);
      if (open) context.lineTo(at, y);
      else context.moveTo(at, y);
      open = true;
    });
    context.stroke();
  }
}
