// The way to the server: JSON requests, and one stream that says what changed. Owns no state of the pages.

export class Problem extends Error {
  constructor(problem) {
    super(problem.detail || problem.title);
    this.problem = problem;
  }
}

export async function ask(method, path, body) {
  const options = { method, headers: { Accept: "application/json" } };
  if (body !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
    if (method === "POST") options.headers["Idempotency-Key"] = crypto.getRandomValues(new Uint32Array(4)).join("-");
  }
  const response = await fetch(`/api/v1${path}`, options);
  if (response.status === 204) return null;
  const answer = await response.json().catch(() => ({ title: response.statusText, status: response.status }));
  if (!response.ok) throw new Problem(answer);
  return answer;
}

export async function logIn(token) {
  const response = await fetch("/session", { method: "POST", body: JSON.stringify({ token }) });
  if (!response.ok) throw new Problem(await response.json());
}

// Calls changed(id) for all that changes, online(true or false) as the connection comes and goes.
export function listen(changed, online) {
  const source = new EventSource("/api/v1/changes");
  source.addEventListener("change", (event) => changed(JSON.parse(event.data).changed));
  source.onopen = () => { online(true); changed("all"); };
  source.onerror = () => online(false);
  return () => source.close();
}

// One migration's events, from the first; returns what ends the listening.
export function follow(id, told) {
  const source = new EventSource(`/api/v1/migrations/${encodeURIComponent(id)}/events`);
  source.addEventListener("migration", (event) => told(JSON.parse(event.data)));
  source.addEventListener("end", () => source.close());
  return () => source.close();
}
