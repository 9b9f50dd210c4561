// Controls of the gallery, and the confusion pairs.

const CONTROLS = { sort: "sort", pair: "filter-pair", class: "filter-class", label: "filter-label", q: "filter-text" };

function counted(keyOf) {
  const counts = new Map();
  for (const sample of samples) for (const key of new Set(keyOf(sample))) counts.set(key, (counts.get(key) ?? 0) + 1);
  return counts;
}

function addOptions(id, options) {
  for (const [value, text] of options) $(id).append(make("option", { value }, text));
}

function fillFilters() {
  const pairs = [...counted((sample) => [pairOf(sample)])].sort((one, other) => other[1] - one[1]);
  addOptions("filter-pair", pairs.map(([pair, count]) =>
    [pair, `${pair.split("-").map(className).join(" / ")} (${count})`]));
  const classes = [...counted((sample) => [sample.a, sample.b, sample.label])]
    .filter(([number]) => number >= 0).sort((one, other) => one[0] - other[0]);
  addOptions("filter-class", classes.map(([number, count]) => [number, `${className(number)} (${count})`]));
  const agreements = counted((sample) => [agreementOf(sample)]);
  addOptions("filter-label", Object.entries(AGREEMENTS)
    .filter(([key]) => agreements.has(key)).map(([key, text]) => [key, `${text} (${agreements.get(key)})`]));
}

/** Set the controls from the state; what none of their options says is taken for the default. */
function showFilters() {
  for (const [key, id] of Object.entries(CONTROLS)) {
    const control = $(id);
    control.value = state[key];
    if (control.value !== state[key]) control.value = state[key] = DEFAULTS[key];
  }
  if (state.new !== "1" || !report.baseline) state.new = DEFAULTS.new;
  if (report.baseline) $("filter-new").checked = state.new !== "";
}

function setFilter(key, value) {
  state[key] = value;
  state.unknown = null;
  writeAddress();
  showFilters();
  showGallery();
}

function wireFilters() {
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  for (const [key, id] of Object.entries(CONTROLS)) {
    $(id).addEventListener(key === "q" ? "input" : "change", () => setFilter(key, $(id).value));
  }
  if (report.baseline) {
    $("filter-new").addEventListener("change", () => setFilter("new", $("filter-new").checked ? "1" : ""));
  }
  $("filter-clear").addEventListener("click", () => {
    Object.assign(state, DEFAULTS, { sort: state.sort });
    setFilter("q", "");
  });
  for (const cell of document.querySelectorAll("td[data-pair]")) wirePair(cell);
}

function wirePair(cell) {
  const { pair, names } = cell.dataset;
  const count = cell.textContent;
  const button = make("button", { type: "button", "aria-label": `${names}: ${count}` }, count);
  button.addEventListener("click", () => {
    setFilter("pair", state.pair === pair ? "" : pair);
    $("gallery").scrollIntoView();
  });
  // The gallery holds a part of what the matrix counts; a pair that it lacks can't be filtered by.
  button.disabled = !samples.some((sample) => pairOf(sample) === pair);
  cell.replaceChildren(button);
}
