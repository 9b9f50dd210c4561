// The flagged samples, a card each.

const orderBy = (key) => (one, other) =>
  (samples[one][key] ?? Infinity) - (samples[other][key] ?? Infinity) || samples[one].index - samples[other].index;
const SORTS = { margin: orderBy("margin"), l2: orderBy("l2"), linf: orderBy("linf"), index: orderBy("index") };
const AGREEMENTS = {
  right: "is the first class",
  second: "is the second class",
  neither: "is neither",
  unknown: "is unknown",
};

function pairOf(sample) {
  return `${Math.min(sample.a, sample.b)}-${Math.max(sample.a, sample.b)}`;
}

function agreementOf(sample) {
  if (sample.label < 0) return "unknown";
  if (sample.label === sample.a) return "right";
  return sample.label === sample.b ? "second" : "neither";
}

const labelName = (sample) => (sample.label < 0 ? "unknown" : className(sample.label));

function matchesWord(sample, word) {
  const names = [className(sample.a), className(sample.b), labelName(sample)];
  return String(sample.index).startsWith(word) || names.some((name) => name.toLowerCase().includes(word));
}

function matches(sample) {
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  const number = Number(state.class);
  return (state.pair === "" || pairOf(sample) === state.pair)
    && (state.class === "" || [sample.a, sample.b, sample.label].includes(number))
    && (state.label === "" || agreementOf(sample) === state.label)
    && (state.new === "" || sample.new)
    && words.every((word) => matchesWord(sample, word));
}

let shown = []; // rows in the gallery, in its order

const cards = new Map();
const watcher = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) if (isIntersecting) drawThumb(target);
}, { rootMargin: "300px" });

function drawThumb(canvas) {
  watcher.unobserve(canvas);
  const { x, gradients } = arraysOf(Number(canvas.dataset.row));
  if (KIND === "signal") paintSpark(canvas, x);
  else {
    const layout = layoutOf(gradients);
    paintValues(canvas, layout, x, limitsOf(shownValues(layout, x)));
  }
  canvas.dataset.drawn = "true";
}

function thumbOf(row) {
  const known = arraysOfKind(row);
  if (known === null) return make("span", { className: "thumb no-picture" }, "no picture");
  if (KIND === "features") return featureList(known);
  const canvas = make("canvas", { className: "thumb", "aria-hidden": "true", data: { row } });
  watcher.observe(canvas);
  return canvas;
}

/** Only features need their values at once; pictures are decoded when they are drawn. */
function arraysOfKind(row) {
  if (KIND === "features") return arraysOf(row);
  return samples[row].x === null ? null : {};
}

function featureList({ x, gradients }) {
  const list = make("span", { className: "features" });
  for (const at of chosenFeatures(gradients, Math.min(SHORT_LIST, SIZE))) {
    list.append(make("span", {}, featureName(at)), make("span", {}, shownValue(x[at])));
  }
  return list;
}

function cardOf(row) {
  if (cards.has(row)) return cards.get(row);
  const sample = samples[row];
  const label = sample.label < 0 ? "label unknown" : `label ${labelName(sample)}`;
  const isWrong = ["second", "neither"].includes(agreementOf(sample));
  const card = make("button", { type: "button", className: "card", data: { index: sample.index } },
    thumbOf(row),
    make("strong", {}, `${className(sample.a)} / ${className(sample.b)}`),
    make("span", { className: isWrong ? "wrong" : "" }, label),
    make("span", {}, `margin ${shownNumber(sample.margin)}`),
    make("span", {}, `sample ${sample.index}`));
  if (sample.new) card.append(make("span", { className: "badge-new" }, "new"));
  card.addEventListener("click", () => openDetail(row, { push: true }));
  const item = make("li", {}, card);
  cards.set(row, item);
  return item;
}

function showGallery() {
  shown = samples.map((_, row) => row).filter((row) => matches(samples[row])).sort(SORTS[state.sort]);
  $("samples").replaceChildren(...shown.map(cardOf));
  const noun = samples.length === 1 ? "sample" : "samples";
  const [some, all] = [shown, samples].map((list) => list.length.toLocaleString("en"));
  const count = some === all ? all : `${some} of ${all}`;
  const unknown = state.unknown === null ? "" : ` Sample ${state.unknown} isn't among them.`;
  $("result-count").textContent = `${count} ${noun}.${unknown}`;
  $("no-results").hidden = shown.length > 0 || samples.length === 0;
  for (const button of document.querySelectorAll("[data-pair] button")) {
    button.setAttribute("aria-pressed", String(button.parentElement.dataset.pair === state.pair));
  }
}
