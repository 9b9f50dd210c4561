// Features: a table.

const MAX_FEATURES = 24;
const SHORT_LIST = 4;

/** Name of a feature, or its place. */
function featureName(at) {
  if (report.feature_names !== null) return report.feature_names[at];
  if (SHAPE.length === 1) return String(at);
  const place = [];
  for (const size of [...SHAPE].reverse()) {
    place.unshift(at % size);
    at = Math.floor(at / size);
  }
  return place.join(", ");
}

/** The features with the largest gradients, in their order unless some are left out. */
function chosenFeatures(gradients, count) {
  const all = Array.from({ length: SIZE }, (_, i) => i);
  if (gradients === null) return all.slice(0, count);
  if (SIZE <= count) return all;
  const sizes = all.map((at) => Math.max(...gradients.map((g) => (Number.isNaN(g[at]) ? 1e300 : Math.abs(g[at])))));
  return all.sort((one, other) => sizes[other] - sizes[one] || one - other).slice(0, count);
}

const shownValue = (value) => (Number.isNaN(value) ? "not finite" : shownNumber(value, 4));

/** A bar inside a table or list: from where to where, in shares of the track. */
function bar(from, size, sign = "") {
  const fill = make("span", { className: sign });
  fill.style.setProperty("--from", `${100 * from}%`);
  fill.style.setProperty("--size", `${100 * size}%`);
  return make("div", { className: "track", "aria-hidden": "true" }, fill);
}
