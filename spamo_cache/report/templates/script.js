"use strict";
// Sort a table by the column whose heading is pressed; pressed again, the other way round.
for (const button of document.querySelectorAll("thead button")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const body = heading.closest("table").tBodies[0];
    const column = heading.cellIndex;
    const down = heading.getAttribute("aria-sort") === "ascending";
    for (const other of heading.parentElement.children) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    // A number stands in <data>, whatever is shown of it; a cell without one is absent.
    const value = (row) => parseFloat(row.cells[column].querySelector("data")?.value);
    const words = (row) => row.cells[column].textContent.trim();
    const numeric = [...body.rows].some((row) => !Number.isNaN(value(row)));
    const order = (a, b) => {
      if (!numeric) return words(a).localeCompare(words(b), "en", { numeric: true }) * (down ? -1 : 1);
      const [x, y] = [value(a), value(b)];
      // What is absent comes last either way.
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
      return (x - y) * (down ? -1 : 1);
    };
    body.append(...[...body.rows].sort(order));
  });
}
// On a phone the rows of a wide table are blocks: each value stands under the name of its column.
const words = (node) => {
  const walk = document.createTreeWalker(node, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walk.nextNode()) found.push(walk.currentNode.data);
  return found.join(" ").replace(/\s+/g, " ").trim();
};
const headings = (table) => [...table.tHead.rows[0].cells].map(words);
for (const table of document.querySelectorAll("table[data-stacks]")) {
  const names = headings(table);
  for (const row of table.tBodies[0].rows)
    for (const cell of row.cells) cell.dataset.label = names[cell.cellIndex];
  table.classList.add("stacked");
}
// Tables and translations as CSV (RFC 4180). What a spreadsheet would take for a formula is quoted.
const number = (value) => ({ number: +Number(value).toPrecision(12) });
const field = (value) => {
  if (value?.number !== undefined) return String(value.number);
  const text = /^[\s]*[=+\-@\uFF1D\uFF0B\uFF0D\uFF20]|^[\t\r\n]/.test(value) ? `'${value}` : value;
  return `"${text.replaceAll('"', '""')}"`;
};
const csv = (rows) => rows.map((row) => row.map(field).join(",") + "\r\n").join("");
const tableRows = (table) => {
  const rows = [...table.tBodies[0].rows];
  const columns = headings(table).map((name, n) => {
    const data = (row) => row.cells[n].querySelector("data");
    const small = (row) => row.cells[n].querySelector("small:not(.why)");
    const aside = (row) => (data(row)?.dataset.half ? "" : small(row) ? words(small(row)) : "");
    const columns = [[name, (row) => {
      if (data(row)) return number(data(row).value);
      return row.cells[n].querySelector(".none") ? "" : words(row.cells[n]);
    }]];
    if (rows.some((row) => data(row)?.dataset.half))
      columns.push([`${name} ±`, (row) => (data(row)?.dataset.half ? number(data(row).dataset.half) : "")]);
    if (rows.some((row) => data(row) && aside(row)))
      columns.push([`${name}, of`, (row) => (data(row) ? aside(row) : "")]);
    return columns;
  }).flat();
  return [columns.map(([name]) => name), ...rows.map((row) => columns.map(([, cell]) => cell(row)))];
};
const translationRows = (section) => [
  ["clip", "chrF", "reference", "translation", "failed", "training sentence"],
  ...[...section.querySelectorAll(".pairs > li")].map((line) => {
    const text = (place) => line.querySelector(`${place} bdi`).textContent.trim();
    const said = line.querySelector(".hypothesis bdi > em") ? "" : text(".hypothesis");
    const { clip, chrf, failed, seen } = line.dataset;
    return [clip, number(chrf), text(".reference"), said, failed, seen === undefined ? "no" : "yes"];
  }),
];
for (const button of document.querySelectorAll("button[data-save]")) {
  button.hidden = false;
  button.addEventListener("click", () => {
    const before = button.parentElement.previousElementSibling;
    const table = before.matches(".scroll") && before.querySelector("table");
    const rows = table ? tableRows(table) : translationRows(button.closest("section"));
    // With a byte order mark, which spreadsheets know UTF-8 by.
    const file = new Blob(["\ufeff", csv(rows)], { type: "text/csv;charset=utf-8" });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(file);
    link.download = `${button.dataset.save.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 80)}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  });
}
// A link to something folded unfolds it.
const unfold = () => {
  let place = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!place) return;
  const target = place;
  for (; place; place = place.parentElement) if (place.tagName === "DETAILS") place.open = true;
  target.scrollIntoView();
};
addEventListener("hashchange", unfold);
if (location.hash) unfold();
// Details are folded on screen; on paper they must be seen, but for what is a sample in full.
let unfolded = [];
addEventListener("beforeprint", () => {
  unfolded = [...document.querySelectorAll("details:not([open], .more)")];
  for (const folded of unfolded) folded.open = true;
});
addEventListener("afterprint", () => {
  for (const folded of unfolded) folded.open = false;
});
