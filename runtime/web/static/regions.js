import {ask, find, keepToken, make, put, reason, useToken} from "./page.js";

// Regions of a source, drawn over its newest frame: by mouse, touch and pen, by keys, or as numbers.
const LEAST = 8; // pixels of a frame: what is drawn smaller was a click
const SIDES = ["x", "y", "width", "height"];
const KINDS = ["v4l2", "csi", "gst", "stream", "video", "watch", "stdin"]; // sources whose frames follow one another
const LONGEST = 600_000; // ms: labels of a new region may take the device minutes
let size = null; // width and height of a frame, pixels
let shapes = []; // {name, x, y, width, height} and the elements that show it
let saved = "{}"; // what the device uses
let drag = null; // {how, shape, from, x, y}: what a pointer is doing
let edition = 0; // of what is saved
let shown = ""; // the source whose regions are shown
let fields = 0; // that were made

const source = () => find("regions-source").value;
const query = () => `?source=${encodeURIComponent(source())}`;
const numbers = (shape) => SIDES.map((side) => shape[side]);
const drawn = () => JSON.stringify(Object.fromEntries(shapes.map((shape) => [shape.name, numbers(shape)])));
const twice = () => new Set(shapes.map(({name}) => name)).size < shapes.length;
const dirty = () => twice() || drawn() !== saved;
const clamp = (value, least, most) => Math.max(least, Math.min(Math.round(value), most));

function tell(text, kind = "") {
  find("regions-said").className = kind;
  put(find("regions-said"), text);
}

// A shape is a box over the frame, and a row of fields

function makeField(shape, side) {
  const box = make("span", side === "name" ? "field" : "field small"), label = make("label", "", side), input = make("input");
  input.id = label.htmlFor = `region-field-${fields++}`;
  if (side === "name") Object.assign(input, {maxLength: 40, required: true, spellcheck: false, autocomplete: "off"});
  else Object.assign(input, {type: "number", min: 0, step: 1, required: true});
  input.addEventListener("input", () => {
    shape[side] = side === "name" ? input.value.trim() : Math.round(input.valueAsNumber || 0);
    show(shape);
  });
  input.addEventListener("change", () => size && place(shape, shape));
  box.append(label, input);
  shape.inputs[side] = input;
  return box;
}

function makeShape(name, [x, y, width, height]) {
  const shape = {name, x, y, width, height, box: make("button", "region"), row: make("li"), inputs: {}};
  const remove = make("button", "", "Remove");
  shape.box.type = remove.type = "button";
  shape.box.append(make("span"), make("i"));
  shape.box.addEventListener("keydown", (event) => onKey(event, shape));
  remove.addEventListener("click", () => removeShape(shape));
  shape.row.append(...["name", ...SIDES].map((side) => makeField(shape, side)), remove);
  shapes.push(shape);
  find("board").append(shape.box);
  find("region-list").append(shape.row);
  show(shape);
  return shape;
}

function removeShape(shape) {
  if (shape.box === document.activeElement || shape.row.contains(document.activeElement)) find("regions-add").focus();
  shapes = shapes.filter((each) => each !== shape);
  shape.box.remove();
  shape.row.remove();
}

function show(shape) {
  const [width, height] = size ?? [1, 1];
  const parts = {left: shape.x / width, top: shape.y / height, width: shape.width / width, height: shape.height / height};
  for (const [side, part] of Object.entries(parts)) shape.box.style[side] = `${100 * part}%`;
  put(shape.box.firstChild, shape.name);
  shape.box.ariaLabel = `Region ${shape.name}: ${SIDES.map((side) => `${side} ${shape[side]}`).join(", ")}`;
  shape.row.lastChild.ariaLabel = `Remove ${shape.name}`;
  for (const [side, input] of Object.entries(shape.inputs)) {
    if (input !== document.activeElement && input.value !== String(shape[side])) input.value = shape[side];
  }
}

function place(shape, {x, y, width, height}) { // inside the frame
  shape.width = clamp(width, LEAST, size[0]);
  shape.height = clamp(height, LEAST, size[1]);
  shape.x = clamp(x, 0, size[0] - shape.width);
  shape.y = clamp(y, 0, size[1] - shape.height);
  show(shape);
}

function stretch(shape, x, y) { // to this lower right corner
  place(shape, {...shape, width: Math.min(x, size[0]) - shape.x, height: Math.min(y, size[1]) - shape.y});
}

function newName() {
  for (let number = 1; ; number++) if (shapes.every(({name}) => name !== `region${number}`)) return `region${number}`;
}

// Pointers and keys

function pixel(event) {
  const box = find("board").getBoundingClientRect();
  return [(event.clientX - box.left) / box.width * size[0], (event.clientY - box.top) / box.height * size[1]];
}

function onDown(event) {
  if (!size || !event.isPrimary || event.button !== 0) return;
  const [x, y] = pixel(event), shape = shapes.find(({box}) => box.contains(event.target));
  const how = !shape ? "draw" : event.target.tagName === "I" ? "stretch" : "move";
  drag = {how, shape, from: {...shape}, x, y};
  shape?.box.focus();
  find("board").setPointerCapture(event.pointerId);
  event.preventDefault(); // nothing is selected, or scrolled
}

function onMove(event) {
  if (!drag) return;
  const [x, y] = pixel(event), {shape, from} = drag;
  if (drag.how === "move") place(shape, {...from, x: from.x + x - drag.x, y: from.y + y - drag.y});
  if (drag.how === "stretch") stretch(shape, from.x + from.width + x - drag.x, from.y + from.height + y - drag.y);
  if (drag.how === "draw") draw(clamp(x, 0, size[0]), clamp(y, 0, size[1]));
}

function draw(x, y) {
  const width = Math.abs(x - drag.x), height = Math.abs(y - drag.y);
  if (!drag.shape && (width < LEAST || height < LEAST)) return;
  drag.shape ??= makeShape(newName(), [0, 0, LEAST, LEAST]);
  place(drag.shape, {x: Math.min(x, drag.x), y: Math.min(y, drag.y), width, height});
}

function onUp() {
  if (drag?.how === "draw") drag.shape?.box.focus();
  drag = null;
}

function onKey(event, shape) {
  const step = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
  const remove = event.key === "Delete" || event.key === "Backspace";
  if (!size || (!step && !remove)) return;
  event.preventDefault();
  if (remove) return removeShape(shape);
  const [x, y] = step.map((part, i) => part * Math.max(1, Math.round(size[i] / 100)));
  if (event.shiftKey) stretch(shape, shape.x + shape.width + x, shape.y + shape.height + y);
  else place(shape, {...shape, x: shape.x + x, y: shape.y + y});
}

// What the device uses

export async function showRegions(sources) {
  const names = sources.filter(({kind}) => KINDS.includes(kind)).map(({name}) => name), select = find("regions-source");
  const key = JSON.stringify(names), chosen = source();
  if (select.dataset.key !== key) {
    select.dataset.key = key;
    select.replaceChildren(...names.map((name) => new Option(name, name)));
    if (names.includes(chosen)) select.value = chosen;
  }
  find("regions-source-row").hidden = names.length < 2;
  if (names.length) await load();
  else find("regions-panel").hidden = true;
}

async function load() {
  const before = edition, wanted = source(), response = await ask(`/api/regions${query()}`);
  find("regions-panel").hidden = !response.ok; // the sources of this attri-run cannot be changed
  if (!response.ok) return;
  const about = await response.json();
  if (edition !== before || drag || wanted !== source()) return; // asked before a change
  if (String(size) !== String(about.size)) {
    size = about.size;
    shapes.forEach(show);
  }
  if (wanted !== shown || (!dirty() && saved !== JSON.stringify(about.regions))) use(about.regions);
  shown = wanted;
  find("regions-add").disabled = !size;
  await loadFrame();
  await loadOrigin();
}

async function loadFrame() {
  const box = find("board").getBoundingClientRect(), image = find("board-image");
  if (!size || box.bottom < 0 || box.top > innerHeight) return;
  const wanted = source(), response = await ask(`/api/regions/frame${query()}`);
  if (!response.ok || wanted !== source()) return;
  const old = image.src;
  image.src = URL.createObjectURL(await response.blob());
  image.alt = `The newest frame of ${wanted}`;
  await image.decode().catch(() => {});
  if (old) URL.revokeObjectURL(old);
}

function use(regions) {
  [...shapes].forEach(removeShape);
  for (const [name, roi] of Object.entries(regions)) makeShape(name, roi);
  saved = JSON.stringify(regions);
}

async function save() {
  if (twice()) return tell("Not used: two regions have the same name.", "bad");
  const body = drawn();
  edition += 1;
  useToken(find("token").value);
  find("regions-save").disabled = true;
  tell("Sending.");
  try {
    const response = await ask(`/api/regions${query()}`, {method: "PUT", body}, LONGEST);
    if (!response.ok) return tell(`Not used: ${await reason(response)}`, "bad");
    keepToken();
    saved = JSON.stringify((await response.json()).regions);
    await loadOrigin();
    tell("These regions are used from the next frame on.", "good");
  } catch {
    tell("No answer yet. The cards above say which regions are used.");
  } finally {
    edition += 1;
    find("regions-save").disabled = false;
  }
}

async function loadOrigin() {
  const response = await ask(`/api/regions/file${query()}`);
  if (response.ok) showOrigin(await response.json());
}

function showOrigin({file, edited}) {
  const name = file?.split("/").pop(), write = find("regions-write");
  find("regions-file-row").hidden = file ? !edited : saved === "{}";
  write.hidden = !file;
  write.disabled = dirty(); // it writes what is used, and no draft
  write.title = file ?? "";
  put(write, `Write to ${name}`);
  put(find("regions-file-note"), `Not in ${file ? name : "a sources file"}: these regions last until attri-run ends.`);
}

async function write() {
  useToken(find("token").value);
  find("regions-write").disabled = true;
  try {
    const response = await ask(`/api/regions/file${query()}`, {method: "PUT"});
    if (!response.ok) return tell(`Not written: ${await reason(response)}`, "bad");
    const origin = await response.json();
    showOrigin(origin);
    tell(`Written to ${origin.file}.`, "good");
  } catch {
    tell("No answer yet. Once they are written, the note below goes away.");
  } finally {
    find("regions-write").disabled = dirty();
  }
}

find("board").addEventListener("pointerdown", onDown);
find("board").addEventListener("pointermove", onMove);
for (const end of ["pointerup", "pointercancel"]) find("board").addEventListener(end, onUp);
find("regions").addEventListener("submit", (event) => {
  event.preventDefault();
  save();
});
find("regions-add").addEventListener("click", () => {
  const [width, height] = size;
  makeShape(newName(), [width >> 2, height >> 2, width >> 1, height >> 1]).box.focus();
});
find("regions-undo").addEventListener("click", () => {
  use(JSON.parse(saved));
  tell("");
});
find("regions-write").addEventListener("click", write);
find("regions-source").addEventListener("change", () => {
  edition += 1;
  find("board-image").removeAttribute("src");
  find("regions-file-row").hidden = true;
  size = null;
  use({});
  tell("");
  load();
});
