/* The page "Exclusive jobs": a list of all jobs, and one job with its attempts, kept up to date while it is looked at.
 *
 *   const page = mount(element, { api: "/exclusive-jobs/api/", headers: {…}, open(job) {…} });
 *   page.show(null); page.show("backup_daily"); page.unmount();
 *
 * `open` is called with a job's name, or null for the list: whoever mounts the page keeps its address, and calls `show`.
 * Airflow 3 takes the component at the end of this file, Airflow 2's template calls `mountInPage`.
 * What comes from the server is only ever put in as text.
 */

const EVERY = 5000; // milliseconds
const AFTER_ERROR = 15000; // while a server is away, each question holds up a thread of the web server
const ANSWER_WITHIN = 30000;
const LONGEST_REASON = 1000;

const STYLE = `
.exclusive-jobs { padding: 1rem; overflow-x: auto; --line: color-mix(in srgb, currentColor 20%, transparent); }
.exclusive-jobs h2 { font-size: 1.5rem; font-weight: 600; margin: 0 0 .75rem; overflow-wrap: anywhere; }
.exclusive-jobs h3 { font-size: 1.1rem; font-weight: 600; margin: 1.5rem 0 .5rem; }
.exclusive-jobs table { border-collapse: collapse; width: 100%; }
.exclusive-jobs th, .exclusive-jobs td { text-align: left; vertical-align: top; padding: .35rem .75rem .35rem 0;
  border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
.exclusive-jobs th { font-weight: 600; white-space: nowrap; }
.exclusive-jobs time, .exclusive-jobs .number { white-space: nowrap; }
.exclusive-jobs .name { display: inline-block; min-width: 9rem; }
.exclusive-jobs input { margin-bottom: .75rem; }
.exclusive-jobs input, .exclusive-jobs textarea, .exclusive-jobs button { font: inherit; color: inherit; background: transparent;
  border: 1px solid var(--line); border-radius: .25rem; padding: .3rem .6rem; }
.exclusive-jobs button { cursor: pointer; }
.exclusive-jobs button:disabled { cursor: default; opacity: .5; }
.exclusive-jobs a { color: inherit; text-decoration: underline; cursor: pointer; }
.exclusive-jobs .state { border-radius: .25rem; padding: .05rem .45rem; color: #fff; background: #6b7280; white-space: nowrap; }
.exclusive-jobs .running { background: #15803d; }
.exclusive-jobs .success { background: #166534; }
.exclusive-jobs .failed, .exclusive-jobs .stale { background: #b91c1c; }
.exclusive-jobs .lapsed, .exclusive-jobs .taken_over, .exclusive-jobs .released { background: #b45309; }
.exclusive-jobs .notice { border: 1px solid #b91c1c; border-radius: .25rem; padding: .5rem .75rem; margin-bottom: 1rem; }
.exclusive-jobs .notice:empty { display: none; }
.exclusive-jobs .facts { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.5rem; margin: .75rem 0; }
.exclusive-jobs .facts dt { font-weight: 600; }
.exclusive-jobs .facts dd { margin: 0; overflow-wrap: anywhere; }
.exclusive-jobs .quiet { opacity: .75; margin: .75rem 0; }
.exclusive-jobs dialog { max-width: 32rem; margin: auto; padding: 1.25rem; border: 1px solid var(--line); border-radius: .5rem;
  color: CanvasText; background: Canvas; }
.exclusive-jobs dialog textarea { display: block; width: 100%; min-height: 5rem; margin: .5rem 0 .75rem; }
.exclusive-jobs dialog button { margin-right: .5rem; }
`;

export function mount(root, { api, headers = {}, open }) {
  return new Page(root, api, headers, open);
}

class Page {
  constructor(root, api, headers, open) {
    this.root = root;
    this.api = api;
    this.headers = headers;
    this.open = open;
    this.notice = el("div", { class: "notice", role: "alert" });
    this.body = el("div");
    this.gone = false;
    root.classList.add("exclusive-jobs");
    root.replaceChildren(el("style", {}, STYLE), this.notice, this.body);
  }

  show(job) {
    this.view = job === null ? new JobList(this) : new OneJob(this, job);
    this.body.replaceChildren(this.view.element);
    this.say("");
    return this.refresh();
  }

  unmount() {
    this.gone = true;
    clearTimeout(this.timer);
    this.root.replaceChildren();
  }

  /** Ask again now, and then every few seconds; one question at a time. */
  async refresh() {
    const view = this.view;
    const turn = (view.turn = (view.turn ?? 0) + 1);
    let pause = EVERY;
    const isLate = () => this.gone || view !== this.view || turn !== view.turn;
    clearTimeout(this.timer);
    try {
      if (!document.hidden) {
        const told = await view.ask();
        if (isLate()) return;
        if (view.last !== (view.last = JSON.stringify(told))) view.render(told);
        this.say("");
      }
    } catch (error) {
      if (isLate()) return;
      this.say(error.message);
      pause = AFTER_ERROR;
    }
    this.timer = setTimeout(() => this.refresh(), pause);
  }

  say(text) {
    if (this.notice.textContent !== text) this.notice.textContent = text;
  }

  async ask(path, query, body) {
    const given = Object.entries(query ?? {}).filter(([, value]) => value !== null && value !== "");
    const url = `${this.api}${path}?${new URLSearchParams(given)}`;
    const sent = body ? { method: "POST", body: JSON.stringify(body) } : {};
    const headers = { Accept: "application/json", "X-Exclusive-Jobs": "1", ...this.headers };
    if (body) headers["Content-Type"] = "application/json";
    let answer;
    try {
      answer = await fetch(url, { ...sent, headers, signal: AbortSignal.timeout(ANSWER_WITHIN) });
    } catch {
      throw new Error("Airflow doesn't answer; asking again.");
    }
    if (answer.status === 401) location.reload(); // which leads to the login
    const told = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Error(told.error ?? `Airflow answers ${answer.status} ${answer.statusText}`);
    return told;
  }
}

class JobList {
  constructor(page) {
    this.page = page;
    this.pages = 1;
    this.search = el("input", { type: "search", placeholder: "Search jobs", "aria-label": "Search jobs" });
    this.search.addEventListener("input", () => {
      this.pages = 1;
      page.refresh();
    });
    this.found = el("div", {}, el("p", { class: "quiet" }, "Loading…"));
    this.element = el("div", {}, el("h2", {}, "Exclusive jobs"), this.search, this.found);
  }

  async ask() {
    const jobs = [];
    let after = "";
    for (let page = 0; page < this.pages && after !== null; page++) {
      const told = await this.page.ask("jobs", { search: this.search.value, after });
      jobs.push(...told.jobs);
      after = told.after;
    }
    return { jobs, after };
  }

  render({ jobs, after }) {
    const none = this.search.value ? "No job is called like that." : "No job has run yet, or none that you may see.";
    const columns = ["Job", "Status", "Tick", "Attempt", "Token", "Node", "From", "Started", "Lease until", "Last run"];
    const rows = jobs.map((job) => [
      link(job.job_name, job.job_name, this.page),
      state(job),
      tick(job),
      number(job.attempt),
      number(job.fencing_token),
      name(job.node_id),
      origin(job),
      time(job.started_at),
      time(job.lease_expires_at),
      time(job.last_run_at),
    ]);
    this.found.replaceChildren(
      jobs.length ? table("Jobs", columns, rows) : el("p", { class: "quiet" }, none),
      after === null ? "" : more(this),
    );
  }
}

class OneJob {
  constructor(page, name) {
    this.page = page;
    this.name = name;
    this.pages = 1;
    this.found = el("div", {}, el("p", { class: "quiet" }, "Loading…"));
    const back = link("All exclusive jobs", null, page);
    this.dialog = new ReleaseDialog(page, name);
    this.element = el("div", {}, el("p", {}, back), el("h2", {}, name), this.found, this.dialog.element);
  }

  async ask() {
    const told = await this.page.ask("history", { job: this.name });
    for (let page = 1; page < this.pages && told.before !== null; page++) {
      const older = await this.page.ask("history", { job: this.name, before: told.before });
      told.attempts.push(...older.attempts);
      told.hidden += older.hidden;
      told.before = older.before;
    }
    return told;
  }

  render({ job, attempts, refusals, hidden, before }) {
    this.found.replaceChildren(
      job ? this.now(job) : "",
      el("h3", {}, "Attempts"),
      attempts.length
        ? table(
            "Attempts",
            ["Tick", "Attempt", "Token", "Outcome", "Started", "Took", "Node", "From", "Error"],
            attempts.map((row) => [
              tick(row),
              number(row.attempt),
              number(row.fencing_token),
              badge(row.outcome),
              time(row.started_at),
              number(duration(row)),
              name(row.node_id),
              origin(row),
              row.error,
            ]),
          )
        : el("p", { class: "quiet" }, "None that you may see."),
      before === null ? "" : more(this),
      refusals.length ? el("h3", {}, "Refused") : "",
      refusals.length
        ? table(
            "Refused",
            ["Tick", "Reason", "When", "Node", "From", "Detail"],
            refusals.map((row) => [
              name(row.run_key),
              badge(row.reason),
              time(row.refused_at),
              name(row.node_id),
              origin(row),
              row.detail,
            ]),
          )
        : "",
      hidden ? el("p", { class: "quiet" }, `${hidden} more that came from DAGs which you may not see.`) : "",
    );
  }

  now(job) {
    const facts = {
      Status: state(job),
      Tick: tick(job),
      Node: job.node_id,
      From: origin(job),
      Token: number(job.fencing_token),
      "Lease until": time(job.lease_expires_at),
      "Held back until": time(job.hold_until),
      "Last run": time(job.last_run_at),
    };
    const shown = Object.entries(facts).filter(([, value]) => value !== null && value !== "");
    const button = el("button", { type: "button" }, "Release…");
    button.addEventListener("click", () => this.dialog.ask(job));
    return el(
      "div",
      {},
      el("dl", { class: "facts" }, ...shown.flatMap(([label, value]) => [el("dt", {}, label), el("dd", {}, value)])),
      job.may_release ? button : "",
    );
  }
}

class ReleaseDialog {
  constructor(page, name) {
    this.page = page;
    this.name = name;
    this.what = el("p");
    this.notice = el("div", { class: "notice", role: "alert" });
    this.reason = el("textarea", { required: "", maxlength: LONGEST_REASON, "aria-label": "Reason" });
    this.send = el("button", { type: "submit" }, "Release");
    const cancel = el("button", { type: "button" }, "Cancel");
    const form = el("form", { method: "dialog" }, this.what, this.notice, "Reason", this.reason, this.send, cancel);
    this.element = el("dialog", { "aria-label": "Release" }, form);
    cancel.addEventListener("click", () => this.element.close());
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.release();
    });
  }

  ask(job) {
    this.token = job.fencing_token;
    this.what.textContent =
      job.status === "running"
        ? `The attempt with token ${job.fencing_token} on ${job.node_id} ends as released, the next one who asks is` +
          " admitted, and its runner, if it still lives, is stopped at its next renewal."
        : "The job isn't held back any more: the next one who asks is admitted.";
    this.notice.textContent = "";
    this.reason.value = "";
    this.element.showModal();
  }

  async release() {
    this.send.disabled = true;
    try {
      await this.page.ask("release", {}, { job: this.name, token: this.token, reason: this.reason.value });
      this.element.close();
    } catch (error) {
      this.notice.textContent = error.message;
    } finally {
      this.send.disabled = false;
      this.page.refresh();
    }
  }
}

function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.map((child) => child ?? ""));
  return made;
}

function table(label, columns, rows) {
  const head = columns.map((column) => el("th", { scope: "col" }, column));
  const body = rows.map((cells) => el("tr", {}, ...cells.map((cell) => el("td", {}, cell))));
  return el("table", { "aria-label": label }, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...body));
}

/** To a job, or with null to all; in another tab where the visitor asks for one. */
function link(text, job, page) {
  const made = el("a", { href: addressOf(job) }, text);
  made.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    page.open(job);
  });
  return made;
}

function addressOf(job) {
  return job === null ? location.pathname : `${location.pathname}?${new URLSearchParams({ job })}`;
}

function more(view) {
  const button = el("button", { type: "button" }, "Show more");
  button.addEventListener("click", () => {
    button.disabled = true;
    view.pages += 1;
    view.page.refresh();
  });
  return el("p", {}, button);
}

function badge(text, kind = text) {
  return el("span", { class: `state ${kind}` }, text.replaceAll("_", " "));
}

function state(job) {
  if (job.lapsed) return badge("running, lapsed", "lapsed");
  return job.hold_until ? badge(`${job.status}, held back`, job.status) : badge(job.status);
}

function tick(row) {
  return name(row.generation > 1 ? `${row.run_key} (generation ${row.generation})` : row.run_key);
}

function origin(row) {
  return name(row.task_page ? el("a", { href: row.task_page }, row.from) : row.from);
}

/** Long ones are broken anywhere, short ones not. */
function name(content) {
  return el("span", { class: "name" }, content);
}

function number(value) {
  return value === null ? "" : el("span", { class: "number" }, String(value));
}

function time(moment) {
  if (!moment) return "";
  const utc = new Date(moment).toISOString().slice(0, 19).replace("T", " ");
  return el("time", { datetime: moment, title: new Date(moment).toLocaleString() }, `${utc} UTC`);
}

function duration(attempt) {
  if (!attempt.finished_at) return "";
  return `${((new Date(attempt.finished_at) - new Date(attempt.started_at)) / 1000).toFixed(1)} s`;
}

/** A page of its own, as Airflow 2 has it: which job is shown is in the address. */
export function mountInPage(root) {
  const shown = () => new URLSearchParams(location.search).get("job");
  const page = mount(root, {
    api: root.dataset.api,
    headers: { "X-CSRFToken": root.dataset.csrf },
    open(job) {
      history.pushState(null, "", addressOf(job));
      page.show(job);
    },
  });
  window.addEventListener("popstate", () => page.show(shown()));
  page.show(shown());
}

// Airflow 3 imports this file and looks for a component under the plugin's name; its router has the address.
if (globalThis.React && globalThis.ReactRouterDOM) {
  const { createElement, useEffect, useRef } = globalThis.React;
  const { useSearchParams } = globalThis.ReactRouterDOM;
  const api = new URL("../api/", import.meta.url).href;

  globalThis["Exclusive jobs"] = function ExclusiveJobs() {
    const root = useRef(null);
    const page = useRef(null);
    const [search, setSearch] = useSearchParams();
    const job = search.get("job");
    const open = useRef(null);
    open.current = (name) => setSearch(name === null ? {} : { job: name });

    useEffect(() => {
      page.current = mount(root.current, { api, open: (name) => open.current(name) });
      return () => page.current.unmount();
    }, []);
    useEffect(() => {
      page.current.show(job);
    }, [job]);
    return createElement("div", { ref: root });
  };
}
