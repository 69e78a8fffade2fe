(() => {
  const figures = JSON.parse(document.getElementById("figure-data").textContent);
  const palettes = JSON.parse(document.getElementById("palette").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const coarse = matchMedia("(pointer: coarse)").matches;
  const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const fade = (hex, alpha) => hex + Math.round(255 * alpha).toString(16).padStart(2, "0");
  const config = { displayModeBar: false, doubleClick: "reset+autosize" };
  const resized = new ResizeObserver(entries => entries.forEach(({ target }) => {
    if (target.offsetWidth && target.data && Math.abs(target.offsetWidth - target._fullLayout.width) > 1) Plotly.Plots.resize(target);
  }));

  function colour(trace, hidden) {
    const shade = palettes[dark.matches ? "dark" : "light"][trace.meta.slot];
    const marker = { ...trace.marker, color: shade };
    if (marker.line) marker.line = { ...marker.line, color: css("--surface") };
    return {
      ...trace, marker, line: { ...trace.line, color: shade },
      ...(trace.meta.fill ? { fillcolor: fade(shade, trace.meta.fill) } : {}),
      visible: !hidden.has(trace.legendgroup),
    };
  }

  function dress(layout, rows) {
    const [ink, muted, line, surface] = ["--ink", "--muted", "--line", "--surface"].map(css);
    const axis = own => ({
      gridcolor: line, zeroline: false, linecolor: line, ticks: "", automargin: true, fixedrange: coarse, ...own,
      tickfont: { size: 11, color: muted }, title: { ...own.title, font: { size: 11.5, color: muted }, standoff: 8 },
    });
    const names = layout.yaxis.ticktext && rows;
    const labels = names ? layout.yaxis.ticktext.map((text, y) => ({
      text, x: 0, xref: "paper", xanchor: "left", y: y - 0.4, yref: "y", yanchor: "middle", showarrow: false, font: { size: 12, color: ink }, bgcolor: surface, borderpad: 1,
    })) : [];
    return {
      ...layout, xaxis: axis(layout.xaxis), yaxis: { ...axis(layout.yaxis), showticklabels: !names },
      annotations: [...layout.annotations.map(a => ({ ...a, font: { ...a.font, color: muted } })), ...labels],
      shapes: layout.shapes.map(s => s.type === "rect" ? { ...s, fillcolor: css("--shade") } : { ...s, line: { width: 1, color: muted } }),
      margin: { l: 8, r: 12, t: 10, b: 34 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, color: ink },
      hoverlabel: { bgcolor: surface, bordercolor: line, font: { color: ink, size: 12 }, align: "left" },
      dragmode: coarse ? false : "zoom", showlegend: false, hovermode: "closest",
    };
  }

  const waiting = new Set();
  let asked = false;
  const near = new IntersectionObserver(entries => {
    for (const { target, isIntersecting } of entries) waiting[isIntersecting ? "add" : "delete"](target);
    ask();
  }, { rootMargin: "500px 0px" });
  const later = plot => near.observe(plot);
  const away = plot => {
    const { top, bottom } = plot.getBoundingClientRect();
    return Math.max(top - innerHeight, -bottom, 0);
  };

  // One plot a frame, the nearest first: a page that opens or scrolls by is not held up.
  function ask() {
    if (asked || !waiting.size) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      if (waiting.size) draw([...waiting].reduce((a, b) => away(b) < away(a) ? b : a));
      ask();
    });
  }

  function draw(plot) {
    near.unobserve(plot);
    waiting.delete(plot);
    const view = plot.closest(".view"), panel = figures[view.dataset.figure][Number(view.dataset.view)][Number(plot.dataset.panel)];
    const hidden = new Set([...view.querySelectorAll('.key[aria-pressed="false"]')].map(key => key.dataset.key));
    Plotly.react(plot, panel.data.map(trace => colour(trace, hidden)), dress(panel.layout, Number(plot.dataset.rows || 0)), config);
    resized.observe(plot);
    plot.dataset.drawn = "yes";
  }

  const each = (selector, what, within = document) => within.querySelectorAll(selector).forEach(what);
  each(".plot[data-rows]", plot => { plot.style.height = `${64 + 66 * Number(plot.dataset.rows)}px`; });
  each(".plot", later);
  each("[data-chooser]", chooser => {
    chooser.addEventListener("change", () => each(`.view[data-figure="${chooser.dataset.chooser}"]`, view => { view.hidden = view.dataset.view !== chooser.value; }));
    chooser.value = "0";
  });
  each("[data-slider]", slider => {
    const slides = [...slider.closest(".view").querySelectorAll("[data-slide]")], output = slider.nextElementSibling;
    const move = () => {
      slides.forEach((slide, place) => { slide.hidden = place !== Number(slider.value); });
      output.value = slides[slider.value].dataset.slide;
      slider.setAttribute("aria-valuetext", `step ${output.value}`);
    };
    slider.addEventListener("input", move);
    slider.value = slides.length - 1;
    move();
  });
  each(".key", key => key.addEventListener("click", () => {
    key.setAttribute("aria-pressed", key.getAttribute("aria-pressed") !== "true");
    each(".plot[data-drawn]", draw, key.closest(".view"));
  }));
  dark.addEventListener("change", () => each(".plot[data-drawn]", later));
  addEventListener("beforeprint", () => each(".plot:not([data-drawn])", plot => { if (plot.offsetWidth) draw(plot); }));
})();
