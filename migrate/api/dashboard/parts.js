// What several pages show: badges, tables, curves, the phase bar, and dialogs that say what went wrong.
import { html, useEffect, useRef } from "/static/vendor/preact-htm.js";
import uPlot from "/static/vendor/uPlot.js";
import { seconds } from "/static/words.js";

export const Badge = ({ state }) => html`<span class="badge ${state}">${state.replace("_", " ")}</span>`;

export const Trouble = ({ error }) => {
  if (!error) return null;
  const problem = error.problem || { title: String(error) };
  return html`<article role="alert"><strong>${problem.title}</strong>${problem.detail ? `: ${problem.detail}` : ""}
    ${problem.hint && html`<div class="hint">→ ${problem.hint}</div>`}
    ${(problem.blockers || []).map((one) => html`<div>${one.subject}: ${one.reason}<div class="hint">→ ${one.hint}</div></div>`)}
  </article>`;
};

export const Table = ({ heads, rows, empty }) => rows.length === 0 ? html`<p>${empty}</p>` : html`
  <div class="table-wrap"><table class="striped"><thead><tr>${heads.map((head) => html`<th scope="col">${head}</th>`)}</tr></thead>
  <tbody>${rows.map((row) => html`<tr>${row.map((cell) => html`<td>${cell}</td>`)}</tr>`)}</tbody></table></div>`;

// series: [{label, values, stroke}] over xs; drawn anew when it changes.
export const Curves = ({ title, xs, series, height = 200, format = String }) => {
  const place = useRef(null);
  useEffect(() => {
    if (!place.current || xs.length < 2) return undefined;
    const ink = getComputedStyle(document.body).color;
    const axis = { stroke: ink, grid: { stroke: "#8884" } };
    const plot = new uPlot({
      title, width: Math.min(place.current.clientWidth || 600, 900), height, scales: { x: { time: false } },
      axes: [axis, { ...axis, size: 80, values: (_plot, ticks) => ticks.map(format) }],
      series: [{}, ...series.map((one) => ({ label: one.label, stroke: one.stroke, width: 2 }))],
    }, [xs, ...series.map((one) => one.values)], place.current);
    return () => plot.destroy();
  }, [JSON.stringify([xs, series])]);
  return html`<div class="chart" role="img" aria-label=${title} ref=${place}>${xs.length < 2 && html`<p class="hint">${title}: not enough to draw yet.</p>`}</div>`;
};

export const PhaseBar = ({ phases }) => {
  const own = phases.filter((phase) => !phase.name.includes(":"));
  const whole = own.reduce((sum, phase) => sum + phase.seconds, 0) || 1;
  return html`<div class="phases" role="img" aria-label="parts of the downtime">
      ${own.map((phase) => html`<span title="${phase.name}: ${seconds(phase.seconds)}" style="flex: ${phase.seconds / whole}"></span>`)}
    </div><small>${own.map((phase) => `${phase.name} ${seconds(phase.seconds)}`).join(" · ")}</small>`;
};
