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

  function draw(view) {
    const panels = figures[view.dataset.figure][Number(view.dataset.view)];
    const hidden = new Set([...view.querySelectorAll('.key[aria-pressed="false"]')].map(key => key.dataset.key));
    for (const plot of view.querySelectorAll(".plot")) {
      const panel = panels[Number(plot.dataset.panel)];
      const rows = Number(plot.dataset.rows || 0);
      if (rows) plot.style.height = `${64 + 66 * rows}px`;
      Plotly.react(plot, panel.data.map(trace => colour(trace, hidden)), dress(panel.layout, rows), config);
      resized.observe(plot);
    }
    view.dataset.drawn = "yes";
  }

  const each = (selector, what) => document.querySelectorAll(selector).forEach(what);
  each(".view:not([hidden])", draw);
  each("[data-chooser]", chooser => {
    const show = () => each(`.view[data-figure="${chooser.dataset.chooser}"]`, view => {
      view.hidden = view.dataset.view !== chooser.value;
      if (!view.hidden) draw(view);
    });
    chooser.addEventListener("change", show);
    chooser.value = "0";
  });
  each(".key", key => key.addEventListener("click", () => {
    key.setAttribute("aria-pressed", key.getAttribute("aria-pressed") !== "true");
    draw(key.closest(".view"));
  }));
  dark.addEventListener("change", () => each('.view[data-drawn]:not([hidden])', draw));
})();
