if (Neurons) Neurons.page = (() => {
  const { index, units, element, text, classText, draw } = Neurons;
  const home = document.getElementById("neuron-page");
  const panel = (title, ...content) => element("div", { class: "panel" }, element("h3", {}, title), ...content.flat());
  const note = said => element("p", { class: "notice small" }, said);

  function charts(run, life) {
    const { steps, of, branched } = life, branch = branched?.step ?? null;
    const lead = [
      { name: "CSI", values: of("csi"), slot: 1 },
      { name: "cross-validated CSI", values: of("csi_cv"), slot: 3, dash: "dash" },
      { name: "η²", values: of("eta2"), slot: 2, dash: "dot" },
    ];
    const band = { name: "CSI of permuted labels: mean to 95% quantile", low: of("csi_null_mean"), high: of("csi_null_q95") };
    const activity = [{ name: "sparsity", values: of("sparsity"), slot: 1 }, { name: "share of exact zeros", values: of("closed"), slot: 2, dash: "dash" }];
    const made = [
      panel("Selectivity", draw.legend(lead, band), draw.lines("Selectivity", steps, lead, { band, branch })),
      panel("Preferred class", draw.strip(steps, of("preferred_class"))),
      panel("Activity", draw.legend(activity), draw.lines("Activity", steps, activity, { branch })),
    ];
    if (index.runs[run].ablation) return [...made, panel("Effect of ablation", note(index.runs[run].ablation))];
    const values = index.values.map((value, i) => ({ value, slot: i + 1, dash: ["solid", "dash", "dot"][i % 3] }));
    const harm = values.map(({ value, ...look }) => ({ name: `replaced: ${value}`, values: of(`loss_delta:${value}`), spread: of(`loss_delta_se:${value}`), ...look }));
    const damage = values.flatMap(({ value, slot }) => [
      { name: `preferred class (${value})`, values: of(`preferred_delta:${value}`), slot },
      { name: `other classes (${value})`, values: of(`others_delta:${value}`), slot, dash: "dot" },
    ]);
    return [...made,
      panel("Ablated: change of loss", element("p", { class: "muted small" }, "in nats, ± its standard error"), draw.legend(harm), draw.lines("Change of loss", steps, harm, { branch })),
      panel("Ablated: change of accuracy", draw.legend(damage), draw.lines("Change of accuracy", steps, damage, { branch })),
    ];
  }

  const MOMENTS = ["early", "its highest CSI", "last"];

  function tuning(title, portrait, names, at) {
    const values = portrait.of(names.values, at.place);
    if (!values || !values.some(Number.isFinite)) return [];
    const head = element("h4", {}, `step ${at.step}`, element("span", { class: "muted" }, ` ${at.name}`));
    const places = names.classes ? portrait.of(names.classes, at.place) : values.map((_, i) => i);
    const shown = [...places].map((_, i) => i).filter(i => places[i] >= 0);
    const marked = shown.reduce((a, b) => values[b] > values[a] ? b : a, shown[0]);
    const all = names.ranks ? portrait.of(names.ranks, at.place) : null;
    return [element("div", { class: "moment" }, head,
      draw.bars(`${title} at step ${at.step}`, shown.map(i => values[i]), shown.map(i => Neurons.className(places[i])), { marked: shown.indexOf(marked) }),
      all ? draw.ranks(`${title} at step ${at.step}`, all) : null)];
  }

  function thumbnails(portrait, at) {
    const inputs = portrait.of("input", at.place), labels = portrait.of("label", at.place), values = portrait.of("activation", at.place);
    if (!inputs) return null;
    const { per, side, sheets, pixelated } = index.sheets ?? {};
    const items = [...inputs].map((input, i) => ({ input, label: labels?.[i] ?? -1, value: values?.[i] ?? NaN })).filter(one => one.input >= 0);
    return element("div", { class: "moment" }, element("h4", {}, `step ${at.step}`, element("span", { class: "muted" }, ` ${at.name}`)),
      items.length ? element("ol", { class: "thumbs" }, items.map(({ input, label, value }) => {
        const sheet = sheets?.[Math.floor(input / per)], place = input % per;
        const said = `image ${input}, class ${Neurons.className(label)}, activation ${text(value)}`;
        const picture = element("span", { class: pixelated ? "thumb pixelated" : "thumb", role: "img", "aria-label": said, title: said });
        if (sheet) {
          picture.style.backgroundImage = `url("${sheet}")`;
          picture.style.backgroundSize = `${side * 100}% ${side * 100}%`;
          picture.style.backgroundPosition = `${place % side / (side - 1) * 100}% ${Math.floor(place / side) / (side - 1) * 100}%`;
        } else picture.append("no picture");
        return element("li", {}, picture, element("span", { class: "small" }, element("b", {}, Neurons.className(label)), ` ${text(value)}`));
      })) : element("p", { class: "muted small" }, "No input excites it."));
  }

  function portraits(run, life, portrait) {
    const { classes, inputs, damage } = index.runs[run].lacking;
    const at = portrait ? MOMENTS.map((name, place) => ({ name, place, step: portrait.of("step", place)[0] })) : [];
    const section = (title, said, lacking, made) => element("div", { class: "panel wide" }, element("h3", {}, title),
      made.length ? [element("p", { class: "muted small" }, said), element("div", { class: "moments" }, made)] : note(lacking));
    const each = make => at.flatMap(one => make(one) ?? []);
    const many = portrait?.of("mean_ranks", 0) || portrait?.of(`damage:${index.values[0]}_ranks`, 0);
    const means = each(one => tuning("Mean activation by class", portrait, { values: "mean", classes: many && "mean_class", ranks: many && "mean_ranks" }, one));
    const harms = index.values.map(value => section(`Damage by class, ablated (${value})`,
      `Change of each class’s loss, in nats; ${many ? "the classes harmed most, and all of them by rank" : "the class harmed most is marked"}.`, damage,
      each(one => tuning(`Change of loss by class, ablated (${value})`, portrait, { values: `damage:${value}`, classes: many && `damage:${value}_class`, ranks: many && `damage:${value}_ranks` }, one))));
    return [
      section("Class tuning", `Mean activation for the images of each class, each on its own scale; ${many ? "the classes that lie highest, and all of them by rank" : "the highest is marked"}.`, classes, means),
      ...(index.values.length && harms.length ? harms : []),
      section("Inputs that excite it most", `The images with the highest mean activation${portrait && index.sheets ? "" : " (there are no pictures of them yet: run “vestige run”)"}, each with its class and activation.`, inputs, each(one => thumbnails(portrait, one))),
    ];
  }

  function numbers(life) {
    const shown = index.columns.filter(column => life.of(column.id).some(value => column.kind === "number" ? Number.isFinite(value) : value >= 0));
    const values = shown.map(column => life.of(column.id));
    return element("details", { class: "data" }, element("summary", {}, "The numbers", element("span", { class: "muted" }, " at every checkpoint")),
      element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Numbers at every checkpoint" }, element("table", { "data-title": "life" },
        element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "step"), shown.map(column => element("th", { scope: "col", title: column.title }, column.short)))),
        element("tbody", {}, life.steps.map((step, i) => element("tr", {}, element("th", { scope: "row" }, String(step)), shown.map((column, c) => element("td", {}, Neurons.shown(column, values[c][i])))))))));
  }

  function facts(life, step) {
    const i = life.steps.indexOf(step), shown = index.columns.filter(column => column.shown);
    return element("dl", { class: "settings compact" }, shown.map(column => element("div", {}, element("dt", {}, column.title), element("dd", { "data-fact": column.id }, i < 0 ? "–" : Neurons.shown(column, life.of(column.id)[i])))));
  }

  async function show(place, { run, step, beside, controls }) {
    const unit = units[place], { condition, seed, protocol, notes } = index.runs[run];
    const [life, portrait] = await Promise.all([Neurons.life(run, place), Neurons.portrait(run, place)]);
    const move = (to, said, arrow) => to === null ? element("span", { class: "muted", "aria-hidden": "true" }, arrow) : element("a", { href: Neurons.link(to), "aria-label": `${said}: ${units[to].id}`, rel: said }, arrow);
    const branched = life.branched ? ` Up to step ${life.branched.step} it is “${life.branched.from}”, from which it branches.` : "";
    home.replaceChildren(...[
      element("p", { class: "neuron-way" }, element("a", { href: "#neurons", "data-neurons": "back" }, "← All neurons"), element("span", {}, move(beside[0], "prev", "← previous"), " ", move(beside[1], "next", "next →"))),
      element("h2", { id: "neuron-title", tabindex: -1 }, element("span", { class: "card-id" }, `${unit.layer.name},`), ` neuron ${unit.neuron}`),
      element("p", { class: "caption" }, `Condition “${condition}”, seed ${seed}, ${protocol} protocol; ${life.steps.length} checkpoints.${branched} A preferred class is counted from 0.`),
      controls,
      notes.length ? element("ul", { class: "notice" }, notes.map(one => element("li", {}, one))) : null,
      element("h3", {}, `At step ${step}`), facts(life, step),
      element("h3", {}, "Through training"), element("div", { class: "panels" }, charts(run, life)),
      numbers(life),
      element("h3", {}, "What drives it, and what misses it"),
      portrait ? element("p", { class: "caption" }, `These are kept at ${portrait.kept.length} checkpoints (steps ${portrait.kept.join(", ")}), of which are shown: an early one, that of the neuron’s highest CSI, and the last.`) : null,
      ...portraits(run, life, portrait),
    ].filter(Boolean));
  }

  function failed(problem) {
    home.replaceChildren(element("p", { class: "neuron-way" }, element("a", { href: "#neurons" }, "← All neurons")), element("h2", { id: "neuron-title", tabindex: -1 }, "Not shown"), note(problem.message));
  }
  return { home, show, failed };
})();
