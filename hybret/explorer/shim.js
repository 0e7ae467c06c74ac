// anywidget's `model`, as far as a view may use it. `send` and custom messages need a kernel and are absent.
const values = {state: JSON.parse(root.querySelector(":scope > .hb-state").textContent), picked: null};
const listeners = new Map();
const model = {
  get: (name) => values[name],
  set(name, value) {
    values[name] = value;
    for (const heard of listeners.get(`change:${name}`) ?? []) heard();
  },
  on(event, heard) { listeners.set(event, [...(listeners.get(event) ?? []), heard]); },
  off(event, heard) { listeners.set(event, (listeners.get(event) ?? []).filter((other) => other !== heard)); },
  save_changes() {},
};
