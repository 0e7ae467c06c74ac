// A link may lead into a fold: unfold it. "Made by this cell" leads to a cell whose code may be folded, too.
function unfoldTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  for (let fold = target.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  if (target.matches(".hb-cell")) {
    let next = target.closest("p") || target;
    do next = next.nextElementSibling; while (next && !next.matches("div.cell"));
    next?.querySelectorAll("details").forEach((fold) => (fold.open = true));
  }
  target.scrollIntoView();
}
addEventListener("beforeprint", () => document.querySelectorAll("details.hb-fold").forEach((fold) => (fold.open = true)));
addEventListener("hashchange", unfoldTarget);
addEventListener("DOMContentLoaded", unfoldTarget);

// What scrolls by itself can be reached by keyboard; and a list that is none in the eyes of a screen reader is not called one.
addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll("div.output.text_html, table.table").forEach((box) => (box.tabIndex = 0));
  document.querySelectorAll("div.citation-list").forEach((list) => list.removeAttribute("role"));
});
