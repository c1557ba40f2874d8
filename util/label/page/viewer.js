// NiiVue with what the page needs: one scan, its outlines as NiiVue's drawing, tools by mouse and by keys, and a call for each stroke.

import { withDrawn } from './slices.js';

const { Niivue, NVImage } = globalThis.niivue;
const UNDO_STEPS = 100, MOST_ZOOM = 16, CROSS = 0.2, FAINT = 0.1, SMOOTH = 1;
const GRADIENT = [WebGL2RenderingContext.TEXTURE6, WebGL2RenderingContext.TEXTURE8];      // units that NiiVue makes the gradient of a scan in
const NORMAL = [2, 1, 0];       // of each plane, the axis across it: right, anterior, superior
const [AXIAL, CORONAL, SAGITTAL, ALL, SURFACE] = [0, 1, 2, 3, 4];
const MOVES = globalThis.byKey({ 'left': ['across', -1], 'right': ['across', 1], 'up': ['along', 1], 'down': ['along', -1], 'next slice': ['through', 1], 'slice before': ['through', -1] });
// NiiVue's own layouts give all planes the same room, and none to the letters at their edges
const ALONE = [0.015, 0.02, 0.97, 0.96];      // left, top, width, height
const LAYOUT = [{ sliceType: AXIAL, position: [0.015, 0.02, 0.605, 0.96] }, { sliceType: CORONAL, position: [0.65, 0.02, 0.335, 0.455] },
                { sliceType: SAGITTAL, position: [0.65, 0.525, 0.335, 0.455] }];
// the axis, left-right, back-front or foot-head, that a key moves along in each plane
const AXES = { [AXIAL]: { across: 0, along: 1, through: 2 }, [CORONAL]: { across: 0, along: 2, through: 1 },
               [SAGITTAL]: { across: 1, along: 2, through: 0 } };

export class Viewer {
  // `onStroke` is called with each finished change, also by undo and redo, `onScribble` with the voxels of a scribble, `onMove` with the
  // place of the cross, `onWindow` when darkest and brightest change.
  constructor(canvas, { onStroke, onScribble, onMove, onWindow }) {
    Object.assign(this, { canvas, onStroke, onScribble, onMove, onWindow, traces: { inside: 254, outside: 255 }, tool: 'look', value: 1, penIsDown: false, kept: null, slices: null,
                          locked: new Set(), similar: null, begun: null, share: 0.5, isLines: false, history: { undo: [], redo: [] } });
    this.niivue = new Niivue({
      logLevel: 'error', loadingText: '', dragAndDropEnabled: false, isRadiologicalConvention: true, multiplanarShowRender: 0,
      viewModeHotKey: '', clipPlaneHotKey: '', cycleClipPlaneHotKey: '', crosshairWidth: CROSS, crosshairWidthUnit: 'percent',
      crosshairColor: [0.35, 0.7, 1, 0.8], fontColor: [0.75, 0.75, 0.75, 1], isForceMouseClickToVoxelCenters: true,
      showAllOrientationMarkers: true, sliceType: ALL, tileMargin: 4 });
    this.niivue.drawAddUndoBitmap = () => {};       // undo is here: by scan, with redo
    this.leaveOutGradient();
    this.drawOnce();
  }

  // NiiVue makes the gradient of each scan, for a surface of the scan in 3D, which is not shown here. It is twice as large as the scan and takes
  // most of the time. So it is made of a column of voxels alone.
  leaveOutGradient() {
    const make = this.niivue.rgbaTex;
    this.niivue.rgbaTex = (texture, unit, dims, ...rest) => make.call(this.niivue, texture, unit, GRADIENT.includes(unit) ? [3, 1, 1, dims[3]] : dims, ...rest);
  }

  // NiiVue draws its scene at once whenever anything changes: twice for each move of a stroke, and some ten times while a scan opens. Without
  // a GPU each takes a while. So it is drawn once here, when all is changed that an event changes.
  drawOnce() {
    const { niivue } = this, { drawScene } = niivue;
    let isAsked = false;
    niivue.drawScene = () => {
      if (!isAsked) queueMicrotask(() => { isAsked = false; drawScene.call(niivue); });
      isAsked = true;
    };
  }

  async start() {
    const listen = (name, does) => this.canvas.addEventListener(name, does, { capture: true });
    // before NiiVue's own listeners: it forgets a stroke that leaves the canvas, and here it ends there
    listen('mouseleave', event => { if (event.buttons) this.niivue.mouseUpListener(); });
    listen('mousedown', event => this.mouseDown(event));
    listen('mouseup', event => { if (event.button === 0 && this.tool === 'polygon') setTimeout(() => this.corner(event)); });
    listen('dblclick', event => { event.stopImmediatePropagation(); if (this.tool === 'polygon') setTimeout(() => this.penUp()); });
    listen('wheel', event => this.wheel(event));
    await this.niivue.attachToCanvas(this.canvas);
    this.view = ALL;
    this.niivue.onDrawingChanged = action => { if (action === 'draw') this.finishStroke(); };
    this.niivue.onMouseUp = () => this.finishStroke();
    this.niivue.onLocationChange = place => this.onMove(place);
    this.niivue.onIntensityChange = volume => this.onWindow(volume);
    listen('keydown', event => { if (this.key(event)) event.preventDefault(); event.stopImmediatePropagation(); });
    listen('keyup', event => event.stopImmediatePropagation());
  }

  // Show a scan with its outlines, or, without an image, other outlines of the scan that is shown. Both are NIfTI files; without
  // outlines the drawing is empty. `isQuiet` is asked when they are loaded: if it says no, a stroke is not saved yet, and nothing is
  // shown. Return whether it is. `slices` are those that a person made, `history` what can be undone. `onShown` is called before
  // anything else can happen.
  async show(image, outlines, { slices, history }, isQuiet, onShown) {
    const volume = image && await NVImage.loadFromUrl({ url: image, name: 'scan.nii' });
    const drawing = outlines && await NVImage.loadFromUrl({ url: outlines, name: 'outlines.nii' });
    if (!isQuiet()) return false;
    const place = volume ? [0.5, 0.5, 0.5] : [...this.niivue.scene.crosshairPos];
    if (volume) {
      while (this.niivue.volumes.length) this.niivue.removeVolumeByIndex(0);
      this.niivue.closeDrawing();
      volume.opacity = this.scanOpacity;
      this.niivue.addVolume(volume);
      this.niivue.scene.pan2Dxyzmm = [0, 0, 0, 1];
      this.window = [volume.cal_min, volume.cal_max];
    }
    if (!(drawing && this.niivue.loadDrawing(drawing))) this.niivue.createEmptyDrawing();
    this.niivue.scene.crosshairPos = place;
    Object.assign(this, { penIsDown: false, kept: this.drawing.slice(), history: history ?? { undo: [], redo: [] } });
    this.count();
    this.slices = slices ?? this.allSlices();
    this.showSurface();
    this.niivue.createOnLocationChange();
    onShown();
    return true;
  }

  get isDrawing() { return this.penIsDown || (this.niivue.uiData.mousedown && !['look', 'polygon'].includes(this.tool)); }

  endStroke() {
    if (this.penIsDown) this.penUp();
    else if (this.isDrawing) this.niivue.mouseUpListener();
  }

  get volume() { return this.niivue.volumes[0]; }

  get drawing() { return this.niivue.drawBitmap; }

  get dims() { return this.volume.dimsRAS.slice(1, 4); }

  // The viewer's voxels are in the order right, anterior, superior; those of the file in its own. `axis` is that of a label map
  // (slices, rows, columns) of the file, and slices are numbered as there.
  axis(plane) {
    const step = Math.abs(this.volume.img2RASstep[NORMAL[plane]]), [, columns, rows] = this.volume.hdr.dims;
    return step >= columns * rows ? 0 : step >= columns ? 1 : 2;
  }

  sliceOf(plane, number) {       // from the viewer's number to the file's, and back
    const axis = NORMAL[plane];
    return this.volume.img2RASstep[axis] > 0 ? number : this.dims[axis] - 1 - number;
  }

  inFile(voxels) {
    const [columns, rows] = this.dims, { img2RASstep: step, img2RASstart: start } = this.volume, first = start[0] + start[1] + start[2];
    return voxels.map(voxel => {
      const x = voxel % columns, rest = (voxel - x) / columns, y = rest % rows;
      return first + x * step[0] + y * step[1] + (rest - y) / rows * step[2];
    });
  }

  fromFile(voxels) {
    const { dims, volume: { img2RASstep: step } } = this, strides = [1, dims[0], dims[0] * dims[1]];
    const order = [0, 1, 2].sort((one, other) => Math.abs(step[other]) - Math.abs(step[one]));
    return voxels.map(voxel => order.reduce(({ left, at }, axis) => {
      const size = Math.abs(step[axis]), k = Math.floor(left / size);
      return { left: left - k * size, at: at + strides[axis] * (step[axis] > 0 ? k : dims[axis] - 1 - k) };
    }, { left: voxel, at: 0 }).at);
  }

  // ---- what the slices hold ----

  count() {
    const { dims, drawing } = this;
    this.counts = dims.map(n => new Uint32Array(n * 256));
    for (let k = 0; k < drawing.length; k += 1) if (drawing[k]) this.countVoxel(k, drawing[k], 1);
  }

  countVoxel(voxel, value, by) {
    if (!value) return;
    const [columns, rows] = this.dims, x = voxel % columns, rest = (voxel - x) / columns, y = rest % rows;
    this.counts[0][x * 256 + value] += by;
    this.counts[1][y * 256 + value] += by;
    this.counts[2][(rest - y) / rows * 256 + value] += by;
  }

  // Which slices of a plane, as the file numbers them, hold a class.
  held(plane, value) {
    const axis = NORMAL[plane], held = Array.from({ length: this.dims[axis] }, (_, k) => this.counts[axis][k * 256 + value] > 0);
    return this.sliceOf(plane, 0) ? held.reverse() : held;
  }

  millilitres(value) {
    let n = 0;
    for (let k = value; k < this.counts[2].length; k += 256) n += this.counts[2][k];
    return n * this.volume.pixDimsRAS.slice(1, 4).reduce((product, mm) => product * mm, 1) / 1000;
  }

  // Outlines of which no slices are told were made as a whole: all slices that hold a class are drawn.
  allSlices() {
    let slices = {};
    for (let value = 1; value < 256; value += 1) {
      const numbers = this.held(AXIAL, value).flatMap((holds, k) => (holds ? [k] : []));
      if (numbers.length) slices = withDrawn(slices, value, this.axis(AXIAL), numbers);
    }
    return slices;
  }

  get slice() { return this.sliceOf(this.plane, this.place()[NORMAL[this.plane]]); }

  goToSlice(number) {
    const place = this.place();
    place[NORMAL[this.plane]] = this.sliceOf(this.plane, number);
    this.goTo(place);
  }

  goTo(place) {
    this.endStroke();
    this.niivue.scene.crosshairPos = this.niivue.vox2frac(place);
    this.niivue.drawScene();
    this.niivue.createOnLocationChange();
  }

  // Go to a voxel (x, y, z) of the file.
  goToVoxel(voxel) {
    const [, columns, rows, slices] = this.volume.hdr.dims, [width, height] = this.dims;
    const [x, y, z] = [columns, rows, slices].map((n, axis) => Math.min(voxel[axis], n - 1));
    const [at] = this.fromFile(Uint32Array.of(x + columns * (y + rows * z)));
    this.goTo([at % width, Math.floor(at / width) % height, Math.floor(at / width / height)]);
  }

  // Go to the middle of the slice that holds most of a class; return whether any does.
  goToClass(value) {
    const place = NORMAL.map((_, axis) => {
      const held = Array.from({ length: this.dims[axis] }, (_, k) => this.counts[axis][k * 256 + value]), total = held.reduce((sum, n) => sum + n, 0);
      if (axis === NORMAL[this.plane]) return held.indexOf(Math.max(...held));
      let below = 0;
      return held.findIndex(n => (below += n) >= total / 2);
    });
    if (!this.counts[0].some((n, k) => n && k % 256 === value)) return false;
    this.goTo(place);
    return true;
  }

  // ---- tools and view ----

  useTool(tool, value) {
    this.endStroke();
    Object.assign(this, { tool, value });
    this.niivue.setDrawingEnabled(!['look', 'polygon'].includes(tool) && !this.isSurface);
    this.niivue.setPenValue(this.traces[tool] ?? (tool.endsWith('eraser') ? 0 : value), tool.startsWith('filled') || tool === 'polygon');
  }

  set width(voxels) { this.niivue.opts.penSize = voxels; }

  // As areas, or as lines with faint areas.
  setOpacity(share, isLines) {
    Object.assign(this, { share, isLines });
    this.showOpacity();
  }

  showOpacity() {
    const { share, isLines } = this;
    this.niivue.drawRimOpacity = isLines && share ? 1 : -1;
    this.niivue.setDrawOpacity(this.isSurface ? Math.ceil(share) : isLines ? share * FAINT : share);
  }

  set cross(shown) { this.niivue.setCrosshairWidth(shown ? CROSS : 0); }

  set view(view) {
    if (view === SURFACE) this.niivue.clearCustomLayout();
    else this.niivue.setCustomLayout(view === ALL ? LAYOUT : [{ sliceType: view, position: ALONE }]);
    this.niivue.setSliceType(view);
    this.showSurface();
  }

  // In 3D the surfaces of the classes are shown, without the scan.
  showSurface() {
    if (!this.volume) return;
    const smooth = this.isSurface ? SMOOTH : 0, changes = this.niivue.opts.smoothDrawing !== smooth;
    this.niivue.opts.smoothDrawing = smooth;
    if (this.volume.opacity !== this.scanOpacity) this.niivue.setOpacity(0, this.scanOpacity);      // draws the scan anew: seconds if it is large
    this.useTool(this.tool, this.value);
    this.showOpacity();
    if (changes) this.niivue.refreshDrawing(true);
  }

  get scanOpacity() { return this.isSurface ? 0 : 1; }

  get isSurface() { return this.niivue.opts.sliceType === SURFACE; }

  // Of the slices that tools and keys work in: the axial ones where all planes are shown, or none.
  get plane() { return [ALL, SURFACE].includes(this.niivue.opts.sliceType) ? AXIAL : this.niivue.opts.sliceType; }

  // Colours of the classes; those of hidden ones let the scan through.
  setColours(classes, hidden) {
    const table = { R: [0], G: [0], B: [0], A: [0], I: [0], labels: [''] }, used = new Set(classes.map(one => one.value));
    const [outside = 255, inside = 254] = Array.from({ length: 255 }, (_, k) => 255 - k).filter(value => !used.has(value));
    this.traces = { inside, outside };       // what a scribble is drawn with until it is done
    const traces = [{ value: inside, name: 'inside', colour: '#ffffff' }, { value: outside, name: 'outside', colour: '#ff3df2' }];
    for (const { value, name, colour } of [...classes, ...traces.filter(trace => !used.has(trace.value))].sort((one, other) => one.value - other.value)) {
      const channel = start => parseInt(colour.slice(start, start + 2), 16);
      table.R.push(channel(1)); table.G.push(channel(3)); table.B.push(channel(5));
      table.A.push(hidden.has(value) ? 0 : 255); table.I.push(value); table.labels.push(name);
    }
    if (JSON.stringify(table) === JSON.stringify(this.table)) return;
    this.table = table;
    this.niivue.setDrawColormap(table);      // draws the scan anew
  }

  setWindow(low, high) {
    Object.assign(this.volume, { cal_min: low, cal_max: high });
    this.niivue.updateGLVolume();
    this.onWindow(this.volume);
  }

  resetView() {
    this.niivue.scene.pan2Dxyzmm = [0, 0, 0, 1];
    this.setWindow(...this.window);
  }

  // Zoom about a place in mm, which stays where it is on the screen.
  zoom(factor, mm) {
    const pan = [...this.niivue.scene.pan2Dxyzmm], zoom = Math.min(Math.max(pan[3] * factor, 1), MOST_ZOOM);
    for (let axis = 0; axis < 3; axis += 1) pan[axis] += mm[axis] * (pan[3] - zoom);
    pan[3] = zoom;
    this.niivue.scene.pan2Dxyzmm = zoom === 1 ? [0, 0, 0, 1] : pan;
    this.niivue.drawScene();
  }

  zoomAtCross(factor) { this.zoom(factor, this.niivue.frac2mm(this.niivue.scene.crosshairPos)); }

  placeUnder(event) {
    const { left, top } = this.canvas.getBoundingClientRect(), ratio = this.niivue.uiData.dpr;
    const frac = this.niivue.canvasPos2frac([(event.clientX - left) * ratio, (event.clientY - top) * ratio]);
    return frac[0] < 0 ? null : frac;
  }

  wheel(event) {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    const frac = this.volume && this.placeUnder(event);
    if (frac) this.zoom(Math.exp(-event.deltaY / 300), this.niivue.frac2mm(frac));
  }

  mouseDown(event) {
    if (!this.volume) return;
    this.begun = event.button === 0 ? this.placeUnder(event) : null;
    if (event.button === 2) this.drag(event, this.dragWindow(event));
    else if (event.button === 1) this.drag(event, this.dragPan(event));
  }

  // Follow the mouse until its button is up, in the place of what NiiVue does with it.
  drag(event, moved) {
    event.preventDefault();
    event.stopImmediatePropagation();
    this.canvas.focus();
    const up = () => {
      removeEventListener('mousemove', moved);
      removeEventListener('mouseup', up, { capture: true });
    };
    addEventListener('mousemove', moved);
    addEventListener('mouseup', up, { capture: true });
  }

  dragWindow({ clientX, clientY }) {
    const { cal_min: low, cal_max: high } = this.volume, width = high - low, level = (low + high) / 2;
    return event => {
      const half = width * Math.exp((event.clientX - clientX) / 200) / 2, middle = level + (event.clientY - clientY) / 200 * width;
      this.setWindow(middle - half, middle + half);
    };
  }

  dragPan(begun) {
    const pan = [...this.niivue.scene.pan2Dxyzmm], from = this.placeUnder(begun), mm = from && [...this.niivue.frac2mm(from)];
    return event => {
      this.niivue.scene.pan2Dxyzmm = [...pan];
      const to = mm && this.placeUnder(event), now = to && this.niivue.frac2mm(to);
      if (now) this.niivue.scene.pan2Dxyzmm = [...[0, 1, 2].map(axis => pan[axis] + (now[axis] - mm[axis]) * pan[3]), pan[3]];
      this.niivue.drawScene();
    };
  }

  // ---- strokes ----

  // Take what was drawn since: voxels of locked classes, and those of another grey, become as they were.
  finishStroke() {
    if (!this.drawing || !this.kept || this.penIsDown || this.niivue.uiData.mousedown) return;
    if (this.tool in this.traces) { this.finishScribble(); return; }
    const voxels = this.changed(), [low, high] = this.greys(), { img } = this.volume, files = low > -Infinity ? this.inFile(voxels) : null;
    const isMeant = (voxel, k) => !this.locked.has(this.kept[voxel])
      && (!files || this.drawing[voxel] === 0 || (img[files[k]] >= low && img[files[k]] <= high));
    const meant = voxels.filter(isMeant);
    if (meant.length < voxels.length) {
      for (const [k, voxel] of voxels.entries()) if (!isMeant(voxel, k)) this.drawing[voxel] = this.kept[voxel];
      this.niivue.refreshDrawing(true);
    }
    if (meant.length) this.commit(meant, this.slicesAfter(meant));
  }

  // A scribble leaves nothing but what grows from it.
  finishScribble() {
    const voxels = this.changed();
    if (!voxels.length) return;
    for (const voxel of voxels) this.drawing[voxel] = this.kept[voxel];
    this.niivue.refreshDrawing(true);
    this.onScribble(this.inFile(voxels), this.tool === 'inside');
  }

  // The scribbles of a class since it was last changed in another way; what they changed, as it was before, and the slices before.
  scribbles(value) {
    const from = this.history.undo.findLastIndex(step => step.mark?.value !== value) + 1, steps = this.history.undo.slice(from), before = new Map();
    for (const step of steps) step.voxels.forEach((voxel, k) => { if (!before.has(voxel)) before.set(voxel, step.before[k]); });
    return { inside: steps.flatMap(step => [...step.mark.inside]), outside: steps.flatMap(step => [...step.mark.outside]),
             before: { voxels: this.inFile(Uint32Array.from(before.keys())), values: Uint8Array.from(before.values()) },
             slices: steps.length ? steps[0].slicesBefore : this.slices };
  }

  changed() {
    const { drawing, kept } = this, voxels = [];
    for (let k = 0; k < kept.length; k += 1) if (drawing[k] !== kept[k]) voxels.push(k);
    return Uint32Array.from(voxels);
  }

  // The raw values that a stroke may paint: those like where it began.
  greys() {
    if (!this.similar || !this.begun) return [-Infinity, Infinity];
    const { img, hdr, cal_min: low, cal_max: high } = this.volume, [columns, rows] = this.dims, [x, y, z] = this.niivue.frac2vox(this.begun);
    const [file] = this.inFile([x + columns * (y + rows * z)]), by = this.similar * (high - low) / Math.abs(hdr.scl_slope || 1);
    return [img[file] - by, img[file] + by];
  }

  // A stroke makes the slice that it lies in a drawn one: of the class that it draws, or of those that it erases.
  slicesAfter(voxels) {
    const [columns, rows] = this.dims;
    const ends = [0, 1, 2].map(axis => voxels.reduce(([low, high], voxel) => {
      const k = axis === 0 ? voxel % columns : axis === 1 ? Math.floor(voxel / columns) % rows : Math.floor(voxel / columns / rows);
      return [Math.min(low, k), Math.max(high, k)];
    }, [Infinity, -Infinity]));
    const planes = [this.niivue.drawPenAxCorSag, this.plane, AXIAL, CORONAL, SAGITTAL].filter(plane => plane >= 0);
    const plane = planes.find(one => ends[NORMAL[one]][0] === ends[NORMAL[one]][1]);
    if (plane === undefined) return this.slices;
    const number = this.sliceOf(plane, ends[NORMAL[plane]][0]);
    const values = this.tool.endsWith('eraser') ? new Set(voxels.reduce((found, voxel) => found.add(this.kept[voxel]), new Set())) : new Set([this.value]);
    let slices = this.slices;
    for (const value of values) if (value) slices = withDrawn(slices, value, this.axis(plane), [number]);
    return slices;
  }

  // Change voxels as a tool of the server says; voxels of locked classes stay. `mark` is the scribble that it was asked with.
  apply(files, values, slices, mark = null) {
    this.endStroke();
    const voxels = this.fromFile(files).filter((voxel, k) => { if (!this.locked.has(this.kept[voxel])) { this.drawing[voxel] = values[k]; return true; } return false; });
    this.commit(voxels, slices, mark);
    this.niivue.refreshDrawing(true);
  }

  setSlices(slices) { this.commit(new Uint32Array(0), slices); }

  commit(voxels, slices, mark = null) {
    const step = { voxels, before: Uint8Array.from(voxels, voxel => this.kept[voxel]), after: Uint8Array.from(voxels, voxel => this.drawing[voxel]),
                   slicesBefore: this.slices, slicesAfter: slices, mark };
    this.history.undo = [...this.history.undo.slice(-UNDO_STEPS + 1), step];
    this.history.redo = [];
    this.keep(step.voxels, step.after, slices);
  }

  keep(voxels, values, slices) {
    voxels.forEach((voxel, k) => {
      this.countVoxel(voxel, this.kept[voxel], -1);
      this.countVoxel(voxel, values[k], 1);
      this.kept[voxel] = values[k];
    });
    this.slices = slices;
    this.onStroke({ voxels: this.inFile(voxels), values, slices });
  }

  undo() { return this.goBack('undo', 'redo', 'before', 'slicesBefore'); }

  redo() { return this.goBack('redo', 'undo', 'after', 'slicesAfter'); }

  goBack(from, to, values, slices) {
    this.endStroke();
    const step = this.history[from].pop();
    if (!step) return false;
    this.history[to].push(step);
    step.voxels.forEach((voxel, k) => { this.drawing[voxel] = step[values][k]; });
    this.niivue.refreshDrawing(true);
    this.keep(step.voxels, step[values], step[slices]);
    return true;
  }

  // Return whether a key was for the viewer.
  key(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || !this.volume) return false;
    if (event.key === ' ' && this.tool !== 'look') { this.penIsDown ? this.penUp() : this.penDown(this.plane); return true; }
    if (event.key === 'Escape' && this.penIsDown) { this.drop(); return true; }
    if (!(event.key in MOVES)) return false;
    const [direction, sign] = MOVES[event.key];
    this.move(direction, sign * (event.shiftKey ? 5 : 1));
    return true;
  }

  move(direction, voxels) {
    if (direction === 'through' && this.penIsDown) this.penUp();
    const step = [0, 0, 0], axis = AXES[this.plane][direction];
    step[axis] = axis === 0 && direction === 'across' ? -voxels : voxels;      // the patient's right is on the left
    this.niivue.moveCrosshairInVox(...step);
    if (this.penIsDown) this.drawTo(this.place());
    this.niivue.drawScene();
  }

  place() { return [...this.niivue.frac2vox(this.niivue.scene.crosshairPos)]; }

  // A corner of a polygon: NiiVue has moved the cross there.
  corner(event) {
    const ratio = this.niivue.uiData.dpr, { left, top } = this.canvas.getBoundingClientRect();
    const tile = this.niivue.screenSlices[this.niivue.tileIndex((event.clientX - left) * ratio, (event.clientY - top) * ratio)];
    if (!tile || tile.axCorSag > SAGITTAL) return;
    if (this.penIsDown && this.penPlane !== tile.axCorSag) this.penUp();
    if (this.penIsDown) this.drawTo(this.place());
    else this.penDown(tile.axCorSag);
  }

  penDown(plane) {
    if (this.tool === 'look' || this.isSurface) return;
    const place = this.place();
    this.begun = [...this.niivue.scene.crosshairPos];
    this.niivue.drawPenAxCorSag = plane;
    this.niivue.drawPt(...place, this.niivue.opts.penValue);
    Object.assign(this, { penIsDown: true, penPlane: plane, points: [place] });
    this.niivue.refreshDrawing(true);
    this.onMove();
  }

  drawTo(place) {
    this.niivue.drawPenAxCorSag = this.penPlane;
    this.niivue.drawPenLine(place, this.points.at(-1), this.niivue.opts.penValue);
    this.points.push(place);        // a click makes NiiVue forget its own
    this.niivue.refreshDrawing(true);
  }

  penUp() {
    if (!this.penIsDown) return;
    this.penIsDown = false;
    Object.assign(this.niivue, { drawPenAxCorSag: this.penPlane, drawPenFillPts: this.niivue.opts.isFilledPen ? this.points : [] });
    this.niivue.mouseUpListener();      // fills
    this.finishStroke();
    this.onMove();
  }

  // Leave a stroke that is not finished.
  drop() {
    this.penIsDown = false;
    this.drawing.set(this.kept);
    this.niivue.refreshDrawing(true);
    this.onMove();
  }
}
