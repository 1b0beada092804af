// The dashboard: charts of the last two minutes, from samples that arrive once a second.
/* global uPlot */
import { topics } from "../tiderace/tiderace.js";

const SHOWN = 120; // seconds
const STALE = 3; // seconds after which a process counts as gone

// How the samples of several processes become one value.
const sum = (values) => values.reduce((total, value) => total + (value ?? 0), 0);
const max = (values) => (values.some((value) => value !== null) ? Math.max(...values) : null);

// Each chart: a title, a unit, and its lines: the name, the key, how processes add up, a factor.
const CHARTS = [
  ["Connections", "", [["open", "clients", sum, 1]]],
  ["Messages", "/s", [["sent", "sent", sum, 1], ["delivered", "delivered", sum, 1]]],
  ["Fan-out", "ms", [["p50", "p50", max, 1e3], ["p99", "p99", max, 1e3]]],
  ["Round trip of the layer", "ms", [["longest", "round_trip", max, 1e3]]],
  ["Dropped messages", "", [["since the start", "dropped", sum, 1]]],
  ["Memory", "MB", [["resident", "memory", sum, 1e-6]]],
];

const { topic } = JSON.parse(document.getElementById("ops-config").textContent);
const line = document.getElementById("processes");
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const latest = new Map(); // by process: its last sample
let current = 0; // the second that is being collected
const charts = CHARTS.map(addChart);

function addChart([title, unit, lines]) {
  const template = document.getElementById("chart-template").content;
  const figure = template.firstElementChild.cloneNode(true);
  const place = figure.querySelector("[role=img]");
  figure.querySelector("h2").textContent = unit ? `${title}, ${unit}` : title;
  place.setAttribute("aria-label", `Chart: ${title} of the last two minutes`);
  document.getElementById("charts").append(figure);
  const axis = { stroke: () => resolved("--ink-soft"), grid: { stroke: () => resolved("--line"), width: 1 }, ticks: { show: false } };
  const seconds = { ...axis, size: 32, space: 80, values: (_, splits) => splits.map((second) => clock.format(second * 1e3)) };
  const plot = new uPlot(
    {
      width: place.clientWidth,
      height: 150,
      cursor: { show: false },
      legend: { show: false },
      scales: {
        x: { range: () => [current - SHOWN, current] },
        y: { range: (_, low, high) => [0, (high || 1) * 1.1] },
      },
      axes: [seconds, { ...axis, size: 56 }],
      series: [{}, ...lines.map((_, at) => ({ width: 2, points: { show: false }, stroke: () => resolved(at ? "--warn" : "--accent") }))],
    },
    [[], ...lines.map(() => [])],
    place,
  );
  new ResizeObserver(() => plot.setSize({ width: place.clientWidth, height: 150 })).observe(place);
  return { plot, lines, values: figure.querySelector("p"), data: [[], ...lines.map(() => [])] };
}

/** A colour of the theme, which a canvas takes only as a plain value. */
function resolved(name) {
  line.style.setProperty("outline-color", `var(${name})`);
  return getComputedStyle(line).outlineColor;
}

function show(second) {
  const samples = [...latest.values()];
  for (const { plot, lines, values, data } of charts) {
    const [seconds] = data;
    // The line is interrupted where the page was hidden.
    if (seconds.length && second - seconds.at(-1) > STALE) push(data, seconds.at(-1) + 1, lines.map(() => null));
    const row = lines.map(([, key, combine, factor]) => {
      const value = combine(samples.map((sample) => sample[key]));
      return value === null ? null : value * factor;
    });
    push(data, second, row);
    plot.setData(data);
    values.replaceChildren(...lines.map(([name], at) => entry(name, row[at], at)));
  }
  line.textContent = `${samples.length} process${samples.length === 1 ? "" : "es"}, ${clock.format(second * 1e3)}`;
}

function push(data, second, row) {
  [second, ...row].forEach((value, at) => data[at].push(value));
  while (data[0][0] < second - SHOWN) data.forEach((column) => column.shift());
}

function entry(name, value, at) {
  const item = document.createElement("span");
  item.className = `series-${at}`;
  const number = document.createElement("b");
  number.textContent = value === null ? "–" : value.toLocaleString(undefined, { maximumFractionDigits: value < 10 ? 2 : 0 });
  item.append(`${name} `, number);
  return item;
}

const metrics = topics().subscribe(topic);
metrics.addEventListener("publication", ({ data }) => {
  if (data.second < current) return; // sent again after a pause
  if (data.second > current && current) show(current);
  current = data.second;
  latest.set(data.process, data);
  for (const [process, { second }] of latest) {
    if (second < current - STALE) latest.delete(process);
  }
});
// What the page has missed is a pause in its charts.
metrics.addEventListener("gap", () => {});

document.addEventListener("visibilitychange", () => {
  if (document.hidden) metrics.unsubscribe();
  else metrics.subscribe();
});
// The colours of the theme are drawn into the charts.
new MutationObserver(() => charts.forEach(({ plot }) => plot.redraw())).observe(
  document.documentElement,
  { attributes: true, attributeFilter: ["data-theme"] },
);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  charts.forEach(({ plot }) => plot.redraw());
});
