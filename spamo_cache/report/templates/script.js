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
