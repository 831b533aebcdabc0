"use strict";
// Draws what comes into view, follows the colours of light and dark, sorts and filters tables, and shows the trial that
// the address names: #trial=00003.

const drawings = JSON.parse(document.getElementById("drawings").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const trialChoice = document.getElementById("trial");
const receiverChoice = document.getElementById("receiver");

function ofPage(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function themed(figure) {
  const [ink, line, paper] = ["--ink", "--line", "--paper"].map(ofPage);
  const layout = {...figure.layout, paper_bgcolor: paper, plot_bgcolor: paper, font: {color: ink, size: 12}};
  for (const key of Object.keys(figure.layout).filter((name) => /^[xy]axis/.test(name)).concat("xaxis", "yaxis")) {
    layout[key] = {...figure.layout[key], gridcolor: line, zerolinecolor: line, linecolor: line};
  }
  const data = figure.data.map((trace) => trace.meta !== "ink" ? trace : {
    ...trace, line: {...trace.line, color: ink}, marker: {...trace.marker, color: ink}});
  return {data, layout};
}

function nameOf(drawing) {
  return drawing.dataset.drawing.replace("TRIAL", trialChoice?.value).replace("RECEIVER", receiverChoice?.value);
}

function draw(drawing) {
  const found = drawings[nameOf(drawing)];
  drawing.hidden = !found;
  if (!found) return;
  const plot = drawing.querySelector(".plot");
  const {data, layout} = themed(found.figure);
  plot.setAttribute("aria-label", found.says);
  plot.style.minHeight = `${layout.height}px`;
  drawing.dataset.drawn = nameOf(drawing);
  Plotly.react(plot, data, layout, {responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"]})
    .then(() => { if (nameOf(drawing) === "curves") select(trialOfAddress()); });
}

const inView = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((one) => one.isIntersecting)) {
    inView.unobserve(entry.target);
    draw(entry.target);
  }
}, {rootMargin: "400px"});

function drawWhenInView(all) {
  for (const drawing of all) {
    const found = drawings[nameOf(drawing)];
    drawing.hidden = !found;
    if (!found) continue;
    drawing.querySelector(".plot").style.minHeight = `${found.figure.layout.height}px`;
    inView.unobserve(drawing);
    inView.observe(drawing);
  }
}

// --- the trial that is looked at ---

const ofTrial = [...document.querySelectorAll("[data-drawing^='trial/']")];

function trialOfAddress() {
  return new URLSearchParams(location.hash.slice(1)).get("trial");
}

function select(trial) {
  for (const row of document.querySelectorAll("tr[data-trial]")) {
    if (row.dataset.trial === trial) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
  }
  const plot = document.querySelector("[data-drawing='curves'] .plot");
  if (!plot?.data || !trial) return;
  const x = [], y = [];
  for (const trace of plot.data) {
    trace.customdata?.forEach((name, index) => {
      if (name === trial && trace.x[index] !== null) { x.push(trace.x[index]); y.push(trace.y[index]); }
    });
  }
  Plotly.restyle(plot, {x: [x], y: [y], name: [`trial ${trial}`], showlegend: [true]}, [plot.data.length - 1]);
}

function receiversOf(trial) {
  const start = `trial/${trial}/alpha/`;
  return Object.keys(drawings).filter((name) => name.startsWith(start)).map((name) => name.slice(start.length));
}

function showTrial(trial) {
  const isThere = [...trialChoice.options].some((option) => option.value === trial);
  document.getElementById("missing").hidden = isThere;
  if (isThere) trialChoice.value = trial;
  const receivers = isThere ? receiversOf(trial) : [];
  receiverChoice.replaceChildren(...receivers.map((peer) => new Option(`peer ${peer}`, peer)));
  receiverChoice.parentElement.hidden = !receivers.length;
  if (isThere) drawWhenInView(ofTrial);
  else for (const drawing of ofTrial) drawing.hidden = true;
}

function followAddress() {
  const trial = trialOfAddress();
  if (!trial || !trialChoice) return;
  showTrial(trial);
  select(trial);
  document.getElementById("curves")?.scrollIntoView();
}

// --- tables ---

function keyOf(row, column) {
  const key = row.cells[column].dataset.key;
  const number = Number(key);
  return key === "" || Number.isNaN(number) ? key : number;
}

function sortBy(table, column) {
  const head = table.tHead.rows[0].cells[column];
  const order = head.getAttribute("aria-sort") === "descending" ? "ascending" : "descending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  const rows = [...table.tBodies[0].rows].map((row) => [keyOf(row, column), row]);
  const sign = order === "ascending" ? 1 : -1;
  rows.sort(([a], [b]) => sign * (typeof a === "number" && typeof b === "number" ? a - b
    : String(a).localeCompare(String(b))));
  table.tBodies[0].append(...rows.map(([, row]) => row));
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => sortBy(table, column));
  });
}

for (const field of document.querySelectorAll("[data-filters]")) {
  const rows = [...document.querySelectorAll(`#table-${field.dataset.filters} tbody tr`)];
  const count = document.querySelector(`[data-counts='${field.dataset.filters}']`);
  const filter = () => {
    const words = field.value.toLowerCase().split(/\s+/);
    for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
    count.value = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
  };
  field.addEventListener("input", filter);
  filter();
}

// --- begin ---

if (trialChoice) {
  trialChoice.addEventListener("change", () => { location.hash = `trial=${trialChoice.value}`; });
  receiverChoice.addEventListener("change", () => drawWhenInView(ofTrial));
  showTrial(trialChoice.value);
}
drawWhenInView(document.querySelectorAll("[data-drawing]:not([data-drawing^='trial/'])"));
addEventListener("hashchange", followAddress);
addEventListener("beforeprint", () => document.querySelectorAll("[data-drawing]:not([hidden])").forEach(draw));
dark.addEventListener("change", () => document.querySelectorAll("[data-drawn]:not([hidden])").forEach(draw));
followAddress();
