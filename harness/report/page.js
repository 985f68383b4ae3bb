"use strict";
(function () {
  const PRINTED_WIDTH = 660;
  const root = document.documentElement;
  const coarse = matchMedia("(pointer: coarse)").matches;
  const color = (name) => getComputedStyle(root).getPropertyValue("--" + name).trim();
  const painted = (name, value) => (name === "color" && typeof value === "string" && value.startsWith("var(--") ? color(value.slice(6, -1)) : value);
  const charts = [];

  function template() {
    const axis = {
      gridcolor: color("grid"), linecolor: color("rule"), zerolinecolor: color("rule"), tickcolor: color("rule"),
      automargin: true, title: {standoff: 8}, zeroline: false,
    };
    return {layout: {
      font: {family: getComputedStyle(document.body).fontFamily, size: 12, color: color("ink")},
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", colorway: ["blue", "vermilion", "green", "purple", "orange", "sky"].map(color),
      margin: {l: 48, r: 14, t: 10, b: 40}, hovermode: "closest", dragmode: coarse ? false : "zoom",
      hoverlabel: {bgcolor: color("surface"), bordercolor: color("rule"), font: {color: color("ink"), size: 12}, align: "left", namelength: -1},
      modebar: {bgcolor: "rgba(0,0,0,0)", color: color("muted"), activecolor: color("ink")},
      xaxis: axis, yaxis: axis, coloraxis: {colorbar: {thickness: 10}}, legend: {orientation: "h", y: -0.2},
    }};
  }

  // What a chart shows now: its own traces in the page's colours, on the chosen axis, without what is hidden.
  function shown(chart) {
    const {data, layout} = JSON.parse(chart.source, painted);
    data.forEach((trace) => {
      if (chart.figure.hidden.has(trace.legendgroup)) trace.visible = "legendonly";
      if (chart.figure.choices.length && trace.meta) {
        const factor = trace.meta[chart.figure.choice];
        trace.x = trace.x.map((value) => (factor === null ? null : value * factor));
      }
    });
    if (chart.figure.choices.length) layout.xaxis = {...layout.xaxis, title: {text: chart.figure.choices[chart.figure.choice].textContent}};
    return {data, layout: {...layout, template: template(), uirevision: String(chart.figure.choice), autosize: !chart.width, width: chart.width}};
  }

  function draw(chart) {
    const {data, layout} = shown(chart);
    const config = {responsive: true, displaylogo: false, displayModeBar: coarse ? false : "hover", showSendToCloud: false, modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"]};
    return (chart.drawn ? Plotly.react : Plotly.newPlot)(chart.place, data, layout, config).then(() => { chart.drawn = true; });
  }

  const redraw = (some) => some.filter((chart) => chart.drawn).forEach(draw);

  const MARKS = {
    "circle": "M16 2.6a3.4 3.4 0 1 0 .01 0z", "square": "M13 3h6v6h-6z", "diamond": "M16 2l4 4-4 4-4-4z", "triangle-up": "M16 2l4 7h-8z",
    "triangle-down": "M16 10l4-7h-8z", "cross": "M15 2h2v3h3v2h-3v3h-2v-3h-3v-2h3z", "x": "M13.4 2.2l2.6 2.6 2.6-2.6 1.2 1.2-2.6 2.6 2.6 2.6-1.2 1.2-2.6-2.6-2.6 2.6-1.2-1.2 2.6-2.6-2.6-2.6z",
    "star": "M16 1.5l1.4 3 3.3.4-2.4 2.3.6 3.3-2.9-1.6-2.9 1.6.6-3.3-2.4-2.3 3.3-.4z", "pentagon": "M16 2l4 3-1.5 4.6h-5L12 5z", "hexagon": "M16 2l3.5 2v4L16 10l-3.5-2V4z",
  };
  const DASHES = {solid: "", dash: "6 4", dot: "2 3", dashdot: "6 3 2 3", longdash: "10 4", longdashdot: "10 3 2 3"};

  function swatch(button) {
    const made = (name, attributes) => {
      const node = document.createElementNS("http://www.w3.org/2000/svg", name);
      Object.entries(attributes).forEach(([key, value]) => node.setAttribute(key, value));
      return node;
    };
    const {color: name, dash, symbol} = button.dataset;
    const picture = made("svg", {width: 32, height: 12, "aria-hidden": "true"});
    if (dash) picture.append(made("path", {d: "M0 6H32", "stroke-width": 2, "stroke-dasharray": DASHES[dash] || "none", style: `stroke:${name}`}));
    if (MARKS[symbol]) picture.append(made("path", {d: MARKS[symbol], style: `fill:${name}`}));
    button.prepend(picture);
  }

  function toggle(figure, button) {
    const key = button.dataset.key, hide = !figure.hidden.has(key);
    hide ? figure.hidden.add(key) : figure.hidden.delete(key);
    button.setAttribute("aria-pressed", String(!hide));
    redraw(figure.charts);
  }

  function choose(figure, button) {
    figure.choice = Number(button.dataset.choice);
    figure.choices.forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
    redraw(figure.charts);
  }

  document.querySelectorAll("article.figure").forEach((article) => {
    const figure = {hidden: new Set(), choice: 0, choices: [...article.querySelectorAll("[data-choice]")], charts: []};
    figure.charts = [...article.querySelectorAll(".plot")].map((place) => ({place, figure, source: place.nextElementSibling.textContent, drawn: false, width: undefined}));
    charts.push(...figure.charts);
    article.querySelectorAll(".key").forEach((button) => { swatch(button); button.addEventListener("click", () => toggle(figure, button)); });
    figure.choices.forEach((button) => button.addEventListener("click", () => choose(figure, button)));
  });

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw(charts));
  matchMedia("print").addEventListener("change", (change) => {
    charts.forEach((chart) => { chart.width = change.matches ? PRINTED_WIDTH : undefined; });
    redraw(charts);
  });

  (async () => {
    for (const chart of charts) {
      await draw(chart);
      await new Promise((next) => setTimeout(next));
    }
    root.dataset.drawn = String(charts.length);
  })();
})();
