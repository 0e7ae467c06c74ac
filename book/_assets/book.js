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
addEventListener("beforeprint", () => document.querySelectorAll("details:is(.hb-fold, .hb-claim)").forEach((fold) => (fold.open = true)));
addEventListener("hashchange", unfoldTarget);
addEventListener("DOMContentLoaded", unfoldTarget);

// What scrolls by itself can be reached by keyboard; and a list that is none in the eyes of a screen reader is not called one.
addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll("div.output.text_html, table.table").forEach((box) => (box.tabIndex = 0));
  document.querySelectorAll("div.citation-list").forEach((list) => list.removeAttribute("role"));
});

// The board of verdicts shows the claims of one state.
addEventListener("DOMContentLoaded", () => {
  for (const board of document.querySelectorAll(".hb-board")) {
    const claims = [...board.querySelectorAll(".hb-claim")];
    const states = new Set(claims.flatMap((claim) => claim.dataset.states.split(" ")));
    const bar = Object.assign(document.createElement("p"), { className: "hb-filter", role: "group", ariaLabel: "Claims shown" });
    for (const state of ["", ...states]) {
      const count = claims.filter((claim) => !state || claim.dataset.states.split(" ").includes(state)).length;
      const button = Object.assign(document.createElement("button"), {
        type: "button", textContent: `${{ "": "all", cannot: "cannot be tested", not: "not run" }[state] ?? state} (${count})`, ariaPressed: String(!state),
      });
      button.onclick = () => {
        for (const claim of claims) claim.hidden = Boolean(state) && !claim.dataset.states.split(" ").includes(state);
        for (const other of bar.children) other.ariaPressed = String(other === button);
      };
      bar.append(button);
    }
    board.prepend(bar);
  }
});
