if (Neurons) (() => {
  const { index, units, layers, places, element, table, page } = Neurons;
  const browser = document.getElementById("neuron-browser"), of = name => browser.querySelector(`[data-neurons="${name}"]`);
  const state = { run: 0, step: 0 };
  const selects = Object.fromEntries(["condition", "seed", "protocol", "step", "layer", "class"].map(name => [name, of(name)]));
  const unique = values => [...new Set(values.map(String))];
  const offer = (select, values, chosen, names = values) => {
    select.replaceChildren(...values.map((value, i) => element("option", { value }, names[i])));
    select.value = values.includes(chosen) ? chosen : values[0];
  };

  Neurons.link = place => {
    const { layer, neuron } = units[place], { condition, seed, protocol } = index.runs[state.run];
    const run = state.run ? `&condition=${encodeURIComponent(condition)}&seed=${seed}&protocol=${protocol}` : "";
    return `#neuron=${encodeURIComponent(layer.name)}/${neuron}${run}`;
  };
  function parse(hash) {
    const [first, ...rest] = hash.slice(1).split("&");
    if (!first.startsWith("neuron=")) return null;
    const cut = first.lastIndexOf("/"), named = new URLSearchParams(rest.join("&"));
    const id = `${decodeURIComponent(first.slice("neuron=".length, cut))}${first.slice(cut)}`;
    const run = named.has("condition") ? index.runs.findIndex(one => one.condition === named.get("condition") && String(one.seed) === named.get("seed") && one.protocol === named.get("protocol")) : 0;
    return { id, place: places.get(id), run };
  }

  function find(condition, seed, protocol) {
    const fit = one => (one.condition === condition) * 4 + (String(one.seed) === seed) * 2 + (one.protocol === protocol);
    return index.runs.reduce((best, one, i) => fit(one) > fit(index.runs[best]) ? i : best, 0);
  }
  function offerRun() {
    const { condition, seed, protocol, steps, epochs } = index.runs[state.run];
    offer(selects.condition, unique(index.runs.map(one => one.condition)), condition);
    const seeds = index.runs.filter(one => one.condition === condition);
    offer(selects.seed, unique(seeds.map(one => one.seed)), String(seed));
    offer(selects.protocol, unique(seeds.filter(one => one.seed === seed).map(one => one.protocol)), protocol);
    of("protocols").hidden = unique(index.runs.map(one => one.protocol)).length < 2;
    if (!steps.includes(state.step)) state.step = steps.filter(step => step <= state.step).at(-1) ?? steps[0];
    offer(selects.step, steps.map(String), String(state.step), steps.map((step, i) => `${step} (epoch ${Neurons.text(epochs[i])})`));
    of("notes").textContent = [...index.runs[state.run].notes, index.runs[state.run].ablation].filter(Boolean).join(" ");
  }

  let turn = 0;
  async function load() {
    const mine = ++turn, { run, step } = state;
    of("scroll").setAttribute("aria-busy", "true");
    try {
      const reader = await Neurons.atStep(run, index.runs[run].steps.indexOf(step));
      if (mine !== turn) return;
      table.fill(reader);
      filter();
    } catch (problem) {
      of("error").textContent = problem.message;
    } finally {
      if (mine === turn) of("scroll").removeAttribute("aria-busy");
    }
  }
  const filter = () => table.filter({ filter: of("filter").value, layer: selects.layer.value, cls: selects.class.value, selective: of("selective").checked });

  async function choose(run, step = state.step) {
    Object.assign(state, { run, step });
    offerRun();
    await load();
  }
  for (const name of ["condition", "seed", "protocol"])
    selects[name].addEventListener("change", () => choose(find(selects.condition.value, selects.seed.value, selects.protocol.value)));
  selects.step.addEventListener("change", () => choose(state.run, Number(selects.step.value)));
  for (const name of ["layer", "class"]) selects[name].addEventListener("change", filter);
  of("selective").addEventListener("change", filter);
  of("filter").addEventListener("input", filter);

  // On a neuron's page: the same run and step, without going back.
  function controls(place) {
    const pick = (label, values, chosen, change, names) => {
      const select = element("select", { "data-page": label, onchange: () => change(select.value) });
      offer(select, values, chosen, names);
      return element("label", {}, `${label} `, select);
    };
    const { condition, seed, protocol, steps, epochs } = index.runs[state.run];
    const go = async (...named) => {
      await choose(find(...named));
      history.replaceState(history.state, "", Neurons.link(place));
      await route(false);
      page.home.querySelector(`[data-page="${named[3]}"]`)?.focus();
    };
    return element("div", { class: "neuron-controls" },
      pick("condition", unique(index.runs.map(one => one.condition)), condition, value => go(value, String(seed), protocol, "condition")),
      pick("seed", unique(index.runs.filter(one => one.condition === condition).map(one => one.seed)), String(seed), value => go(condition, value, protocol, "seed")),
      pick("step", steps.map(String), String(state.step), async value => {
        await choose(state.run, Number(value));
        await route(false);
        page.home.querySelector('[data-page="step"]').focus();
      }, steps.map((step, i) => `${step} (epoch ${Neurons.text(epochs[i])})`)));
  }

  // Where the table lay in the window: what lies above it may have another height when the reader comes back.
  let left = null, opened = null;
  const title = document.title;
  async function route(arrive = true) {
    const asked = parse(location.hash), body = document.body.classList;
    if (!asked) {
      if (!body.contains("at-neuron")) return;
      body.remove("at-neuron");
      page.home.hidden = true;
      document.title = title;
      const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
      if (left !== null && (!target || target.id === "neurons")) {
        scrollBy({ top: browser.getBoundingClientRect().top - left, behavior: "instant" });
        if (opened !== null) table.point(opened);
        table.focus();
      } else target?.scrollIntoView();
      left = null;
      return;
    }
    if (!body.contains("at-neuron")) left = browser.getBoundingClientRect().top;
    if (asked.run >= 0 && asked.run !== state.run) await choose(asked.run);
    try {
      if (asked.place === undefined) throw new Error(`There is no neuron ${asked.id} in this study.`);
      if (asked.run < 0) throw new Error("There is no such run in this study.");
      opened = asked.place;
      await page.show(asked.place, { run: state.run, step: state.step, beside: table.beside(asked.place), controls: controls(asked.place) });
    } catch (problem) {
      page.failed(problem);
    }
    body.add("at-neuron");
    page.home.hidden = false;
    document.title = `${asked.id} · ${title}`;
    if (arrive) {
      scrollTo({ top: 0, behavior: "instant" });
      document.getElementById("neuron-title").focus({ preventScroll: true });
    }
  }
  addEventListener("hashchange", () => route());

  selects.layer.append(...layers.map(layer => element("option", { value: layer.name }, `${layer.name} (${layer.count})`)));
  selects.class.append(...index.classes.map((_, i) => element("option", { value: i }, Neurons.classText(i))));
  of("columns").append(...index.columns.map(column => element("label", { class: "tick", title: column.said || null }, element("input", { type: "checkbox", value: column.id, checked: column.shown, onchange: table.rebuild }), ` ${column.short}`, element("span", { class: "muted" }, ` ${column.title}`))));
  table.rebuild();
  choose(0, index.runs[0].steps.at(-1)).then(() => { browser.dataset.ready = "yes"; route(); });
})();
