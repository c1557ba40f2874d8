"use strict";
const content = JSON.parse(document.getElementById("content").textContent);
const $ = id => document.getElementById(id);
const PERCENT = new Set(["dice", "iou", "precision", "recall", "surface_dice"]);
const NAMES = {dice: "Dice", iou: "IoU", precision: "precision", recall: "recall", hd95_mm: "HD95, mm", assd_mm: "ASSD, mm",
  surface_dice: "surface Dice", volume_difference_ml: "ΔV, ml"};
const SHARES = new Set(["of_outlined", "of_median"]), ODD = 2;      // times another volume, or so little of it
const MAPS = {protocol: "by protocol", whole: "whole volume"};
const PLANES = ["sagittal", "coronal", "axial"];      // their normals: right, anterior, superior
const ALL_PLANES = 3, NIIVUE_TYPES = [2, 1, 0, 3];      // of NiiVue's enumeration, by plane
const FAINT_BELOW_MIN = 1;      // of NiiVue's: the further a value is below cal_min, the fainter

// ---- tables ----

function element(tag, text, parent, attributes = {}) {
  const node = document.createElement(tag);
  if (text !== null) node.textContent = text;
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (parent) parent.append(node);
  return node;
}
function number(value, digits, factor = 1, significant = false) {
  if (typeof value !== "number") return value ?? "–";
  const scaled = factor * value, text = !significant ? scaled.toFixed(digits) : String(Number(scaled.toPrecision(digits)));
  return text.replaceAll("-", "−");
}
function metricNumber(metric, value) { return number(value, 1, PERCENT.has(metric) ? 100 : 1); }
function meanAndStd(entry, metric) {
  const mean = entry[metric + "_mean"], std = entry[metric + "_std"];
  return metricNumber(metric, mean) + (std === null || std === undefined ? "" : " ± " + metricNumber(metric, std));
}

for (const [key, value] of Object.entries(content.facts)) element("b", value, element("li", key + " ", $("facts")));
for (const problem of content.problems) element("p", problem, $("problems"), {class: "problem"});
$("of-plots").hidden = !content.plots.length;
for (const plot of content.plots) {
  element("img", null, $("plots"), {class: "plot", src: "data:image/png;base64," + plot.image, alt: plot.text});
  element("p", plot.text, $("plots"), {class: "hint"});
}
$("hint").textContent = content.hint;
$("correction").hidden = !content.correction;
$("command").textContent = content.correction?.command ?? "";
/** Where the labelling page opens a scan at a class: this page comes from its server, or from disk. */
function correctionOf(row) {
  const page = location.protocol === "file:" ? content.correction.page : "/";
  return `${page}#scan=${encodeURIComponent(row.case)}&label=${row.label}`;
}

function classTable({metrics, protocol, whole}) {
  $("of-classes").hidden = false;
  const table = $("classes"), head = element("tr", null, element("thead", null, table));
  element("th", "class", head, {class: "text", scope: "col"});
  element("th", "volumes", head, {scope: "col"});
  for (const metric of metrics) element("th", NAMES[metric], head, {scope: "col"});
  for (const [summary, what] of [[protocol, "protocol"], ...(whole ? [[whole, "whole volume"]] : [])]) {
    const body = element("tbody", null, table);
    element("th", what, element("tr", null, body), {colspan: metrics.length + 2, scope: "rowgroup", class: "text"});
    for (const [name, entry] of [...Object.entries(summary.classes), ["mean of classes", summary.mean]]) {
      const row = element("tr", null, body, {class: entry === summary.mean ? "mean" : ""});
      element("td", name, row, {class: "text"});
      element("td", entry.n ?? "", row);
      for (const metric of metrics) element("td", meanAndStd(entry, metric), row);
    }
  }
}
if (content.classes) classTable(content.classes);

const order = {column: content.order, ascending: true};
let chosenRow = null;
function compare(a, b) {
  const missing = value => value === null || value === undefined;
  const x = a[order.column], y = b[order.column];
  if (order.column === content.order && !a.empty !== !b.empty) return (a.empty ? -1 : 1) * (order.ascending ? 1 : -1);
  if (missing(x) || missing(y)) return missing(x) - missing(y);
  const sign = order.ascending ? 1 : -1;
  return sign * (typeof x === "number" ? x - y : String(x).localeCompare(String(y), "en", {numeric: true}));
}
function sortBy(column) {
  order.ascending = order.column === column ? !order.ascending : true;
  order.column = column;
  caseTable();
  $("cases").querySelector("th[aria-sort] button").focus();
}
function isOdd(key, share) { return SHARES.has(key) && typeof share === "number" && (share > ODD || share < 1 / ODD); }
function caseTable() {
  const table = $("cases");
  table.replaceChildren();
  const head = element("tr", null, element("thead", null, table)), body = element("tbody", null, table);
  for (const {key, title, digits} of content.columns) {
    const cell = element("th", null, head, {scope: "col", class: digits === null ? "text" : ""});
    if (order.column === key) cell.setAttribute("aria-sort", order.ascending ? "ascending" : "descending");
    element("button", title, cell, {type: "button", tabindex: "0"}).onclick = () => sortBy(key);
  }
  if (content.correction) element("th", null, head, {"aria-label": "correction"});
  for (const row of [...content.rows].sort(compare)) {
    const shown = row.view !== null, line = element("tr", null, body, {class: row === chosenRow ? "chosen" : shown ? "" : "unseen"});
    content.columns.forEach(({key, digits, factor, significant}, position) => {
      const cell = element("td", null, line, {class: digits === null ? "text" : isOdd(key, row[key]) ? "odd" : ""});
      if (position || !shown) cell.textContent = number(row[key], digits, factor, significant);
      else element("button", row[key], cell, {type: "button", title: "show " + row[key]}).onclick = () => showRow(row, line);
      if (key === "label_name" && row.empty) element("b", "empty", cell, {class: "empty", title: "nothing, or nearly nothing, was found"});
    });
    if (content.correction) element("a", "correct", element("td", null, line), {href: correctionOf(row)}).onclick = event => event.stopPropagation();
    if (shown) line.onclick = event => { if (event.target.tagName !== "BUTTON") showRow(row, line); };
  }
}
caseTable();

// ---- viewer ----

const state = {view: 0, planes: ALL_PLANES, layers: null, loading: 0};
let nv = null;

content.views.forEach((view, k) => element("option", view.title, $("view"), {value: k}));
element("option", "all", $("class"), {value: 0});
content.labels.forEach((label, k) => {
  element("option", label.name, $("class"), {value: k + 1});
  const item = element("li", null, $("legend"));
  element("span", null, item, {class: "swatch"}).style.background = label.colour;
  item.append(label.name);
});
for (const [key, name] of Object.entries(MAPS)) if (content.views.some(view => key in view.maps)) element("option", name, $("map"), {value: key});
if ($("map").options.length > 1) $("map").value = "whole";
$("map").hidden = $("map").options.length < 2;
$("of-truth").hidden = $("truth-key").hidden = !content.views.some(view => "truth" in view.maps);

function view() { return content.views[state.view]; }
function chosenClass() { return Number($("class").value); }
function chosenMap() { return $("map").value in view().maps ? $("map").value : Object.keys(view().maps).find(key => key in MAPS); }
/** The axis (0 right, 1 anterior, 2 superior) that the slider moves along: that of the thickest slices when all planes are shown. */
function across() { return state.planes === ALL_PLANES ? view().across : state.planes; }
function size() { return nv.volumes[0].dimsRAS.slice(1, 4); }
function position() { return nv.frac2vox(nv.scene.crosshairPos).map(Math.round); }

async function volume(k, options) {
  return niivue.NVImage.loadFromBase64({base64: $("volume-" + k).textContent, name: "volume.nii.gz", ...options});
}
async function labelVolume(k, colours) {
  const loaded = await volume(k, {}), rgb = ["#000000", ...colours].map(colour => [1, 3, 5].map(at => parseInt(colour.slice(at, at + 2), 16)));
  loaded.setColormapLabel({R: rgb.map(c => c[0]), G: rgb.map(c => c[1]), B: rgb.map(c => c[2]), I: rgb.map((_, i) => i), labels: []});
  return Object.assign(loaded, {raw: loaded.img});
}
/** Read the volumes of one view, each into `raw` (as stored) and `img` (as shown). */
async function load({image, window: [low, high], maps, probabilities, support}) {
  const colours = content.labels.map(label => label.colour), truth = getComputedStyle(document.documentElement).getPropertyValue("--truth").trim();
  const layers = {image: await volume(image, {colormap: "gray", cal_min: low, cal_max: high}), maps: {}, probabilities: {}};
  Object.assign(layers.image, {robust_min: low, robust_max: high});
  for (const [key, k] of Object.entries(maps)) layers.maps[key] = await labelVolume(k, key === "truth" ? colours.map(() => truth) : colours);
  for (const [label, k] of Object.entries(probabilities)) {
    const loaded = await volume(k, {colormap: "probability", cal_min: 0.999, cal_max: 1});
    layers.probabilities[label] = Object.assign(loaded, {raw: loaded.img, colormapType: FAINT_BELOW_MIN});
  }
  if (support !== null) layers.support = await volume(support, {colormap: "opaque", cal_min: 0, cal_max: 255});
  return layers;
}
/** Keep the voxels of one label, or all for 0. */
function onlyLabel(values, label) { return label ? values.map(value => value === label ? value : 0) : values.slice(); }
/** Keep the voxels at the border of their label within slices across an axis of the file. */
function outline(values, dims, normal) {
  const stride = [1, dims[0], dims[0] * dims[1]], border = values.slice(), axes = [0, 1, 2].filter(axis => axis !== normal);
  const reach = Math.max(1, Math.round(Math.max(...axes.map(axis => dims[axis])) / 320));
  for (let z = 0, k = 0; z < dims[2]; z++) for (let y = 0; y < dims[1]; y++) for (let x = 0; x < dims[0]; x++, k++) {
    if (!values[k]) continue;
    const at = [x, y, z];
    const differs = axis => at[axis] < reach || at[axis] >= dims[axis] - reach ||
      values[k - reach * stride[axis]] !== values[k] || values[k + reach * stride[axis]] !== values[k];
    if (!axes.some(differs)) border[k] = 0;
  }
  return border;
}
function highest(volumes) {
  const result = volumes[0].raw.slice();
  for (const {raw} of volumes.slice(1)) raw.forEach((value, k) => { if (value > result[k]) result[k] = value; });
  return result;
}
function shows(id) { return $(id).checked && !$("of-" + id).hidden; }

/** Make the volumes that are laid over the image, bottom first. */
function overlays() {
  const {layers} = state, label = chosenClass(), dims = layers.image.hdr.dims.slice(1, 4), normal = view().axes[across()], found = [];
  const lay = (id, layer, img) => found.push(Object.assign(layer, {img: img ?? layer.img, opacity: $(id + "-opacity").value / 100}));
  if (shows("support")) lay("support", layers.support);
  if (shows("probability")) {
    const chosen = Object.entries(layers.probabilities).filter(([key]) => !label || Number(key) === label).map(([, layer]) => layer);
    if (chosen.length) lay("probability", chosen[0], highest(chosen));
  }
  if (shows("predicted")) {
    const layer = layers.maps[chosenMap()], kept = onlyLabel(layer.raw, label);
    lay("predicted", layer, $("style").value === "filled" ? kept : outline(kept, dims, normal));
  }
  if (shows("truth")) lay("truth", layers.maps.truth, outline(onlyLabel(layers.maps.truth.raw, label), dims, normal));
  return found;
}
/** Show what the controls say. */
function draw() {
  if (!state.layers) return;
  nv.volumes = [state.layers.image, ...overlays()];
  nv.setVolume(state.layers.image, 0);
  describe();
}
/** Say in words what is shown; `data-drawn` also tells scripts that it is. */
function describe() {
  const axis = across(), slice = position()[axis] + 1, n = size()[axis];
  $("slice").max = n - 1;
  $("slice").value = slice - 1;
  $("slice-number").textContent = `${slice} of ${n}${state.planes === ALL_PLANES ? ", " + PLANES[axis] : ""}`;
  const planes = state.planes === ALL_PLANES ? "three planes" : PLANES[axis] + " plane";
  $("canvas").setAttribute("aria-label", `case ${view().title}, ${planes}, ${PLANES[axis]} slice ${slice} of ${n}`);
  $("canvas").dataset.drawn = `${state.view}/${state.planes}/${position().join(",")}/${nv.volumes.length}`;
}
/** Where to begin with the chosen class of a scan without truth, or with its least certain one: a voxel of the file, if it is known. */
function lookAt() {
  const label = content.labels[chosenClass() - 1]?.value, missing = value => typeof value !== "number";
  const rows = content.rows.filter(row => row.view === state.view && row.look_at && (label === undefined || row.label === label));
  const [row] = rows.sort((a, b) => missing(a.confidence) - missing(b.confidence) || a.confidence - b.confidence);
  const dims = state.layers.image.hdr.dims.slice(1, 4);
  return row?.look_at.map((k, axis) => Math.min(Math.floor(k / view().step[axis]), dims[axis] - 1));
}
/** Go to where most is in doubt, or else to the slice in which the chosen class is largest, by the truth where there is one. */
function goToClass() {
  const at = lookAt() ?? largestAt(), {axes, flipped} = view(), dims = state.layers.image.hdr.dims.slice(1, 4);
  nv.scene.crosshairPos = nv.vox2frac(axes.map((axis, to) => flipped[to] ? dims[axis] - 1 - at[axis] : at[axis]));
}
function largestAt() {
  const {axes, maps} = view(), dims = state.layers.image.hdr.dims.slice(1, 4), label = chosenClass();
  const values = state.layers.maps["truth" in maps ? "truth" : chosenMap()].raw, normal = axes[view().across];
  const counts = new Array(dims[normal]).fill(0), sums = counts.map(() => [0, 0, 0]);
  for (let z = 0, k = 0; z < dims[2]; z++) for (let y = 0; y < dims[1]; y++) for (let x = 0; x < dims[0]; x++, k++)
    if (label ? values[k] === label : values[k]) {
      const at = [x, y, z];
      counts[at[normal]]++;
      for (let axis = 0; axis < 3; axis++) sums[at[normal]][axis] += at[axis];
    }
  const best = counts.indexOf(Math.max(...counts));
  return counts[best] ? sums[best].map(sum => Math.round(sum / counts[best])) : dims.map(n => n >> 1);
}
function goToSlice(slice) { goAlong(across(), slice); }
function goAlong(axis, place) {
  const voxel = position();
  voxel[axis] = Math.max(0, Math.min(size()[axis] - 1, place));
  nv.scene.crosshairPos = nv.vox2frac(voxel);
  nv.createOnLocationChange();
  nv.drawScene();
}
async function choose(k) {
  state.view = Math.max(0, Math.min(content.views.length - 1, k));
  $("view").value = state.view;
  $("scores").textContent = scoresOfView();
  if (!nv) return;
  const loading = ++state.loading;
  $("canvas").dataset.drawn = "";
  $("status").textContent = "reading…";
  const layers = await load(view());
  if (loading !== state.loading) return;      // another case has been asked for
  state.layers = layers;
  $("of-probability").hidden = !Object.keys(layers.probabilities).length;
  $("of-support").hidden = $("about-support").hidden = !layers.support;
  $("status").textContent = "";
  nv.volumes = [layers.image];
  nv.setVolume(layers.image, 0);
  showWindow();
  goToClass();
  choosePlanes(state.planes);
}
function choosePlanes(planes) {
  state.planes = planes;
  $("planes").value = planes;
  nv.opts.crosshairWidth = planes === ALL_PLANES ? 0.6 : 0;
  nv.setSliceType(NIIVUE_TYPES[planes]);
  const [first, second, third] = [view().across, ...[2, 1, 0].filter(plane => plane !== view().across)].map(plane => NIIVUE_TYPES[plane]);
  if (planes === ALL_PLANES) nv.setCustomLayout([{sliceType: first, position: [0, 0, 0.62, 1]},
    {sliceType: second, position: [0.62, 0, 0.38, 0.5]}, {sliceType: third, position: [0.62, 0.5, 0.38, 0.5]}]);
  else nv.clearCustomLayout();
  draw();
}
/** The first number of each label, as its Dice or its confidence. */
function scoresOfView() {
  const {key, title, digits, factor, significant} = content.columns.find(column => column.digits !== null) ?? {};
  const numbers = content.rows.filter(row => row.view === state.view && (!$("map").value || row.map === chosenMap()))
    .map(row => `${row.label_name} ${number(row[key], digits, factor, significant)}`);
  return !title || !numbers.length ? "" : `${title[0].toUpperCase()}${title.slice(1)}: ${numbers.join(", ")}`;
}
function showRow(row, line) {
  for (const other of $("cases").querySelectorAll("tr.chosen")) other.classList.remove("chosen");
  line.classList.add("chosen");
  chosenRow = row;
  if ([...$("map").options].some(option => option.value === row.map)) $("map").value = row.map;
  $("class").value = content.labels.findIndex(label => label.value === Number(row.label)) + 1;
  $("viewer-title").scrollIntoView({block: "start"});
  $("slice").focus({preventScroll: true});
  return choose(row.view);
}

// ---- window ----

/** Bring the sliders of level and width to the window that is shown. */
function showWindow() {
  const {cal_min: low, cal_max: high, global_min: darkest, global_max: brightest} = state.layers.image, range = brightest - darkest || 1;
  for (const [id, value, least, most] of [["level", (low + high) / 2, darkest, brightest], ["width", high - low, range / 100, 2 * range]])
    Object.assign($(id), {min: least, max: most, value});
}
function setWindow(low, high) {
  Object.assign(state.layers.image, {cal_min: low, cal_max: high});
  nv.updateGLVolume();
}
for (const id of ["level", "width"]) $(id).oninput = () => {
  const level = Number($("level").value), width = Number($("width").value);
  setWindow(level - width / 2, level + width / 2);
};
function resetWindow() { setWindow(...view().window); showWindow(); }
$("reset").onclick = resetWindow;

/** Save what is shown, with its outlines, as a PNG file. */
function savePicture() {
  nv.drawScene();       // the drawing is gone once the browser has shown it
  $("canvas").toBlob(blob => {
    const link = element("a", null, null, {href: URL.createObjectURL(blob), download: `${view().title}, slice ${position()[across()] + 1}.png`});
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
}
$("picture").onclick = savePicture;

// ---- mouse and keys ----

$("slice").oninput = () => goToSlice(Number($("slice").value));
$("view").onchange = () => choose(Number($("view").value));
$("planes").onchange = () => choosePlanes(Number($("planes").value));
$("class").onchange = () => { goToClass(); draw(); };
$("map").onchange = () => { $("scores").textContent = scoresOfView(); draw(); };
for (const id of ["predicted", "truth", "probability", "support"]) $(id).onchange = draw;
$("style").onchange = chooseStyle;
function chooseStyle() {
  $("predicted-opacity").value = $("style").value === "filled" ? 40 : 100;
  draw();
}
for (const id of ["predicted", "truth", "probability", "support"]) $(id + "-opacity").oninput = draw;
$("canvas").addEventListener("pointerup", () => state.layers && showWindow());

const toggle = id => () => { if (!$("of-" + id).hidden) { $(id).checked = !$(id).checked; draw(); } };
const KEYS = byKey({"truth": toggle("truth"), "outlines": toggle("predicted"), "probability": toggle("probability"), "registered support": toggle("support"),
  "lines": () => { $("style").value = $("style").value === "filled" ? "outline" : "filled"; chooseStyle(); }, "reset": resetWindow,
  "view": () => choosePlanes([3, 0, 1, 2][state.planes]), "next scan": () => choose(state.view + 1), "scan before": () => choose(state.view - 1)});
/** In the slice and through the slices, as on the labelling page: the patient's right is on the left. */
const MOVES = byKey({"left": [0, -1], "right": [0, 1], "down": [1, -1], "up": [1, 1], "slice before": [2, -1], "next slice": [2, 1]});
function move([direction, sign]) {
  const normal = across(), axis = [normal === 0 ? 1 : 0, normal === 2 ? 1 : 2, normal][direction];
  goAlong(axis, position()[axis] + (axis === 0 && direction === 0 ? -sign : sign));
}
document.addEventListener("keydown", event => {
  if (event.target === $("canvas")) event.stopPropagation();      // NiiVue has keys of its own
  const {tagName, type} = event.target, typing = tagName === "SELECT" || tagName === "INPUT" && !["checkbox", "range"].includes(type);
  if (!state.layers || event.ctrlKey || event.metaKey || event.altKey || typing) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (Object.hasOwn(KEYS, key)) KEYS[key]();
  else if (event.target === $("canvas") && Object.hasOwn(MOVES, key)) move(MOVES[key]);
  else return;
  event.preventDefault();
}, true);
document.addEventListener("keyup", event => { if (event.target === $("canvas")) event.stopPropagation(); }, true);

function hasWebGL2() {
  const context = document.createElement("canvas").getContext("webgl2");
  context?.getExtension("WEBGL_lose_context")?.loseContext();
  return context !== null;
}
async function start() {
  if (!content.views.length || !hasWebGL2()) {
    $("viewer").hidden = true;
    $("no-webgl").hidden = !content.views.length;
    return;
  }
  const made = new niivue.Niivue({logLevel: "error", isRadiologicalConvention: true, multiplanarShowRender: 0,
    crosshairColor: [0.55, 0.6, 0.65, 1], crosshairWidthUnit: "mm", crosshairGap: 14, dragMode: 9, dragAndDropEnabled: false,
    scrollRequiresFocus: true, clipPlaneHotKey: "", cycleClipPlaneHotKey: "", viewModeHotKey: "", isColorbar: false, loadingText: ""});
  await made.attachToCanvas($("canvas"));
  const ramp = {A: [0, 255], I: [0, 255]};
  made.addColormap("probability", {...ramp, R: [240, 240], G: [50, 50], B: [200, 200]});
  made.addColormap("opaque", {R: [0, 255], G: [0, 255], B: [0, 255], A: [255, 255], I: [0, 255]});
  made.onLocationChange = ({mm, values}) => {
    $("status").textContent = `right ${mm[0].toFixed(0)}, anterior ${mm[1].toFixed(0)}, superior ${mm[2].toFixed(0)} mm; intensity ${values[0].value.toFixed(0)}`
      .replaceAll("-", "−");
    if (state.layers) describe();
  };
  nv = made;
  await choose(0);
}
start();
