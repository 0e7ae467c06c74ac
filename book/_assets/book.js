// "made by this cell" leads to a cell whose code may be folded: unfold it.
function unfoldTarget() {
  const anchor = location.hash.startsWith("#cell-") && document.getElementById(location.hash.slice(1));
  if (!anchor) return;
  let next = anchor.closest("p") || anchor;
  do next = next.nextElementSibling; while (next && !next.matches("div.cell"));
  next?.querySelectorAll("details").forEach((fold) => (fold.open = true));
}
addEventListener("hashchange", unfoldTarget);
addEventListener("DOMContentLoaded", unfoldTarget);

// What scrolls by itself can be reached by keyboard; and a list that is none in the eyes of a screen reader is not called one.
addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll("div.output.text_html, table.table").forEach((box) => (box.tabIndex = 0));
  document.querySelectorAll("div.citation-list").forEach((list) => list.removeAttribute("role"));
});
