// The page pulls: one request at a time, the next when the last is done, nothing while nobody looks.
const PERIOD = 100, TIMEOUT = 5000, SAY = 3000; // ms: between rounds, for an answer, between announcements
const LONGEST = 600_000; // ms for labels, which may take the device minutes: until then its own answer is waited for
const find = (id) => document.getElementById(id);
const cards = new Map(); // by key: the source, or with several tasks source and task
let selected = "", paused = false, tokenNow = takeToken(), saved = "", spoken = {text: "", at: 0};

function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem("token", given);
    history.replaceState(null, "", location.pathname); // it does not stay in the address or the history
  }
  return sessionStorage.getItem("token") ?? "";
}

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function put(node, text) { // only what changed: screen readers and selections stay undisturbed
  if (node.textContent !== text) node.textContent = text;
}

const percent = (score) => `${(100 * score).toFixed(1)} %`;
const keyOf = ({source, task}) => (task === undefined ? source : `${source}\0${task}`); // a name has no \0
const titleOf = (key) => key.replace("\0", " · ");
function query(key) {
  const [source, task] = key.split("\0");
  return `?source=${encodeURIComponent(source)}${task === undefined ? "" : `&task=${encodeURIComponent(task)}`}`;
}

async function ask(path, options = {}, timeout = TIMEOUT) {
  const headers = tokenNow ? {Authorization: `Bearer ${tokenNow}`} : {};
  return fetch(path, {...options, headers, cache: "no-store", signal: AbortSignal.timeout(timeout)});
}

async function reason(response) {
  try {
    return (await response.json()).error;
  } catch {
    return `status ${response.status}`;
  }
}

// Cards

function makeCard(key) {
  const item = make("li"), button = make("button", "card");
  button.type = "button";
  const box = make("span", "image", "no frame yet"), image = make("img");
  image.alt = "";
  const meter = make("span", "meter"), level = make("span");
  meter.append(level);
  const said = make("span", "said"), label = make("b"), score = make("span", "number");
  said.append(label, score);
  const about = make("span", "about"), name = make("span", "name"), state = make("span"), speed = make("span", "number");
  about.append(name, state, speed);
  button.append(box, meter, said, about);
  button.addEventListener("click", () => { selected = key; });
  item.append(button);
  find("cards").append(item);
  return {item, button, box, image, level, said, label, score, name, state, speed, number: 0, url: ""};
}

function showCard(info, now) {
  const key = keyOf(info);
  if (!cards.has(key)) cards.set(key, makeCard(key));
  const card = cards.get(key), any = info.number > 0;
  put(card.label, any ? info.label ?? "none of the labels" : "–");
  card.said.classList.toggle("none", !any || info.label === null);
  put(card.score, any ? percent(info.score) : "");
  card.level.style.width = `${any ? 100 * info.score : 0}%`;
  put(card.name, titleOf(keyOf({source: info.shown ?? info.source, task: info.task})));
  put(card.state, info.state);
  card.state.className = `state ${info.state}`;
  const dropped = info.dropped ? ` · ${info.dropped} dropped` : "";
  const speed = `${info.fps?.toFixed(1)} fps · ${Math.round(info.age_ms)} ms old${dropped}`;
  const stale = !["live", "ended"].includes(info.state);
  put(card.speed, !any ? "" : stale ? `last frame ${ago(now, info.last_frame)}` : speed);
  card.button.classList.toggle("stale", stale);
  card.button.setAttribute("aria-pressed", String(key === selected));
  const words = any ? `${info.label ?? "none of the labels"}, ${percent(info.score)}` : "no frame yet";
  const name = `${titleOf(key)}: ${words}, ${info.state}`;
  if (card.button.ariaLabel !== name) card.button.ariaLabel = name;
}

async function showFrame(info) {
  const card = cards.get(keyOf(info));
  const box = card.button.getBoundingClientRect();
  if (info.number === card.number || box.bottom < 0 || box.top > innerHeight) return;
  const response = await ask(`/api/frame${query(keyOf(info))}`);
  if (!response.ok) return;
  const url = URL.createObjectURL(await response.blob()), old = card.url;
  await new Promise((done) => {
    card.image.onload = card.image.onerror = done;
    card.image.src = url;
  });
  if (!card.image.isConnected) card.box.replaceChildren(card.image);
  card.number = Number(response.headers.get("X-Attri-Number"));
  card.url = url;
  if (old) URL.revokeObjectURL(old);
}

// Details of the source that was chosen

function showScores(detail) {
  const list = find("scores");
  while (list.children.length > detail.top.length) list.lastChild.remove();
  detail.top.forEach(([label, score], i) => {
    if (i === list.children.length) {
      const item = make("li"), bar = make("span", "bar");
      bar.append(make("span"));
      item.append(make("span", "label"), make("span", "number"), bar);
      list.append(item);
    }
    const [name, number, bar] = list.children[i].children;
    put(name, label);
    put(number, percent(score));
    bar.firstChild.style.width = `${100 * score}%`;
  });
  const rest = detail.labels - detail.top.length;
  put(find("more"), rest > 0 ? `and ${rest} more with less` : "");
}

function showRetrieved(blocks) {
  const list = find("retrieved");
  while (list.children.length > blocks.length) list.lastChild.remove();
  blocks.forEach((entries, i) => {
    if (i === list.children.length) list.append(make("li"));
    const item = list.children[i], key = entries.join();
    if (item.dataset.key === key) return;
    const before = (item.dataset.key ?? key).split(",");
    item.dataset.key = key;
    item.replaceChildren(make("span", "block", `block ${i + 1}`), ...entries.map((entry) =>
      make("span", before.includes(String(entry)) ? "entry" : "entry new", String(entry))));
  });
}

const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];
const STAGES = ["preprocess", "vision", "text"];

function ceiling(value) { // 1, 2 or 5 times a power of ten
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 0.1)));
  return power * [1, 2, 5, 10].find((step) => step * power >= value);
}

function showLatency(rows, cache) {
  const totals = rows.map((row) => row[0] + row[1] + row[2]), top = ceiling(Math.max(...totals));
  const x = (i) => (240 * i / Math.max(1, rows.length - 1)).toFixed(1), y = (ms) => (90 - 90 * ms / top).toFixed(1);
  STAGES.forEach((stage, s) => { // each down to the ground, the lower ones in front
    const height = (row) => row.slice(0, s + 1).reduce((a, b) => a + b);
    const points = rows.map((row, i) => `${x(i)},${y(height(row))}`);
    document.querySelector(`#plot .${stage}`).setAttribute("points", `0,90 ${points.join(" ")} 240,90`);
  });
  put(find("plot-top"), `${top} ms`);
  put(find("plot-middle"), `${top / 2} ms`);
  const list = find("stages");
  if (!list.children.length) {
    for (const stage of STAGES) {
      const pair = make("div", stage);
      pair.append(make("dt", "", stage), make("dd"));
      list.append(pair);
    }
  }
  STAGES.forEach((_, s) => put(list.children[s].lastChild, median(rows.map((row) => row[s])).toFixed(1)));
  const words = `Latency of the last ${rows.length} frames: median ${median(totals).toFixed(1)} ms, ` +
    `highest ${Math.max(...totals).toFixed(1)} ms`;
  find("plot").setAttribute("aria-label", words);
  put(find("cache"), cache === "hit" ? "Text features came from the cache." : "Text features were computed anew.");
}

function showDetail(detail) {
  find("detail").hidden = detail === null;
  if (detail === null) return;
  put(find("detail-title"), titleOf(selected));
  find("detail-title").classList.toggle("unseen", cards.size < 2);
  showScores(detail);
  showRetrieved(detail.retrieved);
  if (detail.latency_ms.length) showLatency(detail.latency_ms, detail.cache);
}

// Health

function ago(now, moment) {
  if (moment === null || moment === undefined) return "never";
  const seconds = Math.max(0, now - moment);
  if (seconds < 2) return "now";
  const [unit, size] = [["days", 86400], ["h", 3600], ["min", 60], ["s", 1]].find(([, size]) => seconds >= 2 * size);
  return `${Math.floor(seconds / size)} ${unit} ago`;
}

const HEADINGS = ["", "State", "Frames", "Dropped", "Restarts", "Frames/s", "Last frame"];

function showHealth(sources, now) {
  const body = document.querySelector("#health tbody");
  while (body.rows.length > sources.length) body.lastChild.remove();
  sources.forEach((info, i) => {
    if (i === body.rows.length) {
      const row = make("tr"), name = make("th");
      name.scope = "row";
      row.append(name, ...HEADINGS.slice(1).map((title) => {
        const cell = make("td");
        cell.dataset.title = title;
        return cell;
      }));
      row.cells[1].append(make("span"));
      body.append(row);
    }
    const cells = body.rows[i].cells, state = cells[1].firstChild;
    put(cells[0], info.source);
    if (state.textContent !== info.state + info.detail) {
      state.replaceChildren(make("span", `state ${info.state}`, info.state), make("span", "why", info.detail));
    }
    const values = [info.frames, info.dropped, info.restarts, info.fps?.toFixed(1), ago(now, info.last_frame)];
    values.forEach((value, k) => put(cells[k + 2], String(value ?? "–")));
  });
  const live = sources.filter((info) => info.state === "live").length;
  put(find("summary"), paused ? "paused" : `${live} of ${sources.length} ${sources.length === 1 ? "source" : "sources"} live`);
}

function announce(sources) {
  const info = sources.find((each) => keyOf(each) === selected);
  if (!info?.number) return;
  const text = `${titleOf(selected)}: ${info.label ?? "none of the labels"}`;
  if (text === spoken.text || performance.now() - spoken.at < SAY) return;
  spoken = {text, at: performance.now()};
  put(find("said"), text);
}

// Labels

let edition = 0; // of what is saved
let attempt = 0; // to change them
let doubt = null; // {text, why}: labels that were sent, and may be used or not

const scopeQuery = () => (find("scope").value ? query(find("scope").value) : "");
const dirty = () => find("text").value !== saved;

async function loadLabels() {
  const before = edition, response = await ask(`/api/labels${scopeQuery()}`);
  const differ = response.status === 409; // labels of all sources are shown where they are the same
  find("text").placeholder = differ ? "The sources have different labels: choose one. What is written here goes to all." : "";
  if (!response.ok && !differ) return;
  const text = differ ? "" : await response.text();
  if (doubt && !differ) lookInDoubt(text);
  if (edition !== before || dirty()) return; // asked before a change; or a person is writing
  if (text !== saved) find("text").value = saved = text;
}

function tell(text, kind = "") {
  find("saved").className = kind;
  put(find("saved"), text);
}

async function saveLabels() {
  const text = find("text").value, mine = ++attempt;
  tokenNow = find("token").value || tokenNow;
  find("save").disabled = true;
  doubt = null;
  tell("");
  const timer = setTimeout(() => beInDoubt(mine, text, "The answer is late"), TIMEOUT);
  try {
    const response = await ask(`/api/labels${scopeQuery()}`, {method: "PUT", body: text}, LONGEST);
    if (response.ok) {
      if (tokenNow) sessionStorage.setItem("token", tokenNow);
      const used = await response.text(); // as the device keeps them, so that a later look finds nothing new
      if (mine === attempt) settle(text, used);
    } else if (response.status < 500) { // a proxy's 504, say, tells nothing about the device
      const why = await reason(response);
      if (mine === attempt) {
        doubt = null;
        tell(`Not used: ${why}`, "bad");
      }
    } else beInDoubt(mine, text, `The answer is: ${await reason(response)}`);
  } catch {
    beInDoubt(mine, text, "The answer was lost");
  } finally {
    clearTimeout(timer);
    find("save").disabled = false;
  }
}

function settle(sent, used) {
  doubt = null;
  saved = used;
  edition += 1;
  if (find("text").value === sent) find("text").value = saved; // unless somebody wrote on meanwhile
  tell("These labels are used from the next frame on.", "good");
}

function beInDoubt(mine, text, why) {
  if (mine !== attempt) return; // changed again meanwhile, or the scope
  doubt = {text, why};
  find("save").disabled = false;
  tell(`${why}: the device may use these labels or not. Looking what it uses.`);
}

function lookInDoubt(used) {
  if (used.trimEnd() === doubt.text.trimEnd()) return settle(doubt.text, used);
  const lines = used.trimEnd().split("\n"), more = lines.length > 3 ? ", ..." : "";
  tell(`${doubt.why}: the device may still take these labels. It uses now: ${lines.slice(0, 3).join(", ")}${more}`);
}

async function loadOrigin() {
  const response = await ask(`/api/labels/file${scopeQuery()}`);
  if (response.ok) showOrigin(await response.json());
}

function showOrigin({file, edited, sources}) {
  const name = file?.split("/").pop(), write = find("write");
  find("file-row").hidden = !edited;
  write.hidden = !file;
  write.disabled = dirty(); // it writes what is used, and no draft
  write.title = file ?? "";
  put(write, `Write to ${name}`);
  const others = find("scope").value && sources.length > 1 ? ` Writing it is for all that read it: ${sources.join(", ")}.` : "";
  const note = file ? `Not in ${name}: the labels that are used now last until attri-run ends or the file changes.${others}`
    : "Not in a file: the labels that are used now last until attri-run ends.";
  put(find("file-note"), note);
}

async function writeLabels() {
  tokenNow = find("token").value || tokenNow;
  find("write").disabled = true;
  try {
    const response = await ask(`/api/labels/file${scopeQuery()}`, {method: "PUT"});
    if (!response.ok) return tell(`Not written: ${await reason(response)}`, "bad");
    const origin = await response.json();
    showOrigin(origin);
    tell(`Written to ${origin.file}.`, "good");
  } catch {
    tell("No answer yet. Once the labels are written, the note below goes away.");
  } finally {
    find("write").disabled = dirty();
  }
}

function showScopes(sources) {
  const scope = find("scope"), known = [...scope.options].map((option) => option.value);
  for (const key of sources.map(keyOf)) if (!known.includes(key)) scope.append(new Option(titleOf(key), key));
  find("scope-row").hidden = sources.length < 2;
}

function showEditable(editable) {
  find("text").readOnly = !editable;
  for (const id of ["save", "undo"]) find(id).hidden = !editable;
  find("token-row").hidden = !editable;
  find("prompt").hidden = !editable;
  if (!editable) tell("To change them here, start attri-run with a token.");
}

// Prompt

const KINDS = {nearest: "learned, retrieved by image", all: "learned, the same for every image", none: "plain CLIP"};

async function loadPrompt() {
  const response = await ask(`/api/prompt${scopeQuery()}`);
  put(find("prompt-about"), response.ok ? aboutPrompt(await response.json()) : await reason(response));
}

function aboutPrompt({digest, created, selection, entries, labels}) {
  const pool = selection === "none" ? "" : `, ${entries} ${entries === 1 ? "entry" : "entries"}`;
  return `${digest.slice(0, 12)} of ${created.slice(0, 10)}: ${KINDS[selection]}${pool}, ${labels} labels of its own.`;
}

function tellPrompt(text, kind = "") {
  find("prompt-said").className = kind;
  put(find("prompt-said"), text);
}

async function sendPrompt() {
  const file = find("prompt-file").files[0];
  if (!file) return tellPrompt("Choose a file first.", "bad");
  tokenNow = find("token").value || tokenNow;
  find("prompt-send").disabled = true;
  tellPrompt("Sending.");
  try {
    const response = await ask(`/api/prompt${scopeQuery()}`, {method: "PUT", body: file}, LONGEST);
    if (!response.ok) return tellPrompt(`Not used: ${await reason(response)}`, "bad");
    if (tokenNow) sessionStorage.setItem("token", tokenNow);
    put(find("prompt-about"), aboutPrompt(await response.json()));
    tellPrompt("This prompt is used from the next frame on, until attri-run ends or its prompt file changes.", "good");
    edition += 1; // its own labels may have come with it
    await loadLabels();
  } catch {
    tellPrompt("No answer yet. The line above says which prompt is used.");
  } finally {
    find("prompt-send").disabled = false;
  }
}

// The round

let rounds = 0;

async function round() {
  const response = await ask(`/api/state${query(selected)}`);
  find("unlock").hidden = response.status !== 401;
  if (!response.ok) throw new Error(response.status === 401 ? "This device asks for its token." : await reason(response));
  const state = await response.json();
  find("trouble").hidden = true;
  const shown = state.sources.filter((info) => info.card), known = state.sources.filter((info) => info.frames >= 0);
  const names = shown.map(keyOf);
  for (const [name, card] of cards) {
    if (names.includes(name)) continue;
    card.item.remove();
    URL.revokeObjectURL(card.url);
    cards.delete(name);
  }
  if (!names.includes(selected)) selected = names[0] ?? "";
  find("empty").hidden = names.length > 0;
  const more = state.left_out, them = more === 1 ? "1 more source has" : `${more} more sources have`;
  put(find("left-out"), more ? `${them} no place among the ${names.length} here: see the health of all below.` : "");
  for (const info of shown) showCard(info, state.now);
  showDetail(state.detail);
  showHealth(known.filter((info, i) => known.findIndex((each) => each.source === info.source) === i), state.now);
  announce(state.sources);
  if (rounds++ % 10 === 0) {
    showScopes(known);
    showEditable(state.editable);
    await loadLabels();
    await loadPrompt();
    if (state.editable) await loadOrigin();
  }
  for (const info of shown) await showFrame(info);
}

async function run() {
  for (let failures = 0; ;) {
    const start = performance.now();
    try {
      if (!paused && !document.hidden) await round();
      failures = 0;
    } catch (error) {
      failures += 1;
      const lost = error instanceof TypeError || error.name === "TimeoutError";
      put(find("trouble"), lost ? "No answer from the device. Trying again." : error.message);
      find("trouble").hidden = false;
      put(find("summary"), "not connected");
    }
    const pause = failures ? Math.min(5000, 500 * 2 ** failures) : PERIOD - (performance.now() - start);
    await new Promise((resolve) => setTimeout(resolve, Math.max(20, pause)));
  }
}

find("pause").addEventListener("click", () => {
  paused = !paused;
  find("pause").setAttribute("aria-pressed", String(paused));
  if (paused) put(find("summary"), "paused");
});
find("labels").addEventListener("submit", (event) => {
  event.preventDefault();
  saveLabels();
});
find("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) find("labels").requestSubmit();
});
find("write").addEventListener("click", writeLabels);
find("text").addEventListener("input", () => { find("write").disabled = dirty(); });
find("undo").addEventListener("click", () => {
  doubt = null;
  find("text").value = saved;
  tell("");
});
find("prompt").addEventListener("submit", (event) => {
  event.preventDefault();
  sendPrompt();
});
find("scope").addEventListener("change", () => {
  tellPrompt("");
  edition += 1;
  attempt += 1; // what comes of an earlier one is about other sources
  doubt = null;
  find("text").value = saved;
  tell("");
  loadLabels();
  loadPrompt();
  loadOrigin();
});
find("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  tokenNow = find("unlock-token").value;
  sessionStorage.setItem("token", tokenNow);
});
run();
