// The requests to the server, as docs/api.md has them. Each answers with JSON, and throws an Error with the server's words.

// The token is behind the # of the address, which is sent to no server. The tab keeps it, for this address and port alone.
const KEY = 'label-token';

const given = new URLSearchParams(location.hash.slice(1));
if (given.has('token')) sessionStorage.setItem(KEY, given.get('token'));
if (location.hash) history.replaceState(null, '', location.pathname);
const token = sessionStorage.getItem(KEY) ?? '';
// The scan and the class that the address asks for, as a link of a report does.
export const asked = { scan: given.get('scan'), label: Number(given.get('label')) };
addEventListener('hashchange', () => location.reload());      // the address of a later start, opened in this tab

async function ask(method, path, body, type) {
  let answer;
  try {
    answer = await fetch(path, { method, body, headers: { 'Label-Token': token, ...body && { 'Content-Type': type } } });
  } catch {
    throw Object.assign(new Error('The server does not answer. Start it again by the same command: this page goes on then.'),
                        { away: true });
  }
  if (!answer.ok) {
    const said = await answer.json().catch(() => ({ error: `${answer.status} ${answer.statusText}` }));
    throw Object.assign(new Error(said.error), { status: answer.status });
  }
  return answer;
}

const json = async answer => (await answer).json();
const ofScan = (name, what) => `/api/v1/scans/${encodeURIComponent(name)}/${what}`;
const tell = (method, path, content = {}) => json(ask(method, path, JSON.stringify(content), 'application/json'));

function packed(said, voxels, values) {
  const head = new TextEncoder().encode(JSON.stringify(said)), content = new Uint8Array(4 + head.length + 5 * voxels.length), view = new DataView(content.buffer);
  view.setUint32(0, head.length, true);
  content.set(head, 4);
  const start = 4 + head.length;
  voxels.forEach((voxel, k) => view.setUint32(start + 4 * k, voxel, true));
  content.set(values, start + 4 * voxels.length);
  return content;
}

function unpacked(content) {
  const view = new DataView(content), start = 4 + view.getUint32(0, true), n = (content.byteLength - start) / 5;
  return { said: JSON.parse(new TextDecoder().decode(content.slice(4, start))),
           voxels: Uint32Array.from({ length: n }, (_, k) => view.getUint32(start + 4 * k, true)), values: new Uint8Array(content, start + 4 * n) };
}

async function bytes(path) {
  const answer = await ask('GET', path);
  return answer.status === 204 ? null : answer.arrayBuffer();
}

export const getState = () => json(ask('GET', '/api/v1/state'));
export const getFiles = async () => (await json(ask('GET', '/api/v1/files'))).files;
export const getImage = name => bytes(ofScan(name, 'image'));
export const getPicture = name => bytes(ofScan(name, 'picture'));
export const getOutlines = name => bytes(ofScan(name, 'outlines'));
// A stroke, as strokes.py has it. Sent twice under the same name, it counts once.
export const saveStroke = async (name, said, { voxels, values }) =>
  (await json(ask('PATCH', ofScan(name, 'outlines'), packed(said, voxels, values), 'application/octet-stream'))).drawn;
// What a tool of the server would change.
export async function propose(name, asked) {
  const answer = await ask('POST', ofScan(name, 'propose'), JSON.stringify(asked), 'application/json');
  return unpacked(await answer.arrayBuffer());
}
// What scribbles inside and outside of a class would change. `before` has the voxels that earlier ones changed, with their values then.
export async function scribble(name, asked, { inside, outside, before }) {
  const voxels = Uint32Array.from([inside, outside, before.voxels].flatMap(part => [...part])), values = new Uint8Array(voxels.length);
  values.set(before.values, inside.length + outside.length);
  const answer = await ask('POST', ofScan(name, 'scribble'), packed({ ...asked, inside: inside.length, outside: outside.length }, voxels, values), 'application/octet-stream');
  return unpacked(await answer.arrayBuffer());
}
export const getUnfinished = async () => (await json(ask('GET', '/api/v1/unfinished'))).unfinished;
export const putClasses = classes => tell('PUT', '/api/v1/classes', { classes });
export const setDone = (name, done) => tell('POST', ofScan(name, 'done'), { done });
export const setLeftOut = (name, leftOut) => tell('POST', ofScan(name, 'left_out'), { left_out: leftOut });
export const setFlag = (name, flagged) => tell('POST', ofScan(name, 'flag'), { flagged });
export const makeReport = () => tell('POST', '/api/v1/report');
export const loadOutlines = (name, labels) => tell('POST', ofScan(name, 'load'), { labels });
export const run = careful => tell('POST', '/api/v1/run', { careful });
export const stop = () => tell('POST', '/api/v1/stop');
export const writeExport = formats => tell('POST', '/api/v1/export', { formats });
