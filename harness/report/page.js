// Sorting, series toggles and hover values; the page says everything without them too.
"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.key;
      const value = (text) => (text === "inf" ? Infinity : Number(text));
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === "" || y === "") return (x === "") - (y === "");  // the unknown stays last
        const order = Number.isNaN(value(x)) ? x.localeCompare(y) : value(x) === value(y) ? 0 : value(x) - value(y);
        return down ? -order : order;
      });
      body.append(...rows);
    });
  });
}

for (const figure of document.querySelectorAll("figure[data-series]")) {
  const names = JSON.parse(figure.dataset.series);
  if (Object.keys(names).length < 2) continue;
  const bar = document.createElement("div");
  bar.className = "toggles";
  for (const [series, name] of Object.entries(names)) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.style.borderLeftColor = `var(--s${series % 6})`;
    button.setAttribute("aria-pressed", "true");
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(on));
      for (const mark of figure.querySelectorAll(`.drawing [data-series="${series}"]`)) mark.classList.toggle("off", !on);
      figure.querySelector(".drawing").dispatchEvent(new Event("toggled"));
    });
    bar.append(button);
  }
  figure.querySelector(".drawing").after(bar);
}

const hover = document.createElement("div");
hover.id = "hover";
document.body.append(hover);
for (const mark of document.querySelectorAll(".tip")) {
  const title = mark.querySelector("title");
  mark.dataset.text = title.textContent;
  title.remove();  // the browser's own tooltip would come a second later on top of ours
}
function show(mark, x, y) {
  hover.style.display = mark ? "block" : "none";
  if (!mark) return;
  hover.textContent = mark.dataset.text;
  hover.style.left = `${Math.min(x + 12, innerWidth - hover.offsetWidth - 8)}px`;
  hover.style.top = `${Math.min(y + 14, innerHeight - hover.offsetHeight - 8)}px`;
}
document.addEventListener("pointermove", (event) => {
  show(event.target.closest ? event.target.closest(".tip") : null, event.clientX, event.clientY);
});

// One stop of the Tab key per figure; the arrow keys go from mark to mark, Home and End to the ends.
const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity };
for (const drawing of document.querySelectorAll(".drawing")) {
  const marks = [...drawing.querySelectorAll(".tip")];
  if (marks.length) drawing.querySelector("svg").setAttribute("role", "group");  // an image would hide its marks
  const seen = () => marks.filter((mark) => !mark.closest(".off"));
  const stopAt = (stop) => marks.forEach((mark) => mark.setAttribute("tabindex", mark === stop ? "0" : "-1"));
  stopAt(marks[0]);
  drawing.addEventListener("toggled", () => stopAt(seen()[0]));
  marks.forEach((mark) => {
    mark.setAttribute("role", "img");
    mark.setAttribute("aria-label", mark.dataset.text);
    mark.addEventListener("focus", () => {
      const box = mark.getBoundingClientRect();
      show(mark, box.right, box.bottom);
    });
    mark.addEventListener("blur", () => show(null));
    mark.addEventListener("keydown", (event) => {
      if (event.key === "Escape") show(null);
      if (!(event.key in STEPS)) return;
      event.preventDefault();
      const there = seen();
      const next = there[Math.min(Math.max(there.indexOf(mark) + STEPS[event.key], 0), there.length - 1)];
      stopAt(next);
      next.focus();
    });
  });
}
