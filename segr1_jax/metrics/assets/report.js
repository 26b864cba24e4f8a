"use strict";
// Filters and sorts the samples; all it knows of them are data-* attributes.
const list = document.querySelector(".samples");
const controls = document.querySelector("form");
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
  document.querySelector("output").value = `${shown} of ${items.length}`;
}
controls.addEventListener("input", show);
controls.addEventListener("submit", (event) => event.preventDefault());
show();
