// The front page: one control moves a curve, a map and an answer. The data are those of a run (`book.paper.maps.moved`).
addEventListener("DOMContentLoaded", () => document.querySelectorAll("script.hb-hero").forEach(hero));

function hero(script) {
  const data = JSON.parse(script.textContent);
  const svg = (name, to, attributes, text) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text) made.textContent = text;
    return to.appendChild(made);
  };
  const html = (name, to, attributes = {}) => to.appendChild(Object.assign(document.createElement(name), attributes));
  const box = Object.assign(document.createElement("div"), { className: "hb-moved" });
  const [mine] = data.curves, width = data.lengths.length, height = data.depths.length;
  const top = data.score.length - 1;

  // The curve: every model's, thin; the first one's with a handle.
  const plot = svg("svg", box, { viewBox: "0 0 360 220", role: "img", "aria-label": "Accuracy over the share of attention heads kept." });
  const x = (share) => 34 + 2.5 * share, y = (accuracy) => 186 - 1.7 * accuracy;
  for (const value of [0, 50, 100]) {
    svg("line", plot, { x1: x(0), x2: x(100), y1: y(value), y2: y(value), class: "rule" });
    svg("text", plot, { x: 28, y: y(value) + 4, "text-anchor": "end" }, String(value));
    svg("text", plot, { x: x(value), y: 202, "text-anchor": "middle" }, String(value));
  }
  svg("text", plot, { x: x(50), y: 217, "text-anchor": "middle" }, "heads kept per layer (%)");
  svg("text", plot, { x: 0, y: 9 }, "accuracy (%)");
  data.curves.forEach((curve, i) => {
    const points = curve.share.map((share, j) => `${x(share)},${y(curve.accuracy[j])}`).join(" ");
    svg("polyline", plot, { points, class: i ? "other" : "mine" });
    // The names: of the first model above the end of its curve, of the others beside theirs, where they rise.
    const level = i % 2 ? 22 : 75, last = curve.share.length - 1;
    const over = i ? Math.max(1, curve.accuracy.findIndex((accuracy) => accuracy > level)) : last;
    const [from, to] = [curve.accuracy[over - 1], curve.accuracy[over]];
    const part = i && to > from ? Math.min(1, Math.max(0, (level - from) / (to - from))) : 1;
    const share = curve.share[over - 1] + part * (curve.share[over] - curve.share[over - 1]);
    const [dx, anchor] = i % 2 ? [6, "start"] : i ? [-6, "end"] : [0, "end"];
    svg("text", plot, { x: x(share) + dx, y: y(from + part * (to - from)) + (i ? 4 : -9), "text-anchor": anchor, class: i ? "" : "mine" }, curve.name);
  });
  const handle = svg("circle", plot, { r: 6, class: "handle" });

  // The map: one square for each prompt.
  const map = svg("svg", box, { viewBox: `0 0 220 220`, role: "img", "aria-label": "A map of the scores: length of the text to the right, depth of the needle downwards." });
  const w = 180 / width, h = 168 / height;
  svg("text", map, { x: 30, y: 9 }, "depth of the needle");
  svg("text", map, { x: 210, y: 202, "text-anchor": "end" }, `text of ${data.lengths[0]} to ${data.lengths[width - 1]} tokens`);
  const squares = data.inside.map((inside, i) => {
    const square = svg("rect", map, { x: 30 + (i % width) * w, y: 16 + Math.floor(i / width) * h, width: w - 1, height: h - 1, class: inside ? "" : "outside" });
    square.onclick = () => show(chosen, i);
    return square;
  });
  const frame = svg("rect", map, { width: w - 1, height: h - 1, class: "chosen" });

  const bar = html("p", box, { className: "control" });
  const play = html("button", bar, { type: "button", textContent: "▶", ariaLabel: "Play: from all heads to none" });
  const slider = html("input", bar, { type: "range", min: 0, max: top, value: top, ariaLabel: "Heads kept in each layer" });
  const said = html("output", bar);
  const answer = html("p", box, { className: "answer" });

  let chosen = top, cell = Math.max(0, data.inside.findIndex((inside, i) => inside && i % width === width - 1));
  function show(step, at = cell) {
    [chosen, cell, slider.value] = [step, at, step];
    handle.setAttribute("cx", x(mine.share[step]));
    handle.setAttribute("cy", y(mine.accuracy[step]));
    squares.forEach((square, i) => (square.style.fillOpacity = (data.inside[i] ? 0.16 : 0.02) + 0.0084 * data.score[step][i]));
    frame.setAttribute("x", squares[at].getAttribute("x"));
    frame.setAttribute("y", squares[at].getAttribute("y"));
    const k = data.k[step], words = data.answers[data.answer[step][at]];
    said.textContent = `${k} of ${data.heads} heads: ${mine.accuracy[step].toFixed(0)} %`;
    answer.replaceChildren(Object.assign(document.createElement("b"), { textContent: `${mine.name} answers ` }), words || "nothing.");
  }
  let timer = 0;
  const stop = () => { clearInterval(timer); timer = 0; play.textContent = "▶"; };
  slider.oninput = () => { stop(); show(Number(slider.value)); };
  play.onclick = () => {
    if (timer) return stop();
    show(top);
    play.textContent = "❚❚";
    timer = setInterval(() => (chosen ? show(chosen - 1) : stop()), 4000 / top);
  };
  show(top);
  script.after(box);
  const figure = [...document.querySelectorAll("figure")].find((one) => script.compareDocumentPosition(one) & Node.DOCUMENT_POSITION_FOLLOWING);
  figure?.classList.add("hb-still");
}
