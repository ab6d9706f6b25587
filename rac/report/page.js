"use strict";
// What a point says, tables that sort, and lists that filter. Without this script the page shows the same numbers.

// ---- points of figures
const tip = document.createElement("div");
tip.id = "tip";
tip.setAttribute("role", "status");
tip.hidden = true;
document.body.append(tip);

function showTip(event) {
  const point = event.target.closest("[data-tip]");
  tip.hidden = !point;
  if (!point) return;
  tip.textContent = point.dataset.tip;
  const box = point.getBoundingClientRect();
  const left = Math.min(box.left, document.documentElement.clientWidth - tip.offsetWidth - 6);
  tip.style.left = `${Math.max(6, left) + scrollX}px`;
  tip.style.top = `${box.top + scrollY - tip.offsetHeight - 8}px`;
}
document.addEventListener("pointerover", showTip);
document.addEventListener("click", showTip);
document.addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });

// ---- tables
function valueOf(cell) {
  const text = (cell.dataset.value ?? cell.textContent).trim();
  const number = parseFloat(text.replace(/,/g, "").replace("−", "-").replace(/^[^\d.-]+(?=[\d.-])/, ""));
  return /^[^a-z]*[\d.]/i.test(text) && !Number.isNaN(number) ? number : text;
}

function compare(a, b, ascending) {
  const numbers = [typeof a === "number", typeof b === "number"];
  if (numbers[0] !== numbers[1]) return numbers[0] ? -1 : 1; // what has no number stands last
  const order = numbers[0] ? a - b : a.localeCompare(b, undefined, { numeric: true });
  return ascending ? order : -order;
}

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const ascending = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      const body = table.tBodies[0];
      const rows = [...body.rows].map((row) => [valueOf(row.cells[column]), row]);
      rows.sort(([a], [b]) => compare(a, b, ascending));
      rows.forEach(([, row]) => row.classList.remove("new"));
      body.append(...rows.map(([, row]) => row));
    });
  });
}

// ---- filters
const verdictTests = {
  differ: (verdicts) => new Set(verdicts).size > 1,
  only: (verdicts) => verdicts.filter((verdict) => verdict === "correct").length === 1,
  unfinished: (verdicts) => verdicts.includes("unfinished"),
};

function matches(item, control) {
  if (!control.value) return true;
  if (control.dataset.filter === "text") return item.textContent.toLowerCase().includes(control.value.toLowerCase());
  if (control.dataset.filter === "verdicts") return verdictTests[control.value](item.dataset.verdicts.trim().split(/\s+/));
  return item.dataset[control.dataset.filter] === control.value;
}

for (const bar of document.querySelectorAll(".controls")) {
  const list = document.getElementById(bar.dataset.for);
  const items = [...(list.tBodies ? list.tBodies[0].rows : list.querySelectorAll("details.problem"))];
  if (!items.length) continue;
  const controls = [...bar.querySelectorAll("[data-filter]")];
  for (const control of controls) {
    const key = control.dataset.filter;
    if (control.tagName === "SELECT" && key !== "verdicts") {
      for (const value of new Set(items.map((item) => item.dataset[key]))) {
        if (value) control.append(new Option(value, value));
      }
    }
    control.addEventListener("input", () => {
      items.forEach((item) => { item.hidden = !controls.every((one) => matches(item, one)); });
      const left = items.filter((item) => !item.hidden).length;
      bar.querySelector("output").textContent = `${left} of ${items.length} shown`;
    });
  }
  bar.hidden = false;
}

// ---- paper: what is folded is printed too
addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details:not([open])")) {
    folded.open = true;
    folded.dataset.folded = "";
  }
});
addEventListener("afterprint", () => {
  for (const folded of document.querySelectorAll("details[data-folded]")) folded.open = false;
});
