// Which slices of a class a person drew or looked at, and which were filled between them, as the server keeps it:
// { value: { axis: { drawn: [...], filled: [...] } } }. Nothing here is changed in place.

const STEP = 3;     // every third slice drawn and the rest filled is nearly as good as all

export function of(slices, value, axis) {
  return { drawn: [], filled: [], ...slices?.[value]?.[axis] };
}

const sorted = numbers => [...new Set(numbers)].sort((one, other) => one - other);

function withSlices(slices, value, axis, drawn, filled) {
  const { [axis]: gone, ...others } = slices?.[value] ?? {};
  const ofClass = drawn.length || filled.length ? { ...others, [axis]: { drawn: sorted(drawn), filled: sorted(filled) } } : others;
  const { [value]: before, ...rest } = slices ?? {};
  return Object.keys(ofClass).length ? { ...rest, [value]: ofClass } : rest;
}

/** A slice that was drawn or looked at is no longer a filled one. */
export function withDrawn(slices, value, axis, numbers) {
  const { drawn, filled } = of(slices, value, axis);
  return withSlices(slices, value, axis, [...drawn, ...numbers], filled.filter(number => !numbers.includes(number)));
}

export function withFilled(slices, value, axis, numbers) {
  const { drawn, filled } = of(slices, value, axis);
  return withSlices(slices, value, axis, drawn, [...filled, ...numbers].filter(number => !drawn.includes(number)));
}

export function without(slices, value) {
  const { [value]: gone, ...rest } = slices ?? {};
  return rest;
}

/** What each slice is: 'drawn', 'looked at' (and empty), 'filled', 'found' by the computer, 'empty'. `held` says which hold the class. */
export function statesOf(slices, value, axis, held) {
  const { drawn, filled } = of(slices, value, axis), made = new Set(drawn), between = new Set(filled);
  return held.map((holds, k) => (made.has(k) ? (holds ? 'drawn' : 'looked at') : !holds ? 'empty' : between.has(k) ? 'filled' : 'found'));
}

/** The slice that is most worth drawing next, near slice `at`; null if every third one is drawn to both ends. */
export function nextWorth(states, at) {
  const isMade = k => states[k] === 'drawn' || states[k] === 'looked at';
  const used = states.flatMap((state, k) => (state === 'empty' ? [] : [k])), made = used.filter(isMade);
  if (!used.length) return null;
  if (!made.length) return used[Math.floor(used.length / 2)];
  const nearest = numbers => (numbers.length ? numbers.reduce((one, other) => (Math.abs(other - at) < Math.abs(one - at) ? other : one)) : null);
  const inner = made.slice(1).flatMap((end, k) => (end - made[k] > STEP && (states[end] === 'drawn' || states[made[k]] === 'drawn')
    ? [Math.round((end + made[k]) / 2)] : []));
  const [first, last] = [made[0], made.at(-1)];
  const outer = [...(used[0] < first ? [Math.max(first - STEP, used[0])] : []), ...(used.at(-1) > last ? [Math.min(last + STEP, used.at(-1))] : [])];
  if (inner.length || outer.length) return nearest([...inner, ...outer]);
  const ends = [...(states[first] === 'drawn' && first > 0 ? [Math.max(first - STEP, 0)] : []),
                ...(states[last] === 'drawn' && last < states.length - 1 ? [Math.min(last + STEP, states.length - 1)] : [])];
  return nearest(ends);
}
