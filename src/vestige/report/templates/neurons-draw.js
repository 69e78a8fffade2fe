if (Neurons) Neurons.draw = (() => {
  const { element, text, index } = Neurons;
  const svg = (tag, settings, ...children) => element(`svg:${tag}`, settings, ...children);
  const [first, last, gap] = index.scale;
  const along = step => step < first ? gap * step / first : gap + Math.log10(step / first);
  const finite = values => values.filter(Number.isFinite);

  function stepTicks(most) {
    for (const factors of [[1, 2, 5], [1, 3], [1]]) {
      const ticks = [];
      for (let d = 0; d <= Math.ceil(Math.log10(last)); d++)
        for (const f of factors) if (f * 10 ** d >= first && f * 10 ** d <= last) ticks.push(f * 10 ** d);
      if (ticks.length < most || factors.length === 1) return [0, ...ticks];
    }
  }
  function ticks(low, high, about = 4) {
    const rough = (high - low) / about, size = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map(f => f * size).find(f => f >= rough);
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) found.push(i * step);
    return found;
  }
  const tickText = tick => {
    const plain = Number(tick.toPrecision(6)), size = Math.abs(plain);
    return (size && (size < 1e-3 || size >= 1e5) ? plain.toExponential() : String(plain)).replaceAll("-", "−").replace("e+", "e");
  };
  function span(values, withZero) {
    let low = Math.min(...values, ...(withZero ? [0] : [])), high = Math.max(...values, ...(withZero ? [0] : []));
    if (low === high) [low, high] = [low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2];
    const room = 0.06 * (high - low);
    return [withZero && low === 0 ? 0 : low - room, withZero && high === 0 ? 0 : high + room];
  }

  // A drawing is made again when its width changes, so that letters keep their size.
  const drawn = new Map(), watch = new ResizeObserver(entries => entries.forEach(({ target }) => paint(target)));
  function paint(place) {
    const make = drawn.get(place), width = place.clientWidth;
    if (!place.isConnected) { drawn.delete(place); watch.unobserve(place); return; }
    if (make && width && Number(place.dataset.width) !== width) {
      place.dataset.width = width;
      place.replaceChildren(make(width));
    }
  }
  function put(make) {
    const place = element("div", { class: "neuron-plot" });
    drawn.set(place, make);
    watch.observe(place);
    return place;
  }

  function said(name, steps, values) {
    const at = values.map((value, i) => [value, steps[i]]).filter(([value]) => Number.isFinite(value));
    if (!at.length) return `${name}: no value`;
    const top = at.reduce((a, b) => b[0] > a[0] ? b : a);
    return `${name}: ${text(at[0][0])} at step ${at[0][1]}, highest ${text(top[0])} at step ${top[1]}, ${text(at.at(-1)[0])} at step ${at.at(-1)[1]}`;
  }

  // lines: [{name, values, slot, dash, spread}]; band: {name, low, high}.
  function lines(title, steps, series, { band = null, branch = null, withZero = true } = {}) {
    const all = finite([...series.flatMap(one => one.values.flatMap((v, i) => one.spread ? [v - one.spread[i], v + one.spread[i]] : [v])), ...(band ? [...band.low, ...band.high] : [])]);
    if (!all.length) return element("p", { class: "empty" }, "No value: every one is missing (NaN).");
    const label = `${title} through training. ${series.map(one => said(one.name, steps, one.values)).join("; ")}. The numbers are in the table below.`;
    return put(width => {
      const box = { left: 52, right: 10, top: 8, bottom: 34, height: 210 };
      const [low, high] = span(all, withZero), end = Math.max(along(last), gap);
      const x = step => box.left + (width - box.left - box.right) * along(step) / end;
      const y = value => box.height - box.bottom - (box.height - box.top - box.bottom) * (value - low) / (high - low);
      const made = svg("svg", { width, height: box.height, role: "img", "aria-label": label });
      for (const tick of ticks(low, high)) made.append(
        svg("line", { class: "n-grid", x1: box.left, x2: width - box.right, y1: y(tick), y2: y(tick) }),
        svg("text", { class: "n-text", x: box.left - 6, y: y(tick) + 4, "text-anchor": "end" }, tickText(tick)));
      for (const tick of stepTicks(width < 420 ? 5 : 8)) made.append(svg("text", { class: "n-text", x: x(tick), y: box.height - 16, "text-anchor": "middle" }, String(tick)));
      made.append(svg("text", { class: "n-text", x: (box.left + width - box.right) / 2, y: box.height - 2, "text-anchor": "middle" }, "step (log scale, 0 set apart)"));
      if (low < 0 && high > 0) made.append(svg("line", { class: "n-zero", x1: box.left, x2: width - box.right, y1: y(0), y2: y(0) }));
      if (branch !== null) made.append(svg("line", { class: "n-branch", x1: x(branch), x2: x(branch), y1: box.top, y2: box.height - box.bottom }, svg("title", {}, `branches off at step ${branch}`)));
      if (band) {
        const there = steps.map((_, i) => i).filter(i => Number.isFinite(band.low[i]) && Number.isFinite(band.high[i]));
        const path = [...there.map(i => `${x(steps[i])},${y(band.high[i])}`), ...there.reverse().map(i => `${x(steps[i])},${y(band.low[i])}`)];
        if (path.length) made.append(svg("polygon", { class: "n-band", points: path.join(" ") }));
      }
      for (const { name, values, slot, dash, spread } of series) {
        let path = "", pen = "M";
        values.forEach((value, i) => {
          if (!Number.isFinite(value)) { pen = "M"; return; }
          path += `${pen}${x(steps[i]).toFixed(1)} ${y(value).toFixed(1)}`;
          pen = "L";
        });
        made.append(svg("path", { class: `n-line slot-${slot} dash-${dash ?? "solid"}`, d: path }));
        values.forEach((value, i) => {
          if (!Number.isFinite(value)) return;
          if (spread && Number.isFinite(spread[i])) made.append(svg("line", { class: `n-spread slot-${slot}`, x1: x(steps[i]), x2: x(steps[i]), y1: y(value - spread[i]), y2: y(value + spread[i]) }));
          made.append(svg("circle", { class: `n-point fill-${slot}`, cx: x(steps[i]), cy: y(value), r: 3 },
            svg("title", {}, `${name}, step ${steps[i]}: ${text(value)}${spread && Number.isFinite(spread[i]) ? ` ± ${text(spread[i])}` : ""}`)));
        });
      }
      return made;
    });
  }

  function legend(series, band) {
    return element("p", { class: "neuron-legend", "aria-hidden": "true" },
      series.map(({ name, slot, dash }) => element("span", {}, svg("svg", { width: 26, height: 10 }, svg("line", { class: `n-line slot-${slot} dash-${dash ?? "solid"}`, x1: 1, x2: 25, y1: 5, y2: 5 })), name)),
      band ? element("span", {}, element("span", { class: "swatch" }), band.name) : null);
  }

  // One bar a class; the names under them where there is room.
  function bars(title, values, names, { marked = -1, unit = "" } = {}) {
    const all = finite([...values]);
    if (!all.length) return element("p", { class: "empty" }, "No value: every one is missing (NaN).");
    const ranked = [...values.keys()].filter(i => Number.isFinite(values[i])).sort((a, b) => values[b] - values[a]);
    const label = `${title}: highest ${ranked.slice(0, 3).map(i => `${names[i]} ${text(values[i])}`).join(", ")}; lowest ${names[ranked.at(-1)]} ${text(values[ranked.at(-1)])}.`;
    return put(width => {
      const box = { left: 52, right: 4, top: 8, bottom: 22, height: 130 };
      const [low, high] = span(all, true), pitch = (width - box.left - box.right) / values.length;
      const y = value => box.height - box.bottom - (box.height - box.top - box.bottom) * (value - low) / (high - low);
      const made = svg("svg", { width, height: box.height, role: "img", "aria-label": label });
      for (const tick of ticks(low, high, 3)) made.append(
        svg("line", { class: "n-grid", x1: box.left, x2: width - box.right, y1: y(tick), y2: y(tick) }),
        svg("text", { class: "n-text", x: box.left - 6, y: y(tick) + 4, "text-anchor": "end" }, tickText(tick)));
      const fits = Math.max(...names.map(name => name.length)) * 6.2 < pitch;
      [...values].forEach((value, i) => {
        const x = box.left + i * pitch;
        if (Number.isFinite(value)) made.append(svg("rect", { class: i === marked ? "n-bar marked" : "n-bar", x: x + pitch * 0.12, width: pitch * 0.76, y: Math.min(y(value), y(0)), height: Math.max(0.75, Math.abs(y(value) - y(0))) },
          svg("title", {}, `${names[i]}: ${text(value)}${unit}`)));
        if (fits || i === marked) made.append(svg("text", { class: i === marked ? "n-text marked" : "n-text", x: Math.min(Math.max(x + pitch / 2, box.left), width - 12), y: box.height - 7, "text-anchor": "middle" }, names[i]));
      });
      return made;
    });
  }

  // All classes by rank, where they are too many to name.
  function ranks(title, values) {
    if (!finite([...values]).length) return null;
    return put(width => {
      const box = { left: 52, right: 6, top: 6, bottom: 20, height: 96 };
      const [low, high] = span(finite([...values]), true);
      const x = i => box.left + (width - box.left - box.right) * i / (values.length - 1);
      const y = value => box.height - box.bottom - (box.height - box.top - box.bottom) * (value - low) / (high - low);
      return svg("svg", { width, height: box.height, role: "img", "aria-label": `${title}, all classes by rank: from ${text(values[0])} to ${text(values.at(-1))}, median ${text(values[(values.length - 1) / 2])}.` },
        ticks(low, high, 2).map(tick => svg("text", { class: "n-text", x: box.left - 6, y: y(tick) + 4, "text-anchor": "end" }, tickText(tick))),
        svg("line", { class: "n-zero", x1: box.left, x2: width - box.right, y1: y(0), y2: y(0) }),
        svg("path", { class: "n-line slot-0", d: [...values].map((value, i) => `${i ? "L" : "M"}${x(i).toFixed(1)} ${y(value).toFixed(1)}`).join("") }),
        svg("text", { class: "n-text", x: box.left, y: box.height - 5 }, "highest class"),
        svg("text", { class: "n-text", x: width - box.right, y: box.height - 5, "text-anchor": "end" }, "lowest"));
    });
  }

  // A strip of the classes that a neuron prefers, step by step.
  function strip(steps, values) {
    const runs = [];
    steps.forEach((step, i) => {
      if (values[i] < 0 || !Number.isFinite(values[i])) return;
      if (runs.at(-1)?.value === values[i]) runs.at(-1).to = step;
      else runs.push({ value: values[i], from: step, to: step });
    });
    const tones = new Map();
    for (const run of runs) if (!tones.has(run.value)) tones.set(run.value, tones.size % 6 + 1);
    const when = ({ from, to }) => from === to ? `step ${from}` : `steps ${from} to ${to}`;
    const list = element("ol", { class: "switches" }, runs.map(run => element("li", {}, element("b", {}, Neurons.classText(run.value)), ` ${when(run)}`)));
    const picture = put(width => {
      const end = Math.max(along(last), gap), x = step => 8 + (width - 16) * along(step) / end;
      const made = svg("svg", { width, height: 44, "aria-hidden": "true" });
      runs.forEach((run, i) => {
        const from = x(run.from), to = i + 1 < runs.length ? x(runs[i + 1].from) : Math.max(x(run.to), from + 4), name = Neurons.className(run.value);
        made.append(svg("rect", { class: `fill-${tones.get(run.value)}`, x: from, width: Math.max(1, to - from - 1), y: 4, height: 18, rx: 3 }, svg("title", {}, `${Neurons.classText(run.value)}, ${when(run)}`)));
        if (name.length * 7 + 4 < to - from) made.append(svg("text", { class: "n-text", x: (from + to) / 2, y: 37, "text-anchor": "middle" }, name));
      });
      return made;
    });
    const count = Math.max(0, runs.length - 1);
    return [element("p", { class: "small" }, runs.length ? count ? `It switches ${count} ${count === 1 ? "time" : "times"}.` : "It never switches." : "No value: every one is missing."), picture, list];
  }

  return { lines, legend, bars, ranks, strip };
})();
