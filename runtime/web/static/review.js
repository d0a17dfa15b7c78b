import {ask, find, keepToken, make, percent, put, reason, useToken} from "./page.js";

// A grid of collected images. What is given a label are the images that are selected, or else the one with the focus.
const LONGEST = 30_000; // ms for answers, one file each
const NONE = "none of the labels";
const REASONS = {
  unsure: "it was unsure", unknown: "none of the labels", flip: "the label flipped", novel: "it is novel", control: "control",
};
const shots = new Map(); // by name, in the order of the page
const undone = []; // what to send to take back what was said, the last at the end
let labels = [], last = "", work = Promise.resolve(); // labels to choose from; name of the last image; edits one by one
let editable = true;

const answerOf = ({answer}) => (answer === null ? "" : answer.label ?? NONE);
const saidOf = ({label}) => label ?? NONE;

function tell(text, bad = false) {
  find("done").className = bad ? "bad" : "";
  put(find("done"), text);
}

function trouble(text) {
  find("trouble").hidden = !text;
  put(find("trouble"), text);
}

// Images

function makeShot(info) {
  const item = make("li"), button = make("button", "shot"), box = make("span", "image"), image = make("img");
  image.alt = "";
  button.type = "button";
  button.setAttribute("aria-pressed", "false");
  const answer = make("span", "answer"), about = make("span", "about");
  box.append(image);
  button.append(box, answer, about);
  item.append(button);
  const shot = {info, item, button, image, answer, about, place: shots.size + 1};
  button.addEventListener("click", () => select(shot, button.getAttribute("aria-pressed") !== "true"));
  shots.set(info.name, shot);
  find("images").append(item);
  sight.observe(item);
  showShot(shot);
}

function showShot({info, button, answer, about, place}) {
  const why = info.reasons.join(", "), said = `attri said ${saidOf(info)}, ${percent(info.score)}`;
  put(answer, answerOf(info) || "no label yet");
  answer.classList.toggle("none", info.answer === null);
  button.classList.toggle("done", info.answer !== null);
  put(about, `attri: ${saidOf(info)} ${percent(info.score)} · ${why} · ${info.source}`);
  const words = answerOf(info) ? `labelled ${answerOf(info)}` : "no label yet";
  button.ariaLabel = `Image ${place}: ${words}. ${said}; ${why}; ${info.source}`;
}

// Images are asked for when they come into sight; an <img> alone would bring no token.
const sight = new IntersectionObserver((entries) => {
  for (const {isIntersecting, target} of entries) {
    if (!isIntersecting) continue;
    sight.unobserve(target);
    showImage([...shots.values()].find(({item}) => item === target));
  }
}, {rootMargin: "400px"});

async function showImage(shot) {
  if (!shot) return;
  try {
    const response = await ask(`/api/review/image?name=${encodeURIComponent(shot.info.name)}`, {}, LONGEST);
    if (!response.ok) return put(shot.about, `${await reason(response)}: ${shot.info.name}`);
    shot.image.src = URL.createObjectURL(await response.blob());
  } catch {
    sight.observe(shot.item); // again, when it is next looked at
  }
}

function clear() {
  for (const {image} of shots.values()) URL.revokeObjectURL(image.src);
  shots.clear();
  find("images").replaceChildren();
  last = "";
}

// Selection

const selected = () => [...shots.values()].filter(({button}) => button.getAttribute("aria-pressed") === "true");
const focused = () => [...shots.values()].find(({button}) => button === document.activeElement);

function select(shot, on) {
  shot.button.setAttribute("aria-pressed", String(on));
}

function selectAll(on) {
  for (const shot of shots.values()) select(shot, on);
  tell(on ? `${shots.size} images are selected.` : "No image is selected.");
}

function move(key) {
  const all = [...shots.values()].map(({button}) => button), at = all.indexOf(document.activeElement);
  const columns = getComputedStyle(find("images")).gridTemplateColumns.split(" ").length;
  const step = {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns}[key];
  all[at < 0 ? 0 : Math.min(all.length - 1, Math.max(0, at + step))]?.focus();
}

// Answers

function give(label) {
  if (!editable) return tell("To label images here, start attri-run with a token.", true);
  const chosen = selected(), one = focused(), targets = chosen.length ? chosen : one ? [one] : [];
  if (!targets.length) return tell("Select images first: click them, or move to one with the arrows.", true);
  for (const shot of chosen) select(shot, false);
  if (one && targets.includes(one)) { // on to the next that has no label
    const after = [...shots.values()].slice(one.place);
    (after.find((shot) => shot.info.answer === null && !targets.includes(shot)) ?? after[0])?.button.focus();
  }
  const answers = Object.fromEntries(targets.map(({info}) => [info.name, label]));
  const count = targets.length === 1 ? "1 image is" : `${targets.length} images are`;
  edit(() => ({answers, forget: []}), `${count} ${label ?? NONE}.`, true);
}

function undo() {
  edit(() => undone.pop(), "Undone.", false);
}

function edit(make, words, keep) { // one after the other, so that what is taken back is what was there
  work = work.then(async () => {
    const change = make();
    if (!change) return;
    const back = {answers: {}, forget: []};
    for (const name of [...Object.keys(change.answers), ...change.forget]) {
      const before = shots.get(name)?.info.answer;
      if (before) back.answers[name] = before.label;
      else back.forget.push(name);
    }
    if (await send(change)) {
      if (keep) undone.push(back);
      tell(words);
    } else if (!keep) undone.push(change);
    find("undo").disabled = !undone.length;
  });
}

async function send(change) {
  try {
    const response = await ask("/api/review", {method: "PUT", body: JSON.stringify(change)}, LONGEST);
    if (!response.ok) {
      if (response.status === 401) unlock();
      tell(`Not kept: ${await reason(response)}`, true);
      return false;
    }
    for (const [name, answer] of Object.entries((await response.json()).answers)) {
      const shot = shots.get(name);
      if (!shot) continue;
      count(Number(answer !== null) - Number(shot.info.answer !== null));
      shot.info.answer = answer;
      showShot(shot);
    }
    return true;
  } catch {
    tell("No answer from the device: it may be kept or not. Look again.", true);
    return false;
  }
}

let counted = {count: 0, labelled: 0};

function count(more) {
  counted.labelled += more;
  put(find("summary"), `${counted.labelled} of ${counted.count} labelled`);
}

function showLabels() {
  find("labels").replaceChildren(...[...labels, null].map((label, i) => {
    const item = make("li"), button = make("button");
    const key = label === null ? "0" : i < 9 ? String(i + 1) : "";
    button.type = "button";
    if (key) button.append(make("kbd", "", key));
    button.append(label ?? NONE);
    button.ariaLabel = label ?? NONE;
    if (key) button.setAttribute("aria-keyshortcuts", key);
    button.addEventListener("click", () => give(label));
    item.append(button);
    return item;
  }));
}

// What is shown

function fill(select, values, words) { // keeps what was chosen
  const chosen = select.value;
  select.replaceChildren(...values.map((value) => new Option(words(value), JSON.stringify(value))));
  if ([...select.options].some((option) => option.value === chosen)) select.value = chosen;
}

function query() {
  const asked = new URLSearchParams({show: find("show").value});
  for (const id of ["task", "said", "reason"]) {
    const value = JSON.parse(find(id).value || "null");
    if (value !== null) asked.set(id, value);
  }
  if (last) asked.set("before", last);
  return asked;
}

function unlock() {
  find("unlock").hidden = false;
  find("unlock-token").focus();
}

async function load(more = false) {
  if (!more) clear();
  try {
    const response = await ask(`/api/review?${query()}`, {}, LONGEST);
    if (response.status === 401) return unlock();
    if (!response.ok) return trouble(await reason(response));
    show(await response.json());
    trouble("");
    find("unlock").hidden = true;
  } catch {
    trouble("No answer from the device. Look again.");
  }
}

function show(found) {
  editable = found.editable;
  labels = [...new Set([...found.labels, ...found.images.map(({answer}) => answer?.label).filter(Boolean)])];
  showLabels();
  for (const info of found.images) makeShot(info);
  last = found.images.at(-1)?.name ?? last;
  fill(find("task"), found.tasks, (task) => task);
  if (!find("task").value) find("task").value = JSON.stringify(found.task);
  find("task-row").hidden = found.tasks.length < 2;
  fill(find("said"), [null, ...found.said], (label) => (label === null ? "anything" : label || NONE));
  fill(find("reason"), [null, ...found.reasons], (why) => (why === null ? "of anything" : REASONS[why]));
  counted = {count: found.count, labelled: found.labelled};
  count(0);
  put(find("images-title"), shots.size === 1 ? "1 image" : `${shots.size} images`);
  find("next").hidden = !found.more;
  put(find("next"), `Next images (${found.more} more)`);
  find("empty").hidden = shots.size > 0;
  put(find("empty"), found.count ? "There are none of these." : "Nothing has been collected yet.");
  for (const id of ["every", "nothing"]) find(id).disabled = !shots.size;
}

find("filters").addEventListener("submit", (event) => {
  event.preventDefault();
  load();
});
for (const id of ["task", "show", "said", "reason"]) find(id).addEventListener("change", () => load());
find("large").addEventListener("change", () => find("images").classList.toggle("large", find("large").checked));
find("every").addEventListener("click", () => selectAll(true));
find("nothing").addEventListener("click", () => selectAll(false));
find("undo").addEventListener("click", undo);
find("next").addEventListener("click", async () => {
  const before = shots.size;
  await load(true);
  [...shots.values()][before]?.button.focus();
});
find("another").addEventListener("submit", (event) => {
  event.preventDefault();
  const label = find("word").value.trim();
  if (!label) return;
  if (!labels.includes(label)) labels.push(label);
  showLabels();
  give(label);
  find("word").value = "";
});
find("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  useToken(find("unlock-token").value);
  keepToken();
  find("unlock").hidden = true;
  load();
});
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input:not([type=checkbox]), select, textarea");
  if (!find("keys").checked || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const {key} = event;
  if (key.startsWith("Arrow")) move(key);
  else if (key === "0") give(null);
  else if (/^[1-9]$/.test(key) && key <= labels.length) give(labels[key - 1]);
  else if (key === "a") selectAll(true);
  else if (key === "Escape") selectAll(false);
  else if (key === "u") undo();
  else return;
  event.preventDefault();
});
load();
