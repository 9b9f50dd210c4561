// One sample in a dialog.

const detail = { row: null, view: null, kVisible: 1, kMax: 1, kTie: null };
const controls = $("k-controls"), colorBar = $("colour-bar-row"); // they stand between the fields
const DECADES = 5; // of k on either side of the slider
const SLIDER = 1000;
const LONG_NAME = 12; // characters that have no room beside a bar

const kFromSlider = (t) =>
  (t === 0 ? 0 : Math.sign(t) * detail.kMax * 10 ** (-DECADES * (1 - Math.abs(t) / SLIDER)));

function sliderFromK(k) {
  if (k === 0) return 0;
  const t = SLIDER * (1 + Math.log10(Math.abs(k) / detail.kMax) / DECADES);
  return Math.sign(k) * Math.round(Math.min(SLIDER, Math.max(1, t)));
}

/** k at which x + k · ∂z_b/∂x ties to first order; null: never. */
function tyingK({ margin, dots }) {
  if (dots === null || dots.includes(null) || margin === null) return null;
  const k = margin / (dots[2] - dots[1]);
  return Number.isFinite(k) ? k : null;
}

/** Margin at x + k · gradient of a (0) or b (1), to first order. */
function marginAt({ margin, dots }, which, k) {
  if (dots === null || dots.includes(null) || margin === null) return null;
  return margin + k * (which === 0 ? dots[0] - dots[1] : dots[1] - dots[2]);
}

/** k at which the largest gradient moves its value by the sample's whole range. */
function visibleK({ x, gradients }) {
  const { low, high } = limitsOf(x);
  return (high - low) / symmetricLimit(...gradients);
}

/** The slider's end: well beyond what is visible, and where it isn't far beyond, what ties. */
function largestK(visible, tie) {
  return Math.min(Math.max(4 * visible, 2 * Math.abs(tie ?? 0)), 1000 * visible);
}

const shortK = (k) => Number(k.toPrecision(4)); // what is said is what is drawn
const currentK = () => state.k ?? shortK(detail.kVisible);

function openDetail(row, { push = false } = {}) {
  state.sample = row;
  writeAddress({ push });
  detail.row = row;
  const sample = samples[row], known = arraysOf(row);
  $("detail").dataset.index = sample.index;
  const question = `Sample ${sample.index}: ${className(sample.a)} or ${className(sample.b)}?`;
  Object.assign($("detail-title"), { textContent: question, title: question });
  if (!$("detail").open) $("detail").showModal(); // before anything in it asks for its width
  showPosition();
  showFacts(sample);
  showLogits(sample);
  showPictures(sample, known);
}

function showPosition() {
  const place = shown.indexOf(detail.row);
  $("detail-position").textContent = place < 0 ? "outside the filter" : `${place + 1} of ${shown.length}`;
  $("detail-previous").disabled = place <= 0;
  $("detail-next").disabled = place === shown.length - 1;
}

function step(by) {
  const row = shown[shown.indexOf(detail.row) + by];
  if (row !== undefined) openDetail(row);
}

/** Of equal gradients there is no way to the boundary, unless the logits tie as it is. */
function shownDistance({ margin, dots }, distance) {
  if (distance !== null) return shownNumber(distance);
  if (dots?.includes(null)) return "not finite";
  return margin === 0 ? "none (degenerate)" : "∞ (equal gradients)";
}

function showFacts(sample) {
  detail.kTie = tyingK(sample);
  const [a, b] = [className(sample.a), className(sample.b)];
  const facts = [
    ["index", "index", String(sample.index)],
    ["label", "label", labelName(sample) + (agreementOf(sample) === "neither" ? " (neither)" : "")],
    ["margin", "margin", shownNumber(sample.margin, 4)],
    ["logit_a", `logit of ${a}`, shownNumber(sample.za, 6), "of-a"],
    ["logit_b", `logit of ${b}`, shownNumber(sample.zb, 6), "of-b"],
  ];
  if (report.picture.gradient !== null) {
    facts.push(["distance_l2", "distance L2", shownDistance(sample, sample.l2)],
      ["distance_linf", "distance L∞", shownDistance(sample, sample.linf)]);
    if (detail.kTie !== null) facts.push(["tie_k", `k that ties, towards ${b}`, shownNumber(detail.kTie)]);
  }
  if (report.baseline) facts.push(["new", "since the baseline", sample.new ? "newly tied" : "still tied"]);
  $("detail-facts").replaceChildren(...facts.map(([fact, term, text, kind = ""]) =>
    make("div", { data: { fact } }, make("dt", { className: kind }, term), make("dd", {}, text))));
  $("detail-link").href = address();
}

function showLogits(sample) {
  $("detail-logits").hidden = sample.logits === null;
  if (sample.logits === null) return;
  const values = sample.logits.map(([, z]) => z);
  const low = Math.min(0, ...values), span = Math.max(0, ...values) - low || 1;
  const isLong = ([number]) => className(number).length > LONG_NAME;
  $("logit-list").classList.toggle("long-names", sample.logits.some(isLong));
  $("logit-list").replaceChildren(...sample.logits.map(([number, z]) =>
    make("li", { data: { class: number }, className: number === sample.a ? "of-a" : number === sample.b ? "of-b" : "" },
      make("span", { className: "name", title: className(number) }, className(number)),
      bar((Math.min(z, 0) - low) / span, Math.abs(z) / span),
      make("span", { className: "value" }, shownNumber(z)))));
}

function showPictures(sample, known) {
  forgetPlots();
  const hasGradients = known !== null && known.gradients !== null;
  controls.hidden = !hasGradients;
  colorBar.hidden = !hasGradients || KIND !== "image";
  $("detail-fields").replaceChildren(colorBar, controls);
  detail.view = null;
  if (known === null) {
    $("detail-notes").textContent = ["The page has no room for this sample's picture.", ...notesOnLogits(sample)].join(" ");
    return;
  }
  detail.view = { image: imageView, signal: signalView, features: featureView }[KIND](sample, known);
  $("detail-notes").textContent = [...detail.view.notes, ...notesOn(known), ...notesOnLogits(sample)].join(" ");
  if (!hasGradients) return;
  detail.kVisible = visibleK(known);
  detail.kMax = largestK(detail.kVisible, detail.kTie);
  $("k-tie").hidden = detail.kTie === null;
  $("k-tie").textContent = `Tie: k = ${shownNumber(detail.kTie)}`;
  showK(currentK());
}

const notesOnLogits = ({ logits }) =>
  (logits === null ? ["Other classes' logits aren't known: the report was made without the bundle."] : []);

function notesOn({ x, gradients }) {
  const notes = [];
  const { factor } = report.picture;
  if (factor > 1) {
    notes.push(`Sample and gradients are averaged over blocks of ${factor} pixels a side, or the page `
      + "would be too large; x + k · gradient is the average of what it would be.");
  }
  if (report.picture.gradient === "int8") notes.push("Gradients are rounded to 255 steps.");
  if (gradients === null) {
    notes.push("The scan left out the gradients.");
    return notes;
  }
  if (gradients.every((gradient) => gradient.every((value) => value === 0))) notes.push("Both gradients are zero.");
  const missing = [x, ...gradients].reduce((sum, values) => sum + values.reduce((n, v) => n + Number.isNaN(v), 0), 0);
  if (missing) {
    const values = missing === 1 ? "1 value, not finite or beyond 1e30, is" : `${missing} values, not finite or beyond 1e30, are`;
    notes.push(`${values} left out (magenta).`);
  }
  return notes;
}

/** Show this k on all that has to do with it, but `except`, which said it. */
function showK(k, except = null) {
  if (except !== "slider") $("k-slider").value = sliderFromK(k);
  if (except !== "number") $("k-number").value = k;
  $("k-slider").setAttribute("aria-valuetext", `k = ${shownNumber(k)}`);
  detail.view.project(k);
  $("detail-link").href = address();
}

function setK(k, except) {
  state.k = k;
  writeAddress();
  showK(k ?? currentK(), except);
}

function forgetPlots() {
  for (const plot of plots) {
    if (!$("detail").contains(plot.root)) continue;
    plot.destroy();
    plots.delete(plot);
  }
}

/** Back to the gallery, on the card of the sample that was shown last. */
function leaveSample() {
  const { row } = detail;
  if (row === null || $("detail").open) return;
  detail.row = state.sample = null;
  writeAddress();
  if (shown.includes(row)) cardOf(row).firstChild.focus();
}

function closeDetail() {
  $("detail").close();
  leaveSample(); // at once: the event comes later
}

function wireDetail() {
  $("detail-previous").addEventListener("click", () => step(-1));
  $("detail-next").addEventListener("click", () => step(1));
  $("detail-close").addEventListener("click", closeDetail);
  $("detail").addEventListener("cancel", (event) => { // Escape
    event.preventDefault();
    closeDetail();
  });
  $("detail").addEventListener("close", leaveSample); // by the browser's own means
  $("k-slider").addEventListener("input", () => setK(shortK(kFromSlider(Number($("k-slider").value))), "slider"));
  $("k-number").addEventListener("input", () => {
    const k = $("k-number").valueAsNumber;
    if (Number.isFinite(k)) setK(k, "number");
  });
  $("k-number").addEventListener("change", () => showK(currentK())); // what was no number goes
  $("k-tie").addEventListener("click", () => setK(shortK(detail.kTie)));
  $("k-reset").addEventListener("click", () => setK(null));
}
