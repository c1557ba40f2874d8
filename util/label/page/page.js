// The page: what the server says is shown, what the person does is told to the server.

import { isOdd, leastCertain, oddWords, shares, times } from './judging.js';
import * as server from './requests.js';
import { nextWorth, of, statesOf, withDrawn, withFilled } from './slices.js';
import { Viewer } from './viewer.js';

const FIRST = 'First name the class on the right. Then press F and draw round it in a slice. J goes to the next slice worth drawing, I fills between, and O '
  + 'outlines the other scans.';
const SLOW_MS = 2500, POLL_MS = 1000, RETRY_MS = 2000;
const WORDS = { 'empty': ['○', 'no outlines yet'], 'drawing': ['✎', 'being drawn'], 'outlined': ['★', 'outlined by you: an example'],
                'found': ['◐', 'to look through'], 'correcting': ['✎', 'being corrected'], 'corrected': ['★', 'corrected: an example'],
                'accepted': ['✓', 'accepted'], 'left out': ['–', 'left out'], 'unreadable': ['!', ''] };
const BAR = { 'drawn': 1, 'looked at': 0.12, 'filled': 0.6, 'found': 0.3, 'empty': 0 };      // heights
const CT = { 'soft tissue': [40, 400], 'liver': [60, 160], 'lung': [-600, 1500], 'bone': [400, 1800], 'brain': [40, 80] };     // level, width
const DONE = { 'drawing': 'Done: an example', 'found': 'Accept', 'correcting': 'Done: an example',
               'outlined': 'Open again', 'corrected': 'Open again', 'accepted': 'Open again' };
const OPEN = ['drawing', 'correcting'];
const { byKey } = globalThis;       // of keys.js
const TOOLS = ['look', 'pen', 'filled', 'polygon', 'eraser', 'filled eraser', 'inside', 'outside'], TOOL_BY_KEY = byKey(Object.fromEntries(TOOLS.map(tool => [tool, tool])));

const at = id => document.getElementById(id);
const made = (tag, properties = {}, ...inside) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...inside);
  return element;
};

let state = null, shownState = '', away = false;      // what the server said last, and whether it answers
let open = null;                        // name of the open scan
let shownFound = null, drawn = 0;       // of the open scan: the label map by the computer, and how often the drawing was saved
let saving = null, opening = null;
const waiting = [];                     // strokes that are not saved yet
const histories = new Map();            // what can be undone, by scan
let chosenClass = 1;
const hidden = new Set(), locked = new Set();
const widths = { pen: 1, filled: 1, polygon: 1, eraser: 5, 'filled eraser': 1, inside: 3, outside: 3 };
const viewer = new Viewer(at('canvas'), { onStroke: save, onScribble: scribbled, onMove: showPlace, onWindow: showWindow });
viewer.locked = locked;

const short = path => (path.startsWith(`${state.home}/`) ? `~${path.slice(state.home.length)}` : path);
const scanNamed = name => state.scans.find(scan => scan.name === name);

function say(words, bad = false) {
  at('status').textContent = words;
  at('status').classList.toggle('bad', bad);
}

// What a person starts: an error is told, and the state is read again.
function act(action) {
  return async (...given) => {
    try {
      say('');
      await action(...given);
    } catch (error) {
      say(error.message, true);
    }
    await refresh();
  };
}

// ---- the state ----

async function refresh() {
  try {
    state = await server.getState();
    if (away) say('');
    away = false;
  } catch (error) {
    away = true;
    say(error.message, true);
    return;
  }
  const text = JSON.stringify([state, open]);
  if (text === shownState) return;
  shownState = text;
  showScans();
  showAdvice();
  showRun();
  showClasses();
  showOpen();
  await showNewFound();
}

async function poll() {
  await refresh();
  setTimeout(poll, POLL_MS);
}

const rows = new Map();      // list items by the name of their scan, which stay the same, so that no click is lost

function rowOf(name) {
  if (!rows.has(name)) {
    const part = (className, properties) => made('span', { className, ...properties });
    const button = made('button', { type: 'button', onclick: () => openScan(name) }, made('img', { className: 'picture', alt: '' }), part('sign', { ariaHidden: 'true' }),
      part('name', { textContent: name }), part('number', { title: 'expected Dice of its least certain class' }), part('what'));
    button.dataset.scan = name;
    rows.set(name, made('li', {}, button));
  }
  return rows.get(name);
}

const nameOf = row => state.classes.find(one => one.value === row.label)?.name ?? row.label_name;

/** What a scan that the computer outlined says of classes of which nothing, or nearly nothing, was found, and of odd volumes. */
function doubts(word, numbers) {
  const rows = ['found', 'accepted'].includes(word) ? numbers : [], isEmpty = row => row.slices === 0 || row.confidence === 0;
  const empty = rows.filter(isEmpty).map(nameOf), odd = rows.filter(row => !isEmpty(row)).map(row => [nameOf(row), oddWords(row, state.scans)]);
  return [...(empty.length ? [`empty: ${empty.join(', ')}`] : []), ...odd.filter(([, words]) => words).map(([name, words]) => `${name}: ${words}`)]
    .map(words => ` · ${words}`).join('');
}

// The list is sorted when the page is opened and when a run has ended, and stays so meanwhile: nothing moves under the mouse.
let order = [], wasBusy = true;

function sortScans() {
  const busy = state.run.state !== 'idle', names = state.scans.map(scan => scan.name);
  if (!order.length || (wasBusy && !busy)) order = names;
  wasBusy = busy;
  const words = at('filter').value.trim().toLowerCase();
  return order.map(scanNamed).filter(scan => scan.name.toLowerCase().includes(words) || `${WORDS[scan.state][1]} ${scan.flagged ? 'flagged' : ''}`.includes(words));
}

function showCount(shown) {
  const looked = state.scans.filter(scan => ['accepted', 'corrected', 'outlined'].includes(scan.state)).length;
  const usable = state.scans.filter(scan => !['left out', 'unreadable'].includes(scan.state)).length;
  at('count').textContent = `${looked} of ${usable} done${shown < state.scans.length ? ` · ${shown} shown` : ''}`;
}

// Why the last run could not outline a scan; nothing if it could, or if there are outlines meanwhile.
function failure(name, word) {
  const line = word === 'empty' && state.run.failures.find(one => one.startsWith(`${name}: `));
  return line ? `not outlined: ${line.slice(name.length + 2)}` : null;
}

function showScans() {
  at('where').textContent = `${short(state.folder)} · everything is kept in ${short(state.session)}`;
  at('where').title = at('where').textContent;
  const scans = sortScans();
  showCount(scans.length);
  const items = scans.map(({ name, state: word, confidence, problem, rows: numbers, flagged, picture }) => {
    const row = rowOf(name), button = row.firstChild, [sign, words] = WORDS[word];
    const texts = { sign, number: word === 'found' && confidence !== null ? confidence.toFixed(2) : '', what: (problem ?? failure(name, word) ?? words + doubts(word, numbers)) + (flagged ? ' · flagged' : '') };
    for (const [className, text] of Object.entries(texts)) button.querySelector(`.${className}`).textContent = text;
    button.disabled = word === 'unreadable';
    showPicture(button.querySelector('img'), name, picture);
    button.ariaCurrent = String(name === open);
    return row;
  });
  if (items.length === at('scans').children.length && items.every((item, k) => at('scans').children[k] === item)) return;
  const focused = document.activeElement;
  at('scans').replaceChildren(...items);
  if (focused?.dataset?.scan) focused.focus();
}

// The small picture of a scan, when there is another one than the last.
async function showPicture(image, name, picture) {
  if (image.dataset.picture === (picture ?? '')) return;
  image.dataset.picture = picture ?? '';
  const content = picture && await server.getPicture(name).catch(() => null);
  if (content) image.src = `data:image/png;base64,${btoa(String.fromCharCode(...new Uint8Array(content)))}`;
  else image.removeAttribute('src');
}

// Which scan to outline first, or to correct next. It is no news once that scan is open.
function showAdvice() {
  const { first, next } = state.advice, { scan, why } = first ?? next ?? {}, [button, words] = at('advice').children;
  at('advice').hidden = !scan;
  if (scan) button.textContent = scan;
  button.onclick = () => openScan(scan, true);
  words.textContent = scan ? `${first ? 'is a safe one to begin with' : 'is the one to correct next'}: ${why}.` : '';
}

function showRun() {
  const { run, scans } = state, busy = run.state !== 'idle';
  const some = scans.some(scan => ['found', 'accepted', 'corrected', 'correcting'].includes(scan.state));
  at('run').firstChild.data = some ? 'Again: those not accepted ' : 'Outline the others ';
  at('run').disabled = at('careful').disabled = busy;
  at('stop').hidden = at('progress').hidden = !busy;
  Object.assign(at('progress'), { max: Math.max(run.total, 1), value: run.done });
  const isNew = scans.every(scan => ['empty', 'unreadable'].includes(scan.state));
  at('run-text').textContent = !busy ? run.message ?? (isNew ? FIRST : '') : run.state === 'starting' ? 'Starting …' : run.state === 'stopping' ? 'Stopping …'
    : `${run.done} of ${run.total}${run.current ? `, now ${run.current}` : ''}${timeLeft(run)}`;
  const left = scans.filter(scan => ['empty', 'found'].includes(scan.state)).length;
  at('careful-text').textContent = run.seconds && left ? ` careful: about ${minutes(run.careful_times * run.seconds * left)}, else ${minutes(run.seconds * left)}`
    : ` careful: better, and takes ${run.careful_times} times as long`;
  const isEnd = scans.some(scan => ['accepted', 'corrected'].includes(scan.state)) && !busy && !scans.some(scan => [...OPEN, 'found', 'empty'].includes(scan.state));
  at('export').firstChild.data = isEnd ? 'All looked through: export ' : 'Export ';
  at('export').classList.toggle('strong', isEnd);
  at('run').classList.toggle('strong', !isEnd);
  at('failures').replaceChildren(...run.failures.map(line => made('li', { textContent: line })));
}

const minutes = seconds => (seconds < 90 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`);

function timeLeft({ seconds, done: ended, total, careful, careful_times: times }) {
  return seconds && ended && ended < total ? ` · about ${minutes(seconds * (careful ? times : 1) * (total - ended))} left` : '';
}

function showOpen() {
  const scan = open && scanNamed(open), words = scan && DONE[scan.state];
  at('done').disabled = !words;
  at('done').classList.toggle('strong', words !== 'Open again');
  at('done').firstChild.data = `${words ?? 'Done'} `;
  at('done').querySelector('kbd').hidden = words === 'Open again';      // Enter takes nothing back
  at('load').disabled = !scan || !['empty', 'found'].includes(scan.state);
  at('fill').firstChild.data = `${follows() ? 'Let the rest follow' : 'Fill between'} `;
  at('fill').title = follows() ? 'take what you corrected to the other slices of this scan' : 'fill the slices between the drawn ones by shape';
  at('leave-out').disabled = !scan;
  at('flag').disabled = !scan;
  at('flag').firstChild.data = scan?.flagged ? 'Unflag ' : 'Flag ';
  at('leave-out').textContent = scan?.state === 'left out' ? 'Take back' : 'Leave out';
  at('leave-out').title = scan?.state === 'left out' ? `take ${open} back` : `leave ${open ?? 'the scan'} out of runs and export`;
  at('canvas').ariaLabel = scan ? `Slices of ${open}. Arrow keys move, page keys change the slice, space puts the pen down and up.` : 'No scan';
  showNumbers(scan);
}

const COLUMNS = [['class', ''], ['ml', 'volume'], ['outlined', 'volume against that of the outlined scan'],
                 ['median', 'volume against the median of the scans that the computer outlined'], ['Dice', 'expected Dice; a single case may be far off']];

function showNumbers(scan) {
  const rows = scan && ['found', 'accepted'].includes(scan.state) ? scan.rows : [];
  at('made').textContent = rows.length && Object.keys(scan.made).length ? `Found ${Object.entries(scan.made).map(([key, value]) => `${key} ${value}`).join(', ')}.` : '';
  const cell = (tag, textContent, more = {}) => made(tag, { textContent, ...more });
  const line = row => {
    const { outlined, median } = shares(row, state.scans), share = one => cell('td', times(one), { className: isOdd(one) ? 'bad' : '' });
    return made('tr', {}, cell('th', nameOf(row)), cell('td', row.volume_ml == null ? '–' : String(Number(row.volume_ml.toPrecision(4)))),
      share(outlined), share(median), cell('td', row.confidence?.toFixed(2) ?? '–'));
  };
  at('numbers').replaceChildren(...(rows.length ? [made('thead', {}, made('tr', {}, ...COLUMNS.map(([text, title]) => cell('th', text, { title })))),
    made('tbody', {}, ...rows.map(line))] : [made('caption', { textContent: scan?.problem ?? (scan ? WORDS[scan.state][1] : '') })]));
}

// ---- the open scan ----

let asked = server.asked;      // the scan and the class that the address asks for, until it is shown
let wanted = null;      // the scan to open; another may be asked for while it loads

async function openScan(name, focus = false) {
  wanted = name;
  while (opening) await opening;
  if (wanted !== name) return;
  opening = load(name).finally(() => { opening = null; });
  await opening;
  await refresh();
  if (focus) at('canvas').focus();
}

async function load(name) {
  say('');
  at('loading').textContent = `Loading ${name} …`;
  at('loading').hidden = false;
  const slow = setTimeout(() => { at('loading').textContent += ' It is large, or not stored as NIfTI and turned into it, once.'; }, SLOW_MS);
  try {
    do {
      await settled();
      const before = (await server.getState()).scans.find(scan => scan.name === name);
      const [image, outlines] = await Promise.all([server.getImage(name), server.getOutlines(name)]);
      if (await viewer.show(image, outlines, { slices: slicesOf(before), history: historyOf(before) }, isQuiet, () => { open = name; ({ found: shownFound, drawn } = before); })) break;
    } while (true);
    showRange();
    showPresets();
    setSaved('');
    goToWorst(scanNamed(name));
    showBar();
  } catch (error) {
    say(error.message, true);
  } finally {
    clearTimeout(slow);
    at('loading').hidden = true;
  }
}

// Which slices a person made: as the server has it, of outlines by the computer none.
const slicesOf = scan => scan.slices ?? (['found', 'accepted', 'empty'].includes(scan.state) ? {} : null);

// What can be undone of a scan, if its outlines are still those that it was left with.
function historyOf({ name, drawn: saved, found }) {
  const kept = histories.get(name);
  return kept && kept.drawn === saved && kept.found === found ? kept.history : null;
}

// A scan that the computer outlined opens at its least certain class, in the slices of which most is in doubt; others
// at the class that is chosen.
function goToWorst(scan) {
  const meant = asked && scan?.name === asked.scan ? scan.rows.filter(row => row.label === asked.label) : [];
  const worst = scan?.state === 'found' ? leastCertain(meant) ?? leastCertain(scan.rows) : undefined;
  if (worst && worst.label !== chosenClass) chooseClass(worst.label);
  if (worst?.look_at) viewer.goToVoxel(worst.look_at.split(' ').map(Number));
  else viewer.goToClass(worst?.label ?? chosenClass);
}

// A run found something new for the open scan, or another window drew on it.
async function showNewFound() {
  const scan = open && scanNamed(open);
  if (!scan || opening || !isQuiet() || (scan.found === shownFound && scan.drawn <= drawn)) return;
  const outlines = await server.getOutlines(scan.name);
  await viewer.show(null, outlines, { slices: slicesOf(scan), history: null }, () => isQuiet() && !opening && open === scan.name,
                    () => { shownFound = scan.found; drawn = Math.max(drawn, scan.drawn); });
  showBar();
}

function setSaved(words, bad = false) {
  at('saved').textContent = words;
  at('saved').classList.toggle('bad', bad);
}

// Save a stroke; those made meanwhile are saved after it. It tries again until the server answers.
function save(change) {
  waiting.push({ name: open, stroke: crypto.randomUUID(), ...change });
  setSaved('saving …');
  showBar();
  saving ??= saveAll().finally(() => { saving = null; });
}

async function saveAll() {
  while (waiting.length) {
    const { name, stroke, slices, ...change } = waiting[0];
    try {
      drawn = await server.saveStroke(name, { drawn, stroke, slices }, change);
      waiting.shift();
      if (name === open) histories.set(name, { history: viewer.history, drawn, found: shownFound });
      setSaved('saved');
    } catch (error) {
      setSaved('not saved', true);
      say(error.message, true);
      if (!error.away && error.status !== 507 && error.status !== 403) {      // it will never be taken: show what is saved
        waiting.length = 0;
        drawn = -1;
        shownState = '';
        return;
      }
      await new Promise(resolve => setTimeout(resolve, RETRY_MS));
    }
  }
  refresh();
}

const isQuiet = () => !saving && !waiting.length && !viewer.isDrawing;

async function settled() {
  viewer.endStroke();
  await saving;
}

function showPlace(place) {
  if (place) at('position').dataset.place = `${place.vox.map(Math.round).join(', ')}: ${place.values[0]?.value?.toFixed?.(0) ?? ''}`;
  const number = viewer.volume && viewer.place()[2 - viewer.plane], n = viewer.volume && viewer.dims[2 - viewer.plane];
  const mm = place?.mm ? ` · ${['S', 'A', 'R'][viewer.plane]} ${place.mm[2 - viewer.plane].toFixed(1)} mm` : '';
  if (place) at('position').dataset.slice = `slice ${number + 1} of ${n}${mm}`;
  at('position').textContent = `${at('position').dataset.slice ?? ''}\n${viewer.penIsDown ? 'pen down · ' : ''}${at('position').dataset.place ?? ''}`;
  showBar();
}

// ---- the bar along the slices ----

const heldNow = () => viewer.held(viewer.plane, chosenClass);
const axisNow = () => viewer.axis(viewer.plane);
const statesNow = () => statesOf(viewer.slices, chosenClass, axisNow(), heldNow());
const isReversed = () => viewer.sliceOf(viewer.plane, 0) !== 0;
const atBar = states => (isReversed() ? [...states].reverse() : states);

function showBar() {
  if (!viewer.volume || !viewer.counts || !state) return;
  const states = atBar(statesNow()), here = viewer.place()[2 - viewer.plane], canvas = at('bar'), { clientWidth: width, clientHeight: height } = canvas;
  Object.assign(canvas, { width: width * devicePixelRatio, height: height * devicePixelRatio });
  const pen = canvas.getContext('2d'), style = getComputedStyle(canvas), step = width / states.length;
  pen.scale(devicePixelRatio, devicePixelRatio);
  const colour = state.classes.find(one => one.value === chosenClass)?.colour ?? style.color;
  states.forEach((word, k) => {
    const gap = step > 4 ? 1 : 0, tall = BAR[word] * (height - 2);
    pen.globalAlpha = word === 'drawn' || word === 'looked at' ? 1 : 0.6;
    pen.fillStyle = word === 'looked at' ? style.color : colour;
    pen.fillRect(k * step, height - tall, step - gap, tall);
  });
  pen.globalAlpha = 1;
  pen.strokeStyle = style.color;
  pen.lineWidth = 2;
  pen.strokeRect(here * step, 1, Math.max(step - 1, 2), height - 2);
  const count = word => states.filter(one => one === word).length;
  Object.assign(canvas, { ariaValueMin: '1', ariaValueMax: String(states.length), ariaValueNow: String(here + 1),
                          ariaValueText: `slice ${here + 1} of ${states.length}: ${states[here]}` });
  at('bar-text').textContent = `${count('drawn')} drawn, ${count('filled')} filled${count('found') ? `, ${count('found')} as found` : ''}`
    + `\n${Number(viewer.millilitres(chosenClass).toPrecision(3))} ml`;
  at('undo').disabled = !viewer.history.undo.length;
  at('redo').disabled = !viewer.history.redo.length;
  for (const cell of document.querySelectorAll('#classes .ml')) cell.textContent = mlOf(Number(cell.dataset.value));
}

const mlOf = value => (viewer.counts && viewer.millilitres(value) ? `${Number(viewer.millilitres(value).toPrecision(3))} ml` : '');

function barTo(event) {
  const { left, width } = at('bar').getBoundingClientRect(), n = viewer.dims[2 - viewer.plane];
  const place = Math.min(Math.max(Math.floor((event.clientX - left) / width * n), 0), n - 1);
  viewer.goToSlice(viewer.sliceOf(viewer.plane, place));
}

function barKey(event) {
  const by = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
  if (!by || !viewer.volume) return;
  event.preventDefault();
  event.stopPropagation();
  viewer.move('through', by);
  viewer.niivue.createOnLocationChange();
}

function nextSlice() {
  const next = viewer.volume ? nextWorth(statesNow(), viewer.slice) : null;
  if (next === null) say(viewer.volume && heldNow().some(Boolean) ? 'Every third slice is drawn. Press I to fill between.' : 'Draw the class in a slice first.');
  else viewer.goToSlice(next);
}

// The slice at hand is as it should be for the chosen class, or, with `all`, every slice is.
function lookedAt(all = false) {
  if (!viewer.volume) return;
  const numbers = all ? heldNow().flatMap((holds, k) => (holds ? [k] : [])) : [viewer.slice];
  viewer.endStroke();
  viewer.setSlices(withDrawn(viewer.slices, chosenClass, axisNow(), numbers));
}

// ---- tools of the server ----

const SHAPES = { fill: 'Filled', copy: 'Copied', grow: 'Grown', largest: 'Kept the largest part', holes: 'Filled holes', smooth: 'Smoothed' };

// What the person should know of the slices that were filled, and of those that were not.
function afterFill() {
  if (follows()) return ' Look through them: K says that a slice is right, and only then it is an example.';
  const numbers = of(viewer.slices, chosenClass, axisNow()).drawn.map(number => viewer.sliceOf(viewer.plane, number) + 1).sort((one, other) => one - other);
  return ` Nothing is filled before slice ${numbers[0]} and after slice ${numbers.at(-1)}: draw there if the class goes on.`;
}

// Whether the computer outlined the open scan: then slices follow those that are corrected, in the place of being filled between drawn ones.
const follows = () => Boolean(open && scanNamed(open)?.found);

function shape(tool) {
  return act(async () => {
    if (!open) return;
    await settled();
    const axis = axisNow(), slice = viewer.slice, value = chosenClass;
    const { said, voxels, values } = await server.propose(open, { drawn, tool, value, axis, slice, slices: of(viewer.slices, value, axis).drawn });
    if (locked.has(value)) throw new Error('This class is locked; unlock it first.');
    const slices = tool === 'copy' ? withDrawn(viewer.slices, value, axis, [slice]) : withFilled(viewer.slices, value, axis, said.filled);
    if (voxels.length || said.filled.length) viewer.apply(voxels, values, slices);
    say(`${SHAPES[tool]}: ${voxels.length} voxels changed${said.filled.length ? ` in ${said.filled.length} slices` : ''}.${tool === 'fill' ? afterFill() : ''}`);
  });
}

// ---- scribbles ----

let growing = Promise.resolve();      // one scribble after the other

function scribbled(voxels, isInside) {
  const name = open, value = chosenClass;
  growing = growing.then(() => growFrom(name, value, isInside ? { value, inside: voxels, outside: [] } : { value, inside: [], outside: voxels }));
}

const growFrom = act(async (name, value, mark) => {
  if (locked.has(value)) throw new Error('This class is locked; unlock it first.');
  await settled();
  if (open !== name) return;
  const axis = axisNow(), earlier = viewer.scribbles(value);
  const [inside, outside] = ['inside', 'outside'].map(side => [...earlier[side], ...mark[side]]);
  if (!inside.length) {
    viewer.apply([], [], viewer.slices, mark);
    say('Now scribble inside of the class.');
    return;
  }
  const { said, voxels, values } = await server.scribble(name, { drawn, value, axis }, { inside, outside, before: earlier.before });
  if (open !== name) return;
  viewer.apply(voxels, values, withFilled(earlier.slices, value, axis, said.filled), mark);
  say(`Grown: ${voxels.length} voxels changed. Scribble ${outside.length ? 'inside or outside' : 'outside (Z)'} where it is wrong. Slices that you drew stay.`);
});

function showRange() {
  const { global_min: least, global_max: most, cal_min: low, cal_max: high } = viewer.volume;
  for (const [id, value] of [['low', low], ['high', high]]) {
    Object.assign(at(id), { min: least, max: most, step: (most - least) / 200 || 1 });
    at(id).value = value;
  }
}

function showWindow(volume) {
  at('low').value = volume.cal_min;
  at('high').value = volume.cal_max;
}

// ---- classes ----

function showClasses() {
  viewer.setColours(state.classes, hidden);
  at('add-class').disabled = !state.next_class;
  if (at('classes').contains(document.activeElement) && document.activeElement.type !== 'radio') return;
  at('classes').replaceChildren(...state.classes.map(({ value, name, colour }) => {
    const choice = made('input', { type: 'radio', name: 'class', checked: value === chosenClass, ariaLabel: `draw ${name}`,
                                   onchange: () => chooseClass(value) });
    const paint = made('input', { type: 'color', value: colour, ariaLabel: `colour of ${name}`, onchange: () => change(value, { colour: paint.value }) });
    const text = made('input', { type: 'text', value: name, maxLength: state.max_name, ariaLabel: `name of class ${value}`,
                                 onchange: () => change(value, { name: text.value }),
                                 onkeydown: event => {
                                   if (event.key === 'Escape') text.value = name;
                                   if (['Enter', 'Escape'].includes(event.key)) text.blur();
                                 } });
    const ml = made('span', { className: 'ml', textContent: mlOf(value) });
    ml.dataset.value = value;
    const toggle = (set, sign, words) => made('button', { type: 'button', className: 'small', textContent: sign, ariaLabel: `${words} ${name}`,
                                                          ariaPressed: String(set.has(value)), onclick: () => toggleClass(set, value) });
    return made('li', { className: value === chosenClass ? 'chosen' : '' }, choice, paint, text, ...(value < 10 ? [made('kbd', { textContent: value })] : []),
                made('div', { className: 'of-class' }, ml, toggle(hidden, 'hide', 'hide'), toggle(locked, 'lock', 'lock'),
                     made('button', { type: 'button', className: 'small', textContent: 'delete', ariaLabel: `delete ${name}`, disabled: state.classes.length < 2,
                                      onclick: () => removeClass(value) })));
  }));
}

function toggleClass(set, value) {
  if (!set.delete(value)) set.add(value);
  showClasses();
}

const removeClass = act(async value => {
  document.activeElement.blur();
  await settled();
  await server.putClasses(state.classes.filter(one => one.value !== value));
  if (chosenClass === value) chosenClass = state.classes.find(one => one.value !== value).value;
  shownState = '';
});

const change = act(async (value, what) => {
  document.activeElement.blur();
  shownState = '';      // also a name that is refused goes from the page
  await server.putClasses(state.classes.map(one => (one.value === value ? { ...one, ...what } : one)));
});

const addClass = act(async () => {
  const added = state.next_class;
  await server.putClasses([...state.classes, added]);
  await refresh();
  chooseClass(added.value);
  const text = [...at('classes').querySelectorAll('input[type="text"]')].at(-1);
  text.focus();
  text.select();
});

function chooseClass(value) {
  if (!state.classes.some(one => one.value === value)) return;
  chosenClass = value;
  useTool();
  showClasses();
  showBar();
}

function useTool(tool) {
  if (tool) document.querySelector(`[name="tool"][value="${tool}"]`).checked = true;
  const chosen = document.querySelector('[name="tool"]:checked').value;
  viewer.useTool(chosen, chosenClass);
  viewer.width = widths[chosen] ?? 1;
  at('width').value = widths[chosen] ?? 1;
  at('width').disabled = !(chosen in widths) || chosen === 'polygon';
}

function setWidth(step = 0) {
  const chosen = document.querySelector('[name="tool"]:checked').value, { options } = at('width');
  if (!(chosen in widths)) return;
  if (step) at('width').selectedIndex = Math.min(Math.max(at('width').selectedIndex + step, 0), options.length - 1);
  widths[chosen] = Number(at('width').value);
  viewer.width = widths[chosen];
}

// ---- what the person does ----

const done = act(async () => {
  await settled();
  await refresh();
  const before = scanNamed(open).state;
  if (!DONE[before]) return;
  await server.setDone(open, DONE[before] !== 'Open again');
  await refresh();
  if (!['found', 'correcting'].includes(before)) return;
  const next = state.scans.find(scan => scan.state === 'found');
  if (next) await openScan(next.name, true);
  else say('All are looked through. Press X to export.');
});

// Enter goes on, and takes nothing back.
function goOn() {
  if (viewer.penIsDown) viewer.penUp();
  else if (open && DONE[scanNamed(open).state] !== 'Open again') done();
  else if (open && !state.scans.some(scan => scan.state === 'found')) say('All are looked through. Press X to export.');
}

let madeDone = null;     // the scan that became an example when a run was asked for

const run = act(async () => {
  await settled();
  await refresh();
  madeDone = open && OPEN.includes(scanNamed(open).state) ? open : null;
  if (madeDone) await server.setDone(madeDone, true);
  const unfinished = await server.getUnfinished();
  if (!unfinished.length) return server.run(at('careful').checked);
  at('unfinished').replaceChildren(...unfinished.map(line => made('li', { textContent: line })));
  at('run-dialog').returnValue = '';
  return at('run-dialog').showModal();
});

const runAnyway = act(async () => {
  if (at('run-dialog').returnValue === 'run') await server.run(at('careful').checked);
  else if (madeDone) await server.setDone(madeDone, false);
});

const stop = act(() => server.stop());

const writeExport = act(async () => {
  await settled();
  at('export').disabled = true;
  at('exported').textContent = 'Exporting …';
  try {
    const formats = Array.from(document.querySelectorAll('#formats input:checked'), one => one.value);
    const { folder, files, problems } = await server.writeExport(formats);
    at('exported').textContent = `${files.length} ${files.length === 1 ? 'file' : 'files'} in ${short(folder)}: ${files.join(', ')}`;
    if (problems.length) say(problems.join('; '), true);
  } catch (error) {
    at('exported').textContent = '';
    throw error;
  } finally {
    at('export').disabled = false;
  }
});

const makeReport = act(async () => {
  await settled();
  at('report').disabled = true;
  at('reported').textContent = 'Writing the report …';
  try {
    const { file, path } = await server.makeReport();
    at('reported').replaceChildren(made('a', { href: path, target: '_blank', rel: 'opener', textContent: 'Open the report' }), ` ${short(file)}`);
  } catch (error) {
    at('reported').textContent = '';
    throw error;
  } finally {
    at('report').disabled = false;
  }
});

const flag = act(async () => {
  if (open) await server.setFlag(open, !scanNamed(open).flagged);
});

// What is shown, with its outlines, as a file of the browser's.
async function savePicture() {
  if (!viewer.volume) return;
  await viewer.niivue.drawScene();      // what is drawn is gone once the browser has shown it, which it does after this
  at('canvas').toBlob(blob => {
    const link = made('a', { href: URL.createObjectURL(blob), download: `${open}, slice ${viewer.slice + 1}.png` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
}

const leaveOut = act(async () => {
  await settled();
  await server.setLeftOut(open, scanNamed(open).state !== 'left out');
});

const chooseFile = act(async () => {
  const isOwn = file => file.split('.')[0] === open, isAbout = file => file.includes(open);
  const files = (await server.getFiles()).filter(file => !isOwn(file)).sort((one, other) => isAbout(other) - isAbout(one));
  if (!files.length) throw new Error('There is no file of outlines in the folder or below it.');
  at('load-file').replaceChildren(...files.map(file => made('option', { textContent: file })));
  at('load-dialog').returnValue = '';
  at('load-dialog').showModal();
});

const loadChosen = act(async () => {
  if (at('load-dialog').returnValue !== 'load') return;
  await server.loadOutlines(open, at('load-file').value);
});

function undo() {
  if (!viewer.undo()) say('Nothing to undo.');
}

function redo() {
  if (!viewer.redo()) say('Nothing to redo.');
}

function step(by) {
  const names = sortScans().filter(scan => scan.state !== 'unreadable').map(scan => scan.name), from = names.indexOf(wanted ?? open);
  const next = names[Math.min(Math.max(from + by, 0), names.length - 1)];
  if (next && next !== open) openScan(next, true);
}

function nextView() {
  at('view').selectedIndex = (at('view').selectedIndex + 1) % at('view').options.length;
  at('view').onchange();
}

function showOutlines() {
  viewer.setOpacity(at('shown').checked ? at('opacity').value / 100 : 0, at('lines').checked);
}

function showPresets() {
  const isCT = viewer.volume.global_min < -200;      // Hounsfield units
  at('preset').replaceChildren(made('option', { value: '', textContent: 'as at first' }), ...(isCT ? Object.keys(CT) : []).map(name => made('option', { value: name, textContent: name })));
  at('preset').parentElement.hidden = !isCT;
}

function usePreset() {
  const preset = CT[at('preset').value];
  if (preset) viewer.setWindow(preset[0] - preset[1] / 2, preset[0] + preset[1] / 2);
  else viewer.resetView();
}

function toggleOutlines() {
  at('shown').checked = !at('shown').checked;
  showOutlines();
}

const press = id => () => at(id).click();
const BY_KEY = byKey({ 'next scan': () => step(1), 'scan before': () => step(-1), 'undo': undo, 'redo': redo, 'fill': shape('fill'), 'copy': shape('copy'), 'grow': shape('grow'),
                       'next slice worth drawing': nextSlice, 'slice is right': () => lookedAt(), 'thinner': () => setWidth(-1), 'wider': () => setWidth(1),
                       'zoom in': () => viewer.zoomAtCross(1.25), 'zoom out': () => viewer.zoomAtCross(0.8), 'reset': () => viewer.resetView(), 'cross': press('cross'),
                       'lines': press('lines'), 'run': press('run'), 'stop': press('stop'), 'export': press('export'), 'flag': press('flag'), 'view': nextView,
                       'outlines': toggleOutlines, 'keys': () => at('keys').showModal() });
const REPEATED = byKey({ 'next scan': true, 'scan before': true, 'zoom in': true, 'zoom out': true });     // while the key is held down

function sayIfNothingDraws() {
  if (viewer.isSurface) say('In 3D nothing is drawn. Choose another view: V.');
  else if (viewer.tool === 'look') say('Look draws nothing. Choose a tool first: P pen, F filled pen, G polygon.');
}

function key(event) {
  const { target } = event, word = event.key.toLowerCase();
  if (document.querySelector('dialog[open]') || ['TEXTAREA', 'SELECT'].includes(target.tagName)
      || (target.tagName === 'INPUT' && !['radio', 'checkbox'].includes(target.type))) return;
  const command = event.ctrlKey || event.metaKey;
  if (command && (word === 'y' || word === 'z' && event.shiftKey)) redo();
  else if (command && word === 'z') undo();
  else if (command || event.altKey || event.repeat && !(word in REPEATED)) return;
  else if (word === 'k' && event.shiftKey) lookedAt(true);
  else if (word === ' ' && target === at('canvas')) sayIfNothingDraws();
  else if (word in BY_KEY) BY_KEY[word]();
  else if (word in TOOL_BY_KEY) useTool(TOOL_BY_KEY[word]);
  else if (/^[1-9]$/.test(word)) chooseClass(Number(word));
  else if (event.key === 'Enter' && target === at('canvas')) goOn();
  else return;
  event.preventDefault();
}

// ---- start ----

async function start() {
  document.addEventListener('keydown', key, { capture: true });
  window.addEventListener('beforeunload', event => { if (saving || waiting.length) event.preventDefault(); });
  at('tools').onchange = () => useTool();
  at('width').onchange = () => setWidth();
  at('view').onchange = () => { viewer.view = Number(at('view').value); showBar(); };
  at('opacity').oninput = at('shown').onchange = at('lines').onchange = showOutlines;
  at('cross').onchange = () => { viewer.cross = at('cross').checked; };
  at('similar').onchange = at('by').oninput = () => { viewer.similar = at('similar').checked ? at('by').value / 100 : null; };
  at('filter').oninput = () => { showScans(); };
  at('preset').onchange = usePreset;
  at('bar').onpointerdown = event => { at('bar').setPointerCapture(event.pointerId); barTo(event); };
  at('bar').onpointermove = event => { if (event.buttons) barTo(event); };
  at('bar').onkeydown = barKey;
  new ResizeObserver(showBar).observe(at('bar'));
  matchMedia('(prefers-color-scheme: dark)').onchange = showBar;
  at('low').oninput = at('high').oninput = () => viewer.setWindow(Number(at('low').value), Number(at('high').value));
  const buttons = { run, stop, undo, redo, fill: shape('fill'), next: nextSlice, grow: shape('grow'), looked: () => lookedAt(), 'all-looked': () => lookedAt(true), copy: shape('copy'),
                    largest: shape('largest'), holes: shape('holes'), smooth: shape('smooth'), reset: () => viewer.resetView(), picture: savePicture, report: makeReport, flag, done, load: chooseFile, 'export': writeExport, 'leave-out': leaveOut, 'add-class': addClass,
                    'keys-button': () => at('keys').showModal() };
  for (const [id, action] of Object.entries(buttons)) at(id).onclick = action;
  at('load-dialog').onclose = loadChosen;
  at('run-dialog').onclose = runAnyway;
  await viewer.start();
  showOutlines();
  await refresh();
  const usable = (state?.scans ?? []).filter(scan => scan.state !== 'unreadable'), meant = usable.find(scan => scan.name === asked.scan);
  const first = meant ?? usable[0];
  if (first) await openScan(first.name, true);
  if (asked.scan && !meant) say(`There is no scan ${asked.scan} here that can be opened.`, true);
  asked = null;
  poll();
}

start().catch(error => say(`The viewer could not start: ${error.message}`, true));
globalThis.labelPage = { viewer, refresh };      // for a look from the browser's console, and for the tests
