// The pages. Each takes {store}, what main.js keeps fresh, and asks the server for what is its own.
import { html, useEffect, useRef, useState } from "/static/vendor/preact-htm.js";
import { Badge, Curves, PhaseBar, Table, Trouble } from "/static/parts.js";
import { ask, follow } from "/static/server.js";
import { bytes, moment, seconds } from "/static/words.js";

const link = (id) => html`<a href="#/migrations/${id}">${id}</a>`;
const pick = (form) => Object.fromEntries([...new FormData(form)].filter(([, value]) => value !== ""));

// Runs act(…) and keeps what went wrong for <Trouble>.
function useAct() {
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  const act = async (work) => {
    setBusy(true);
    setError(null);
    try { return await work(); } catch (caught) { setError(caught); return undefined; } finally { setBusy(false); }
  };
  return { error, busy, act };
}

// What the server says at `path`, asked again whenever one of `changes` does; an answer older than the one shown is
// dropped. Apart from useAct(): a look in the background never disables a button nor takes a message away.
function useAnswer(path, changes) {
  const [seen, setSeen] = useState({ answer: null, error: null });
  const number = useRef({ asked: 0, shown: 0 });
  useEffect(() => {
    const mine = ++number.current.asked;
    const show = (answer, error) => {
      if (mine < number.current.shown) return;
      number.current.shown = mine;
      setSeen((before) => ({ answer: answer ?? before.answer, error }));
    };
    ask("GET", path).then((answer) => show(answer, null), (error) => show(null, error));
  }, [path, ...changes]);
  return seen;
}

export function Hosts({ store }) {
  const { error, act } = useAct();
  const cordon = (host) => act(() => ask("POST", `/hosts/${host.name}/${host.cordoned ? "uncordon" : "cordon"}`, host.cordoned ? undefined : { reason: "by hand" }));
  return html`<h1>Hosts</h1><${Trouble} error=${error} />
    ${store.hosts.length === 0 && html`<p>No hosts yet: <code>migrate hosts add NAME root@HOST</code>, or an inventory file.</p>`}
    <div class="grid-cards">${store.hosts.map((host) => html`<article key=${host.name} data-host=${host.name}>
      <header><strong>${host.name}</strong> ${host.unreachable ? html`<span class="badge failed">unreachable</span>` : host.cordoned ? html`<span class="badge waiting">cordoned</span>` : html`<span class="badge done">ready</span>`}</header>
      ${host.unreachable && html`<p>${host.unreachable}</p>`}
      <div>Linux ${host.kernel || "?"}, ${host.cpus || "?"} CPUs, load ${host.load?.toFixed(2) ?? "?"}</div>
      ${host.memory_total && html`<label>Memory: ${bytes(host.memory_available)} of ${bytes(host.memory_total)} free
        <progress value=${host.memory_total - host.memory_available} max=${host.memory_total}></progress></label>`}
      <ul>${host.workloads.map((one) => html`<li key=${one.pid}>${one.name} <small>pid ${one.pid}, ${bytes(one.memory_bytes)}, ${one.processes} tasks</small>
        ${" "}<a href="#/move/${host.name}/${one.pid}">move</a></li>`)}</ul>
      <footer><button class="secondary outline" onClick=${() => cordon(host)}>${host.cordoned ? "Uncordon" : "Cordon"}</button>
        ${" "}<a role="button" class="outline" href="#/drains/new/${host.name}">Drain …</a></footer>
    </article>`)}</div>`;
}

export function Migrations({ store }) {
  const open = store.migrations.filter((one) => ["queued", "running", "in_doubt"].includes(one.state));
  const row = (one) => [link(one.id), one.workload.command ? one.workload.command.slice(0, 40) : `pid ${one.pid}`, `${one.source} → ${one.destination}`, html`<${Badge} state=${one.state} />`, one.phase, one.message];
  return html`<h1>Migrations</h1><p><a role="button" href="#/move">Move a process …</a></p>
    <${Table} heads=${["id", "process", "way", "state", "phase", ""]} rows=${open.map(row)} empty="Nothing moves at the moment." />`;
}

export function Migration({ id, store }) {
  const [events, setEvents] = useState([]);
  const { error, busy, act } = useAct();
  const { answer: one, error: unanswered } = useAnswer(`/migrations/${id}`, [store.beat, events.length, busy]);
  useEffect(() => { setEvents([]); return follow(id, (event) => setEvents((known) => [...known, event])); }, [id]);
  if (!one) return html`<h1>Migration ${id}</h1><${Trouble} error=${unanswered} />`;
  const rounds = events.map((event) => event.body).filter((body) => body.event === "round_done");
  const xs = rounds.map((round) => round.number);
  const notices = events.map((event) => event.body).filter((body) => body.event === "notice");
  const last = rounds[rounds.length - 1];
  const resolve = (keep) => act(() => ask("POST", `/migrations/${id}/resolve`, { keep }));
  return html`<h1>Migration ${id} <${Badge} state=${one.state} /></h1><${Trouble} error=${error || unanswered} />
    <p>${one.workload.command || `pid ${one.pid}`}<br /><small>pid ${one.pid}, ${one.source} → ${one.destination}, asked for by ${one.requested_by}, ${moment(one.created_at)}</small></p>
    ${one.message && html`<p><strong>${one.message}</strong>${one.hint && html`<br /><span class="hint">→ ${one.hint}</span>`}</p>`}
    ${["queued", "running"].includes(one.state) && html`<p aria-busy="true">${one.phase || "queued"}${last ? `, round ${last.number}, expected downtime ${seconds(last.expected_downtime_s)}` : ""}</p>
      <button class="secondary" disabled=${busy || one.cancel} onClick=${() => act(() => ask("POST", `/migrations/${id}/cancel`, {}))}>${one.cancel ? "Cancelling …" : "Cancel"}</button>`}
    ${one.state === "in_doubt" && html`<div role="group"><button disabled=${busy} onClick=${() => resolve(null)}>Settle by the journals</button>
      <button class="secondary" disabled=${busy} onClick=${() => confirm("Is the copy at the destination surely not running?") && resolve("source")}>Keep the source</button>
      <button class="secondary" disabled=${busy} onClick=${() => confirm("Is the copy at the source surely gone?") && resolve("destination")}>Keep the destination</button></div>`}
    ${one.result && html`<h2>Downtime ${seconds(one.result.downtime_s)}</h2><${PhaseBar} phases=${one.result.phases} />
      <p>${one.result.rounds} rounds, ${bytes(one.result.sent_bytes)} sent in ${seconds(one.result.total_s)}</p>`}
    <${Curves} title="Written between rounds (pages), still to send" xs=${xs} series=${[{ label: "pages", values: rounds.map((round) => round.dirty_pages), stroke: "#1e88e5" }]} />
    <${Curves} title="Rate" xs=${xs} format=${bytes} series=${[{ label: "bytes/s", values: rounds.map((round) => round.bytes_per_s), stroke: "#43a047" }]} />
    ${notices.length > 0 && html`<h2>Notices</h2><ul>${notices.map((notice) => html`<li>${notice.text}</li>`)}</ul>`}`;
}

export function Move({ store, source = "", pid = "" }) {
  const { error, busy, act } = useAct();
  const [checked, setChecked] = useState(null);
  const wanted = (form) => {
    const { from, pid: number, to, ...options } = pick(form);
    return { source: from, pid: Number(number), destination: to, options };
  };
  const check = (event) => { event.preventDefault(); const form = event.target.closest("form"); setChecked(null); act(async () => setChecked({ ...(await ask("POST", "/checks", { ...wanted(form), options: { tcp: wanted(form).options.tcp } })), body: wanted(form) })); };
  const start = () => act(async () => { const made = await ask("POST", "/migrations", checked.body); location.hash = `#/migrations/${made.id}`; });
  const names = store.hosts.map((host) => host.name);
  return html`<h1>Move a process</h1><${Trouble} error=${error} />
    <form onSubmit=${check} onInput=${() => setChecked(null)}><fieldset class="grid">
      <label>From<select name="from" required>${names.map((name) => html`<option value=${name} selected=${name === source}>${name}</option>`)}</select></label>
      <label>PID<input name="pid" type="number" min="1" required value=${pid} /></label>
      <label>To<select name="to" required>${names.filter((name) => name !== source).map((name) => html`<option value=${name}>${name}</option>`)}</select></label>
    </fieldset><fieldset class="grid">
      <label>TCP connections<select name="tcp"><option value="refuse">refuse to move</option><option value="close">close them</option></select></label>
      <label>Downtime goal<input name="max_downtime" placeholder="200ms" /></label>
      <label>Bandwidth<input name="bandwidth" placeholder="1gbit" /></label></fieldset>
      <button type="submit" aria-busy=${busy}>Check first</button></form>
    ${checked && html`<section aria-live="polite">${checked.can_move ? html`<p><strong>It can move.</strong></p>` : html`<p><strong>It cannot move:</strong></p>
      <ul>${checked.blockers.map((one) => html`<li>${one.subject}: ${one.reason}<div class="hint">→ ${one.hint}</div></li>`)}</ul>`}
      ${checked.notices.map((text) => html`<p class="hint">${text}</p>`)}
      ${checked.can_move && html`<button onClick=${start} aria-busy=${busy}>Start the migration</button>`}</section>`}`;
}

export function Drains({ store }) {
  const { error, act } = useAct();
  const cancel = (id, running) => act(() => ask("POST", `/drains/${id}/cancel`, { running }));
  return html`<h1>Drains</h1><${Trouble} error=${error} /><p><a role="button" href="#/drains/new">Drain a host …</a></p>
    ${store.drains.length === 0 && html`<p>No host was drained yet.</p>`}
    ${store.drains.map((drain) => html`<article key=${drain.id}><header><strong>${drain.host}</strong> <${Badge} state=${drain.state} /> <small>${drain.id}, ${moment(drain.created_at)}</small></header>
      ${drain.plan.moves.length === 0 ? html`<p>${drain.plan.unplaced.length ? "Nothing can be moved." : "Nothing to move."}</p>` : html`<label>${drain.moved} of ${drain.plan.moves.length} moved, ${drain.running} under way, ${drain.failed} failed${drain.cancelled ? `, ${drain.cancelled} cancelled` : ""}
        <progress value=${drain.moved} max=${drain.plan.moves.length}></progress></label>`}
      ${drain.state === "waiting" && drain.opens_at && html`<p>Waits for its window: ${moment(drain.opens_at)}</p>`}
      ${drain.eta_s && drain.state === "running" ? html`<p>About ${seconds(drain.eta_s)} left.</p>` : null}<p>${drain.message}</p>
      ${drain.plan.unplaced.map((one) => html`<p>${one.name} (pid ${one.pid}) stays: ${one.reason}<br /><span class="hint">→ ${one.hint}</span></p>`)}
      <p>${drain.migrations.map((id) => html`${link(id)} `)}</p>
      ${["waiting", "running", "returning", "away"].includes(drain.state) && html`<footer role="group"><button class="secondary" onClick=${() => cancel(drain.id, "finish")}>Cancel, finish what runs</button>
        <button class="secondary outline" onClick=${() => cancel(drain.id, "abort")}>Cancel, roll back what runs</button></footer>`}
    </article>`)}`;
}

export function NewDrain({ store, host = "" }) {
  const { error, busy, act } = useAct();
  const [plan, setPlan] = useState(null);
  const wanted = (form) => {
    const { max_parallel: parallel, and_back: back, ...rest } = pick(form);
    return { ...rest, max_parallel: Number(parallel), and_back: back === "on" };
  };
  const dry = (event) => { event.preventDefault(); const body = wanted(event.target); act(async () => setPlan({ ...(await ask("POST", "/drains", { ...body, dry_run: true })), body })); };
  const start = () => act(async () => { await ask("POST", "/drains", plan.body); location.hash = "#/drains"; });
  return html`<h1>Drain a host</h1><${Trouble} error=${error} />
    <form onSubmit=${dry} onInput=${() => setPlan(null)}><fieldset class="grid">
      <label>Host<select name="host">${store.hosts.map((one) => html`<option value=${one.name} selected=${one.name === host}>${one.name}</option>`)}</select></label>
      <label>At once<input name="max_parallel" type="number" min="1" max="64" value="2" /></label>
      <label>When one fails<select name="on_failure"><option value="skip">go on</option><option value="stop">stop</option><option value="back">bring all back</option></select></label>
    </fieldset><fieldset class="grid"><label>Window<input name="window" placeholder="Sat 02:00-04:00 Europe/Berlin" /></label>
      <label>Bandwidth<input name="bandwidth" placeholder="1gbit" /></label></fieldset>
      <label><input type="checkbox" name="and_back" />Bring everything back once the host is uncordoned</label>
      <button type="submit" aria-busy=${busy}>Plan it</button></form>
    ${plan && html`<section aria-live="polite"><h2>The plan</h2><${Table} heads=${["pid", "workload", "to", "memory", "begins", "takes"]} empty="Nothing to move."
        rows=${plan.plan.moves.map((move) => [move.pid, move.name, move.destination, bytes(move.memory_bytes), seconds(move.begins_s), seconds(move.takes_s)])} />
      ${plan.plan.moves.filter((move) => move.hindrance).map((move) => html`<p>${move.name} (pid ${move.pid}) would be refused now: ${move.hindrance}</p>`)}
      ${plan.plan.unplaced.map((one) => html`<p>${one.name} (pid ${one.pid}) stays: ${one.reason}<br /><span class="hint">→ ${one.hint}</span></p>`)}
      <button onClick=${start} aria-busy=${busy}>Start the drain</button></section>`}`;
}

export function Windows({ store }) {
  const { error, busy, act } = useAct();
  const { answer, error: unanswered } = useAnswer("/windows", [store.beat, busy]);
  const windows = answer?.items ?? [];
  const add = (event) => { event.preventDefault(); const form = event.target; const body = pick(form); act(async () => { await ask("POST", "/windows", { name: body.name, text: body.text }); form.reset(); }); };
  const remove = (name) => act(() => ask("DELETE", `/windows/${name}`));
  const sorted = [...windows].sort((a, b) => (a.opens_at || "").localeCompare(b.opens_at || ""));
  return html`<h1>Windows</h1><${Trouble} error=${error || unanswered} />
    <${Table} heads=${["name", "when", "opens next", "closes", ""]} empty="No window yet."
      rows=${sorted.map((one) => [one.name, html`<code>${one.text}</code>`, moment(one.opens_at), moment(one.closes_at), html`<button class="secondary outline" onClick=${() => remove(one.name)}>Remove</button>`])} />
    <h2>Waiting drains</h2><${Table} heads=${["host", "opens", "closes"]} empty="None waits." rows=${store.drains.filter((one) => one.state === "waiting").map((one) => [one.host, moment(one.opens_at), moment(one.closes_at)])} />
    <h2>Add one</h2><form class="inline" onSubmit=${add}><label>Name<input name="name" required /></label><label>When<input name="text" required placeholder="Sat 02:00-04:00 Europe/Berlin" /></label><button>Add</button></form>`;
}

export function History({ store }) {
  const over = store.migrations.filter((one) => one.ended_at);
  const times = over.filter((one) => one.result).map((one) => one.result.downtime_s).sort((a, b) => a - b);
  const at = (share) => times[Math.min(times.length - 1, Math.floor(share * times.length))];
  const xs = times.map((_value, index) => Math.round((100 * (index + 1)) / times.length));
  return html`<h1>History</h1>
    ${times.length > 0 && html`<p>Downtime of ${times.length} migrations: median ${seconds(at(0.5))}, 90 % ${seconds(at(0.9))}, longest ${seconds(at(1))}</p>`}
    <${Curves} title="Downtime: so many percent were quicker" xs=${xs} format=${seconds} series=${[{ label: "downtime", values: times, stroke: "#8e24aa" }]} />
    <${Table} heads=${["id", "process", "way", "state", "ended", "downtime", ""]} empty="Nothing has moved yet."
      rows=${over.map((one) => [link(one.id), (one.workload.command || `pid ${one.pid}`).slice(0, 40), `${one.source} → ${one.destination}`, html`<${Badge} state=${one.state} />`, moment(one.ended_at), one.result ? seconds(one.result.downtime_s) : "", one.message])} />`;
}
