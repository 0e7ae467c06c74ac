// What every head looks at while one answer is written. State: hybret/explorer/heads.py. Texts of the model and of its
// tokens go through textContent alone.

const PARTS = ["needle", "question", "first", "answer", "context"];
const NAMES = {
  needle: "needle",
  question: "question",
  first: "first token",
  answer: "template’s ending and answer so far",
  context: "elsewhere",
};
const percent = (share) => (share > 0 && share < 0.005 ? "< 1 %" : `${Math.round(100 * share)} %`);
const shown = (text) => visible(text.replace(/\n/g, "⏎")).replace(/^ $/, "␣") || "␣";
const quoted = (text) => (text === "" ? "the end of the answer" : `“${shown(text.trim() || text)}”`);

/** The bins of every (layer, head, step) with at least 0.5 %: arrays of [bin, share]. */
function unpack(packed, rows) {
  const bytes = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
  const found = [];
  let at = rows;
  for (let row = 0; row < rows; row++) {
    const bins = [];
    for (let i = 0; i < bytes[row]; i++, at += 2) bins.push([bytes[at], bytes[at + 1] / 255]);
    found.push(bins);
  }
  return found;
}

/** One run's numbers, asked for by layer, head and step. */
function reader(state, run) {
  const steps = run.reads.length;
  const heads = state.heads;
  const weights = unpack(run.mass, state.layers.length * heads * steps);
  const row = (layer, head, step) => (layer * heads + head) * steps + step;
  return (layer, head, step) => {
    const i = row(layer, head, step);
    const parts = Object.fromEntries(PARTS.slice(0, 4).map((part) => [part, run.parts[part][i] / 1000]));
    parts.context = Math.max(0, 1 - PARTS.slice(0, 4).reduce((sum, part) => sum + parts[part], 0));
    return {
      layer,
      head,
      parts,
      bits: run.entropy[i] / 100,
      kept: run.kept === null || run.kept[i] === "1",
      bins: weights[i],
      name: `layer ${state.layers[layer]}, head ${head}`,
    };
  };
}

const ORDERS = {
  "attention on the needle": (a, b) => b.parts.needle - a.parts.needle,
  "entropy, lowest first": (a, b) => a.bits - b.bits,
  "layer and head": () => 0,
};

function choice(label, values, changed, at = 0) {
  const select = make("select", {}, ...values.map((value, i) => make("option", { value: i }, value)));
  select.value = at;
  select.addEventListener("change", () => changed(Number(select.value)));
  return make("label", { class: "hb-heads-choice" }, `${label} `, select);
}

/** Bars over the bins; tall: linear, else square roots, so that 1 % can be seen. */
function strip(state, bins, tall) {
  const n = state.bins.start.length;
  const svg = make("svg", {
    viewBox: `0 0 ${n} 100`,
    preserveAspectRatio: "none",
    class: tall ? "hb-heads-strip hb-heads-tall" : "hb-heads-strip",
    "aria-hidden": "true",
  });
  for (const part of ["needle", "question"]) {
    for (const [start, end] of ranges(state, part)) {
      svg.append(make("rect", { x: start, y: 0, width: end - start, height: 100, class: `hb-heads-on-${part}` }));
    }
  }
  const height = (share) => 100 * (tall ? share : Math.sqrt(share));
  const path = bins.map(([bin, share]) => `M${bin} 100v${-height(share).toFixed(1)}h1v${height(share).toFixed(1)}z`);
  svg.append(make("path", { d: path.join(""), class: "hb-heads-bars" }));
  return svg;
}

/** Runs of neighbouring bins of one part, as half-open ranges. */
function ranges(state, part) {
  const wanted = PARTS.indexOf(part);
  const found = [];
  state.bins.part.forEach((is, i) => {
    if (is !== wanted) return;
    if (found.length && found.at(-1)[1] === i) found.at(-1)[1] = i + 1;
    else found.push([i, i + 1]);
  });
  return found;
}

export default {
  render({ model, el }) {
    const state = model.get("state");
    const readers = state.runs.map((run) => reader(state, run));
    const first = state.run ?? 0; // of the maps explorer: the run of the square that the view was opened from
    const view = { run: first, step: state.runs[first].step, order: 0, head: null };
    const orders = Object.keys(ORDERS);

    const root = make("div", { class: "hb-heads" });
    const controls = make("div", { class: "hb-heads-controls" });
    const answer = make("div", { class: "hb-heads-answer", role: "toolbar", "aria-label": "Tokens of the answer" });
    const summary = make("p", { class: "hb-heads-summary", "aria-live": "polite" });
    const list = make("div", { class: "hb-heads-list", role: "listbox", tabindex: "0", "aria-label": "Heads" });
    const detail = make("section", { class: "hb-heads-detail", "aria-label": "The chosen head" });
    const answerLabel = make("p", { class: "hb-heads-label" });
    controls.append(
      choice("Run", state.runs.map((run) => run.condition), (value) => {
        view.run = value;
        view.step = state.runs[value].step;
        renderAnswer();
        renderStep();
        reveal();
      }, first),
      choice("Heads by", orders, (value) => {
        view.order = value;
        renderStep();
        reveal();
      }),
    );
    root.append(controls, answerLabel, answer, summary, header(), list, detail, make("p", { class: "hb-heads-note" }, state.note));

    function header() {
      const row = make("div", { class: "hb-heads-row hb-heads-header", "aria-hidden": "true" });
      const places = make("div", { class: "hb-heads-places" });
      const n = state.bins.start.length;
      for (const part of ["needle", "question"]) {
        for (const [start, end] of ranges(state, part)) {
          const place = make("span", { class: `hb-heads-at-${part}` }, part);
          place.style.left = `${(50 * (start + end)) / n}%`;
          places.append(place);
        }
      }
      row.append(make("span", {}, "head"), places, make("span", {}, "needle"), make("span", {}, "bits"), make("span", {}, "kept"));
      return row;
    }

    function heads() {
      const all = [];
      for (let layer = 0; layer < state.layers.length; layer++) {
        for (let head = 0; head < state.heads; head++) all.push(readers[view.run](layer, head, view.step));
      }
      return all.sort(ORDERS[orders[view.order]]); // stable: layer and head among equals
    }

    function renderAnswer() {
      const run = state.runs[view.run];
      const chosen = answer.contains(document.activeElement);
      answerLabel.textContent = run.position > state.tokens - 1
        ? "The answer after its first token, which came with the prompt. Choose the token that is being written:"
        : "The answer. Choose the token that is being written:";
      answer.replaceChildren(
        ...run.gives.map((text, step) => {
          const button = make("button", { type: "button" }, text === "" ? "(end)" : shown(text));
          button.tabIndex = step === view.step ? 0 : -1;
          button.setAttribute("aria-pressed", String(step === view.step));
          button.addEventListener("click", () => go(step, true));
          return button;
        }),
      );
      if (chosen) answer.children[view.step].focus();
    }

    function go(step, focus) {
      const last = state.runs[view.run].gives.length - 1;
      view.step = Math.min(last, Math.max(0, step));
      [...answer.children].forEach((button, i) => {
        button.tabIndex = i === view.step ? 0 : -1;
        button.setAttribute("aria-pressed", String(i === view.step));
      });
      if (focus) answer.children[view.step].focus();
      renderStep();
    }

    function renderStep() {
      const run = state.runs[view.run];
      const sorted = heads();
      const current = sorted.find((h) => view.head && h.layer === view.head[0] && h.head === view.head[1]) ?? sorted[0];
      const looking = state.layers.map((layer, i) => {
        const inLayer = sorted.filter((h) => h.layer === i);
        return `${inLayer.filter((h) => h.parts.needle > 0.5).length} of ${inLayer.length} in layer ${layer}`;
      });
      const top = sorted.reduce((best, h) => (h.parts.needle > best.parts.needle ? h : best));
      summary.textContent =
        `Reading ${quoted(run.reads[view.step])} and about to write ${quoted(run.gives[view.step])}: ` +
        `heads that give the needle more than half of their attention: ${looking.join(", ")}. ` +
        `Most: ${top.name}, ${percent(top.parts.needle)}.`;
      list.replaceChildren(
        ...sorted.map((h, i) => {
          const selected = h.layer === current.layer && h.head === current.head;
          const row = make("div", {
            class: "hb-heads-row",
            role: "option",
            id: `${key}-${h.layer}-${h.head}`,
            "aria-selected": String(selected),
            "aria-label":
              `${h.name}: ${percent(h.parts.needle)} on the needle, ${h.bits.toFixed(1)} bits, ` +
              (h.kept ? "kept" : "silenced"),
          });
          if (!h.kept) row.classList.add("hb-heads-silenced");
          row.append(
            make("span", { class: "hb-heads-name" }, `L${state.layers[h.layer]} H${h.head}`),
            strip(state, h.bins, false),
            make("span", { class: "hb-heads-number" }, percent(h.parts.needle)),
            make("span", { class: "hb-heads-number" }, h.bits.toFixed(1)),
            make("span", { class: "hb-heads-kept" }, h.kept ? "●" : "○"),
          );
          row.addEventListener("click", () => pick(i));
          return row;
        }),
      );
      list.setAttribute("aria-activedescendant", `${key}-${current.layer}-${current.head}`);
      renderDetail(current, run);
    }

    function pick(index) {
      const sorted = heads();
      const h = sorted[Math.min(sorted.length - 1, Math.max(0, index))];
      view.head = [h.layer, h.head];
      renderStep();
      reveal();
    }

    /** Scroll the list, and nothing else, to the chosen head. */
    function reveal() {
      const row = list.querySelector('[aria-selected="true"]');
      const above = row.offsetTop;
      if (above < list.scrollTop) list.scrollTop = above;
      const below = above + row.offsetHeight - list.clientHeight;
      if (below > list.scrollTop) list.scrollTop = below;
    }

    function textOf(bin, run) {
      const start = state.bins.start[bin];
      return start < state.tokens ? state.bins.text[bin] : run.reads[start - run.position] ?? "";
    }

    function renderDetail(h, run) {
      detail.replaceChildren();
      const kept = h.kept ? "its output goes on" : "its output is silenced in this run";
      detail.append(
        make("h3", {}, `Layer ${state.layers[h.layer]}, head ${h.head}`),
        make("p", {}, `Entropy ${h.bits.toFixed(2)} bits; ${kept}. Attention on the whole text, left to right:`),
      );
      const big = strip(state, h.bins, true);
      const said = make("p", { class: "hb-heads-hover" }, "Point at a bar to read it.");
      big.addEventListener("pointermove", (event) => {
        const box = big.getBoundingClientRect();
        const n = state.bins.start.length;
        const bin = Math.min(n - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * n)));
        const start = state.bins.start[bin];
        const end = (bin + 1 < n ? state.bins.start[bin + 1] : state.end) - 1;
        const share = h.bins.find(([which]) => which === bin)?.[1];
        said.textContent =
          `${end > start ? `Tokens ${start} to ${end}` : `Token ${start}`} (${NAMES[PARTS[state.bins.part[bin]]]}): ` +
          `${share === undefined ? "less than 0.5 %" : percent(share)}, “${shown(textOf(bin, run))}”`;
      });
      detail.append(big, said);
      for (const part of PARTS) {
        if (!state.bins.part.includes(PARTS.indexOf(part))) continue;
        const block = make("div", { class: "hb-heads-part" });
        const title = make("p", { class: "hb-heads-part-title" });
        title.append(make("span", { class: `hb-heads-key hb-heads-key-${part}` }), make("b", {}, NAMES[part]), ` ${percent(h.parts[part])}${most(h, part, run)}`);
        block.append(title, words(h, part, run));
        detail.append(block);
      }
    }

    function most(h, part, run) {
      const inPart = h.bins.filter(([bin]) => PARTS[state.bins.part[bin]] === part);
      const [bin, share] = inPart.reduce((best, each) => (each[1] > best[1] ? each : best), [0, 0]);
      return share >= 0.05 && part !== "first" ? `, most on ${quoted(textOf(bin, run))} (${percent(share)})` : "";
    }

    /** The tokens of a part with a bar over each; of the context only the stretches with most. */
    function words(h, part, run) {
      const box = make("div", { class: "hb-heads-words" });
      const shares = new Map(h.bins);
      const query = run.position + view.step;
      let bins = state.bins.part.flatMap((is, bin) => (PARTS[is] === part && state.bins.start[bin] <= query ? [bin] : []));
      if (part === "context") {
        bins = bins.filter((bin) => shares.has(bin)).sort((a, b) => shares.get(b) - shares.get(a)).slice(0, 4);
        bins.sort((a, b) => a - b);
      }
      for (const bin of bins) {
        const share = shares.get(bin) ?? 0;
        const word = make("span", { class: "hb-heads-word", title: `${percent(share)}` });
        const bar = make("span", { class: "hb-heads-bar" });
        bar.style.height = `${(1.75 * share).toFixed(3)}rem`;
        word.append(bar, make("span", {}, shown(textOf(bin, run))));
        box.append(word, " ");
      }
      return box;
    }

    const key = `hb-heads-${Math.random().toString(36).slice(2, 9)}`;
    const step = (event, by) => {
      event.preventDefault();
      go(view.step + by, answer.contains(event.target));
    };
    const index = () => [...list.children].findIndex((row) => row.getAttribute("aria-selected") === "true");
    root.addEventListener("keydown", (event) => {
      const inList = event.target === list;
      if (!inList && !answer.contains(event.target)) return;
      if (event.key === "ArrowLeft") step(event, -1);
      else if (event.key === "ArrowRight") step(event, 1);
      else if (!inList && event.key === "Home") step(event, -Infinity);
      else if (!inList && event.key === "End") step(event, Infinity);
      else if (inList && ["ArrowUp", "ArrowDown", "Home", "End"].includes(event.key)) {
        event.preventDefault();
        pick({ ArrowUp: index() - 1, ArrowDown: index() + 1, Home: 0, End: Infinity }[event.key]);
      }
    });
    el.append(root);
    renderAnswer();
    renderStep();
    return ownKeys(root);
  },
};
