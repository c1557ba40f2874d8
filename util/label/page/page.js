// The page: what the server says is shown, what the person does is told to the server.

import * as server from './requests.js';
import { Viewer } from './viewer.js';

const POLL_MS = 1000, RETRY_MS = 2000;
const WORDS = { 'empty': ['○', 'no outlines yet'], 'drawing': ['✎', 'being drawn'], 'outlined': ['★', 'outlined by you: an example'],
                'found': ['◐', 'to look through'], 'correcting': ['✎', 'being corrected'], 'corrected': ['★', 'corrected: an example'],
                'accepted': ['✓', 'accepted'], 'left out': ['–', 'left out'], 'unreadable': ['!', ''] };
const DONE = { 'drawing': 'Done: use as an example', 'found': 'Accept', 'correcting': 'Done: use as an example',
               'outlined': 'Open again', 'corrected': 'Open again', 'accepted': 'Open again' };
const OPEN = ['drawing', 'correcting'];
const LETTERS = { l: 'look', p: 'pen', f: 'filled', e: 'eraser', r: 'filled eraser' };

const at = id => document.getElementById(id);
const made = (tag, properties = {}, ...inside) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...inside);
  return element;
};

let state = null, shownState = '', away = false;      // what the server said last, and whether it answers
let open = null;                        // name of the open scan
let shownFound = null, drawn = 0;       // of the open scan: the label map by the computer, and how often the drawing was saved
let unsaved = false, saving = null, opening = null;
let chosenClass = 1;
const viewer = new Viewer(at('canvas'), { onStroke: save, onMove: showPlace, onWindow: showWindow });

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
    const button = made('button', { type: 'button', onclick: () => openScan(name) }, part('sign', { ariaHidden: 'true' }),
      part('name', { textContent: name }), part('number', { title: 'lowest confidence of its classes' }), part('what'));
    button.dataset.scan = name;
    rows.set(name, made('li', {}, button));
  }
  return rows.get(name);
}

/** What a scan that the computer outlined says of classes of which nothing, or nearly nothing, was found. */
function emptyText(word, numbers) {
  const names = Object.fromEntries(state.classes.map(one => [one.value, one.name]));
  const empty = ['found', 'accepted'].includes(word) ? numbers.filter(row => row.slices === 0 || row.confidence === 0) : [];
  return empty.length ? ` · empty: ${empty.map(row => names[row.label] ?? row.label_name).join(', ')}` : '';
}

function showScans() {
  at('where').textContent = `${short(state.folder)} · everything is kept in ${short(state.session)}`;
  at('where').title = at('where').textContent;
  const items = state.scans.map(({ name, state: word, confidence, problem, rows: numbers }) => {
    const row = rowOf(name), button = row.firstChild, [sign, words] = WORDS[word];
    const texts = { sign, number: word === 'found' && confidence !== null ? confidence.toFixed(2) : '', what: problem ?? words + emptyText(word, numbers) };
    for (const [className, text] of Object.entries(texts)) button.querySelector(`.${className}`).textContent = text;
    button.disabled = word === 'unreadable';
    button.ariaCurrent = String(name === open);
    return row;
  });
  if (items.every((item, k) => at('scans').children[k] === item)) return;
  const focused = document.activeElement;
  at('scans').replaceChildren(...items);
  if (focused?.dataset?.scan) focused.focus();
}

function showRun() {
  const { run, scans } = state, busy = run.state !== 'idle';
  const some = scans.some(scan => ['found', 'accepted', 'corrected', 'correcting'].includes(scan.state));
  at('run').firstChild.data = some ? 'Again: those not accepted ' : 'Outline the others ';
  at('run').disabled = at('careful').disabled = busy;
  at('stop').hidden = at('progress').hidden = !busy;
  Object.assign(at('progress'), { max: Math.max(run.total, 1), value: run.done });
  at('run-text').textContent = !busy ? run.message ?? '' : run.state === 'starting' ? 'Starting …' : run.state === 'stopping' ? 'Stopping …'
    : `${run.done} of ${run.total}${run.current ? `, now ${run.current}` : ''}`;
  at('failures').replaceChildren(...run.failures.map(line => made('li', { textContent: line })));
}

function showOpen() {
  const scan = open && scanNamed(open), words = scan && DONE[scan.state];
  at('done').disabled = !words;
  at('done').classList.toggle('strong', words !== 'Open again');
  at('done').firstChild.data = `${words ?? 'Done'} `;
  at('load').disabled = !scan || !['empty', 'found'].includes(scan.state);
  at('leave-out').disabled = !scan;
  at('leave-out').textContent = scan?.state === 'left out' ? 'Take back' : 'Leave out';
  at('canvas').ariaLabel = scan ? `Slices of ${open}. Arrow keys move, page keys change the slice, space puts the pen down and up.` : 'No scan';
  const rows = scan && ['found', 'accepted'].includes(scan.state) ? scan.rows : [];
  const names = Object.fromEntries(state.classes.map(one => [one.value, one.name]));
  const cell = (tag, text) => made(tag, { textContent: text });
  at('numbers').replaceChildren(...(rows.length ? [made('thead', {}, made('tr', {}, ...['class', 'ml', 'slices', 'conf.'].map(text => cell('th', text)))),
    made('tbody', {}, ...rows.map(row => made('tr', {}, cell('th', names[row.label] ?? row.label_name), cell('td', row.volume_ml == null ? '–' : String(Number(row.volume_ml.toPrecision(4)))),
      cell('td', row.slices ?? '–'), cell('td', row.confidence?.toFixed(2) ?? '–'))))] : [made('caption', { textContent: scan?.problem ?? (scan ? WORDS[scan.state][1] : '') })]));
}

// ---- the open scan ----

async function openScan(name, focus = false) {
  await opening;
  opening = load(name);
  await opening;
  opening = null;
  await refresh();
  if (focus) at('canvas').focus();
}

async function load(name) {
  say('');
  try {
    do {
      await settled();
      const before = (await server.getState()).scans.find(scan => scan.name === name);
      const [image, outlines] = await Promise.all([server.getImage(name), server.getOutlines(name)]);
      if (await viewer.show(image, outlines, isQuiet, () => { open = name; ({ found: shownFound, drawn } = before); })) break;
    } while (true);
    showRange();
    setSaved('');
  } catch (error) {
    say(error.message, true);
  }
}

// A run found something new for the open scan, or another window drew on it.
async function showNewFound() {
  const scan = open && scanNamed(open);
  if (!scan || opening || !isQuiet() || (scan.found === shownFound && scan.drawn <= drawn)) return;
  const outlines = await server.getOutlines(scan.name);
  await viewer.show(null, outlines, () => isQuiet() && !opening && open === scan.name,
                    () => { shownFound = scan.found; drawn = Math.max(drawn, scan.drawn); });
}

function setSaved(words, bad = false) {
  at('saved').textContent = words;
  at('saved').classList.toggle('bad', bad);
}

// Save the drawing; strokes made meanwhile are saved after it. It tries again until the server answers.
function save() {
  unsaved = true;
  setSaved('saving …');
  saving ??= saveAll().finally(() => { saving = null; });
}

async function saveAll() {
  while (unsaved) {
    unsaved = false;
    try {
      const name = open, content = viewer.file();       // both of this very moment
      drawn = await server.putOutlines(name, await content, drawn);
      setSaved('saved');
    } catch (error) {
      if (error.status === 409) {
        say(error.message, true);
        setSaved('not saved', true);
        return;
      }
      unsaved = true;
      setSaved('not saved', true);
      say(error.message, true);
      await new Promise(resolve => setTimeout(resolve, RETRY_MS));
    }
  }
  refresh();
}

const isQuiet = () => !saving && !unsaved && !viewer.isDrawing;

async function settled() {
  viewer.endStroke();
  await saving;
}

function showPlace(place) {
  if (place) at('position').dataset.place = `${place.vox.map(Math.round).join(', ')}: ${place.values[0]?.value?.toFixed?.(0) ?? ''}`;
  at('position').textContent = `voxel ${at('position').dataset.place ?? ''}${viewer.penIsDown ? ' · pen down' : ''}`;
}

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
  viewer.setColours(state.classes);
  at('add-class').disabled = !state.next_class;
  if (at('classes').contains(document.activeElement) && document.activeElement.type !== 'radio') return;
  at('classes').replaceChildren(...state.classes.map(({ value, name, colour }) => {
    const choice = made('input', { type: 'radio', name: 'class', checked: value === chosenClass, ariaLabel: `draw ${name}`,
                                   onchange: () => chooseClass(value) });
    const paint = made('input', { type: 'color', value: colour, ariaLabel: `colour of ${name}`, onchange: () => change(value, { colour: paint.value }) });
    const text = made('input', { type: 'text', value: name, maxLength: state.max_name, ariaLabel: `name of class ${value}`,
                                 onchange: () => change(value, { name: text.value }),
                                 onkeydown: event => { if (event.key === 'Enter') text.blur(); } });
    return made('li', { className: value === chosenClass ? 'chosen' : '' }, choice, paint, text, ...(value < 10 ? [made('kbd', { textContent: value })] : []));
  }));
}

const change = act(async (value, what) => {
  document.activeElement.blur();
  await server.putClasses(state.classes.map(one => (one.value === value ? { ...one, ...what } : one)));
  shownState = '';
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
}

function useTool(tool) {
  if (tool) document.querySelector(`[name="tool"][value="${tool}"]`).checked = true;
  viewer.useTool(document.querySelector('[name="tool"]:checked').value, chosenClass);
}

// ---- what the person does ----

const done = act(async () => {
  await settled();
  await refresh();
  const before = scanNamed(open).state;
  if (!DONE[before]) return;
  await server.setDone(open, DONE[before] !== 'Open again');
  await refresh();
  const next = state.scans.find(scan => scan.state === 'found');
  if (['found', 'correcting'].includes(before) && next) await openScan(next.name, true);
});

const run = act(async () => {
  await settled();
  await refresh();
  if (open && OPEN.includes(scanNamed(open).state)) await server.setDone(open, true);
  await server.run(at('careful').checked);
});

const stop = act(() => server.stop());

const writeExport = act(async () => {
  await settled();
  const { folder, files } = await server.writeExport();
  at('exported').textContent = `${files.length} files in ${short(folder)}: ${files.join(', ')}`;
});

const leaveOut = act(async () => {
  await settled();
  await server.setLeftOut(open, scanNamed(open).state !== 'left out');
});

const chooseFile = act(async () => {
  const files = await server.getFiles();
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

function step(by) {
  const names = state.scans.filter(scan => scan.state !== 'unreadable').map(scan => scan.name);
  const next = names[Math.min(Math.max(names.indexOf(open) + by, 0), names.length - 1)];
  if (next && next !== open) openScan(next, true);
}

function nextView() {
  at('view').selectedIndex = (at('view').selectedIndex + 1) % at('view').options.length;
  at('view').onchange();
}

function showOutlines() {
  viewer.opacity = at('shown').checked ? at('opacity').value / 100 : 0;
}

function toggleOutlines() {
  at('shown').checked = !at('shown').checked;
  showOutlines();
}

const BY_KEY = { n: () => step(1), b: () => step(-1), u: undo, o: () => at('run').click(), s: () => at('stop').click(), x: () => at('export').click(),
                 v: nextView, h: toggleOutlines, '?': () => at('keys').showModal() };

function key(event) {
  const { target } = event, word = event.key.toLowerCase();
  if (document.querySelector('dialog[open]') || ['TEXTAREA', 'SELECT'].includes(target.tagName)
      || (target.tagName === 'INPUT' && !['radio', 'checkbox'].includes(target.type))) return;
  if ((event.ctrlKey || event.metaKey) && word === 'z') undo();
  else if (event.ctrlKey || event.metaKey || event.altKey || event.repeat && word !== 'n' && word !== 'b') return;
  else if (word in BY_KEY) BY_KEY[word]();
  else if (word in LETTERS) useTool(LETTERS[word]);
  else if (/^[1-9]$/.test(word)) chooseClass(Number(word));
  else if (event.key === 'Enter' && target === at('canvas')) done();
  else return;
  event.preventDefault();
}

// ---- start ----

async function start() {
  document.addEventListener('keydown', key, { capture: true });
  window.addEventListener('beforeunload', event => { if (saving || unsaved) event.preventDefault(); });
  at('tools').onchange = () => useTool();
  at('width').onchange = () => { viewer.width = Number(at('width').value); };
  at('view').onchange = () => { viewer.view = Number(at('view').value); };
  at('opacity').oninput = at('shown').onchange = showOutlines;
  at('low').oninput = at('high').oninput = () => viewer.setWindow(Number(at('low').value), Number(at('high').value));
  const buttons = { run, stop, undo, done, load: chooseFile, 'export': writeExport, 'leave-out': leaveOut, 'add-class': addClass,
                    'keys-button': () => at('keys').showModal() };
  for (const [id, action] of Object.entries(buttons)) at(id).onclick = action;
  at('load-dialog').onclose = loadChosen;
  await viewer.start();
  showOutlines();
  await refresh();
  const first = state?.scans.find(scan => scan.state !== 'unreadable');
  if (first) await openScan(first.name, true);
  poll();
}

start().catch(error => say(`The viewer could not start: ${error.message}`, true));
globalThis.labelPage = { viewer };      // for a look from the browser's console, and for the tests
