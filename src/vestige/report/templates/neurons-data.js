const Neurons = (() => {
  const source = document.getElementById("neuron-index");
  if (!source) return null;
  const index = JSON.parse(source.textContent);
  const units = [], layers = index.layers.map(([name, stage, count]) => {
    const layer = { name, stage, count, first: units.length };
    for (let neuron = 0; neuron < count; neuron++) units.push({ layer, neuron, id: `${name}/${neuron}` });
    return layer;
  });
  const places = new Map(units.map((unit, place) => [unit.id, place]));
  const columns = new Map(index.columns.map(column => [column.id, column]));

  // Codes of three decimal digits: see report/neurons/encoding.py.
  let decimals = null;
  function numbers() {
    decimals = new Float64Array(65536).fill(NaN);
    decimals[1] = 0;
    for (let sign = 0, code = 2; sign < 2; sign++)
      for (let e = -26; e < 10; e++)
        for (let m = 100; m < 1000; m++) decimals[code++] = Number(`${sign ? "-" : ""}${m}e${e}`);
    return decimals;
  }
  const kinds = {
    d: [Uint16Array, codes => Float64Array.from(codes, code => decimals[code])],
    f: [Float32Array, codes => Float64Array.from(codes)],
    i: [Uint16Array, codes => Int32Array.from(codes, code => code === 65535 ? -1 : code)],
    w: [Uint32Array, codes => Float64Array.from(codes, code => code === 4294967295 ? -1 : code)],
    b: [Uint8Array, codes => Int8Array.from(codes, code => code === 255 ? -1 : code)],
  };
  function decode([kind, packed, width], size) {
    if (!decimals) numbers();
    const [Codes, values] = kinds[kind];
    if (typeof packed === "number") return values(new Codes(size * width).fill(packed));
    const text = atob(packed), bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    return values(new Codes(bytes.buffer));
  }

  class Chunk {
    constructor(content) { Object.assign(this, { content, steps: content.s, units: content.n, decoded: {} }); }
    has(name) { return name in this.content.c; }
    width(name) { return this.has(name) ? this.content.c[name][2] : 0; }
    column(name) {
      if (!this.has(name)) return null;
      return this.decoded[name] ??= decode(this.content.c[name], this.steps * this.units);
    }
    row(name, step) { return this.column(name)?.subarray(step * this.units, (step + 1) * this.units) ?? null; }
    cell(name, step, unit) {
      const width = this.width(name), start = (step * this.units + unit) * width;
      return this.column(name)?.subarray(start, start + width) ?? null;
    }
  }

  const loaded = new Map(), waiting = new Map();
  window.vestigeNeurons = (name, content) => waiting.get(name)?.(content);
  function fetchBeside(name) {
    return new Promise((done, failed) => {
      const script = document.createElement("script");
      waiting.set(name, done);
      script.src = `${index.folder}${name}.js`;
      script.onload = () => script.remove();
      script.onerror = () => failed(new Error(`${script.getAttribute("src")} cannot be read: the folder ${index.folder} belongs beside this page.`));
      document.head.append(script);
    }).finally(() => waiting.delete(name));
  }
  function load(name) {
    if (!loaded.has(name)) {
      const held = document.getElementById(`neuron-chunk-${name}`);
      const made = held ? Promise.resolve(JSON.parse(held.textContent)) : fetchBeside(name);
      loaded.set(name, made.then(content => new Chunk(content)));
      made.catch(() => loaded.delete(name));
      if (loaded.size > 40) loaded.delete(loaded.keys().next().value);
    }
    return loaded.get(name);
  }
  const blockOf = (blocks, unit) => blocks.findLast(([first]) => first <= unit);

  async function atStep(run, place) {
    const { whole, steps } = index.runs[run].chunks;
    const chunk = await load(whole ?? steps[place]);
    return name => chunk.row(name, whole ? place : 0);
  }
  async function own(run, unit) {
    const { steps, epochs, chunks: { whole, blocks } } = index.runs[run];
    const [first, name] = whole ? [0, whole] : blockOf(blocks, unit);
    const chunk = await load(name);
    return { steps, epochs, of: column => steps.map((_, step) => chunk.cell(column, step, unit - first)?.[0] ?? NaN) };
  }
  async function life(run, unit) {
    const lived = await own(run, unit), { parent } = index.runs[run];
    if (!parent) return { ...lived, branched: null };
    const before = await life(parent[0], unit);
    const kept = before.steps.filter(step => step <= parent[1]).length;
    return {
      steps: [...before.steps.slice(0, kept), ...lived.steps],
      epochs: [...before.epochs.slice(0, kept), ...lived.epochs],
      of: column => [...before.of(column).slice(0, kept), ...lived.of(column)],
      branched: { from: index.runs[parent[0]].condition, step: parent[1] },
    };
  }
  async function portrait(run, unit) {
    const kept = index.runs[run].portraits;
    if (!kept) return null;
    const [first, name] = blockOf(kept.blocks, unit);
    const chunk = await load(name);
    return { kept: kept.kept, of: (column, step) => chunk.cell(column, step, unit - first) };
  }

  function text(value) {
    if (!Number.isFinite(value)) return "–";
    if (value === 0) return "0";
    const [mantissa, exponent] = value.toExponential(2).split("e").map(Number);
    const far = exponent < -4 || exponent > 2;
    const shown = far ? `${mantissa.toFixed(2)}e${exponent}` : Number(value.toExponential(2)).toFixed(Math.max(2 - exponent, 0));
    return shown.replaceAll("-", "−");
  }
  const className = place => place < 0 || !Number.isFinite(place) ? "–" : index.classes[place] ?? String(place);
  const classText = place => className(place) === String(place) || place < 0 ? className(place) : `${place} ${className(place)}`;
  const flag = value => value === 1 ? "yes" : value === 0 ? "no" : "–";
  const shown = (column, value) => column.kind === "number" ? text(value) : column.kind === "class" ? classText(value) : flag(value);

  function element(tag, settings = {}, ...children) {
    const made = tag.includes(":") ? document.createElementNS("http://www.w3.org/2000/svg", tag.slice(4)) : document.createElement(tag);
    for (const [name, value] of Object.entries(settings)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value === true) made.setAttribute(name, "");
      else if (value !== false && value != null) made.setAttribute(name, value);
    }
    made.append(...children.flat().filter(child => child != null));
    return made;
  }
  return { index, units, layers, places, columns, atStep, life, portrait, text, classText, className, shown, element };
})();
