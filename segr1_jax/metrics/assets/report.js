"use strict";
// All that it knows of samples and curves are data-* attributes.

// Filters and sorts the samples.
function arrangeSamples(list, controls) {
  const items = [...list.children];
  const iou = (item) => (item.dataset.iou === "" ? -1 : Number(item.dataset.iou));
  const orders = {
    worst: (a, b) => iou(a) - iou(b),
    best: (a, b) => iou(b) - iou(a),
    name: (a, b) => (a.dataset.name < b.dataset.name ? -1 : a.dataset.name > b.dataset.name ? 1 : 0),
  };
  for (const status of [...new Set(items.map((item) => item.dataset.status))].sort()) {
    controls.elements.status.add(new Option(status, status));
  }
  if (items.every((item) => item.dataset.iou === "")) {
    for (const order of ["worst", "best"]) controls.querySelector(`option[value=${order}]`).remove();
  }
  function show() {
    const { status, order, search } = controls.elements;
    const wanted = search.value.toLowerCase();
    let shown = 0;
    for (const item of items) {
      item.hidden = (status.value !== "" && item.dataset.status !== status.value) || !item.dataset.name.toLowerCase().includes(wanted);
      shown += !item.hidden;
    }
    list.append(...items.sort(orders[order.value]));
    controls.querySelector("output").value = `${shown} of ${items.length}`;
  }
  controls.addEventListener("input", show);
  controls.addEventListener("submit", (event) => event.preventDefault());
  show();
}

// Exponential moving average without the bias towards its first value (as TensorBoard).
function smoothed(values, weight) {
  let sum = 0, total = 0;
  return values.map((value) => {
    sum = weight * sum + value;
    total = weight * total + 1;
    return sum / total;
  });
}

function element(name, parent) {
  return parent.appendChild(document.createElementNS("http://www.w3.org/2000/svg", name));
}

// Gives a curve its average, and a cursor that the pointer and the arrow keys move.
function readCurve(svg) {
  const { points, x, y, box, smooth } = JSON.parse(svg.dataset.curve);
  const [left, top, right, bottom] = box;
  const column = (step) => left + ((step - x[0]) / (x[1] - x[0])) * (right - left);
  const row = (value) => bottom - ((value - y[0]) / (y[1] - y[0])) * (bottom - top);
  const output = svg.parentElement.querySelector(".value");
  const average = element("polyline", svg), cursor = element("line", svg), mark = element("circle", svg);
  let means = points.map((point) => point[1]), at = null;
  average.setAttribute("class", "average");
  cursor.setAttribute("class", "cursor");
  mark.setAttribute("r", 4);
  const words = (value) => String(Number(value.toPrecision(4)));
  function place() {
    cursor.toggleAttribute("hidden", at === null);
    mark.toggleAttribute("hidden", at === null);
    const [step, value] = points[at ?? points.length - 1];
    const mean = means[at ?? points.length - 1];
    const isAveraged = svg.classList.contains("averaged");
    output.textContent = `step ${step}: ${words(value)}` + (isAveraged ? `, average ${words(mean)}` : "");
    for (const [name, number] of Object.entries({ x1: column(step), x2: column(step), y1: top, y2: bottom })) cursor.setAttribute(name, number);
    mark.setAttribute("cx", column(step));
    mark.setAttribute("cy", row(isAveraged ? mean : value));
  }
  svg.addEventListener("pointermove", (event) => {
    const area = svg.getBoundingClientRect();
    const here = ((event.clientX - area.left) / area.width) * svg.viewBox.baseVal.width;
    const distances = points.map((point) => Math.abs(column(point[0]) - here));
    at = distances.indexOf(Math.min(...distances));
    place();
  });
  for (const end of ["pointerleave", "blur"]) svg.addEventListener(end, () => { at = null; place(); });
  svg.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (move === undefined) return;
    at = Math.max(0, Math.min(points.length - 1, (at ?? points.length - 1) + move));
    event.preventDefault();
    place();
  });
  return (weight) => {
    const isAveraged = smooth && weight > 0;
    svg.classList.toggle("averaged", isAveraged);
    means = smoothed(points.map((point) => point[1]), isAveraged ? weight : 0);
    average.setAttribute("points", isAveraged ? points.map((point, index) => `${column(point[0]).toFixed(1)},${row(means[index]).toFixed(1)}`).join(" ") : "");
    place();
  };
}

const samples = document.querySelector(".samples");
if (samples) arrangeSamples(samples, document.querySelector("form"));
const smoothing = document.querySelector(".smoothing");
const redraws = [...document.querySelectorAll("svg[data-curve]")].map(readCurve);
function redraw() {
  const weight = smoothing ? Number(smoothing.querySelector("input").value) : 0;
  for (const each of redraws) each(weight);
  if (smoothing) smoothing.querySelector("output").value = weight.toFixed(2);
}
if (smoothing) {
  smoothing.hidden = false;
  smoothing.addEventListener("input", redraw);
}
redraw();
