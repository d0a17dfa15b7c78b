import {TIMEOUT, ask, find, keepToken, make, percent, put, reason, useToken} from "./page.js";
import {showRegions} from "./regions.js";

// The page pulls: one request at a time, the next when the last is done, nothing while nobody looks.
const PERIOD = 100, SAY = 3000; // ms: between rounds, between announcements
const LOAD = 5; // seconds over which the load is averaged
const LONGEST = 600_000; // ms for labels, which may take the device minutes: until then its own answer is waited for
const cards = new Map(); // by key: the source, or with several tasks source and task
let selected = "", paused = false, saved = "", spoken = {text: "", at: 0};

const labelsOf = ({label, labels}) => labels?.join(", ") || label || "none of the labels"; // several where independent
const keyOf = ({source, task}) => (task === undefined ? source : `${source}\0${task}`); // a name has no \0
const titleOf = (key) => key.replace("\0", " · ");
function query(key) {
  const [source, task] = key.split("\0");
  return `?source=${encodeURIComponent(source)}${task === undefined ? "" : `&task=${encodeURIComponent(task)}`}`;
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
  put(card.label, any ? labelsOf(info) : "–");
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
  const words = any ? `${labelsOf(info)}, ${percent(info.score)}` : "no frame yet";
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
    const names = [...new Set(entries.map(nameOf))], item = list.children[i], key = JSON.stringify(names);
    if (item.dataset.key === key) return;
    const before = JSON.parse(item.dataset.key ?? key);
    item.dataset.key = key;
    item.replaceChildren(make("span", "block", `block ${i + 1}`), ...names.map((name) =>
      make("span", before.includes(name) ? "entry" : "entry new", name)));
  });
  list.classList.toggle("named", blocks.flat().some(({attracts}) => attracts.length));
}

const nameOf = ({entry, attracts}) => (attracts.length ? `${entry}: ${attracts.join(", ")}` : String(entry));

function showNearest(images) {
  const named = images.map(({image, label, cosine}) => `${label} ${cosine.toFixed(2)} (${image})`);
  find("nearest").hidden = !images.length;
  put(find("nearest"), `Nearest training images, by cosine: ${named.join(", ")}`);
}

let explained = ""; // key of the source whose frame is shown

async function explain() {
  const key = explained = selected, image = find("why");
  find("explain").disabled = true;
  put(find("why-said"), "Looking.");
  try {
    const response = await ask(`/api/explain.png${query(key)}`, {}, LONGEST); // the first one loads a graph
    if (key !== selected) return;
    if (!response.ok) return put(find("why-said"), await reason(response));
    if (image.src) URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(await response.blob());
    image.alt = `Heat maps of a frame of ${titleOf(key)}`;
    image.hidden = false;
    put(find("why-said"), "");
  } catch {
    put(find("why-said"), "No answer.");
  } finally {
    find("explain").disabled = false;
  }
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
  if (explained !== selected) {
    find("why").hidden = true;
    put(find("why-said"), "");
  }
  find("detail-title").classList.toggle("unseen", cards.size < 2);
  showScores(detail);
  showRetrieved(detail.retrieved);
  showNearest(detail.nearest);
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

let loads = []; // of the last seconds, the oldest first: sums, so that two of them say what was done between

function showLoad(load, now) {
  loads = [...loads.filter((each) => each.now > now - LOAD && each.batches <= load.batches), {...load, now}];
  const first = loads[0], spent = (stage) => load.seconds[stage] - first.seconds[stage];
  const whole = Object.keys(load.seconds).map(spent).reduce((sum, seconds) => sum + seconds, 0);
  const batches = load.batches - first.batches;
  if (!batches || !whole) return put(find("load"), "");
  const shares = Object.keys(load.seconds).map((stage) => `${stage} ${Math.round(100 * spent(stage) / whole)} %`);
  const size = ((load.frames - first.frames) / batches).toFixed(1);
  put(find("load"), `Time: ${shares.join(", ")}. Batches of ${size} frames, at most ${load.limit}.`);
}

function announce(sources) {
  const info = sources.find((each) => keyOf(each) === selected);
  if (!info?.number) return;
  const text = `${titleOf(selected)}: ${labelsOf(info)}`;
  if (text === spoken.text || performance.now() - spoken.at < SAY) return;
  spoken = {text, at: performance.now()};
  put(find("said"), text);
}

// Labels

let edition = 0; // of what the device uses: an answer that was asked for before a change is old
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
  useToken(find("token").value);
  find("save").disabled = true;
  doubt = null;
  tell("");
  const timer = setTimeout(() => beInDoubt(mine, text, "The answer is late"), TIMEOUT);
  try {
    const response = await ask(`/api/labels${scopeQuery()}`, {method: "PUT", body: text}, LONGEST);
    if (response.ok) {
      keepToken();
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

// What is used and in no file: the labels, and in the same way the prompt

const ORIGINS = {
  labels: {what: "labels that are used now last", row: "file-row", note: "file-note", write: "write", tell, idle: () => !dirty()},
  prompt: {what: "prompt that is used now lasts", row: "prompt-file-row", note: "prompt-file-note", write: "prompt-write",
    tell: tellPrompt, idle: () => true},
};

async function loadOrigin(kind) {
  const before = edition, response = await ask(`/api/${kind}/file${scopeQuery()}`);
  const origin = response.ok && await response.json();
  if (origin && edition === before) showOrigin(kind, origin);
}

function showOrigin(kind, {file, edited, sources}) {
  const parts = ORIGINS[kind], name = file?.split("/").pop(), write = find(parts.write);
  find(parts.row).hidden = !edited;
  write.hidden = !file;
  write.disabled = !parts.idle(); // it writes what is used, and no draft
  write.title = file ?? "";
  put(write, `Write to ${name}`);
  const others = find("scope").value && sources.length > 1 ? ` Writing it is for all that read it: ${sources.join(", ")}.` : "";
  put(find(parts.note), file ? `Not in ${name}: the ${parts.what} until attri-run ends or the file changes.${others}`
    : `Not in one file: the ${parts.what} until attri-run ends.`);
}

async function writeFile(kind) {
  const {write, tell, idle} = ORIGINS[kind];
  useToken(find("token").value);
  find(write).disabled = true;
  try {
    const response = await ask(`/api/${kind}/file${scopeQuery()}`, {method: "PUT"});
    if (!response.ok) return tell(`Not written: ${await reason(response)}`, "bad");
    const origin = await response.json();
    edition += 1;
    showOrigin(kind, origin);
    tell(`Written to ${origin.file}.`, "good");
  } catch {
    tell("No answer yet. Once it is written, the note below goes away.");
  } finally {
    find(write).disabled = !idle();
  }
}

function showScopes(sources) {
  const scope = find("scope"), keys = sources.map(keyOf), known = [...scope.options].map((option) => option.value);
  for (const key of keys) if (!known.includes(key)) scope.append(new Option(titleOf(key), key));
  for (const option of [...scope.options].slice(1)) {
    if (keys.includes(option.value)) continue;
    const chosen = option.selected;
    option.remove();
    if (chosen) scope.dispatchEvent(new Event("change")); // it was removed: all are meant again
  }
  find("scope-row").hidden = sources.length < 2;
}

function showEditable(editable) {
  find("text").readOnly = !editable;
  for (const id of ["save", "undo"]) find(id).hidden = !editable;
  find("token-row").hidden = !editable;
  find("prompt").hidden = !editable;
  find("change-panel").hidden = !editable;
  if (!editable) find("regions-panel").hidden = true;
  if (!editable) tell("To change them here, start attri-run with a token.");
}

// Prompt

const KINDS = {nearest: "learned, retrieved by image", all: "learned, the same for every image", none: "plain CLIP"};

async function loadPrompt() {
  const before = edition, response = await ask(`/api/prompt${scopeQuery()}`);
  const about = response.ok ? aboutPrompt(await response.json()) : await reason(response);
  if (edition === before) put(find("prompt-about"), about);
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
  useToken(find("token").value);
  find("prompt-send").disabled = true;
  tellPrompt("Sending.");
  try {
    const response = await ask(`/api/prompt${scopeQuery()}`, {method: "PUT", body: file}, LONGEST);
    if (!response.ok) return tellPrompt(`Not used: ${await reason(response)}`, "bad");
    keepToken();
    const about = aboutPrompt(await response.json());
    edition += 1; // its own labels may have come with it
    put(find("prompt-about"), about);
    tellPrompt("This prompt is used from the next frame on.", "good");
    await loadLabels();
    await loadOrigin("prompt");
  } catch {
    tellPrompt("No answer yet. The line above says which prompt is used.");
  } finally {
    find("prompt-send").disabled = false;
  }
}

// Sources: which there are, and what can be done with them

async function loadSources() {
  const before = edition, response = await ask("/api/sources");
  const sources = response.ok && await response.json();
  if (!sources || edition !== before) return;
  showSources(sources);
  await showRegions(sources);
}

function showSources(sources) {
  const list = find("changes"), key = JSON.stringify(sources);
  if (list.dataset.key === key) return; // or a button would be another one while it is pressed
  list.dataset.key = key;
  list.replaceChildren(...sources.map(({name, kind, paused}) => {
    const item = make("li"), pause = make("button", "", paused ? "Resume" : "Pause"), remove = make("button", "", "Remove");
    for (const button of [pause, remove]) {
      button.type = "button";
      button.ariaLabel = `${button.textContent} ${name}`;
    }
    pause.addEventListener("click", () => change({[name]: {paused: !paused}}, `${name} is ${paused ? "opened" : "closed"}.`));
    remove.addEventListener("click", () => change({[name]: null}, `${name} is removed.`));
    remove.disabled = sources.length < 2;
    item.append(make("span", "name", name), make("span", "hint", kind), pause, remove);
    return item;
  }));
}

async function change(tables, done) {
  const said = find("change-said");
  said.className = "";
  put(said, "Sending.");
  useToken(find("token").value);
  try {
    const response = await ask("/api/sources", {method: "PUT", body: JSON.stringify(tables)}, LONGEST);
    said.className = response.ok ? "good" : "bad";
    put(said, response.ok ? done : `Not changed: ${await reason(response)}`);
    if (!response.ok) return false;
    keepToken();
    const sources = await response.json();
    edition += 1;
    showSources(sources);
    return true;
  } catch {
    put(said, "No answer yet. The list above says which sources there are.");
    return false;
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
  find("review").hidden = !state.collects;
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
  showLoad(state.load, state.now);
  announce(state.sources);
  if (rounds++ % 10 === 0) {
    showScopes(known);
    showEditable(state.editable);
    await loadLabels();
    await loadPrompt();
    if (state.editable) await loadSources();
    if (state.editable) for (const kind in ORIGINS) await loadOrigin(kind);
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

find("explain").addEventListener("click", explain);
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
for (const kind in ORIGINS) find(ORIGINS[kind].write).addEventListener("click", () => writeFile(kind));
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
find("add").addEventListener("submit", async (event) => {
  event.preventDefault();
  const name = find("add-name").value.trim();
  if (await change({[name]: {uri: find("add-uri").value.trim()}}, `${name} is added.`)) find("add").reset();
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
  for (const kind in ORIGINS) loadOrigin(kind);
});
find("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  useToken(find("unlock-token").value);
  keepToken();
});
run();
