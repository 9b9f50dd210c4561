// Margins of all samples.

const plots = new Set(); // to be drawn again in another theme

function drawHistogram() {
  const { edges, counts } = report.histogram;
  const logs = edges.map((edge) => Math.log10(edge));
  logs[0] = 2 * logs[1] - logs[2]; // of zero; as wide as the others
  const epsAt = Math.log10(report.eps);
  const atEps = Math.max(0, logs.findLastIndex((at) => at <= epsAt));
  const filled = counts.flatMap((count, i) => (count ? [i] : []));
  if (!filled.length) filled.push(Math.min(atEps, counts.length - 1));
  const first = Math.min(filled[0], atEps) - 2;
  const last = Math.max(filled.at(-1), logs.findIndex((at) => at > epsAt)) + 2;
  const bins = counts.map((_, i) => i).filter((i) => i >= first && i <= last);
  const most = Math.max(...counts, 1);
  const bars = uPlot.paths.bars({ size: [1, Infinity], align: 1, gap: 1 });
  const fill = (u) => splitAt(u, epsAt); // a bin that ε cuts has both colours
  const axis = { stroke: () => token("--quiet"), font: "12px system-ui, sans-serif", ticks: { show: false } };
  const parent = $("margin-plot");
  const plot = new uPlot({
    width: parent.clientWidth, height: 300,
    scales: {
      x: { time: false, range: [logs[bins[0]], logs[bins.at(-1) + 1]] },
      y: { distr: 4, range: [0, most * 1.3] }, // asinh: logarithmic, but holds zero
    },
    axes: [
      { ...axis, grid: { show: false }, size: 28, incrs: [1, 2, 3], values: (_, at) => at.map((log) => powerOfTen(log)) },
      { ...axis, size: 58, grid: { stroke: () => token("--line"), width: 1 },
        splits: () => [0, ...decadesTo(most)], values: (_, at) => at.map((n) => n.toLocaleString("en")) },
    ],
    series: [{}, { paths: bars, fill, stroke: fill, width: 0, points: { show: false } }],
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false }, points: { show: false } },
    hooks: { draw: [(u) => markEps(u, epsAt)], setCursor: [(u) => readOut(u, bins)] },
  }, [bins.map((i) => logs[i]), bins.map((i) => counts[i])], parent);
  plots.add(plot);
  new ResizeObserver(() => plot.setSize({ width: parent.clientWidth, height: 300 })).observe(parent);
}

/** Red to the left of ε, grey to the right. */
function splitAt({ ctx, bbox, valToPos }, at) {
  const share = Math.min(1, Math.max(0, (valToPos(at, "x", true) - bbox.left) / bbox.width)) || 0;
  const fill = ctx.createLinearGradient(bbox.left, 0, bbox.left + bbox.width, 0);
  for (const [place, name] of [[0, "--below"], [share, "--below"], [share, "--bar"], [1, "--bar"]]) {
    fill.addColorStop(place, token(name));
  }
  return fill;
}

const decadesTo = (most) => Array.from({ length: Math.floor(Math.log10(most)) + 1 }, (_, i) => 10 ** i);
const powerOfTen = (log) => (Number.isInteger(log) ? shownNumber(10 ** log, 1) : "");

function markEps(plot, at) {
  const { ctx, bbox } = plot;
  const x = plot.valToPos(at, "x", true);
  if (x < bbox.left || x > bbox.left + bbox.width) return;
  const ratio = devicePixelRatio;
  ctx.save();
  ctx.strokeStyle = ctx.fillStyle = token("--ink");
  ctx.lineWidth = 1.5 * ratio;
  ctx.beginPath();
  ctx.moveTo(x, bbox.top);
  ctx.lineTo(x, bbox.top + bbox.height);
  ctx.stroke();
  ctx.font = `${12 * ratio}px system-ui, sans-serif`;
  ctx.textAlign = x > bbox.left + bbox.width / 2 ? "right" : "left";
  ctx.textBaseline = "top";
  ctx.fillText(`ε = ${shownNumber(report.eps)}`, x + (ctx.textAlign === "left" ? 5 : -5) * ratio, bbox.top);
  ctx.restore();
}

function readOut(plot, bins) {
  const { left } = plot.cursor;
  if (left < 0) return;
  const at = plot.posToVal(left, "x");
  const place = plot.data[0].findLastIndex((edge) => edge <= at);
  if (place < 0) return;
  const { edges, counts } = report.histogram;
  const i = bins[place];
  const noun = counts[i] === 1 ? "sample" : "samples";
  $("margin-readout").textContent =
    `Margin ${shownNumber(edges[i])} to ${shownNumber(edges[i + 1])}: ${counts[i].toLocaleString("en")} ${noun}`;
}
