// The state of the page. The address holds all of it, so that a link leads back.

const DEFAULTS = { sort: "margin", pair: "", class: "", label: "", new: "", q: "" };
const state = { sample: null, k: null, ...DEFAULTS };

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const [key, value] of Object.entries(DEFAULTS)) state[key] = given.get(key) ?? value;
  if (!SORTS[state.sort]) state.sort = DEFAULTS.sort;
  const index = given.get("sample");
  state.sample = index !== null && rowOf.has(Number(index)) ? rowOf.get(Number(index)) : null;
  state.unknown = index !== null && state.sample === null ? index : null;
  const k = given.get("k");
  state.k = k !== null && k !== "" && Number.isFinite(Number(k)) ? Number(k) : null;
}

function address(row = state.sample) {
  const given = new URLSearchParams();
  if (row !== null) given.set("sample", samples[row].index);
  if (row !== null && state.k !== null) given.set("k", String(state.k));
  for (const [key, value] of Object.entries(DEFAULTS)) if (state[key] !== value) given.set(key, state[key]);
  return `#${given}`;
}

function writeAddress({ push = false } = {}) {
  if (address() === (location.hash || "#")) return;
  history[push ? "pushState" : "replaceState"](null, "", address());
}
