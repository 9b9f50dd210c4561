// Keys, theme, start.

const isTyping = (element) => element.closest("input, select, textarea") !== null;

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
  const act = $("help").open ? null : $("detail").open ? DETAIL_KEYS[event.key] : GALLERY_KEYS[event.key];
  if (act === null || act === undefined) return;
  if (act(event) !== false) event.preventDefault();
}

const DETAIL_KEYS = {
  ArrowRight: () => step(1), j: () => step(1),
  ArrowLeft: () => step(-1), k: () => step(-1),
};

const GALLERY_KEYS = {
  "/": () => $("filter-text").focus(),
  "?": () => $("help").showModal(),
  j: () => moveFocus(1), k: () => moveFocus(-1),
  ArrowRight: () => onCard() && moveFocus(1), ArrowLeft: () => onCard() && moveFocus(-1),
  Home: () => onCard() && cardButtons()[0].focus(), End: () => onCard() && cardButtons().at(-1).focus(),
  ArrowDown: () => onCard() && moveFocus(columns()), ArrowUp: () => onCard() && moveFocus(-columns()),
};

const cardButtons = () => [...$("samples").querySelectorAll(".card")];
const onCard = () => document.activeElement.classList.contains("card");
const columns = () => getComputedStyle($("samples")).gridTemplateColumns.split(" ").length;

function moveFocus(by) {
  const buttons = cardButtons();
  const at = buttons.indexOf(document.activeElement);
  const next = at < 0 ? buttons[0] : buttons[at + by];
  next?.focus();
}

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen === undefined ? matchMedia("(prefers-color-scheme: dark)").matches : chosen === "dark";
}

function showTheme() {
  $("theme-toggle").textContent = isDark() ? "Light" : "Dark";
  for (const plot of plots) plot.redraw();
  if (KIND !== "signal") return;
  for (const canvas of document.querySelectorAll("canvas.thumb[data-drawn]")) drawThumb(canvas);
}

function wireTheme() {
  $("theme-toggle").addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    showTheme();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);
}

/** Paper is light, whatever the screen is, and nobody scrolls on it. */
function wirePrint() {
  const { dataset } = document.documentElement;
  let chosen;
  window.addEventListener("beforeprint", () => {
    chosen = dataset.theme;
    dataset.theme = "light";
    showTheme();
    for (const canvas of document.querySelectorAll("canvas.thumb:not([data-drawn])")) drawThumb(canvas);
  });
  window.addEventListener("afterprint", () => {
    if (chosen === undefined) delete dataset.theme;
    else dataset.theme = chosen;
    showTheme();
  });
}

function followAddress() {
  readAddress();
  showFilters();
  showGallery();
  if (state.unknown) $("gallery").scrollIntoView(); // what is said of it stands there
  if (state.sample !== null) openDetail(state.sample);
  else if ($("detail").open) $("detail").close();
}

function start() {
  for (const element of document.querySelectorAll(".needs-script")) element.hidden = false;
  $("filters").hidden = $("result-count").hidden = samples.length === 0;
  $("samples").classList.toggle("of-features", KIND === "features");
  drawHistogram();
  fillFilters();
  wireFilters();
  wireDetail();
  wireTheme();
  showTheme();
  $("help-open").addEventListener("click", () => $("help").showModal());
  $("help-close").addEventListener("click", () => $("help").close());
  document.addEventListener("keydown", onKey);
  window.addEventListener("hashchange", () => {
    if (!/^#[\w-]+$/.test(location.hash)) followAddress(); // else a link within the page
  });
  wirePrint();
  followAddress();
  document.documentElement.dataset.ready = "true";
}

start();
