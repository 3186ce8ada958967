"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const data = JSON.parse(document.getElementById("document").textContent);

// Tables: a click, Enter or space on a heading sorts by it, another one turns the order round.
const key = (row, column) => {
  const cell = row.cells[column];
  const text = (cell.dataset.value ?? cell.textContent).trim();
  const number = Number(text.replace(/[,%×]/g, ""));
  return text === "–" ? null : Number.isNaN(number) ? text : number;
};
const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
const sort = (heading) => {
  const table = heading.closest("table"), body = table.tBodies[0];
  const column = heading.cellIndex, turn = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  all("th", table).forEach((other) => other.removeAttribute("aria-sort"));
  heading.setAttribute("aria-sort", turn === 1 ? "ascending" : "descending");
  const keyed = [...body.rows].map((row) => [key(row, column), row]);
  keyed.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : turn * compare(a, b)));
  body.append(...keyed.map(([, row]) => row));
};
all("table.sortable th").forEach((heading) => {
  heading.tabIndex = 0;
  heading.addEventListener("click", () => sort(heading));
  heading.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); sort(heading); }
  });
});

// Goals: one table at a time; all of them on paper and without this script.
all(".tabs").forEach((tabs) => {
  const buttons = all("button", tabs), panels = all(".goal", tabs.parentElement);
  const show = (goal) => {
    buttons.forEach((button) => button.setAttribute("aria-pressed", button.dataset.goal === goal));
    panels.forEach((panel) => { panel.hidden = panel.dataset.goal !== goal; });
  };
  buttons.forEach((button) => button.addEventListener("click", () => show(button.dataset.goal)));
  show(buttons[0].dataset.goal);
});

// What an element says of itself, at once; and the same architecture in every figure.
const tip = document.getElementById("tip");
all("svg title").forEach((title) => {
  const owner = title.parentElement;
  owner.dataset.tip = title.textContent;
  owner.setAttribute("aria-label", title.textContent);
  title.remove();
});
const light = (id, on) => { if (id) all(`[data-id="${id}"]`).forEach((mark) => mark.classList.toggle("lit", on)); };
document.addEventListener("pointermove", (event) => {
  const owner = event.target.closest?.("[data-tip]");
  tip.hidden = !owner;
  if (!owner) return;
  tip.textContent = owner.dataset.tip;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - width - 8))}px`;
  tip.style.top = `${event.clientY + 18 + height > innerHeight ? event.clientY - height - 10 : event.clientY + 18}px`;
});
document.addEventListener("pointerover", (event) => light(event.target.closest?.("[data-id]")?.dataset.id, true));
document.addEventListener("pointerout", (event) => light(event.target.closest?.("[data-id]")?.dataset.id, false));

// Data of a figure, or of everything, as a file.
all("button.json").forEach((button) => button.addEventListener("click", () => {
  const name = button.dataset.figure;
  const content = JSON.stringify(name ? data.figures[name] : data, null, 2);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type: "application/json" }));
  link.download = `${name || "report"}.json`;
  link.click();
  URL.revokeObjectURL(link.href);
}));

document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = (root.style.colorScheme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  root.style.colorScheme = dark ? "light" : "dark";
});
