// The devices: the newest value of each on a map and in a table, and their alarms.
import { topics } from "../tiderace/tiderace.js";

const ALARMS_SHOWN = 50;
const { fleet, alarms, devices } = JSON.parse(document.getElementById("devices-config").textContent);
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const log = document.getElementById("alarms");
const template = document.getElementById("buoy-template");
const shown = new Map(devices.map((device) => [device.device, addDevice(device)]));
const reporting = new Set();
let values = 0;

function addDevice({ device, name, x, y, alarm }) {
  const circle = template.content.querySelector("circle").cloneNode(true);
  circle.firstElementChild.textContent = name;
  circle.setAttribute("cx", x);
  circle.setAttribute("cy", y);
  document.getElementById("sea").append(circle);
  const [, wave, temperature, battery, cell] = document.querySelector(`[data-device="${device}"]`).children;
  return { name, circle, cells: { wave, temperature, battery, alarm: cell }, alarm };
}

function show({ device, wave, temperature, battery }) {
  const { circle, cells, alarm } = shown.get(device);
  cells.wave.textContent = `${wave.toFixed(2)} m`;
  cells.temperature.textContent = `${temperature.toFixed(1)} °C`;
  cells.battery.textContent = `${battery.toFixed(0)} %`;
  circle.setAttribute("class", alarm ? "high" : wave >= 2 ? "rough" : "calm");
  circle.setAttribute("r", 0.6 + wave / 4);
  reporting.add(device);
  values++;
}

topics().subscribe(fleet).addEventListener("publication", ({ data }) => {
  if (shown.has(data.device)) show(data);
});

const bells = topics().subscribe(alarms);
bells.addEventListener("publication", ({ data: { pk, fields } }) => {
  const device = shown.get(pk);
  if (!device) return;
  device.alarm = fields.alarm;
  device.cells.alarm.textContent = fields.alarm;
  const item = document.createElement("li");
  const time = document.createElement("time");
  time.textContent = clock.format();
  item.append(time, ` ${fields.name}: ${fields.alarm || "all well again"}`);
  log.prepend(item);
  if (log.childElementCount > ALARMS_SHOWN) log.lastElementChild.remove();
  countAlarms();
});
// More alarms than the history holds: load the devices again, with the page.
bells.addEventListener("gap", () => location.reload());

function countAlarms() {
  const now = [...shown.values()].filter(({ alarm }) => alarm);
  document.getElementById("alarm-count").textContent = now.length;
}
countAlarms();

setInterval(() => {
  document.getElementById("reporting").textContent = reporting.size;
  document.getElementById("rate").textContent = values;
  values = 0;
}, 1000);
