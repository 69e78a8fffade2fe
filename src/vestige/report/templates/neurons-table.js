if (Neurons) Neurons.table = (() => {
  const { index, units, columns, element } = Neurons;
  const home = document.getElementById("neuron-browser"), of = name => home.querySelector(`[data-neurons="${name}"]`);
  const view = of("scroll"), grid = of("grid"), head = of("head"), body = of("body"), said = of("said");
  const SPARE = 6, FIRST = { id: "", short: "layer / neuron", kind: "name", title: "Layer and neuron, in the order of the network" };
  let shown = [], read = () => null, order = new Int32Array(0), active = 0, top = -1, rows = [];
  let sort = { id: "", down: false }, current = "";

  const height = () => parseFloat(getComputedStyle(grid).getPropertyValue("--row"));
  const number = /([A-Za-z_][\w:]*)\s*(<=|>=|!=|=|<|>)\s*([-−]?(?:\d+\.?\d*|\.\d+)(?:e[-−]?\d+)?)(?=[\s,&]|$)/g;
  const tests = {
    "<": (a, b) => a < b, ">": (a, b) => a > b, "<=": (a, b) => a <= b, ">=": (a, b) => a >= b, "=": (a, b) => a === b, "!=": (a, b) => a !== b,
  };

  function parse(filter) {
    const terms = [];
    const rest = filter.replace(number, (_, name, sign, value) => {
      const column = index.columns.find(one => one.short === name || one.id === name);
      if (!column) throw new Error(`“${name}” is no column. There are ${index.columns.map(one => one.short).join(", ")}.`);
      terms.push({ column, test: tests[sign], value: Number(value.replaceAll("−", "-")) });
      return " ";
    });
    const words = rest.split(/[\s,&]+/).filter(Boolean).map(word => word.toLowerCase());
    const broken = words.find(word => /[<>=!]/.test(word));
    if (broken) throw new Error(`“${broken}” is no condition: write, say, csi > 0.3.`);
    return { terms, words };
  }

  function chosen({ filter, layer, cls, selective }) {
    const { terms, words } = parse(filter);
    const preferred = read("preferred_class"), flags = read("selective");
    for (const term of terms) term.values = read(term.column.id);
    const kept = [];
    for (let place = 0; place < units.length; place++) {
      const unit = units[place];
      if (layer !== "" && unit.layer.name !== layer) continue;
      if (cls !== "" && (!preferred || preferred[place] !== Number(cls))) continue;
      if (selective && flags?.[place] !== 1) continue;
      if (terms.some(({ test, values, value, column }) => !values || (column.kind !== "number" && values[place] < 0) || !test(values[place], value))) continue;
      if (words.length) {
        const text = `${unit.id} ${preferred ? Neurons.className(preferred[place]) : ""}`.toLowerCase();
        if (!words.every(word => text.includes(word))) continue;
      }
      kept.push(place);
    }
    return Int32Array.from(kept);
  }

  function sorted(places) {
    const values = sort.id && read(sort.id);
    if (!values) return sort.down ? places.reverse() : places;
    const absent = value => Number.isNaN(value) || (columns.get(sort.id).kind !== "number" && value < 0);
    return places.sort((a, b) => {
      const x = values[a], y = values[b];
      if (absent(x) || absent(y)) return absent(x) - absent(y) || a - b;
      return (sort.down ? y - x : x - y) || a - b;
    });
  }

  function header() {
    head.replaceChildren(element("tr", { "aria-rowindex": 1 }, shown.map(column => element(
      "th", { scope: "col", class: column.kind, style: column.id ? `width: ${Math.max(11, column.short.length + 4)}ch` : null, title: [column.title, column.said].filter(Boolean).join(": "), "aria-sort": column.id === sort.id ? (sort.down ? "descending" : "ascending") : "none" },
      element("button", { type: "button", "data-sort": column.id, onclick: () => by(column.id) },
        column.short, element("span", { class: "arrow", "aria-hidden": "true" }, column.id === sort.id ? (sort.down ? " ↓" : " ↑") : "")),
    ))));
    grid.style.minWidth = `calc(9.2rem + ${shown.slice(1).reduce((sum, column) => sum + Math.max(11, column.short.length + 4), 0)}ch)`;
    grid.setAttribute("aria-colcount", shown.length);
  }

  function row() {
    const link = element("a", { tabindex: -1 });
    return element("tr", {}, element("th", { scope: "row" }, link), shown.slice(1).map(column => element("td", { class: column.kind })));
  }

  function draw() {
    const step = height(), seen = Math.ceil(view.clientHeight / step) + 2 * SPARE;
    const start = Math.max(0, Math.min(Math.floor(view.scrollTop / step) - SPARE, order.length - seen));
    const count = Math.min(seen, order.length);
    while (rows.length < count) rows.push(row());
    if (body.children.length !== count + 2) body.replaceChildren(of("above") ?? spacer("above"), ...rows.slice(0, count), of("below") ?? spacer("below"));
    top = start;
    of("above").firstChild.style.height = `${start * step}px`;
    of("below").firstChild.style.height = `${Math.max(0, order.length - start - count) * step}px`;
    const values = shown.map(column => column.id ? read(column.id) : null);
    for (let i = 0; i < count; i++) fill(rows[i], start + i, values);
  }

  function spacer(name) {
    return element("tr", { "aria-hidden": "true", "data-neurons": name, class: "spacer" }, element("td", { colspan: 99 }));
  }

  function fill(row, rank, values) {
    const place = order[rank], cells = row.children, link = cells[0].firstChild;
    row.id = `neuron-row-${rank}`;
    row.dataset.place = place;
    row.setAttribute("aria-rowindex", rank + 2);
    row.setAttribute("aria-selected", rank === active);
    link.textContent = units[place].id;
    link.href = Neurons.link(place);
    for (let c = 1; c < shown.length; c++) cells[c].textContent = values[c] ? Neurons.shown(shown[c], values[c][place]) : "–";
  }

  function rebuild() {
    shown = [FIRST, ...index.columns.filter(column => of("columns").querySelector(`[value="${CSS.escape(column.id)}"]`).checked)];
    rows = [];
    body.replaceChildren();
    header();
    draw();
  }

  function settle() {
    grid.setAttribute("aria-rowcount", order.length + 1);
    active = Math.max(0, current === "" ? 0 : order.indexOf(current));
    grid.setAttribute("aria-activedescendant", order.length ? `neuron-row-${active}` : "");
    of("none").hidden = order.length > 0;
    said.textContent = `${order.length.toLocaleString("en").replaceAll(",", " ")} of ${units.length.toLocaleString("en").replaceAll(",", " ")} neurons`;
  }

  function filter(wanted) {
    const error = of("error");
    try {
      order = sorted(chosen(wanted));
      error.textContent = "";
    } catch (problem) {
      error.textContent = problem.message;
      return;
    }
    view.scrollTop = 0;
    settle();
    draw();
  }

  function by(id) {
    const name = id === "" || columns.get(id).kind === "class";
    sort = { id, down: sort.id === id ? !sort.down : !name };
    order = sorted(order.sort());
    view.scrollTop = 0;
    settle();
    header();
    draw();
    head.querySelector(`[data-sort="${CSS.escape(id)}"]`).focus({ preventScroll: true });
  }

  function move(to) {
    active = Math.max(0, Math.min(order.length - 1, to));
    current = order[active] ?? "";
    const step = height(), above = active * step, room = view.clientHeight - head.offsetHeight;
    if (above < view.scrollTop) view.scrollTop = above;
    else if (above + step > view.scrollTop + room) view.scrollTop = above + step - room;
    grid.setAttribute("aria-activedescendant", `neuron-row-${active}`);
    draw();
  }

  grid.addEventListener("keydown", event => {
    const page = Math.max(1, Math.floor(view.clientHeight / height()) - 2);
    const to = { ArrowDown: active + 1, ArrowUp: active - 1, PageDown: active + page, PageUp: active - page, Home: 0, End: order.length - 1 }[event.key];
    if (event.target !== grid || !order.length) return;
    if (to !== undefined) move(to);
    else if (event.key === "Enter" || event.key === " ") location.hash = Neurons.link(order[active]);
    else return;
    event.preventDefault();
  });
  body.addEventListener("click", event => {
    const row = event.target.closest("tr[data-place]");
    if (!row || event.target.closest("a") || getSelection().toString()) return;
    location.hash = Neurons.link(Number(row.dataset.place));
  });
  let asked = false;
  view.addEventListener("scroll", () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; draw(); });
  }, { passive: true });
  new ResizeObserver(() => { if (view.clientHeight && rows.length) draw(); }).observe(view);

  return {
    filter, rebuild,
    fill(reader) { read = reader; },
    beside: place => { const rank = order.indexOf(place); return rank < 0 ? [null, null] : [order[rank - 1] ?? null, order[rank + 1] ?? null]; },
    point(place) { current = place; const rank = order.indexOf(place); if (rank >= 0) move(rank); },
    focus() { grid.focus({ preventScroll: true }); },
  };
})();
