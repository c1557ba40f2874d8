// NiiVue with what the page needs: one scan, its outlines as NiiVue's drawing, tools by mouse and by keys, and a call for each stroke.

const { Niivue, NVImage } = globalThis.niivue;
const UNDO_STEPS = 30;
const [AXIAL, CORONAL, SAGITTAL, ALL] = [0, 1, 2, 3];
const KEYS = { ArrowLeft: ['across', -1], ArrowRight: ['across', 1], ArrowUp: ['along', 1], ArrowDown: ['along', -1],
               PageUp: ['through', 1], PageDown: ['through', -1] };
// NiiVue's own layouts give all planes the same room
const LAYOUT = [{ sliceType: AXIAL, position: [0, 0, 0.64, 1] }, { sliceType: CORONAL, position: [0.645, 0, 0.355, 0.497] },
                { sliceType: SAGITTAL, position: [0.645, 0.503, 0.355, 0.497] }];
// the axis, left-right, back-front or foot-head, that a key moves along in each plane
const AXES = { [AXIAL]: { across: 0, along: 1, through: 2 }, [CORONAL]: { across: 0, along: 2, through: 1 },
               [SAGITTAL]: { across: 1, along: 2, through: 0 } };

export class Viewer {
  // `onStroke` is called after each finished stroke and undo, `onMove` with the place of the cross.
  constructor(canvas, { onStroke, onMove, onWindow }) {
    Object.assign(this, { canvas, onStroke, onMove, onWindow, tool: 'look', value: 1, penIsDown: false, strokes: 0, kept: null });
    this.niivue = new Niivue({
      logLevel: 'error', loadingText: '', dragAndDropEnabled: false, isRadiologicalConvention: true, multiplanarShowRender: 0,
      viewModeHotKey: '', clipPlaneHotKey: '', cycleClipPlaneHotKey: '', maxDrawUndoBitmaps: UNDO_STEPS, crosshairWidth: 0.3, crosshairWidthUnit: 'percent', isCornerOrientationText: true,
      crosshairColor: [0.35, 0.7, 1, 0.8], fontColor: [0.75, 0.75, 0.75, 1], isForceMouseClickToVoxelCenters: true,
      sliceType: ALL, tileMargin: 4 });
  }

  async start() {
    // before NiiVue's own listeners: it forgets a stroke that leaves the canvas, and here it ends there
    this.canvas.addEventListener('mouseleave', event => { if (event.buttons) this.niivue.mouseUpListener(); });
    await this.niivue.attachToCanvas(this.canvas);
    this.view = ALL;
    this.niivue.onDrawingChanged = action => { if (action === 'draw') this.finishStroke(true); };
    this.niivue.onMouseUp = () => this.finishStroke(false);
    this.niivue.onLocationChange = place => this.onMove(place);
    this.niivue.onIntensityChange = volume => this.onWindow(volume);
    this.canvas.addEventListener('keydown', event => { if (this.key(event)) event.preventDefault(); event.stopImmediatePropagation(); },
                                 { capture: true });
    this.canvas.addEventListener('keyup', event => event.stopImmediatePropagation(), { capture: true });
  }

  // Show a scan with its outlines, or, without an image, other outlines of the scan that is shown. Both are NIfTI files; without
  // outlines the drawing is empty. `isQuiet` is asked when they are loaded: if it says no, a stroke is not saved yet, and nothing is
  // shown. Return whether it is. `onShown` is called before anything else can happen.
  async show(image, outlines, isQuiet, onShown) {
    const volume = image && await NVImage.loadFromUrl({ url: image, name: 'scan.nii' });
    const drawing = outlines && await NVImage.loadFromUrl({ url: outlines, name: 'outlines.nii' });
    if (!isQuiet()) return false;
    const place = volume ? [0.5, 0.5, 0.5] : [...this.niivue.scene.crosshairPos];
    if (volume) {
      while (this.niivue.volumes.length) this.niivue.removeVolumeByIndex(0);
      this.niivue.closeDrawing();
      this.niivue.addVolume(volume);
    }
    if (!(drawing && this.niivue.loadDrawing(drawing))) this.niivue.createEmptyDrawing();
    this.niivue.scene.crosshairPos = place;
    Object.assign(this, { strokes: 0, penIsDown: false, kept: this.drawing.slice() });
    this.useTool(this.tool, this.value);
    this.niivue.updateGLVolume();
    this.niivue.createOnLocationChange();
    onShown();
    return true;
  }

  get isDrawing() { return this.penIsDown || (this.niivue.uiData.mousedown && this.tool !== 'look'); }

  endStroke() {
    if (this.penIsDown) this.penUp();
    else if (this.isDrawing) this.niivue.mouseUpListener();
  }

  get volume() { return this.niivue.volumes[0]; }

  get drawing() { return this.niivue.drawBitmap; }

  // The label map as a NIfTI file on the scan's own grid.
  async file() { return this.niivue.saveImage({ filename: '', isSaveDrawing: true }); }

  useTool(tool, value) {
    this.endStroke();
    Object.assign(this, { tool, value });
    this.niivue.setDrawingEnabled(tool !== 'look');
    this.niivue.setPenValue(tool.endsWith('eraser') ? 0 : value, tool.startsWith('filled'));
  }

  set width(voxels) { this.niivue.opts.penSize = voxels; }

  set opacity(share) { this.niivue.setDrawOpacity(share); }

  set view(view) {
    if (view === ALL) this.niivue.setCustomLayout(LAYOUT);
    else this.niivue.clearCustomLayout();
    this.niivue.setSliceType(view);
  }

  get plane() { return this.niivue.opts.sliceType === ALL ? AXIAL : this.niivue.opts.sliceType; }

  setColours(classes) {
    const table = { R: [0], G: [0], B: [0], A: [0], I: [0], labels: [''] };
    for (const { value, name, colour } of classes) {
      const channel = start => parseInt(colour.slice(start, start + 2), 16);
      table.R.push(channel(1)); table.G.push(channel(3)); table.B.push(channel(5));
      table.A.push(255); table.I.push(value); table.labels.push(name);
    }
    this.niivue.setDrawColormap(table);
  }

  setWindow(low, high) {
    Object.assign(this.volume, { cal_min: low, cal_max: high });
    this.niivue.updateGLVolume();
  }

  undo() {
    this.endStroke();
    if (!this.strokes) return false;
    this.strokes -= 1;
    this.niivue.drawUndo();
    this.changed();
    return true;
  }

  // NiiVue tells of strokes that it noted for undo; a single point of the filled pen it draws without.
  finishStroke(noted) {
    if (!this.drawing || !this.kept || this.isKept()) return;
    if (!noted) this.niivue.drawAddUndoBitmap();
    this.strokes = Math.min(this.strokes + 1, UNDO_STEPS - 1);
    this.changed();
  }

  isKept() {
    const { drawing, kept } = this;
    for (let k = 0; k < kept.length; k += 1) if (drawing[k] !== kept[k]) return false;
    return true;
  }

  changed() {
    this.kept = this.drawing.slice();
    this.onStroke();
  }

  // Return whether a key was for the viewer.
  key(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || !this.volume) return false;
    if (event.key === ' ') { this.penIsDown ? this.penUp() : this.penDown(); return true; }
    if (!(event.key in KEYS)) return false;
    const [direction, sign] = KEYS[event.key];
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

  penDown() {
    if (this.tool === 'look') return;
    const place = this.place();
    Object.assign(this.niivue, { drawPenAxCorSag: this.plane, drawPenFillPts: [], drawPenLocation: place });
    this.niivue.drawPt(...place, this.niivue.opts.penValue);
    if (this.niivue.opts.isFilledPen) this.niivue.drawPenFillPts.push(place);
    this.penIsDown = true;
    this.niivue.refreshDrawing(true);
    this.onMove();
  }

  drawTo(place) {
    this.niivue.drawPenLine(place, this.niivue.drawPenLocation, this.niivue.opts.penValue);
    this.niivue.drawPenLocation = place;
    if (this.niivue.opts.isFilledPen) this.niivue.drawPenFillPts.push(place);
    this.niivue.refreshDrawing(false);
  }

  penUp() {
    this.penIsDown = false;
    this.niivue.mouseUpListener();      // fills, and notes the stroke
    this.onMove();
  }
}
