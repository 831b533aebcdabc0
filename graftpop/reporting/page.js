"use strict";
// Draws figures when they scroll into view or the page is idle, follows the light or dark color scheme, fits figures to
// paper, sorts, filters and saves tables, and shows the trial in the address: #trial=00003.

const figures = JSON.parse(document.getElementById("figures").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const isTouch = matchMedia("(hover: none)").matches;
const hasWebGL = document.createElement("canvas").getContext("webgl") !== null;
const root = document.documentElement;
const trialChoice = document.getElementById("trial");
const receiverChoice = document.getElementById("receiver");

function pageColor(name) {
  return getComputedStyle(root).getPropertyValue(name).trim();
}

function themed(plot) {
  const [ink, line, faint, paper] = ["--ink", "--line", "--faint", "--paper"].map(pageColor);
  const layout = {...plot.layout, paper_bgcolor: paper, plot_bgcolor: paper, font: {color: ink, size: 12}};
  for (const key of Object.keys(plot.layout).filter((name) => /^[xy]axis/.test(name)).concat("xaxis", "yaxis")) {
    layout[key] = {...plot.layout[key], gridcolor: line, zerolinecolor: faint, linecolor: faint, showline: true};
  }
  if (isTouch) layout.dragmode = false;  // a finger scrolls the page; without the mode bar nothing would reset a zoom
  const data = plot.data.map((trace) => trace.meta !== "ink" ? trace : {
    ...trace, line: {...trace.line, color: ink}, marker: {...trace.marker, color: ink}});
  return {data, layout};
}

function nameOf(element) {
  return element.dataset.figure.replace("TRIAL", trialChoice?.value).replace("RECEIVER", receiverChoice?.value);
}

function draw(element) {
  const figure = figures[nameOf(element)];
  element.hidden = !figure;
  if (!figure) return;
  const plot = element.querySelector(".plot");
  plot.setAttribute("aria-label", figure.description);
  element.dataset.drawn = nameOf(element);
  plot.style.minHeight = heightOf(figure);
  if (!canBeDrawn(figure)) {
    Plotly.purge(plot);
    plot.textContent = figure.plot ? "This figure needs WebGL, which is off in this browser." : figure.description;
    return;
  }
  if (!plot.data) plot.textContent = "";
  const {data, layout} = themed(figure.plot);
  if (root.classList.contains("paper")) layout.width = plot.clientWidth;
  const displayModeBar = isTouch ? false : "hover";
  Plotly.react(plot, data, layout, {
    responsive: true, displaylogo: false, displayModeBar, modeBarButtonsToRemove: ["select2d", "lasso2d"],
  }).then(() => { if (nameOf(element) === "curves") select(trialOfAddress()); });
}

function canBeDrawn({plot}) {
  return plot && (hasWebGL || !plot.data.some(({type}) => type === "parcoords"));
}

function heightOf(figure) {
  return canBeDrawn(figure) ? `${figure.plot.layout.height}px` : "";
}

function drawAll(elements) {
  for (const element of elements) draw(element);
}

const inView = new IntersectionObserver((entries) => {
  for (const entry of entries.filter(({isIntersecting}) => isIntersecting)) {
    inView.unobserve(entry.target);
    draw(entry.target);
  }
}, {rootMargin: "400px"});

function drawWhenInView(elements) {
  for (const element of elements) {
    const figure = figures[nameOf(element)];
    element.hidden = !figure;
    if (!figure) continue;
    element.querySelector(".plot").style.minHeight = heightOf(figure);
    inView.unobserve(element);
    inView.observe(element);
    delete element.dataset.drawn;
  }
  whenIdle(drawNext);
}

// Printing and searching in the page find every figure once it is drawn.
const whenIdle = window.requestIdleCallback ?? ((call) => setTimeout(call, 200));

function drawNext() {
  const element = document.querySelector("[data-figure]:not([hidden], [data-drawn])");
  if (!element) return;
  inView.unobserve(element);
  draw(element);
  whenIdle(drawNext);
}

// --- the selected trial ---

const trialFigures = [...document.querySelectorAll("[data-figure^='trial/']")];

function trialOfAddress() {
  return new URLSearchParams(location.hash.slice(1)).get("trial");
}

function select(trial) {
  for (const row of document.querySelectorAll("tr[data-trial]")) {
    if (row.dataset.trial === trial) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
  }
  const plot = document.querySelector("[data-figure='curves'] .plot");
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
  return Object.keys(figures).filter((name) => name.startsWith(start)).map((name) => name.slice(start.length));
}

function showTrial(trial) {
  const hasDetails = [...trialChoice.options].some((option) => option.value === trial);
  document.getElementById("missing").hidden = hasDetails;
  if (hasDetails) trialChoice.value = trial;
  const receivers = hasDetails ? receiversOf(trial) : [];
  receiverChoice.replaceChildren(...receivers.map((peer) => new Option(`peer ${peer}`, peer)));
  receiverChoice.parentElement.hidden = !receivers.length;
  if (hasDetails) drawWhenInView(trialFigures);
  else for (const element of trialFigures) element.hidden = true;
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
  if (key === "") return -Infinity;  // no value
  const number = Number(key);
  return Number.isNaN(number) ? key : number;
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
    for (const row of rows) {
      const cells = [...row.cells].map((cell) => cell.textContent.toLowerCase());
      row.hidden = !words.every((word) => cells.some((cell) => cell.includes(word)));
    }
    count.value = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
  };
  field.addEventListener("input", filter);
  filter();
}

function csvOf(table) {
  const rows = [...table.rows].filter((row) => !row.hidden);
  const text = (cell) => cell.dataset.key ?? cell.textContent.trim().replaceAll("\u2212", "-");  // a number has a hyphen
  const quoted = (cell) => `"${text(cell).replaceAll('"', '""')}"`;
  return rows.map((row) => [...row.cells].map(quoted).join(",") + "\r\n").join("");
}

for (const table of document.querySelectorAll("table")) {
  const link = document.createElement("a");
  link.textContent = "CSV";
  link.className = "csv";
  link.href = "#";
  link.download = `${document.title}-${table.closest("section").id}.csv`;
  link.addEventListener("click", () => {
    URL.revokeObjectURL(link.href);
    link.href = URL.createObjectURL(new Blob([csvOf(table)], {type: "text/csv"}));
  });
  table.caption.firstElementChild.append(" ", link);
}

// --- the command ---

document.getElementById("copy")?.addEventListener("click", async ({target}) => {
  const command = document.getElementById("command");
  try {
    await navigator.clipboard.writeText(command.textContent);
    target.textContent = "Copied";
  } catch {  // pages from another machine without TLS have no clipboard
    getSelection().selectAllChildren(command);
  }
});

// --- paper ---

addEventListener("beforeprint", () => {
  root.classList.add("paper");
  for (const {style, offsetWidth} of document.querySelectorAll("table")) {
    style.zoom = Math.min(1, document.body.clientWidth / offsetWidth);
  }
  drawAll(document.querySelectorAll("[data-figure]:not([hidden])"));
});
addEventListener("afterprint", () => {
  root.classList.remove("paper");
  for (const table of document.querySelectorAll("table")) table.style.zoom = "";
  drawAll(document.querySelectorAll("[data-drawn]:not([hidden])"));
  for (const plot of document.querySelectorAll("[data-drawn]:not([hidden]) .js-plotly-plot")) Plotly.Plots.resize(plot);
});

// --- start ---

if (trialChoice) {
  trialChoice.addEventListener("change", () => { location.hash = `trial=${trialChoice.value}`; });
  receiverChoice.addEventListener("change", () => drawWhenInView(trialFigures));
  showTrial(trialChoice.value);
}
drawWhenInView(document.querySelectorAll("[data-figure]:not([data-figure^='trial/'])"));
addEventListener("hashchange", followAddress);
dark.addEventListener("change", () => drawAll(document.querySelectorAll("[data-drawn]:not([hidden])")));
followAddress();
