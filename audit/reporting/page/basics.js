"use strict";

// The report's page. Whatever comes from the findings is hostile text: it reaches the document as
// text nodes and attributes only, never as HTML.

const report = JSON.parse(document.getElementById("report-data").textContent);
const samples = report.samples;
const rowOf = new Map(samples.map((sample, row) => [sample.index, row]));

const $ = (id) => document.getElementById(id);

/** An element with properties and children; a string becomes a text node. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "data") Object.assign(element.dataset, value);
    else if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function shownNumber(value, digits = 3) {
  if (value === null || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e-4 && size < 1e6
    ? String(Number(value.toPrecision(digits)))
    : value.toExponential(digits - 1);
  return text.replace(/-/g, "−");
}

const className = (number) => report.classes[number] ?? `class ${number}`;

/** A custom property as the colour it stands for: canvases don't know light-dark(). */
function token(name) {
  const probe = token.probe ??= document.body.appendChild(make("span", { hidden: true }));
  probe.style.color = `var(${name})`;
  return getComputedStyle(probe).color;
}
