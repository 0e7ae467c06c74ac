// The retrieval-map explorer: two maps, their difference, the curve over k, and what stands behind a cell.
// Prompts and answers are written by models and strangers: they reach the page through text nodes alone.
const SIDES = ["a", "b"];
const FIELDS = [["model", "Model"], ["recipe", "Recipe"], ["prompt", "Prompt"], ["setting", "Conditions"]];
const EDGE = "#D55E00"; // the window's edge, as in the figures

const percent = (share) => `${(100 * share).toFixed(1)} %`;
const number = (value) => String(Math.round(100 * value) / 100);
const signed = (value) => (value > 0 ? "+" : value < 0 ? "−" : "") + number(Math.abs(value));

// As hybret.scoring.normalise (lower case, no punctuation, single spaces), with the place of each character.
function normalised(text) {
  let said = "";
  const at = [];
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    const kept = /\s/.test(c) ? (said === "" || said.endsWith(" ") ? "" : " ") : /[\p{L}\p{N}\p{M}_]/u.test(c) ? c.toLowerCase() : "";
    for (const letter of kept) { said += letter; at.push(i); }
  }
  return [said, at];
}

function highlighted(text, phrases) {
  const [said, at] = normalised(text);
  const marked = new Array(text.length).fill(false);
  for (const phrase of phrases) {
    const [wanted] = normalised(phrase);
    for (let i = wanted ? said.indexOf(wanted) : -1; i >= 0; i = said.indexOf(wanted, i + 1)) {
      marked.fill(true, at[i], at[i + wanted.length - 1] + 1);
    }
  }
  const parts = [];
  for (let i = 0, j; i < text.length; i = j) {
    for (j = i + 1; j < text.length && marked[j] === marked[i]; ) j++;
    const part = visible(text.slice(i, j));
    parts.push(marked[i] ? make("mark", {}, part) : part);
  }
  return parts;
}

export default {
  render({ model, el }) {
    const began = performance.now();
    const S = model.get("state");
    const { places, said } = S;
    const names = S.series.map((s) => s.names);
    const stepsOf = S.series.map(() => []);
    S.steps.forEach((step, i) => stepsOf[step.series].push(i));
    const labels = [...new Set(S.steps.map((step) => step.label))];
    for (const steps of stepsOf) steps.sort((s, t) => (S.steps[s].k ?? labels.indexOf(S.steps[s].label)) - (S.steps[t].k ?? labels.indexOf(S.steps[t].label)));
    const now = { a: S.start.a, b: S.start.b, cell: null, hover: null, seed: 0, timer: null, opened: null };
    const seriesOf = (side) => S.steps[now[side]].series;
    const rubricOf = (step) => S.rubrics[S.series[S.steps[step].series].rubric];

    // ---------------------------------------------------------------- data
    const recordOf = (step, row) => {
      const { weights, recipe } = S.series[S.steps[step].series], place = S.rows.place[row];
      return S.heads.find((record) => record.place === place && record.weights === weights && record.recipe === recipe);
    };
    const grids = new Map();
    const rowsOf = (step) => Array.from({ length: S.starts[step + 1] - S.starts[step] }, (_, i) => S.starts[step] + i);
    const squaresOf = (step) => new Set(rowsOf(step).map((r) => `${places.length[S.rows.place[r]]} ${places.depth[S.rows.place[r]]}`));
    const overlap = (one, two) => { const there = squaresOf(two); return [...squaresOf(one)].some((square) => there.has(square)); };
    // A square has the same place in A and in B, also where only one of them was run; what shares nothing has its own axes.
    function gridOf(step) {
      const axes = overlap(now.a, now.b) ? [now.a, now.b] : [step], key = [step, ...axes].join();
      if (grids.has(key)) return grids.get(key);
      const rows = rowsOf(step), all = axes.flatMap(rowsOf);
      const labels = (name) => [...new Set(all.map((r) => places[name][S.rows.place[r]]))].sort((x, y) => x - y);
      const xs = labels("length"), ys = labels("depth");
      const column = new Map(xs.map((x, i) => [x, i])), line = new Map(ys.map((y, i) => [y, i]));
      const cells = Array.from({ length: xs.length * ys.length }, () => ({ rows: [], sum: 0, exact: 0, inside: 0 }));
      for (const r of rows) {
        const p = S.rows.place[r], s = S.rows.said[r];
        const cell = cells[line.get(places.depth[p]) * xs.length + column.get(places.length[p])];
        cell.rows.push(r);
        cell.sum += said.score[s];
        cell.exact += said.exact[s];
        cell.inside += places.in_window[p];
      }
      for (const cell of cells) {
        const n = cell.rows.length;
        cell.score = n ? cell.sum / n : NaN;
        cell.within = n ? cell.inside / n > 0.5 : null;
        cell.recorded = cell.rows.some((r) => recordOf(step, r));
      }
      const grid = { xs, ys, cells, column, line, maximum: rubricOf(step).maximum };
      grids.set(key, grid);
      return grid;
    }
    const cellOf = (grid, place) => {
      const x = place && grid.column.get(place.length), y = place && grid.line.get(place.depth);
      return x === undefined || y === undefined || !place ? null : grid.cells[y * grid.xs.length + x];
    };
    // Shares of the maximum, so that rubrics can be set side by side.
    function difference() {
      const a = gridOf(now.a), b = gridOf(now.b);
      const cells = overlap(now.a, now.b) ? b.cells.map((cell, i) => ({ ...cell, recorded: false, score: cell.score / b.maximum - a.cells[i].score / a.maximum })) : [];
      return { ...b, cells, maximum: 1 };
    }

    // ---------------------------------------------------------------- parts of the page
    const root = make("div", { class: "hb-maps" });
    const parts = { a: {}, b: {}, d: {} };
    const controls = make("div", { class: "hb-maps-controls" });
    const chooser = make("details", { class: "hb-maps-choose" }, make("summary", {}, "Compare other models, prompts and conditions"), controls);
    for (const side of SIDES) {
      const P = parts[side];
      const box = make("fieldset", {}, make("legend", {}, side === "a" ? "A, for comparison" : "B"));
      P.fields = {};
      for (const [field, title] of FIELDS) {
        const select = make("select", { "aria-label": `${title} of ${side.toUpperCase()}` });
        select.addEventListener("change", () => choose(side, field));
        P.fields[field] = select;
        box.append(make("label", { class: "hb-maps-field" }, make("span", {}, title), select));
      }
      P.slider = make("input", { type: "range", min: 0, step: 1, "aria-label": `k of ${side.toUpperCase()}` });
      P.slider.addEventListener("input", () => { stop(); show(side, stepsOf[seriesOf(side)][Number(P.slider.value)]); });
      P.value = make("output", { class: "hb-maps-k" });
      P.slide = make("div", { class: "hb-maps-slide" }, P.slider, P.value);
      P.condition = make("select", { "aria-label": `Condition of ${side.toUpperCase()}` });
      P.condition.addEventListener("change", () => { stop(); show(side, stepsOf[seriesOf(side)][P.condition.selectedIndex]); });
      P.list = make("div", { class: "hb-maps-field" }, P.condition);
      P.steps = make("div", { class: "hb-maps-steps" }, P.slide, P.list);
      if (side === "b") {
        P.play = make("button", { type: "button", class: "hb-maps-play" }, "Play over k");
        P.play.addEventListener("click", () => (now.timer === null ? play() : stop()));
        P.steps.append(P.play);
      }
      controls.append(box);
    }
    const maps = make("div", { class: "hb-maps-row" });
    for (const [side, title] of [["a", "Map A"], ["b", "Map B"], ["d", "Difference, B − A"]]) {
      const P = parts[side];
      P.title = make("p", { class: "hb-maps-title" });
      P.canvas = make("canvas", { tabindex: 0, role: "application", "aria-roledescription": "retrieval map" });
      P.random = make("span", { class: "hb-maps-random", "aria-hidden": "true" }, "random weights");
      P.empty = make("p", { class: "hb-maps-empty" }, "A and B share no prompt length and depth, so there is no difference to show.");
      P.name = title;
      maps.append(make("div", { class: "hb-maps-map" }, P.title, make("div", { class: "hb-maps-canvas" }, P.canvas, P.random, P.empty), ...(P.steps ? [P.steps] : [])));
      listen(side);
    }
    const legend = make("div", { class: "hb-maps-legend" });
    const bar = (kind, low, high, label) => make("span", { class: "hb-maps-key" }, label, " ", low, make("span", {
      class: "hb-maps-bar", "aria-hidden": "true", style: `background:linear-gradient(90deg,${[0, 51, 102, 153, 204, 255].map((i) => S.colours[kind][i]).join(",")})`,
    }), high);
    const edgeKey = make("span", { class: "hb-maps-key" }, make("span", { class: "hb-maps-edge", "aria-hidden": "true" }), "edge of the attention window");
    const dotKey = make("span", { class: "hb-maps-key" }, make("span", { class: "hb-maps-recorded", "aria-hidden": "true" }), "pick the square to see what each head looks at");
    dotKey.hidden = !S.heads.length;
    legend.append(bar("score", "0", "all points", "score:"), bar("difference", "B worse", "B better", "difference:"), edgeKey, dotKey);
    const readout = make("p", { class: "hb-maps-readout", role: "status", "aria-live": "polite" });
    const curve = make("div", { class: "hb-maps-curve" });
    const curveTitle = make("p", { class: "hb-maps-title" });
    const detail = make("section", { class: "hb-maps-detail", "aria-label": "The picked cell", tabindex: -1 });
    const source = make("div", { class: "hb-maps-source" });
    root.append(chooser, maps, legend, readout, make("div", { class: "hb-maps-below" }, make("div", { class: "hb-maps-curvebox" }, curveTitle, curve), detail), source);
    el.append(root);

    // ---------------------------------------------------------------- choosing
    function choose(side, changed) {
      const P = parts[side], current = names[seriesOf(side)];
      const wanted = { ...current, [changed]: P.fields[changed].value };
      const order = FIELDS.map(([field]) => field);
      // Everything up to the changed field must hold; of what comes after, as much as there is.
      const fixed = order.slice(0, order.indexOf(changed) + 1), free = order.slice(fixed.length);
      const fits = names.map((n, i) => [i, n]).filter(([i, n]) => stepsOf[i].length && fixed.every((f) => n[f] === wanted[f]));
      const alike = (n) => free.filter((f) => n[f] === wanted[f]).length;
      fits.sort(([, x], [, y]) => alike(y) - alike(x));
      const steps = stepsOf[fits[0][0]], k = S.steps[now[side]].k;
      const same = steps.find((s) => (k === null ? S.steps[s].label === S.steps[now[side]].label : S.steps[s].k === k));
      const nearest = k === null ? steps[0] : steps.reduce((x, y) => (Math.abs(S.steps[y].k - k) < Math.abs(S.steps[x].k - k) ? y : x));
      show(side, same ?? nearest);
      stop(); // the button's words are those of the new conditions
    }

    function fill(side) {
      const P = parts[side], mine = names[seriesOf(side)];
      const fixed = [];
      for (const [field] of FIELDS) {
        const fits = names.filter((n, i) => stepsOf[i].length && fixed.every((f) => n[f] === mine[f]));
        const options = [...new Set(names.map((n) => n[field]))].filter((o) => fits.some((n) => n[field] === o)); // in one order for all models
        const select = P.fields[field];
        if (select.dataset.options !== options.join("\n")) {
          select.dataset.options = options.join("\n");
          select.replaceChildren(...options.map((o) => make("option", { value: o }, o)));
          select.disabled = options.length < 2;
        }
        select.value = mine[field];
        fixed.push(field);
      }
      const steps = stepsOf[seriesOf(side)], step = S.steps[now[side]], byK = step.k !== null, at = steps.indexOf(now[side]);
      P.slide.hidden = !byK;
      P.list.hidden = byK;
      if (byK) {
        P.slider.max = steps.length - 1;
        P.slider.value = at;
        P.slider.setAttribute("aria-valuetext", step.label);
        P.slider.disabled = steps.length < 2;
        P.value.textContent = step.label;
      } else {
        const key = String(seriesOf(side));
        if (P.condition.dataset.series !== key) {
          P.condition.dataset.series = key;
          P.condition.replaceChildren(...steps.map((s) => make("option", {}, S.steps[s].label)));
        }
        P.condition.selectedIndex = at;
      }
      if (P.play) P.play.disabled = steps.length < 2;
    }

    function show(side, step) {
      const start = performance.now();
      now[side] = step;
      draw();
      performance.measure("hybret-explorer:change", { start, end: performance.now() });
    }

    function play() {
      const steps = stepsOf[seriesOf("b")];
      const byK = S.steps[steps[0]].k !== null; // from all heads down to none
      const last = byK ? 0 : steps.length - 1;
      show("b", steps[steps.length - 1 - last]);
      parts.b.play.textContent = "Pause";
      now.timer = setInterval(() => {
        const at = steps.indexOf(now.b) + (byK ? -1 : 1);
        if (at < 0 || at >= steps.length) { stop(); return; }
        show("b", steps[at]);
        if (at === last) stop();
      }, 700);
    }
    function stop() {
      clearInterval(now.timer);
      now.timer = null;
      const byK = S.steps[stepsOf[seriesOf("b")][0]].k !== null;
      parts.b.play.textContent = byK ? "Play over k" : "Play over the conditions";
    }

    // ---------------------------------------------------------------- maps
    const probe = make("span", { hidden: "" }); // a canvas does not know the variables of a style
    root.append(probe);
    function colour(name) {
      probe.style.color = `var(--hb-${name})`;
      return getComputedStyle(probe).color || "#888";
    }
    const LEFT = 60, BOTTOM = 38, TOP = 6, RIGHT = 6;
    const gridFor = (side) => (side === "d" ? difference() : gridOf(now[side]));

    function drawMap(side) {
      const P = parts[side], grid = gridFor(side), canvas = P.canvas;
      P.grid = grid;
      const some = grid.cells.length > 0;
      canvas.hidden = !some;
      P.empty.hidden = some;
      P.random.hidden = !(side === "d" ? SIDES : [side]).some((x) => S.series[seriesOf(x)].random);
      if (!some) return;
      const width = (P.width = canvas.parentElement.clientWidth || P.width || 300); // notebooks hide cells out of sight
      const height = Math.round(Math.min(0.8 * width, 340));
      const ratio = window.devicePixelRatio || 1;
      if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
        canvas.width = Math.round(width * ratio);
        canvas.height = Math.round(height * ratio);
        canvas.style.width = `${width}px`;
        canvas.style.height = `${height}px`;
      }
      const nx = grid.xs.length, ny = grid.ys.length;
      const w = (width - LEFT - RIGHT) / nx, h = (height - TOP - BOTTOM) / ny;
      P.box = { w, h };
      const pen = canvas.getContext("2d");
      pen.setTransform(ratio, 0, 0, ratio, 0, 0);
      pen.clearRect(0, 0, width, height);
      const gap = Math.min(w, h) > 6 ? 0.5 : 0, palette = S.colours[side === "d" ? "difference" : "score"];
      const muted = colour("muted"), ink = colour("ink"), quiet = colour("raised");
      for (let i = 0; i < grid.cells.length; i++) {
        const x = LEFT + (i % nx) * w, y = TOP + Math.floor(i / nx) * h, score = grid.cells[i].score;
        if (Number.isNaN(score)) { // not run: crossed out, in no colour of the scale
          pen.strokeStyle = colour("line");
          pen.lineWidth = 1;
          pen.strokeRect(x + 1, y + 1, w - 2, h - 2);
          pen.beginPath();
          pen.moveTo(x + 1, y + h - 1);
          pen.lineTo(x + w - 1, y + 1);
          pen.stroke();
          continue;
        }
        const share = side === "d" ? (1 + score) / 2 : score / grid.maximum;
        // No difference is as quiet as the page, by night too.
        pen.fillStyle = side === "d" && score === 0 ? quiet : palette[Math.max(0, Math.min(255, Math.round(255 * share)))];
        pen.fillRect(x + gap, y + gap, w - 2 * gap, h - 2 * gap);
        if (grid.cells[i].recorded) { // black on white is seen on every colour of the scale
          const dot = (radius, fill) => { pen.beginPath(); pen.arc(x + w / 2, y + h / 2, radius, 0, 2 * Math.PI); pen.fillStyle = fill; pen.fill(); };
          dot(4.5, "#ffffff");
          dot(3, "#000000");
        }
      }
      pen.strokeStyle = EDGE;
      pen.lineWidth = 2.5;
      pen.beginPath();
      P.edge = false;
      const cross = (i, j) => grid.cells[i].within !== null && grid.cells[j].within !== null && grid.cells[i].within !== grid.cells[j].within;
      for (let y = 0; y < ny; y++) {
        for (let x = 0; x < nx; x++) {
          const i = y * nx + x, px = LEFT + (x + 1) * w, py = TOP + (y + 1) * h;
          if (x + 1 < nx && cross(i, i + 1)) { pen.moveTo(px, py - h); pen.lineTo(px, py); P.edge = true; }
          if (y + 1 < ny && cross(i, i + nx)) { pen.moveTo(px - w, py); pen.lineTo(px, py); P.edge = true; }
        }
      }
      pen.stroke();
      for (const [place, dashes] of [[now.cell, []], [now.hover, [3, 3]]]) {
        const x = place && grid.column.get(place.length), y = place && grid.line.get(place.depth);
        if (!place || x === undefined || y === undefined) continue;
        const box = [LEFT + x * w + 1, TOP + y * h + 1, w - 2, h - 2];
        pen.setLineDash([]);
        pen.strokeStyle = "#ffffff"; // black on white is seen on every colour of both scales
        pen.lineWidth = 5;
        pen.strokeRect(...box);
        pen.setLineDash(dashes);
        pen.strokeStyle = "#000000";
        pen.lineWidth = 2.5;
        pen.strokeRect(...box);
        pen.setLineDash([]);
      }
      pen.font = '12px system-ui, "DejaVu Sans", sans-serif';
      pen.fillStyle = ink;
      pen.textBaseline = "middle";
      pen.textAlign = "right";
      for (const y of new Set([0, (ny - 1) >> 1, ny - 1])) pen.fillText(`${Math.round(grid.ys[y])} %`, LEFT - 6, TOP + (y + 0.5) * h);
      pen.textBaseline = "top";
      for (const x of new Set([0, (nx - 1) >> 1, nx - 1])) {
        pen.textAlign = nx > 1 && x === nx - 1 && w < 30 ? "right" : "center";
        const px = LEFT + (x + 0.5) * w;
        pen.fillText(String(grid.xs[x]), pen.textAlign === "right" ? Math.min(width - 1, px + 14) : px, height - BOTTOM + 5);
      }
      pen.fillStyle = muted;
      pen.textAlign = "center";
      pen.fillText("prompt length (tokens)", LEFT + (width - LEFT - RIGHT) / 2, height - 15);
      pen.save();
      pen.translate(1, TOP + (height - TOP - BOTTOM) / 2);
      pen.rotate(-Math.PI / 2);
      pen.fillText("needle depth", 0, 0);
      pen.restore();
    }

    function at(side, event) {
      const P = parts[side], { left, top } = P.canvas.getBoundingClientRect();
      const x = Math.floor((event.clientX - left - LEFT) / P.box.w), y = Math.floor((event.clientY - top - TOP) / P.box.h);
      return x >= 0 && y >= 0 && x < P.grid.xs.length && y < P.grid.ys.length ? { length: P.grid.xs[x], depth: P.grid.ys[y] } : null;
    }

    function listen(side) {
      const { canvas } = parts[side];
      const hover = (place) => {
        if (place?.length === now.hover?.length && place?.depth === now.hover?.depth) return;
        now.hover = place;
        drawMaps();
        tell();
      };
      canvas.addEventListener("pointermove", (event) => hover(at(side, event)));
      canvas.addEventListener("pointerleave", () => hover(null));
      canvas.addEventListener("click", (event) => { const place = at(side, event); if (place) pick(place); });
      canvas.addEventListener("blur", () => hover(null));
      canvas.addEventListener("keydown", (event) => {
        const { xs, ys, column, line } = parts[side].grid;
        const from = now.hover ?? now.cell ?? {};
        let x = column.get(from.length) ?? 0, y = line.get(from.depth) ?? 0;
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); pick({ length: xs[x], depth: ys[y] }); return; }
        const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], Home: [-xs.length, 0], End: [xs.length, 0] }[event.key];
        if (!move) return;
        event.preventDefault();
        x = Math.max(0, Math.min(xs.length - 1, x + move[0]));
        y = Math.max(0, Math.min(ys.length - 1, y + move[1]));
        hover({ length: xs[x], depth: ys[y] });
      });
    }

    // ---------------------------------------------------------------- words
    const conditionOf = (side) => S.steps[now[side]].label;

    function tell() {
      const place = now.hover ?? now.cell;
      if (!place) { readout.textContent = "Point at a cell, or move through a map with the arrow keys; Enter picks a cell."; return; }
      const cells = SIDES.map((side) => cellOf(gridOf(now[side]), place));
      const words = cells.map((cell, i) => {
        const max = number(rubricOf(now[SIDES[i]]).maximum), name = `${SIDES[i].toUpperCase()} (${conditionOf(SIDES[i])})`;
        if (!cell || !cell.rows.length) return `${name}: not run`;
        const n = cell.rows.length;
        return `${name}: score ${number(cell.score)} of ${max}${n > 1 ? `, mean of ${n} haystacks` : ""}, full needle ${n > 1 ? `${cell.exact} of ${n}` : cell.exact ? "yes" : "no"}`;
      });
      const shares = cells.map((cell, i) => (cell && cell.rows.length ? cell.score / rubricOf(now[SIDES[i]]).maximum : NaN));
      const gap = shares[1] - shares[0];
      const row = (cells[1]?.rows[0] ?? cells[0]?.rows[0]);
      const p = row === undefined ? null : S.rows.place[row];
      const where = p === null ? "" : `. ${places.tokens[p] >= 0 ? `${places.tokens[p]} tokens, needle ${places.distance[p]} before the end` : ""}${places.in_window[p] ? ", in sight of the last token" : ", outside the attention window"}`;
      readout.textContent = `Length ${place.length}, depth ${number(place.depth)} %. ${words.join("; ")}${Number.isNaN(gap) ? "" : `; B − A: ${signed(100 * gap)} points of 100`}${where}.`;
    }

    function titles() {
      for (const side of SIDES) {
        const step = S.steps[now[side]], P = parts[side];
        P.title.replaceChildren(make("b", {}, `${side.toUpperCase()} · ${S.series[step.series].model} · ${step.label}`), make("span", {}, `${percent(step.accuracy)}, full needle ${percent(step.exact)}${S.steps[now.a].n === S.steps[now.b].n ? "" : `, ${step.n} prompts`}`));
        P.canvas.setAttribute("aria-label", `${P.name}: ${S.series[step.series].model}, ${step.label}, accuracy ${percent(step.accuracy)}. Arrow keys move, Enter shows the cell.`);
      }
      const cells = parts.d.grid.cells.filter((cell) => !Number.isNaN(cell.score));
      const mean = cells.reduce((sum, cell) => sum + cell.score, 0) / cells.length;
      const text = cells.length ? `${signed(100 * mean)} points on average` : "no cell in both";
      parts.d.title.replaceChildren(make("b", {}, "B − A"), make("span", {}, text));
      parts.d.canvas.setAttribute("aria-label", `${parts.d.name}: ${text}. Arrow keys move, Enter shows the cell.`);
      edgeKey.hidden = !SIDES.some((side) => parts[side].edge);
    }

    function provenance() {
      source.replaceChildren(...SIDES.map((side) => {
        const step = S.steps[now[side]], s = S.series[step.series];
        const line = [
          `${side.toUpperCase()}: model ${s.model}${s.weights ? ` (${s.weights.slice(0, 8)})` : ""}`, `recipe ${s.recipe}`, s.prompt, s.setting,
          `n = ${step.n} (${step.prompts} different prompts)`, `haystack ${s.haystack}, seeds of these runs: ${s.seeds}`, `rubric ${s.rubric}`, s.ran,
          step.intervention, s.random ? S.made_up : "",
        ];
        return make("p", {}, line.filter(Boolean).join(" · "));
      }));
    }

    // ---------------------------------------------------------------- curve
    let curveWidth = 320;
    function drawCurve() {
      if (S.steps[now.b].k === null) { drawConditions(); return; }
      const width = (curveWidth = Math.max(240, curve.clientWidth || curveWidth)), height = 230, left = 44, right = 12, top = 12, bottom = 36;
      const mine = stepsOf[seriesOf("b")], other = stepsOf[seriesOf("a")];
      const both = seriesOf("a") !== seriesOf("b") && S.steps[other[0]].k !== null;
      const xOf = (step) => S.steps[step].k;
      const last = Math.max(1, ...mine.map(xOf), ...(both ? other.map(xOf) : []));
      const px = (x) => left + (x / last) * (width - left - right), py = (share) => top + (1 - share) * (height - top - bottom);
      const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img" });
      const b = S.steps[now.b], a = S.steps[now.a];
      svg.setAttribute("aria-label", `Accuracy by the number of heads kept; B at ${b.label}: ${percent(b.accuracy)}, A at ${a.label}: ${percent(a.accuracy)}`);
      for (const share of [0, 0.25, 0.5, 0.75, 1]) {
        svg.append(make("line", { x1: left, x2: width - right, y1: py(share), y2: py(share), class: "hb-maps-rule" }));
        svg.append(make("text", { x: left - 6, y: py(share) + 4, "text-anchor": "end" }, `${100 * share} %`));
      }
      const even = [...Array(last + 1).keys()].find((size) => size >= last / 5 && last % size === 0);
      const tick = even <= last / 2 ? even : Math.ceil(last / 4);
      const ticks = [...Array(Math.floor(last / tick) + 1).keys()].map((i) => i * tick);
      for (const x of ticks) svg.append(make("text", { x: px(x), y: height - bottom + 17, "text-anchor": "middle" }, String(x)));
      svg.append(make("text", { x: left + (width - left - right) / 2, y: height - 3, "text-anchor": "middle" }, "k, heads kept in each attention layer"));
      const series = both ? [[other, "a"], [mine, "b"]] : [[mine, "b"]];
      for (const [steps, side] of series) {
        const points = steps.map((s) => [px(xOf(s)), S.steps[s]]);
        const path = (values) => values.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)},${py(y).toFixed(1)}`).join("");
        const band = [...points.map(([x, s]) => [x, s.high]), ...points.map(([x, s]) => [x, s.low]).reverse()];
        svg.append(make("path", { d: `${path(band)}Z`, class: `hb-maps-band hb-maps-of-${side}` }));
        svg.append(make("path", { d: path(points.map(([x, s]) => [x, s.accuracy])), class: `hb-maps-line hb-maps-of-${side}` }));
        const floor = points.filter(([, s]) => s.floor !== null);
        if (floor.length) svg.append(make("path", { d: path(floor.map(([x, s]) => [x, s.floor])), class: `hb-maps-floor hb-maps-of-${side}` }));
        steps.forEach((s, i) => {
          const [x, { label, accuracy, low, high }] = points[i];
          const name = make("title", {}, `${label}: ${percent(accuracy)} (${percent(low)} to ${percent(high)})`);
          const node = make("circle", { cx: x, cy: py(accuracy), r: 4, class: `hb-maps-dot hb-maps-of-${side}`, "data-step": s }, name);
          node.addEventListener("click", (event) => { event.stopPropagation(); stop(); show(side, s); });
          svg.append(node);
        });
      }
      const onCurve = series.some(([steps]) => steps.includes(now.a));
      if (!onCurve) svg.append(make("line", { x1: left, x2: width - right, y1: py(a.accuracy), y2: py(a.accuracy), class: "hb-maps-line hb-maps-of-a hb-maps-dashed" }));
      for (const side of SIDES) {
        const step = S.steps[now[side]], off = side === "a" && !onCurve;
        const x = off ? left + 12 : px(xOf(now[side])), y = py(step.accuracy);
        if (!off) svg.append(make("circle", { cx: x, cy: y, r: 8, class: `hb-maps-ring hb-maps-of-${side}` }));
        svg.append(make("text", { x: Math.min(width - right - 6, Math.max(left + 8, x)), y: y < top + 30 ? y + 22 : y - 12, "text-anchor": "middle", class: "hb-maps-name" }, side.toUpperCase()));
      }
      // A click anywhere sets B to the nearest point: the points are small under a finger.
      svg.addEventListener("click", (event) => {
        const x = ((event.clientX - svg.getBoundingClientRect().left - left) / (width - left - right)) * last;
        stop();
        show("b", mine.reduce((s, t) => (Math.abs(xOf(t) - x) < Math.abs(xOf(s) - x) ? t : s)));
      });
      curve.replaceChildren(svg);
      curveTitle.replaceChildren(make("b", {}, "Accuracy by k"), make("span", {}, `${both ? "A and B" : S.series[seriesOf("b")].model}; bands: 95 % intervals${mine.some((s) => S.steps[s].floor !== null) ? "; dotted: without the needle" : ""}. Click to set B.`));
    }

    // Conditions that are no order: one line each, by name; the number of prompts where it is not that of A.
    function drawConditions() {
      const a = S.steps[now.a], at = (share) => `left:${100 * share}%`;
      curve.replaceChildren(...stepsOf[seriesOf("b")].map((s) => {
        const { label, accuracy, low, high, n } = S.steps[s];
        const track = make("span", { class: "hb-maps-track", "aria-hidden": "true" },
          make("i", { class: "hb-maps-mark-a", style: at(a.accuracy) }),
          make("i", { class: "hb-maps-span", style: `${at(low)};width:${100 * (high - low)}%` }),
          make("i", { class: "hb-maps-mark-b", style: at(accuracy) }));
        const line = make("button", { type: "button", class: "hb-maps-condition", "aria-pressed": s === now.b },
          make("span", {}, label), track, make("span", {}, percent(accuracy) + (n === a.n ? "" : `, n = ${n}`)));
        line.addEventListener("click", () => { stop(); show("b", s); curve.querySelector("[aria-pressed=true]").focus(); });
        return line;
      }));
      curveTitle.replaceChildren(make("b", {}, "Accuracy of each condition"), make("span", {}, `${S.series[seriesOf("b")].model}; lines: 95 % intervals; dashed: A. Click to set B.`));
    }

    // ---------------------------------------------------------------- the picked cell
    function pick(place) {
      now.cell = place;
      now.hover = null;
      now.seed = 0;
      drawMaps();
      tell();
      drawDetail();
      const rows = Object.fromEntries(SIDES.map((side) => [side, cellOf(gridOf(now[side]), place)?.rows ?? []]));
      model.set("picked", rows);
      model.save_changes();
    }

    function excerpt(row) {
      const p = S.rows.place[row];
      if (places.before[p] === null) return make("p", { class: "hb-maps-missing" }, "The text of this prompt is not in the rows. To see it, give the prompts: hybret.explore(rows, prompts).");
      return make("blockquote", {}, visible(places.before[p]), make("mark", { class: "hb-maps-needle" }, visible(S.needles[places.asked[p]] ?? "")), visible(places.after[p]));
    }

    function answer(side, row) {
      const step = S.steps[now[side]], box = make("div", { class: "hb-maps-answer" });
      box.append(make("h4", {}, `${side.toUpperCase()} · ${S.series[step.series].model} · ${step.label}`));
      if (row === undefined) { box.append(make("p", {}, "This condition was not run on this cell.")); return box; }
      const s = S.rows.said[row], text = S.answers[said.answer[s]], items = S.items[said.items[s]];
      const found = items.filter((item) => item[2]);
      const needle = S.needles[places.asked[S.rows.place[row]]];
      const phrases = said.exact[s] && needle ? [needle] : found.map((item) => item[0]);
      box.append(make("blockquote", { class: "hb-maps-said" }, ...(text.trim() ? highlighted(text, phrases) : [make("i", {}, "an empty answer")])));
      const record = recordOf(now[side], row);
      if (record) box.append(opener(record, step.label));
      box.append(make("p", {}, make("b", {}, `Score ${number(said.score[s])} of ${number(rubricOf(now[side]).maximum)}`), said.exact[s] ? ", the full needle" : ""));
      if (!items.length) { box.append(make("p", { class: "hb-maps-missing" }, "What earned these points is not known: the needle or the rubric is another one.")); return box; }
      const body = make("tbody");
      for (const [phrase, points, there, sets] of items) {
        body.append(make("tr", { class: there ? "hb-maps-found" : "" }, make("td", {}, there ? "✓" : "–"), make("td", {}, visible(phrase)), make("td", {}, sets ? `= ${number(points)}` : `+ ${number(points)}`)));
      }
      const head = make("tr", {}, ...["found", "phrase", "points"].map((word) => make("th", { scope: "col" }, word)));
      box.append(make("table", {}, make("thead", {}, head), body), make("p", { class: "hb-maps-small" }, "+ adds, = sets the score; the highest that sets applies."));
      return box;
    }

    // The heads of a square: drawn once, and kept while the square is in A or B.
    function opener(record, label) {
      const open = now.opened?.record === record;
      const button = make("button", { type: "button", class: "hb-maps-play", "aria-expanded": open }, open ? "Close the heads" : "What each head looks at");
      button.addEventListener("click", () => {
        const last = now.opened;
        close();
        if (last?.record !== record) {
          const node = make("div", { class: "hb-maps-heads" });
          const run = Math.max(0, record.view.runs.findIndex((each) => each.condition === label));
          now.opened = { record, node, release: heads.render({ model: { get: () => ({ ...record.view, run }) }, el: node }) };
        }
        drawDetail();
        detail.querySelector("[aria-expanded=true], .hb-maps-play")?.focus();
      });
      return button;
    }
    function close() {
      now.opened?.release();
      now.opened = null;
    }

    function drawDetail() {
      detail.replaceChildren();
      if (!now.cell) return close();
      const cells = SIDES.map((side) => cellOf(gridOf(now[side]), now.cell));
      const rowsAt = (cell) => new Map((cell?.rows ?? []).map((r) => [`${places.haystack[S.rows.place[r]]} ${places.haystack_seed[S.rows.place[r]]}`, r]));
      const sides = cells.map(rowsAt), haystacks = [...new Set(sides.flatMap((rows) => [...rows.keys()]))];
      detail.append(make("h3", {}, `Length ${now.cell.length}, depth ${number(now.cell.depth)} %`));
      if (!haystacks.length) { detail.append(make("p", {}, "No prompt of this length and depth was run.")); return; }
      now.seed = Math.min(now.seed, haystacks.length - 1);
      if (haystacks.length > 1) {
        const select = make("select", { "aria-label": "Haystack" }, ...haystacks.map((h) => make("option", {}, h)));
        select.selectedIndex = now.seed;
        select.addEventListener("change", () => { now.seed = select.selectedIndex; drawDetail(); detail.querySelector("select").focus(); });
        detail.append(make("label", { class: "hb-maps-field" }, make("span", {}, "Haystack"), select));
      }
      const [a, b] = sides.map((rows) => rows.get(haystacks[now.seed]));
      const alike = a === undefined || b === undefined || S.rows.place[a] === S.rows.place[b];
      const prompts = make("div", { class: "hb-maps-prompt" }, make("h4", {}, alike ? "The prompt around the needle" : "The prompts around the needle, A and B"));
      prompts.append(excerpt(a ?? b));
      if (!alike) prompts.append(excerpt(b));
      detail.append(prompts, make("div", { class: "hb-maps-answers" }, answer("a", a), answer("b", b)));
      const records = SIDES.map((side, i) => [a, b][i] === undefined ? undefined : recordOf(now[side], [a, b][i]));
      if (now.opened && records.includes(now.opened.record)) detail.append(now.opened.node);
      else close();
    }

    // ---------------------------------------------------------------- drawing
    function drawMaps() { for (const side of ["a", "b", "d"]) drawMap(side); }
    function draw() {
      for (const side of SIDES) fill(side);
      drawMaps();
      titles();
      tell();
      drawCurve();
      drawDetail();
      provenance();
    }
    // The first cell shown is one that A finds and B does not, whose heads can be looked at, in the middle of the map.
    function telling() {
      const a = gridOf(now.a), b = gridOf(now.b);
      let best = null, worth = -Infinity;
      for (const length of b.xs) {
        for (const depth of b.ys) {
          const one = cellOf(a, { length, depth }), two = cellOf(b, { length, depth });
          if (!one?.rows.length || !two.rows.length) continue;
          const off = Math.abs(b.column.get(length) / b.xs.length - 0.5) + Math.abs(b.line.get(depth) / b.ys.length - 0.5);
          const value = one.score / a.maximum - two.score / b.maximum + 0.2 * one.recorded - 0.1 * off;
          if (value > worth) { worth = value; best = { length, depth }; }
        }
      }
      return best;
    }
    now.cell = telling();
    stop();
    draw();
    performance.measure("hybret-explorer:first", { start: began, end: performance.now() });

    let width = 0; // the first report draws again: fonts and the page's own style may have come since
    const sized = new ResizeObserver(() => { if (root.clientWidth !== width) { width = root.clientWidth; drawMaps(); drawCurve(); } });
    sized.observe(root);
    const dark = matchMedia("(prefers-color-scheme: dark)"), print = matchMedia("print");
    const repaint = () => drawMaps();
    const printing = () => { root.classList.toggle("hb-maps-print", print.matches); drawMaps(); };
    dark.addEventListener("change", repaint);
    print.addEventListener("change", printing);
    const themed = new MutationObserver(repaint);
    for (const node of [document.documentElement, document.body]) themed.observe(node, { attributes: true, attributeFilter: ["data-theme", "class", "data-jp-theme-light"] });
    const released = ownKeys(root);
    return () => {
      stop();
      close();
      released();
      sized.disconnect();
      themed.disconnect();
      dark.removeEventListener("change", repaint);
      print.removeEventListener("change", printing);
    };
  },
};
