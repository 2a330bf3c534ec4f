// The frame: which page, and the lists that every page shows, kept fresh by the server's word that something changed.
import { html, render, useEffect, useState } from "/static/vendor/preact-htm.js";
import { Drains, History, Hosts, Migration, Migrations, Move, NewDrain, Windows } from "/static/pages.js";
import { Trouble } from "/static/parts.js";
import { ask, listen, logIn } from "/static/server.js";

const PAGES = [["hosts", "Hosts"], ["migrations", "Migrations"], ["drains", "Drains"], ["windows", "Windows"], ["history", "History"]];
const TOGETHER_MS = 300; // changes within this time are one look

function page(parts, store) {
  const [first, second, third] = parts;
  if (first === "migrations" && second) return html`<${Migration} key=${second} id=${second} store=${store} />`;
  if (first === "migrations") return html`<${Migrations} store=${store} />`;
  if (first === "move") return html`<${Move} store=${store} source=${second} pid=${third} />`;
  if (first === "drains" && second === "new") return html`<${NewDrain} store=${store} host=${third} />`;
  if (first === "drains") return html`<${Drains} store=${store} />`;
  if (first === "windows") return html`<${Windows} store=${store} />`;
  if (first === "history") return html`<${History} store=${store} />`;
  return html`<${Hosts} store=${store} />`;
}

function LogIn({ done }) {
  const [error, setError] = useState(null);
  const submit = async (event) => {
    event.preventDefault();
    try { await logIn(new FormData(event.target).get("token")); done(); } catch (caught) { setError(caught); }
  };
  return html`<main class="container"><h1>Log in</h1><${Trouble} error=${error} />
    <form onSubmit=${submit}><label>Token<input name="token" type="password" autocomplete="current-password" required autofocus /></label><button>Log in</button></form>
    <p class="hint"><code>migrate serve --add-token NAME:operator</code> makes one.</p></main>`;
}

function App() {
  const [hash, setHash] = useState(location.hash);
  const [store, setStore] = useState(null);
  const [online, setOnline] = useState(true);
  const [stranger, setStranger] = useState(false);
  const [error, setError] = useState(null);
  const [again, setAgain] = useState(0);
  useEffect(() => {
    const changed = () => { setHash(location.hash); document.querySelector("h1")?.focus(); };
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  useEffect(() => {
    let waiting = null;
    let stop = null;
    const load = async () => {
      waiting = null;
      try {
        const [hosts, migrations, drains] = await Promise.all(["/hosts", "/migrations?limit=500", "/drains"].map((path) => ask("GET", path)));
        setStore({ hosts: hosts.items, migrations: migrations.items, drains: drains.items, beat: Date.now() });
        setError(null);
        stop ??= listen(soon, setOnline);
      } catch (caught) {
        if (caught.problem?.status === 401) setStranger(true); else setError(caught);
      }
    };
    const soon = () => { waiting ??= setTimeout(load, TOGETHER_MS); };
    load();
    return () => { clearTimeout(waiting); stop?.(); };
  }, [again]);
  if (stranger) return html`<${LogIn} done=${() => { setStranger(false); setAgain(again + 1); }} />`;
  const parts = hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  return html`<a class="skip" href="#main">To the content</a>
    ${!online && html`<div class="offline" role="status">The server does not answer; trying again …</div>`}
    <header class="container"><nav><ul><li><strong>migrate</strong></li></ul>
      <ul>${PAGES.map(([name, label]) => html`<li><a href="#/${name}" aria-current=${(parts[0] || "hosts") === name ? "page" : null}>${label}</a></li>`)}</ul></nav></header>
    <main class="container" id="main"><${Trouble} error=${error} />${store ? page(parts, store) : html`<p aria-busy="true">Loading …</p>`}</main>
    <footer class="container"><small><a href="/docs">API</a> · <a href="/metrics">metrics</a></small></footer>`;
}

render(html`<${App} />`, document.getElementById("app"));
